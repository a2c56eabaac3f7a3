"""Label maps that no job made: sent, corrected, compared, kept, and what is refused."""

import sqlite3
import time
from contextlib import closing

import numpy as np
import pytest

from serving import fake_server, image_bytes, nifti_bytes, nifti_of

SHAPE = (20, 24, 6)


def drawn(corner: int = 2, value: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[corner : corner + 4, 5:9, 1:3] = value
    return labels


def correct(client, image, array, **fields):
    file = ("labels.nii.gz", array if isinstance(array, bytes) else nifti_bytes(array))
    return client.post(f"/images/{image}/corrections", files={"file": file}, data=fields)


def give(client, image, array, name="mine.nii.gz", **fields):
    file = (name, array if isinstance(array, bytes) else nifti_bytes(array))
    return client.post(f"/images/{image}/labels", files={"file": file}, data=fields)


def voxels(client, path):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return np.asarray(nifti_of(answer.content).dataobj)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer.json()["error"]["message"]


def files_in(server, *folders):
    return [p for name in folders for p in (server.data / name).rglob("*") if p.is_file()]


def test_a_correction_is_a_version_of_its_own(client, tmp_path):
    job = client.segment(("case.nii.gz", image_bytes(0)))
    image, found = job["image"], voxels(client, f"/jobs/{job['id']}/labels.nii.gz")
    assert client.get(f"/images/{image}").json()["kept"] is False
    mine = found.copy()
    mine[3:7, 3:7, 2] = (found[3:7, 3:7, 2] + 1) % 3
    answer = correct(client, image, mine, parent=job["id"], author="Ada")
    assert answer.status_code == 201, answer.text
    first = answer.json()
    assert client.get(answer.headers["location"].removeprefix("/api/v1")).json() == first
    assert (first["kind"], first["name"], first["parent"]) == (
        "correction",
        "correction 1",
        job["id"],
    )
    assert (first["author"], first["changed_voxels"]) == ("Ada", 16)
    left, right = first["structures"]
    assert (left["name"], left["voxels"]) == ("left", (mine == 1).sum())
    assert right["volume_ml"] == pytest.approx((mine == 2).sum() * job_ml(job), rel=1e-5)
    assert client.get(f"/images/{image}").json()["kept"] is True

    # Of the same parent there is one now; beside it, another only if it is wanted.
    theirs = refused(
        correct(client, image, found, parent=job["id"], author="Bo"), 409, "superseded"
    )
    assert theirs.startswith("Ada corrected it already, on 20")
    error = correct(client, image, found, parent=job["id"]).json()["error"]
    told = {key: first[key] for key in ("id", "author", "created")}
    assert error["correction"] == told
    forced = correct(client, image, found, parent=job["id"], author="Bo", force="true").json()
    later = correct(client, image, mine, parent=first["id"], author="Ada").json()
    assert [forced["name"], later["name"]] == ["correction 2", "correction 3"]
    assert [forced["changed_voxels"], later["changed_voxels"]] == [0, 0]
    assert client.get(f"/images/{image}/labels").json() == [first, forced, later]

    own = client.get(f"/jobs/{job['id']}/result").content
    answer = client.get(f"/labels/{first['id']}/result")
    assert 'filename="case_correction_1.nii.gz"' in answer.headers["content-disposition"]
    assert np.array_equal(np.asarray(nifti_of(answer.content).dataobj), mine)
    assert np.array_equal(nifti_of(answer.content).affine, nifti_of(own).affine)
    assert np.array_equal(voxels(client, f"/labels/{first['id']}/labels.nii.gz"), mine)
    packed = client.get(f"/labels/{first['id']}/result?format=npz").content
    (tmp_path / "c.npz").write_bytes(packed)
    assert np.array_equal(np.load(tmp_path / "c.npz")["label"], mine.transpose(2, 0, 1))

    question = f"/images/{image}/comparison?of={job['id']}&with={first['id']}"
    compared = client.get(question).json()
    masks = [(found == n, mine == n) for n in (1, 2)]
    expected = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in masks]
    assert [row["dice"] for row in compared["structures"]] == pytest.approx(expected)
    assert compared["mean"]["dice"] == pytest.approx(np.mean(expected))
    volumes = [compared["structures"][0][f"{which}volume_ml"] for which in ("", "reference_")]
    assert volumes[0] / volumes[1] == pytest.approx((found == 1).sum() / (mine == 1).sum())
    same = client.get(f"/images/{image}/comparison?of={first['id']}&with={later['id']}").json()
    assert [(row["dice"], row["hd95_mm"]) for row in same["structures"]] == [(1, 0), (1, 0)]

    assert client.delete(f"/labels/{first['id']}").status_code == 204
    refused(client.get(f"/labels/{first['id']}"), 404, "not_found")
    assert [each["id"] for each in client.get(f"/images/{image}/labels").json()] == [
        forced["id"],
        later["id"],
    ]
    assert client.delete(f"/images/{image}").status_code == 204
    refused(client.get(f"/labels/{later['id']}"), 404, "not_found")


