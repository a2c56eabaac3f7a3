"""Clicks over the API: what they change comes back as a box, and nothing else is touched."""

import base64
import gzip
import json

import numpy as np
import pytest

from serving import API, image_bytes, labels_of, nifti_of


def box_of(labels, start=(0, 0, 0)):
    data = gzip.compress(labels.astype("<u2").tobytes("F"))
    return {
        "start": list(start),
        "shape": list(labels.shape),
        "data": base64.b64encode(data).decode(),
    }


def labels_in(box):
    data = gzip.decompress(base64.b64decode(box["data"]))
    return np.frombuffer(data, "<u2").reshape(box["shape"], order="F")


@pytest.fixture(scope="module")
def content():
    return image_bytes(7)


@pytest.fixture(scope="module")
def job(server, content):
    return server.client.segment(("clicked.nii.gz", content))


def test_a_click_changes_its_plane_in_what_was_drawn(client, bundles, content, job):
    ordinary = labels_of(bundles / "brain", content)
    found = nifti_of(client.get(f"/jobs/{job['id']}/labels.nii.gz").content)
    np.testing.assert_array_equal(np.asarray(found.dataobj), ordinary)
    address = f"/images/{job['image']}/clicks"
    # The network answers a click with what it finds without, and the page shows that already.
    click = {"voxel": [3, 4, 1], "structure": "left"}
    asked = {"bundle": "brain", "clicks": [click], "parent": job["id"]}
    answer = client.post(address, json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["shape"] == [0, 0, 0]

    drawn = np.full((5, 3, 6), 300)  # over planes 3 to 5 across the image's second axis
    asked["edited"] = box_of(drawn, (2, 3, 0))
    box = client.post(address, json=asked).json()
    assert (box["start"], box["shape"]) == ([2, 4, 0], [5, 1, 6])  # one plane of the three
    np.testing.assert_array_equal(labels_in(box), ordinary[2:7, 4:5])

    # Of an empty label map all of it, of two clicks only the new one's plane.
    clicks = [click, {"voxel": [3, 9, 1]}]
    box = client.post(address, json={"bundle": "brain", "clicks": clicks, "applied": 1}).json()
    plane = np.zeros_like(ordinary)
    plane[:, 9] = ordinary[:, 9]
    shown = np.zeros_like(ordinary)
    shown[tuple(slice(n, n + m) for n, m in zip(box["start"], box["shape"], strict=True))] = (
        labels_in(box)
    )
    np.testing.assert_array_equal(shown, plane)


def test_bundles_say_whether_they_take_clicks(client):
    found = {bundle["id"]: bundle["clicks"] for bundle in client.get("/bundles").json()}
    assert found == {"brain": True, "pair": False, "photo": False}


WHOLE = np.zeros((20, 24, 6))
BAD = {
    "another bundle": ({"bundle": "pair"}, "takes no clicks"),
    "no bundle": ({"bundle": "gone"}, "No model 'gone'"),
    "no clicks": ({"clicks": []}, "at least 1"),
    "outside": ({"clicks": [{"voxel": [20, 0, 0]}]}, r"no voxel [20, 0, 0]"),
    "negative": ({"clicks": [{"voxel": [-1, 0, 0]}]}, "greater than or equal to 0"),
    "structure": ({"clicks": [{"voxel": [0, 0, 0], "structure": "kidney"}]}, "no structure"),
    "number": ({"clicks": [{"voxel": [0, 0, 0], "structure": 9}]}, "no structure '9'"),
    "parent": ({"parent": "gone"}, "no such"),
    "box outside": ({"edited": box_of(WHOLE, (0, 0, 1))}, "do not lie in [20, 24, 6]"),
    "no gzip": ({"edited": {**box_of(WHOLE), "data": "AAAA"}}, "expected 5760 bytes"),
    "no base64": ({"edited": {**box_of(WHOLE), "data": "ä"}}, "expected 5760 bytes"),
    "too short": ({"edited": {**box_of(WHOLE[:5]), "shape": [6, 24, 6]}}, "expected 1728 bytes"),
    "a bomb": ({"edited": {**box_of(np.zeros(10**6)), "shape": [1, 1, 1]}}, "expected 2 bytes"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_clicks_are_refused(client, job, change, message):
    asked = {"bundle": "brain", "clicks": [{"voxel": [1, 2, 3]}], **change}
    answer = client.post(f"/images/{job['image']}/clicks", json=asked)
    assert answer.status_code in (404, 422), answer.text
    assert message in answer.json()["error"]["message"]


def test_of_a_large_request_nothing_is_kept(client, job):
    text = json.dumps({"bundle": "brain", "clicks": [], "parent": "x" * (9 << 20)})
    answer = client.http.post(
        f"{API}/images/{job['image']}/clicks",
        content=text,
        headers={"content-type": "application/json"},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
