"""What a server learns from: label maps added to a data set, images opened from a worklist."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_made import ramp, save, series_of
from prediction import save_nifti
from serving import Client, fake_server, image_bytes, nifti_bytes, nifti_of
from transunet.batch.worklist import Worklist, WorklistCase, write_worklist
from transunet.data import additions
from transunet.data.additions import Classes
from transunet.data.layouts import open_dataset
from transunet.errors import ConfigError, DataError
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs import dataset_cases

SHAPE = (20, 24, 6)


@pytest.fixture
def bundle(bundles: Path) -> Path:
    return bundles / "brain"


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


def correct(client: Client, image: str, voxels: np.ndarray, **fields: Any) -> str:
    files = {"file": ("labels.nii.gz", nifti_bytes(voxels))}
    fields = {"bundle": "brain", **fields}
    answer = client.post(f"/images/{image}/corrections", files=files, data=fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def accept(client: Client, image: str, labels: str) -> Any:
    return client.post(f"/images/{image}/dataset", json={"labels": labels})


def listed(folder: Path, *images: Path) -> Path:
    cases = [
        WorklistCase(
            case=image.name.removesuffix(".nii.gz"), images=(image,), dice=0.1 * n, structure="left"
        )
        for n, image in enumerate(images)
    ]
    return write_worklist(Worklist(order="soft Dice", bundles=("b",), cases=tuple(cases)), folder)


def test_a_label_map_becomes_a_case_once(tmp_path: Path, bundle: Path) -> None:
    dataset = tmp_path / "Dataset007_Brain"
    with fake_server(tmp_path / "data", bundle, dataset=dataset) as (client, _):
        assert client.get("/health").json()["dataset"] is True
        image = client.upload(("scan_0000.nii.gz", image_bytes(0)))["id"]
        state = {"name": "Dataset007_Brain", "cases": 0, "case": None}
        assert client.get(f"/images/{image}/dataset").json() == state
        labels = correct(client, image, drawn(0))
        answer = accept(client, image, labels)
        assert answer.status_code == 201, answer.text
        added = {**state, "cases": 1, "case": "scan"}
        assert answer.json() == client.get(f"/images/{image}/dataset").json() == added

        again = client.upload(("renamed.nii.gz", image_bytes(0)))["id"]
        assert client.get(f"/images/{again}/dataset").json()["case"] == "scan"
        twice = accept(client, again, correct(client, again, drawn(1)))
        assert refusal(twice) == (409, "in_dataset")
        assert "already, as scan" in twice.json()["error"]["message"]

        other = client.upload(("scan.nii.gz", image_bytes(1)))["id"]
        assert refusal(accept(client, other, labels)) == (422, "invalid_request")
        cyst = correct(client, other, drawn(0), names='{"3": "cyst"}')
        answer = accept(client, other, cyst)
        assert refusal(answer) == (422, "other_classes")
        assert "cyst (only in the label map)" in answer.json()["error"]["message"]
        assert refusal(accept(client, other, "gone")) == (404, "not_found")
        labels = correct(client, other, drawn(2), force="true")
        for wrong in ({}, {"labels": 3}, {"labels": labels, "x": 1}):
            answer = client.post(f"/images/{other}/dataset", json=wrong)
            assert refusal(answer) == (422, "invalid_request")
        assert accept(client, other, labels).json()["cases"] == 2

        description = (dataset / "dataset.json").read_text()
        (dataset / "dataset.json").write_text("{")
        for answer in (client.get(f"/images/{other}/dataset"), accept(client, other, labels)):
            assert refusal(answer) == (409, "dataset_unusable")
        (dataset / "dataset.json").write_text(description)

    data = open_dataset(dataset)
    assert (dict(data.labels), data.notes) == ({0: "background", 1: "left", 2: "right"}, ())
    for case, seed, drawing in zip(data.cases, (0, 1), (0, 2), strict=True):
        stored, label = data.read_case(case)
        sent = nifti_of(image_bytes(seed))
        np.testing.assert_array_equal(stored.array[0], np.asarray(sent.dataobj))
        np.testing.assert_allclose(stored.affine, sent.affine, atol=1e-5)
        np.testing.assert_array_equal(label.array[0], drawn(drawing))


def test_a_worklist_opens_its_images_and_marks_what_was_added(tmp_path: Path, bundle: Path) -> None:
    first, gone = save_nifti(tmp_path / "in" / "first.nii.gz"), tmp_path / "in" / "gone.nii.gz"
    series = save(tmp_path / "in" / "series", series_of(ramp()))
    path = listed(tmp_path, first, gone, series)
    settings = {"dataset": tmp_path / "set", "worklist": path}
    with fake_server(tmp_path / "data", bundle, **settings) as (client, _):
        worklist = client.get("/worklist").json()
        assert worklist["order"] == "soft Dice"
        assert [entry["place"] for entry in worklist["cases"]] == [1, 2, 3]
        blank = {"case": "first", "dice": 0, "structure": "left", "reasons": []}
        assert worklist["cases"][0] == {"place": 1, **blank, "image": None, "added": None}

        answer = client.post("/worklist/1/image")
        assert answer.status_code == 201, answer.text
        image = answer.json()["id"]
        assert answer.headers["location"] == f"/api/v1/images/{image}"
        assert answer.json()["name"] == "first.nii.gz"
        assert client.post("/worklist/1/image").json()["id"] == image
        assert client.get("/worklist").json()["cases"][0]["image"] == image
        answer = client.post("/worklist/2/image")
        assert refusal(answer) == (404, "not_found")
        assert "its file gone.nii.gz is not there any more" in answer.text
        assert client.post("/worklist/3/image").json()["shape"] == [7, 6, 5]
        assert refusal(client.post("/worklist/4/image")) == (404, "not_found")
        for place in ("0", "-1", "x", str(10**40)):
            assert client.post(f"/worklist/{place}/image").status_code in (404, 422)
        assert accept(client, image, correct(client, image, drawn(0))).status_code == 201
        assert client.get("/worklist").json()["cases"][0]["added"] == "first"
        assert not list((tmp_path / "data" / "incoming").iterdir())
    with fake_server(tmp_path / "data", bundle, **settings) as (client, _):  # after a restart
        assert client.get("/worklist").json()["cases"][0]["added"] == "first"
    settings["dataset"] = tmp_path / "another"
    with fake_server(tmp_path / "data", bundle, **settings) as (client, _):
        assert client.get("/worklist").json()["cases"][0]["added"] is None


def test_without_either_nothing_is_offered(tmp_path: Path, bundle: Path) -> None:
    with fake_server(tmp_path, bundle) as (client, _):
        health = client.get("/health").json()
        assert (health["dataset"], health["worklist"]) == (False, False)
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        for answer in (client.get(f"/images/{image}/dataset"), accept(client, image, "x")):
            assert refusal(answer) == (404, "no_dataset")
        for answer in (client.get("/worklist"), client.post("/worklist/1/image")):
            assert refusal(answer) == (404, "no_worklist")


def test_what_cannot_work_is_told_at_the_start(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "file").touch()
    other = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}
    (tmp_path / "liver").mkdir()
    (tmp_path / "liver" / "dataset.json").write_text(json.dumps(other))
    (tmp_path / "pair").mkdir()
    channels = {"channel_names": {"0": "MRI", "1": "CT"}, "labels": other["labels"]}
    (tmp_path / "pair" / "dataset.json").write_text(json.dumps(channels))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "dataset.json").write_text("{")
    (tmp_path / "list.json").write_text('{"cases": []}')
    for error, settings, says in (
        (ConfigError, {"dataset": tmp_path / "file"}, "Cannot write to the folder"),
        (ConfigError, {"dataset": tmp_path / "liver"}, r"liver \(only in the data set\)"),
        (ConfigError, {"dataset": tmp_path / "pair"}, "has the channels MRI, CT; the images have"),
        (DataError, {"dataset": tmp_path / "damaged"}, "not valid JSON"),
        (ConfigError, {"worklist": tmp_path / "list.json"}, r"order.*\. Give the worklist"),
        (ConfigError, {"worklist": tmp_path / "gone.json"}, "no file .*gone.json. Give the work"),
    ):
        with (
            pytest.raises(error, match=says),
            fake_server(tmp_path / "data", bundle, **settings),
        ):
            pass


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_nifti(tmp_path / "upload" / "a.nii.gz")
    save_nifti(tmp_path / dataset_cases.LABELS, drawn(0))
    metadata = {"paths": ["upload/a.nii.gz"], "dicom": False, "series": None, "stem": "a"}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(additions, "write_volume", full)
    classes = Classes(("MRI",), {0: "background", 1: "left", 2: "right"})
    with pytest.raises(ApiError) as caught:
        dataset_cases.add_to(tmp_path / "set", tmp_path, metadata, tmp_path, classes)
    assert caught.value.code == "storage_full"
    assert not (tmp_path / "set" / "dataset.json").exists()
