"""The road of an image through a running server: what comes out is what the predictor says."""

import io
import json
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from prediction import hounsfield, mirrored_along, noise, save_nifti, tiny_bundle
from serving import API, Client, image_bytes, labels_of, nifti_bytes, nifti_of, until
from transunet.bundle.bundle_config import read_config
from transunet.data.formats.nifti import label_names
from transunet.data.volume import Volume
from transunet.inference.predictor import Predictor
from transunet.serve.api.jobs import checked
from transunet.serve.api.schemas import JobRequest
from transunet.serve.api_errors import ApiError
from transunet.trust.assessment import predict_and_assess


@pytest.fixture(scope="module")
def done(server):
    """An image's bytes and the job that segmented them."""
    content = image_bytes(7)
    return content, server.client.segment(("scan one.nii.gz", content))


def result(client: Client, job: dict, format_: str) -> bytes:
    answer = client.get(f"/jobs/{job['id']}/result", params={"format": format_})
    assert answer.status_code == 200, answer.text
    return answer.content


def scored(client: Client, job: dict, path: Path):
    files = {"file": (path.name, path.read_bytes())}
    return client.post(f"/jobs/{job['id']}/reference", files=files)


def test_bundles_are_told_with_names_and_colours(client):
    (first, second, _) = client.get("/bundles").json()
    assert first["id"] == "brain"
    assert first["labels"] == [
        {"index": 1, "name": "left", "color": "#4fc3f7", "members": [1]},
        {"index": 2, "name": "right", "color": "#ffb74d", "members": [2]},
    ]
    assert (first["image_size"], first["layers"], first["heads"]) == ([32, 32], 1, 1)
    assert second["channels"] == ["MRI 0", "MRI 1"]


def test_labels_are_the_predictors_own(client, bundles, done, tmp_path):
    content, job = done
    expected = labels_of(bundles / "brain", content)
    downloaded = nifti_of(result(client, job, "nifti"))
    assert np.array_equal(np.asarray(downloaded.dataobj), expected)
    image = nifti_of(content)
    assert np.array_equal(downloaded.affine, image.affine)
    moved = tmp_path / "moved elsewhere.nii.gz"
    moved.write_bytes(result(client, job, "nifti"))
    assert label_names(moved) == {1: "left", 2: "right"}
    overlay = nifti_of(client.get(f"/jobs/{job['id']}/labels.nii.gz").content)
    assert np.array_equal(np.asarray(overlay.dataobj), expected)
    view = nifti_of(client.get(f"/images/{job['image']}/volume.nii.gz").content)
    assert np.array_equal(np.asarray(view.dataobj), np.asarray(image.dataobj))
    assert np.allclose(view.affine, overlay.affine)


def test_settings_reach_the_predictor(client, bundles, done):
    content, _ = done
    settings = {"mirror": True, "procedure": "paper", "largest_component": ["left"]}
    job = client.segment(("a.nii.gz", content), **settings)
    found = np.asarray(nifti_of(result(client, job, "nifti")).dataobj)
    assert np.array_equal(found, labels_of(bundles / "brain", content, **settings))
    assert not np.array_equal(found, labels_of(bundles / "brain", content))


def test_statistics_measure_each_structure(client, bundles, done):
    content, job = done
    labels, image = labels_of(bundles / "brain", content), nifti_of(content)
    left = job["statistics"][0]
    voxels = int((labels == 1).sum())
    assert (left["name"], left["index"], left["voxels"]) == ("left", 1, voxels)
    millilitres = voxels * abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert left["volume_ml"] == pytest.approx(millilitres)
    mean = np.asarray(image.dataobj)[labels == 1].mean()
    assert left["mean_intensity"][0] == pytest.approx(mean)