def job_ml(job):
    """The millilitres of a voxel of a job's image."""
    left = job["statistics"][0]
    return left["volume_ml"] / left["voxels"]


def test_what_was_sent_is_named_and_compared_with_what_was_drawn(client):
    image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
    plain = give(client, image, drawn(value=3)).json()
    assert (plain["kind"], plain["name"]) == ("given", "mine.nii.gz")
    assert [s["name"] for s in plain["structures"]] == ["label 3"]
    assert [plain[key] for key in ("parent", "author", "changed_voxels")] == [None] * 3
    white = give(client, image, drawn(value=255)).json()
    assert [(s["index"], s["voxels"]) for s in white["structures"]] == [(1, 32)]
    mirrored = nifti_of(nifti_bytes(drawn())).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    named = give(client, image, mirrored.to_bytes(), "mine.nii", bundle="brain").json()
    assert [(s["name"], s["voxels"]) for s in named["structures"]] == [
        ("left", 32),
        ("right", 0),
    ]
    assert np.array_equal(voxels(client, f"/labels/{named['id']}/labels.nii.gz"), drawn())
    # Half of it and one structure more, drawn from nothing.
    mine = drawn(corner=4) + drawn(corner=12, value=9)
    answer = correct(client, image, mine, bundle="brain", names='{"9": "cyst"}')
    assert [s["name"] for s in answer.json()["structures"]] == ["left", "right", "cyst"]
    assert answer.json()["changed_voxels"] == 64
    compared = client.get(
        f"/images/{image}/comparison?of={named['id']}&with={answer.json()['id']}"
    ).json()
    assert [row["name"] for row in compared["structures"]] == ["left", "right"]
    assert compared["structures"][0]["dice"] == pytest.approx(0.5)
    assert compared["warnings"] == ["Only one of them has cyst."]
    answer = client.get(f"/images/{image}/comparison?of={named['id']}&with={plain['id']}")
    assert "no structure in common" in refused(answer, 422, "invalid_request")