def test_what_is_expected_of_each_structure_is_told(client, bundles, done, tmp_path):
    """As the predictor itself says it, with a map of where it is unsure; else nothing is."""
    contents = image_bytes(1), image_bytes(2)
    job = client.segment(*zip(("0.nii.gz", "1.nii.gz"), contents, strict=True), bundle="pair")
    images = [nifti_of(content) for content in contents]
    voxels = np.stack([np.asarray(each.dataobj, np.float32) for each in images])
    predictor = Predictor.from_pretrained(bundles / "pair", device="cpu")
    maps = tmp_path / "uncertainty.npy"
    _, assessment = predict_and_assess(
        predictor, Volume(voxels, images[0].affine), uncertainty=maps
    )
    left, right = job["statistics"]
    for told, expected, look in ((left, 0.93, False), (right, 0.61, True)):
        figures = assessment.structures[told["name"]].figures()
        assert told == told | figures
        assert (told["look"], told["expected_dice"]) == (look, expected)
        assert told["volume_interval_ml"][0] < told["volume_ml"] < told["volume_interval_ml"][1]
    assert left["reason"] is None
    assert right["reason"] == "less than Dice 0.7 is expected"
    assert job["uncertainty"] is True
    unsure = nifti_of(client.get(f"/jobs/{job['id']}/uncertainty.nii.gz").content)
    assert np.array_equal(unsure.affine, nifti_of(contents[0]).affine)
    assert np.abs(np.asarray(unsure.dataobj) - 100 * np.load(maps)[0]).max() <= 0.51
    assert np.asarray(unsure.dataobj).max() > 50

    _, plain = done  # of a bundle that knows nothing of itself
    assert plain["uncertainty"] is False
    assert {plain["statistics"][0][key] for key in ("look", "expected_dice", "reason")} == {None}
    answer = client.get(f"/jobs/{plain['id']}/uncertainty.nii.gz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "transunet calibrate" in answer.json()["error"]["remedy"]


def test_downloads_have_sensible_names(client, done):
    answer = client.get(f"/jobs/{done[1]['id']}/result")
    assert 'filename="scan_one_brain.nii.gz"' in answer.headers["content-disposition"]


def test_npz_holds_slices_first(client, bundles, done):
    content, job = done
    with np.load(io.BytesIO(result(client, job, "npz"))) as arrays:
        assert np.array_equal(
            np.moveaxis(arrays["label"], 0, -1), labels_of(bundles / "brain", content)
        )


@pytest.mark.parametrize(("format_", "why"), [("dicom-seg", "DICOM series"), ("png", "6")])
def test_a_format_that_cannot_hold_it_is_refused(client, done, format_, why):
    answer = client.get(f"/jobs/{done[1]['id']}/result", params={"format": format_})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "format_not_fitting"
    assert why in answer.json()["error"]["message"]


def test_events_tell_of_slices_and_end(client):
    image = client.upload(("a.nii.gz", image_bytes(1, (20, 40, 6))))
    job = client.submit(image["id"])
    with client.http.stream("GET", f"/api/v1/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    events = [part.split("\n") for part in text.strip().split("\n\n") if part[0] != ":"]
    kinds = [lines[0].removeprefix("event: ") for lines in events]
    assert kinds[0] == "status"
    assert kinds[-1] == "end"
    end = json.loads(events[-1][1].removeprefix("data: "))
    assert (end["status"], end["slices_done"], end["slices_total"]) == ("done", 40, 40)


def test_one_file_per_channel(client, tmp_path):
    files = [("b_0001.nii.gz", image_bytes(2)), ("b_0000.nii.gz", image_bytes(1))]
    image = client.upload(*files)
    assert image["channels"] == 2
    view = nifti_of(client.get(f"/images/{image['id']}/volume.nii.gz").content)
    assert np.array_equal(view.dataobj[..., 0], np.asarray(nifti_of(files[1][1]).dataobj))
    answer = client.post("/jobs", json={"image": image["id"], "bundle": "brain"})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "wrong_channels"
    job = client.wait(client.submit(image["id"], "pair")["id"])
    assert job["status"] == "done"


@pytest.mark.parametrize("packed", [False, True], ids=["files", "zip"])
def test_a_dicom_series_gets_a_dicom_segmentation(client, tmp_path, packed):
    pytest.importorskip("highdicom", reason="DICOM needs the extra dicom")
    from dicom_made import PATIENT_ID, complete, ramp, save, series_of
    from transunet.data.formats.dicom import read
    from transunet.data.formats.dicom.segmentation import read_seg, segment_names

    folder = save(tmp_path / "series", series_of(ramp(5, 20, 24), edit=complete))
    files = sorted(folder.iterdir())
    if packed:
        archive = tmp_path / "export.zip"
        with zipfile.ZipFile(archive, "w") as out:
            for file in files:
                out.write(file, f"patient/{file.name}")
        files = [archive]
    image = client.upload(*files, data={"as": "series"})
    assert (image["shape"], image["orientation"]) == ([24, 20, 5], "LPS")
    assert "dicom-seg" in image["result_formats"]
    assert image["units"] == ["HU"]
    assert image["header"] == {
        "patient_name": "Test, Case",
        "patient_id": PATIENT_ID,
        "study_date": "2026-11-26",
        "study": "",
        "series": "made",
        "modality": "CT",
    }
    job = client.wait(client.submit(image["id"], force=True)["id"])
    path = tmp_path / "out.dcm"
    path.write_bytes(result(client, job, "dicom-seg"))
    labels = np.asarray(nifti_of(result(client, job, "nifti")).dataobj)
    assert np.array_equal(read_seg(path, read(folder)).array[0], labels)
    assert segment_names(path) == {1: "left", 2: "right"}
    # and it is a reference like any other
    scored = client.post(f"/jobs/{job['id']}/reference", files={"file": ("r", path.read_bytes())})
    assert scored.json()["mean"]["dice"] == 1.0


def test_a_header_that_contradicts_itself_is_a_warning_with_the_true_spacing(client):
    image = nifti_of(image_bytes(7))
    image.set_qform(np.diag([1.5, 1.5, 10, 1]), code=1)
    image.set_sform(np.eye(4), code=1)
    image.header["pixdim"][1:4] = 1.5, 1.5, 10
    facts = client.upload(("scan.nii", image.to_bytes()))
    assert facts["spacing_mm"] == pytest.approx([1.5, 1.5, 10])
    assert any("1 x 1 x 1 mm, its pixdim says 1.5 x 1.5 x 10 mm" in w for w in facts["warnings"])


@pytest.mark.parametrize("name", ["export.zip", "bare"])
def test_a_zipped_volume_and_one_without_suffix_are_taken(client, bundles, name):
    content = image_bytes(7)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("export/scan.nii.gz", content)
    image = client.upload((name, out.getvalue() if name.endswith("zip") else content))
    job = client.wait(client.submit(image["id"])["id"])
    labels = np.asarray(nifti_of(result(client, job, "nifti")).dataobj)
    assert np.array_equal(labels, labels_of(bundles / "brain", content))


def test_slices_that_are_sent_one_by_one_are_a_series_whatever_lies_beside_them(client, tmp_path):
    pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")
    from dicom_made import header, ramp, save, series_of

    folder = save(tmp_path / "series", series_of(ramp(4)))
    save(folder, [header("1.2.7", "1.2", "SR", "1.2.840.10008.5.1.4.1.1.88.22")])
    (folder / "empty.dcm").touch()
    assert client.upload(*sorted(folder.iterdir()))["shape"] == [7, 6, 4]


def test_one_of_several_series_is_chosen(client, tmp_path):
    pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")
    from dicom_made import STUDY, ramp, save, series_of

    folder = save(tmp_path / "series", series_of(ramp(4), uid=f"{STUDY}.1"))
    save(folder, series_of(ramp(3), uid=f"{STUDY}.2"))
    files = sorted(folder.iterdir())
    refused = client.send(*files)
    assert refused.status_code == 422
    error = refused.json()["error"]
    assert "holds 2 series" in error["message"]
    assert error["code"] == "several_series"
    assert "'series'" in error["remedy"]
    assert [(one["number"], one["slices"], one["uid"]) for one in error["series"]] == [
        (1, 4, f"{STUDY}.1"),
        (2, 3, f"{STUDY}.2"),
    ]
    assert (error["series"][0]["modality"], error["series"][0]["description"]) == ("CT", "made")
    for chosen in ({"params": {"series": "2"}}, {"data": {"series": f"{STUDY}.2"}}):
        assert client.upload(*files, **chosen)["shape"][2] == 3
    refused = client.send(*files, data={"series": "9"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_such_series")
    assert len(refused.json()["error"]["series"]) == 2


def test_a_ct_for_mri_is_refused_unless_it_is_forced(client):
    image = client.upload(("ct.nii.gz", nifti_bytes(hounsfield())))
    (brain,) = image["suitability"]  # no other bundle takes one channel
    assert (image["units"], image["header"]) == (["HU"], None)
    assert brain["bundle"] == "brain"
    assert "Hounsfield units" in brain["refusal"]
    asked = {"image": image["id"], "bundle": "brain"}
    refused = client.post("/jobs", json=asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "wrong_modality")
    assert "trained on MRI" in refused.json()["error"]["message"]
    assert '"force": true' in refused.json()["error"]["remedy"]
    job = client.wait(client.submit(image["id"], force=True)["id"])
    assert job["status"] == "done"
    (warning,) = job["warnings"]
    assert warning.startswith("Segmented although its values look like a CT's")
    usual = client.segment(("mr.nii.gz", nifti_bytes(abs(noise()))))
    assert usual["warnings"] == []


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b"form-data; name=\"files\"; filename*=UTF-8''h%C3%BCfte.nii.gz", "h\u00fcfte.nii.gz"),
        (b"form-data; name=files; filename=\"=?utf-8?B?aMO8ZnRlLm5paS5neg==?=\"; "
         b"filename*=utf-8''h%C3%BCfte.nii.gz", "h\u00fcfte.nii.gz"),
        (b"form-data; name=files; filename=\"=?utf-8?B?aMO8ZnRlLm5paS5neg==?=\"",
         "h\u00fcfte.nii.gz"),
        (b"form-data; name=files; filename*=iso-8859-1'de'h%FCfte.nii.gz", "h\u00fcfte.nii.gz"),
        (b"form-data; filename*=\"utf-8''h%C3%BCfte.nii.gz\"; name=\"files\"", "h\u00fcfte.nii.gz"),
        (b"form-data; name=files; filename*=klingon''h.nii.gz", "h.nii.gz"),
        ('form-data; name="files"; filename="h\u00fcfte.nii.gz"'.encode(), "h\u00fcfte.nii.gz"),
        (b"form-data; name=files; filename*=UTF-8''..%2F..%2Fx.nii.gz", "x.nii.gz"),
    ],
)  # fmt: skip
def test_file_names_as_clients_encode_them(client, disposition, name):
    head = b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\n"
    answer = client.post(
        "/images",
        content=head + image_bytes(0) + b"\r\n--b--\r\n",
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == name


def test_what_predict_reads_is_taken(client, tmp_path):
    import nibabel

    from prediction import OBLIQUE

    array, content = noise((20, 24, 6)), image_bytes(0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("study/scan.nii.gz", content)
    nibabel.save(nibabel.Nifti1Pair(array, OBLIQUE), tmp_path / "a.hdr")
    uploads = [
        [("scan", content)],
        [("scan.zip", archive.getvalue())],
        [tmp_path / "a.hdr", tmp_path / "a.img"],
        [tmp_path / "a.img", tmp_path / "a.hdr"],
    ]
    for files in uploads:
        image = client.upload(*files)
        assert (image["shape"], image["channels"]) == ([20, 24, 6], 1)
        assert image["orientation"] == client.upload(("b.nii.gz", content))["orientation"]
    itk = pytest.importorskip("SimpleITK", reason="MetaImage needs the extra images")
    for suffix in ("mhd", "nhdr"):
        itk.WriteImage(itk.GetImageFromArray(array), str(tmp_path / f"b.{suffix}"))
        files = sorted(tmp_path.glob("b.*"))
        assert len(files) == 2
        assert client.upload(*files)["shape"] == [6, 24, 20]
        for file in files:
            file.unlink()
    assert client.wait(client.submit(client.upload(*uploads[2])["id"])["id"])["status"] == "done"


def test_head_is_get_without_a_body(client):
    job = client.segment(("a.nii.gz", image_bytes(0)))
    for path in ("/bundles", "/health", "/jobs", f"/jobs/{job['id']}/result"):
        asked, given = client.http.head(f"{API}{path}"), client.get(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == str(len(given.content)) or path != "/bundles"
    assert client.http.head(f"{API}/jobs/{job['id']}/events").status_code == 200
    assert client.http.head(f"{API}/jobs/none").status_code == 404
    assert client.http.head("/").status_code in (200, 503)
    assert "HEAD" in client.http.put(f"{API}/bundles").headers["allow"]


def test_a_photograph_lies_upright_and_gets_a_png(client, bundles):
    image_module = pytest.importorskip("PIL.Image", reason="pictures need the extra images")
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    image_module.fromarray(pixels).save(file, "PNG")
    image = client.upload(("photo.png", file.getvalue()))
    assert (image["kind"], image["shape"], image["channels"]) == ("picture", [30, 50, 1], 3)
    assert "no voxel size" in image["warnings"][0]
    view = nifti_of(client.get(f"/images/{image['id']}/volume.nii.gz").content)
    shown = np.asarray(view.dataobj)
    assert np.array_equal(np.stack([shown[name][..., 0] for name in "RGB"], -1), pixels)
    # A row further down is further back, which is further down on an axial screen.
    assert np.array_equal(view.affine[:3, :2], [[0, 1], [-1, 0], [0, 0]])
    job = client.wait(client.submit(image["id"], "photo")["id"])
    png = np.asarray(image_module.open(io.BytesIO(result(client, job, "png"))))
    overlay = nifti_of(client.get(f"/jobs/{job['id']}/labels.nii.gz").content)
    assert png.shape == (30, 50)
    assert np.array_equal(np.asarray(overlay.dataobj)[..., 0], png)
    assert np.array_equal(overlay.affine, view.affine)
    assert "times as far from training's" in job["warnings"][-1]
    assert [each["expected_dice"] for each in job["statistics"]] == [0.93, None]


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif"])
def test_a_photograph_is_taken_as_it_is_shown(client, bundles, name):
    image_module = pytest.importorskip("PIL.Image", reason="pictures need the extra images")
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 255
    exif = image_module.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = io.BytesIO()
    stored = image_module.fromarray(np.ascontiguousarray(np.rot90(pixels)))
    stored.save(file, name.replace("jpg", "jpeg").replace("tif", "tiff")[6:], exif=exif)
    image = client.upload((name, file.getvalue()))
    assert image["shape"] == [32, 48, 1]
    view = nifti_of(client.get(f"/images/{image['id']}/volume.nii.gz").content)
    red = np.asarray(view.dataobj)["R"][..., 0].astype(int)
    assert np.abs(red - pixels[..., 0]).max() < 30
    job = client.wait(client.submit(image["id"], "photo")["id"])
    assert np.asarray(image_module.open(io.BytesIO(result(client, job, "png")))).shape == (32, 48)


def test_colours_of_16_bits_are_shown_and_segmented_as_those_of_8(client, bundles, tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="pictures need the extra images")
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    labels = []
    for name, numbers in (("a", pixels), ("b", pixels.astype(np.uint16) * 257)):
        path = tmp_path / f"{name}.png"
        sitk.WriteImage(sitk.GetImageFromArray(numbers, isVector=True), str(path))
        image = client.upload(path)
        view = nifti_of(client.get(f"/images/{image['id']}/volume.nii.gz").content)
        assert np.array_equal(np.asarray(view.dataobj)["G"][..., 0], pixels[..., 1])
        job = client.wait(client.submit(image["id"], "photo")["id"])
        labels.append(result(client, job, "png"))
    assert labels[0] == labels[1]


def test_other_formats_are_read(client, tmp_path):
    from transunet.data.volume import Volume

    array = noise((20, 24, 6)).astype(np.float32)
    npy = io.BytesIO()
    np.save(npy, array)
    side = ("a.npy.json", json.dumps({"spacing_mm": [1, 2, 3]}).encode())
    assert client.upload(("a.npy", npy.getvalue()), side)["spacing_mm"] == [1, 2, 3]
    pytest.importorskip("SimpleITK", reason="NRRD needs the extra images")
    from transunet.data.formats import write_volume

    for suffix in (".nrrd", ".mha"):
        write_volume(Volume(array[None], np.diag([1, 2, 3, 1.0])), tmp_path / f"a{suffix}")
        assert client.upload(tmp_path / f"a{suffix}")["spacing_mm"] == [1, 2, 3]


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (0, "mean"), ("rollout", "mean")])
def test_attention_is_the_views_own(client, bundles, done, tmp_path, layer, head):
    from transunet.attention.view import AttentionView
    from transunet.bundle.io import from_pretrained
    from transunet.data.formats import read_volume

    content, job = done
    (tmp_path / "a.nii.gz").write_bytes(content)
    model, config = from_pretrained(bundles / "brain")
    view = AttentionView(model, config.preprocessing, "cpu")
    expected = view.slice_at(read_volume(tmp_path / "a.nii.gz"), (3, 11, 2), layer, head)
    asked = {"voxel": [3, 11, 2], "layer": layer, "head": head}
    for path, more in (
        (f"/images/{job['image']}/attention", {"bundle": "brain"}),
        (f"/jobs/{job['id']}/attention", {}),
    ):
        answer = client.post(path, json={**asked, **more})
        assert answer.status_code == 200, answer.text
        found = nifti_of(answer.content)
        assert found.get_data_dtype() == np.float32
        assert np.allclose(np.asarray(found.dataobj), expected.array[0])
        assert np.allclose(found.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"voxel": [99, 0, 0]}, {"layer": 7, "head": 0}, {"layer": 0, "head": 9}, {"head": 0}]
)
def test_attention_of_what_is_not_there(client, done, wrong):
    answer = client.post(f"/jobs/{done[1]['id']}/attention", json={"voxel": [0, 0, 0], **wrong})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_request"


def test_attention_does_not_wait_for_a_job(client):
    small = client.upload(("small.nii.gz", image_bytes(3)))
    long = client.submit(client.upload(("long.nii.gz", image_bytes(4, (40, 900, 40))))["id"])
    until(lambda: client.job(long["id"])["status"] == "running")
    asked = {"bundle": "brain", "voxel": [1, 1, 1]}
    assert client.post(f"/images/{small['id']}/attention", json=asked).status_code == 200
    assert client.job(long["id"])["status"] == "running"
    cancelled = client.post(f"/jobs/{long['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    again = client.post(f"/jobs/{long['id']}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "busy")
    answer = client.get(f"/jobs/{long['id']}/result")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_done")
    after = client.wait(client.submit(small["id"])["id"])
    assert after["status"] == "done"


def test_a_reference_is_scored_per_structure(client, bundles, done, tmp_path):
    content, job = done
    labels = labels_of(bundles / "brain", content)
    right = np.argwhere(labels == 2)
    labels[tuple(right[1:].T)] = 0  # all but one voxel
    path = save_nifti(tmp_path / "truth.nii.gz", labels)
    answer = scored(client, job, path)
    left, other = answer.json()["structures"]
    assert (left["name"], left["dice"], left["hd95_mm"]) == ("left", 1.0, 0.0)
    assert other["dice"] == pytest.approx(2 / (1 + len(right)))
    assert answer.json()["mean"]["dice"] == pytest.approx((1 + other["dice"]) / 2)