def test_what_is_refused_leaves_nothing(server, client):
    image, other = (client.upload(("a.nii.gz", image_bytes(n)))["id"] for n in range(2))
    strange = give(client, other, drawn()).json()["id"]
    before = files_in(server, "label_maps")
    for status, code, answer in (
        (422, "wrong_grid", correct(client, image, drawn()[:-1], bundle="brain")),
        (422, "wrong_grid", give(client, image, drawn()[:, 1:])),
        (422, "unreadable", give(client, image, image_bytes(3))),
        (422, "unreadable", correct(client, image, b"\x1f\x8b no NIfTI", bundle="brain")),
        (415, "unknown_format", give(client, image, b"what is this", "mine.txt")),
        (400, "malformed", client.post(f"/images/{image}/labels", data={"a": "b"})),
        (422, "invalid_request", correct(client, image, drawn(value=7), bundle="brain")),
        (422, "invalid_request", correct(client, image, drawn())),
        (422, "invalid_request", correct(client, image, drawn(), names="[1]")),
        (422, "invalid_request", correct(client, image, drawn(), names='{"0": "none"}')),
        (422, "invalid_request", correct(client, image, drawn(), names='{"1": "a", "2": "a"}')),
        (422, "invalid_request", correct(client, image, drawn(), author="x" * 65)),
        (422, "invalid_request", correct(client, image, drawn(), force="perhaps")),
        (422, "invalid_request", correct(client, image, drawn(), parent=strange)),
        (404, "not_found", correct(client, image, drawn(), parent="gone")),
        (404, "not_found", correct(client, image, drawn(), bundle="gone")),
        (404, "not_found", correct(client, "gone", drawn(), bundle="brain")),
        (404, "not_found", client.get(f"/images/{other}/comparison?of={strange}&with=gone")),
        (
            422,
            "invalid_request",
            client.get(f"/images/{image}/comparison?of={strange}&with={strange}"),
        ),
        (409, "format_not_fitting", client.get(f"/labels/{strange}/result?format=dicom-seg")),
        (404, "not_found", client.delete("/labels/gone")),
    ):
        assert str(server.data) not in refused(answer, status, code)
    assert files_in(server, "label_maps") == before
    assert files_in(server, "incoming") == []
    assert client.get(f"/images/{image}/labels").json() == []