def test_a_reference_whose_segments_have_names_is_scored_by_them(client, bundles, tmp_path):
    itk = pytest.importorskip("SimpleITK")
    content = save_nifti(tmp_path / "a.nii.gz", noise((20, 24, 6), 8), np.eye(4)).read_bytes()
    job = client.segment(("a.nii.gz", content))
    labels = save_nifti(tmp_path / "r.nii", labels_of(bundles / "brain", content), np.eye(4))
    names = [one["name"] for one in scored(client, job, labels).json()["structures"]]
    swapped = itk.ChangeLabel(itk.ReadImage(str(labels)), {1: 2, 2: 1})
    for number, name in enumerate(names):
        swapped.SetMetaData(f"Segment{number}_Name", name)
        swapped.SetMetaData(f"Segment{number}_LabelValue", str(2 - number))
    itk.WriteImage(swapped, str(tmp_path / "truth.seg.nrrd"))
    answer = scored(client, job, tmp_path / "truth.seg.nrrd").json()
    assert [one["dice"] for one in answer["structures"]] == [1.0, 1.0]
    swapped.SetMetaData("Segment1_Name", "skull")
    itk.WriteImage(swapped, str(tmp_path / "truth.seg.nrrd"))
    refused = scored(client, job, tmp_path / "truth.seg.nrrd")
    assert refused.status_code == 422
    assert "it holds skull" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("array", "code", "why"),
    [
        (np.ones((20, 24, 5), np.uint8), "wrong_grid", "20 x 24 x 5"),
        (np.full((20, 24, 6), 9, np.uint8), "unreadable", "no name: 9"),
        (noise((20, 24, 6)), "unreadable", "negative value"),
    ],
)
def test_a_reference_that_does_not_fit(client, done, tmp_path, array, code, why):
    path = save_nifti(tmp_path / "truth.nii.gz", array)
    answer = scored(client, done[1], path)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == code
    assert why in answer.json()["error"]["message"]
    assert "/jobs/" not in answer.text


def test_what_is_deleted_is_gone(client, server):
    job = client.segment(("a.nii.gz", image_bytes(5)))
    assert client.delete(f"/jobs/{job['id']}").status_code == 204
    answer = client.get(f"/jobs/{job['id']}/result")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "deleted" in answer.json()["error"]["message"]
    other = client.wait(client.submit(job["image"])["id"])
    assert client.delete(f"/images/{job['image']}").status_code == 204
    assert client.get(f"/jobs/{other['id']}").status_code == 404
    assert client.get(f"/images/{job['image']}/volume.nii.gz").status_code == 404
    for name in (job["image"], job["id"], other["id"]):
        assert not list(Path(server.data).rglob(f"*{name}*"))


def test_a_sample_is_taken_in_once_and_listed_with_all_images(client):
    pytest.importorskip("nilearn", reason="the sample needs the extra demo")
    assert client.get("/health").json()["sample"]
    first = client.upload(("a.nii.gz", image_bytes(14)))
    answers = [client.post("/sample") for _ in range(2)]
    (sample,) = {answer.json()["id"] for answer in answers}
    assert all(answer.headers["location"].endswith(f"/images/{sample}") for answer in answers)
    taken = answers[0].json()
    assert (taken["shape"], taken["units"], taken["obstacle"]) == ([197, 233, 189], [None], None)
    listed = client.get("/images").json()
    assert [image["created"] for image in listed] == sorted(image["created"] for image in listed)
    assert first in listed
    assert taken in listed  # before the first one, where another test asked for it already
    client.delete(f"/images/{sample}")