def test_nothing_half_is_kept_and_earlier_records_are_taken_over(tmp_path, bundles, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with fake_server(tmp_path, bundles / "brain") as (client, service):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        job = client.submit(image)["id"]
        refused(correct(client, image, drawn(), parent=job), 409, "not_done")
        with monkeypatch.context() as patch:
            patch.setattr(service.database, "save", full)
            refused(correct(client, image, drawn(), bundle="brain"), 507, "storage_full")
        left = service.quota.left - len(nifti_bytes(drawn())) - 10  # not for both files of it
        with monkeypatch.context() as patch:
            patch.setattr(service.quota, "_quota", service.quota._quota - left)
            refused(correct(client, image, drawn(), bundle="brain"), 507, "storage_full")
        assert files_in(service, "label_maps", "incoming") == []
        assert service.database.label_maps == {}
        assert correct(client, image, drawn(), bundle="brain").status_code == 201
        assert service.database.used_bytes() == sum(
            path.stat().st_size for path in files_in(service, "images", "jobs", "label_maps")
        )
        # As a server left it that knew of no such label maps.
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as records:
        records.executescript(
            "ALTER TABLE jobs DROP COLUMN batch; DROP TABLE label_maps; PRAGMA user_version = 2;"
        )
    with fake_server(tmp_path, bundles / "brain") as (client, _):
        assert client.job(job)["image"] == image
        assert client.get(f"/images/{image}/labels").json() == []


def test_what_a_person_drew_is_kept_until_it_is_deleted(tmp_path, bundles, monkeypatch):
    from serving import FakeWorker, until

    worker, now = FakeWorker(), time.time()
    with fake_server(tmp_path, bundles / "brain", worker=worker, keep_hours=1) as (client, service):
        image, other = (client.upload(("a.nii.gz", image_bytes(n)))["id"] for n in range(2))
        give(client, other, drawn())
        mine = correct(client, image, drawn(), bundle="brain", author="Ada").json()
        job = client.submit(image)["id"]
        until(lambda: worker.asked)
        worker.asked[0][1].set_result({"statistics": [], "slices": 6})
        client.wait(job)
        record = mine["id"]
        monkeypatch.setattr(time, "time", lambda: now + 4000)
        service.expire()
        refused(client.get(f"/images/{other}"), 404, "not_found")
        refused(client.get(f"/jobs/{job}"), 404, "not_found")
    with fake_server(tmp_path, bundles / "brain", keep_hours=1) as (client, service):
        assert client.get(f"/labels/{record}").json() == mine
        assert np.array_equal(voxels(client, f"/labels/{record}/labels.nii.gz"), drawn())
        client.delete(f"/labels/{record}")
        service.expire()  # who deleted the last one may still look at the image
        assert client.get(f"/images/{image}").json()["kept"] is False
        monkeypatch.setattr(time, "time", lambda: now + 8000)
        service.expire()
        refused(client.get(f"/images/{image}"), 404, "not_found")
        assert files_in(service, "images", "label_maps") == []


def test_a_dicom_segmentation_tells_that_a_person_corrected_it(client, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")
    pytest.importorskip("highdicom", reason="DICOM needs the extra dicom")
    from dicom_made import ramp, save, series_of
    from transunet.data.formats.dicom.segmentation import read_seg

    files = sorted(save(tmp_path / "series", series_of(ramp(5, 20, 22))).iterdir())
    job = client.segment(*files, force=True)
    image = job["image"]
    mine = voxels(client, f"/jobs/{job['id']}/labels.nii.gz").copy()
    view = nifti_of(client.get(f"/jobs/{job['id']}/labels.nii.gz").content)
    mine[2:6, 3:9, 1] = 2
    sent = type(view)(mine, view.affine).to_bytes()
    kept = []
    for fields in ({"parent": job["id"], "author": "Ada^Example"}, {"bundle": "brain"}):
        record = client.post(
            f"/images/{image}/corrections", files={"file": ("c.nii", sent)}, data=fields
        ).json()
        path = tmp_path / f"{len(kept)}.dcm"
        answer = client.get(f"/labels/{record['id']}/result?format=dicom-seg")
        assert answer.status_code == 200, answer.text
        path.write_bytes(answer.content)
        kept.append(pydicom.dcmread(path))
        assert read_seg(path).array.sum() == mine.sum()
    corrected, by_hand = ((seg, seg.SegmentSequence[0]) for seg in kept)
    assert corrected[1].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert corrected[0].ContentCreatorName == "Ada Example"
    (algorithm,) = corrected[1].SegmentationAlgorithmIdentificationSequence
    assert "corrected_by=a person" in algorithm.AlgorithmParameters
    assert by_hand[1].SegmentAlgorithmType == "MANUAL"
    assert "SegmentAlgorithmName" not in by_hand[1]


def test_values_with_gaps_are_segments_one_after_another(client, tmp_path):
    """A mask of 0 and 255, say; what it holds keeps its names."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")
    pytest.importorskip("highdicom", reason="DICOM needs the extra dicom")
    from dicom_made import ramp, save, series_of
    from transunet.data.formats.dicom.segmentation import read_seg

    files = sorted(save(tmp_path / "series", series_of(ramp(5, 20, 22))).iterdir())
    image = client.upload(*files)
    affine = client.get(f"/images/{image['id']}").json()["affine"]
    mask = np.zeros(image["shape"], np.uint8)
    mask[2:6, 3:9, 1], mask[8:11, 3:9, 2] = 255, 3
    given = client.post(
        f"/images/{image['id']}/labels", files={"file": ("m.nii.gz", nifti_bytes(mask, affine))}
    ).json()
    answer = client.get(f"/labels/{given['id']}/result?format=dicom-seg")
    assert answer.status_code == 200, answer.text
    path = tmp_path / "mask.dcm"
    path.write_bytes(answer.content)
    seg = pydicom.dcmread(path)
    segments = [(each.SegmentNumber, each.SegmentLabel) for each in seg.SegmentSequence]
    assert segments == [(1, "label 3"), (2, "label 255")]
    found = read_seg(path).array
    assert [int((found == n).sum()) for n in (1, 2)] == [18, 24]