def test_health_and_metrics(client, done):
    health = client.get("/health").json()
    assert (health["status"], health["ready"]) == ("ok", True)
    assert health["limits"]["upload_bytes"] == 4 * 2**20
    assert client.get("/ready").status_code == 200
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(lines['transunet_jobs_total{bundle="brain",status="done"}']) >= 1
    assert float(lines['transunet_slices_total{bundle="brain"}']) >= 24
    for kind in ("job", "job_wait"):
        counts = [
            float(value)
            for name, value in lines.items()
            if name.startswith(f'transunet_{kind}_seconds_bucket{{bundle="brain"')
        ]
        assert counts == sorted(counts)
        assert counts[-1] == float(lines[f'transunet_{kind}_seconds_count{{bundle="brain"}}']) >= 1
    assert lines["transunet_worker_ready"] == "1"
    assert float(lines["transunet_storage_bytes"]) > 0


@pytest.mark.parametrize(("axes", "refused"), [((), True), ((1,), False), (None, False)])
def test_mirror_images_that_training_never_saw_are_refused(axes, refused, tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle")
    config = read_config(bundle).replace(training_data=mirrored_along(axes))
    served = SimpleNamespace(name="bundle", channels=["MRI 0"], config=config)
    image = SimpleNamespace(name="a.nii.gz", metadata={"channels": 1, "obstacle": None})
    service = SimpleNamespace(image=lambda _: image, bundle=lambda _: served)
    asked = JobRequest(image="i", bundle="b", mirror=True, window=True, procedure="paper")
    with pytest.raises(ApiError) as error:
        checked(asked, service)
    # The next fault is told where this is none.
    assert ("no mirror images" in error.value.message) == refused


def test_wrong_addresses_and_methods(client):
    answer = client.get("/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = client.http.put("/api/v1/images/x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")
    assert answer.json()["error"]["code"] == "method_not_allowed"
    answer = client.post("/jobs", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")
    answer = client.post("/jobs", json={"image": "x", "bundle": "brain", "colour": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert "colour" in answer.json()["error"]["message"]


def test_every_answer_is_documented(client):
    document = client.get("/openapi.json").json()
    assert {path.removeprefix("/api/v1") for path in document["paths"]} >= {
        "/bundles", "/images", "/jobs", "/jobs/{id}/events", "/jobs/{id}/result", "/health",
    }  # fmt: skip
    named = [each["operationId"] for one in document["paths"].values() for each in one.values()]
    assert len(named) == len(set(named))
    assert {"upload_image", "submit_job", "get_job_result", "segment_image"} <= set(named)
    for operations in document["paths"].values():
        for operation in operations.values():
            assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"])
            assert "security" not in operation  # this server has no token
            assert operation["description"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Error"}
