"""What a server is sent that it cannot use: a clear answer, and nothing left behind."""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from prediction import noise
from serving import image_bytes, nifti_bytes
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.messages import LABELS
from transunet.serve.uploads.receive import name_on_disk, shown_name


def zipped(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def claiming(shape: tuple[int, ...]) -> bytes:
    """A NIfTI header that promises `shape`, and a thousand zeros."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return gzip.compress(header.binaryblock + bytes(1004))


def constant() -> bytes:
    return gzip.compress(nibabel.Nifti1Image(np.ones((8, 8, 2), np.uint8), np.eye(4)).to_bytes())


def with_nan() -> bytes:
    array = noise((8, 8, 2)).astype(np.float32)
    array[0, 0, 0] = np.nan
    return gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes())


def large_png(width: int = 60000, height: int = 60000) -> bytes:
    """A few bytes that promise 3.6 thousand million pixels."""
    start = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [start, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


NRRD_ELSEWHERE = (
    b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 8 8 8\nencoding: raw\ndata file: /etc/passwd\n\n"
)
MHA_ELSEWHERE = (
    b"ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_UCHAR\n"
    b"ElementDataFile = /etc/passwd\n"
)
BAD = {
    "no file": ([], 400, "malformed", "no file"),
    "empty": ([("a.nii.gz", b"")], 422, "unreadable", "a.nii.gz"),
    "no image": ([("a.nii.gz", b"hello" * 99)], 422, "unreadable", "as NIfTI"),
    "cut short": ([("a.nii.gz", image_bytes(0)[:2000])], 422, "unreadable", "a.nii.gz"),
    "text": ([("notes.txt", b"hello")], 415, "unknown_format", "notes.txt"),
    "no suffix": ([("notes", b"hello")], 415, "unknown_format", "notes"),
    "hdf5": ([("a.h5", b"\x89HDF\r\n\x1a\n")], 415, "unknown_format", "a.h5"),
    "header alone": ([("a.nhdr", NRRD_ELSEWHERE)], 415, "unknown_format", "one file"),
    "nrrd elsewhere": ([("a.nrrd", NRRD_ELSEWHERE)], 415, "unknown_format", "same file"),
    "mha elsewhere": ([("a.mha", MHA_ELSEWHERE)], 415, "unknown_format", "same file"),
    "nrrd as mha": ([("a.mha", NRRD_ELSEWHERE)], 415, "unknown_format", "same file"),
    "huge": ([("a.nii.gz", claiming((9000, 9000, 9000)))], 413, "too_large", "voxels"),
    "huge fourth axis": ([("a.nii.gz", claiming((9, 9, 9, 30000, 300)))], 413, "too_large", "vox"),
    "huge picture": ([("a.png", large_png())], 413, "too_large", "voxels"),
    "damaged zip": ([("a.zip", b"PK\x03\x04junk")], 422, "unreadable", "a.zip"),
    "zip of nothing": ([("a.zip", zipped(("a.txt", b"x")))], 422, "unreadable", "no DICOM"),
    "zip upwards": ([("a.zip", zipped(("../../x.dcm", b"x")))], 422, "unreadable", "leads out"),
    "zip absolute": ([("a.zip", zipped(("/etc/x", b"x")))], 422, "unreadable", "absolute"),
    "zip bomb": ([("a.zip", zipped(("a", bytes(9 << 20))))], 422, "unreadable", "times its size"),
    "other grids": (
        [("a.nii.gz", image_bytes(0)), ("b.nii.gz", image_bytes(0, (20, 24, 5)))],
        *(422, "unreadable", "grid"),
    ),
    "pickle": (
        [("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b"{'descr': '|O', "
                   b"'fortran_order': False, 'shape': (1,)}".ljust(60))],
        *(422, "unreadable", "a.npy"),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_left(server):
    """No test here may leave a file in the folders for uploads."""
    yield
    for folder in ("incoming", "scratch"):
        assert list((Path(server.data) / folder).iterdir()) == []


@pytest.mark.parametrize("name", BAD)
def test_an_upload_that_is_no_image(client, server, name):
    files, status, code, why = BAD[name]
    before = set((Path(server.data) / "images").iterdir())
    if files:
        answer = client.send(*files)
    else:
        answer = client.post("/images", data={"as": "auto"}, files={"other": ("", b"")})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert why in error["message"] + error.get("remedy", "")
    assert str(server.data) not in answer.text
    assert "Traceback" not in answer.text
    assert set((Path(server.data) / "images").iterdir()) == before


@pytest.mark.parametrize(
    ("content", "why"), [(constant(), "same value"), (with_nan(), "NaN")], ids=["flat", "nan"]
)
def test_what_can_be_looked_at_but_not_segmented(client, content, why):
    image = client.upload(("a.nii.gz", content))
    assert why in image["warnings"][0]
    answer = client.post("/jobs", json={"image": image["id"], "bundle": "brain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unusable")
    assert why in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name",
    ["../../../etc/cron.d/x.nii.gz", "..\\..\\x.nii.gz", "/etc/x.nii.gz", "a\x00b.nii.gz",
     ".nii.gz.nii.gz", "x" * 300 + ".nii.gz", "ü ñ 脳.nii.gz", "-rf.nii.gz", '"; rm.nii.gz'],
)  # fmt: skip
def test_names_are_made_harmless(client, server, name):
    before = set(Path(server.data).parent.rglob("*"))
    image = client.upload((name, image_bytes(0)))
    new = set(Path(server.data).parent.rglob("*")) - before
    assert all(Path(server.data) / "images" / image["id"] in (p, *p.parents) for p in new)
    job = client.wait(client.submit(image["id"])["id"])
    header = client.get(f"/jobs/{job['id']}/result").headers["content-disposition"]
    assert not set("/\\\n\r\0") & set(header)


def test_files_of_one_name_are_both_kept(client):
    image = client.upload(("x/a.nii.gz", image_bytes(1)), ("y/a.nii.gz", image_bytes(2)))
    assert image["channels"] == 2


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"x", "text/plain"),
        (b"x", "multipart/form-data"),
        (b"--b\r\nnonsense", "multipart/form-data; boundary=b"),
        (b"--b\r\nContent-Disposition: form-data; name=files; filename=a.nii\r\n\r\nhalf",
         "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data; boundary=b"),
        (b"--" + b"b" * 500, "multipart/form-data; boundary=" + "b" * 500),
    ],
)  # fmt: skip
def test_a_body_that_is_no_form(client, body, kind):
    answer = client.post("/images", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")


def test_too_many_and_too_long_fields(client):
    file = ("files", ("a.nii.gz", image_bytes(0)))
    for data in ({"as": "x" * 2000}, {f"f{i}": "x" for i in range(30)}):
        answer = client.post("/images", data=data, files=[file])
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    answer = client.post("/images", data={"as": "nonsense"}, files=[file])
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


def test_what_there_is_not(client):
    answer = client.post("/jobs", json={"image": "0" * 32, "bundle": "brain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    image = client.upload(("a.nii.gz", image_bytes(0)))
    answer = client.post("/jobs", json={"image": image["id"], "bundle": "liver"})
    assert answer.status_code == 404
    assert "brain, pair, photo" in answer.json()["error"]["message"]
    for settings in ({"largest_component": ["spleen"]}, {"window": True, "procedure": "paper"}):
        asked = {"image": image["id"], "bundle": "brain", **settings}
        answer = client.post("/jobs", json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


def test_a_long_request_that_is_no_upload(client):
    asked = {"image": "x", "bundle": "x", "largest_component": ["a" * 1000] * 100}
    answer = client.post("/jobs", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    pieces = (chunk for chunk in [json.dumps(asked).encode()])
    answer = client.post("/jobs", content=pieces, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("data_file", ["LIST", "voxels%d.raw 1 2 1", "../a.raw", "gone.raw"])
def test_a_header_names_no_file_but_one_that_was_sent(client, data_file):
    beside = [(name, b"/etc/passwd\n" * 99) for name in ("LIST", "voxels1.raw", "a.raw")]
    nrrd = NRRD_ELSEWHERE.replace(b"/etc/passwd", data_file.encode())
    mhd = MHA_ELSEWHERE.replace(b"/etc/passwd", data_file.encode())
    local = MHA_ELSEWHERE + b"ElementDataFile = LOCAL\n"  # the first such line is the one read
    for header in (("a.nhdr", nrrd), ("a.mhd", mhd), ("a.mha", local)):
        answer = client.send(header, *beside)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unknown_format")


def test_no_answer_names_a_folder_of_the_server(client, server):
    job = client.segment(("a.nii.gz", image_bytes(31)))
    (server.data / "jobs" / job["id"] / LABELS).write_bytes(b"no label map")
    compared = {"of": job["id"], "with": job["id"]}
    for answer, code in (
        (client.get(f"/jobs/{job['id']}/result", params={"format": "npz"}), "format_not_fitting"),
        (client.get(f"/images/{job['image']}/comparison", params=compared), "unreadable"),
        (
            client.post(
                f"/jobs/{job['id']}/reference",
                files={"file": ("r.nii.gz", nifti_bytes(np.zeros((20, 24, 6), np.uint8)))},
            ),
            "unreadable",
        ),
        (
            client.post(f"/images/{job['image']}/dataset", json={"labels": job["id"]}),
            "dataset_unusable",
        ),
    ):
        error = answer.json()["error"]
        assert error["code"] == code
        assert "cannot be read as NIfTI" in error["message"]
        assert str(server.data) not in answer.text
        assert "/" not in error["message"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Cannot write /data/jobs/1f/result.dcm: denied.", "Cannot write result.dcm: denied."),
        ("Cannot write to the folder /data: denied.", "Cannot write to the folder data: denied."),
        (
            "/srv/my data/set 1/a.nii: damaged. See /api/v1/docs.",
            "a.nii: damaged. See /api/v1/docs.",
        ),
        ("'/a/b.nii' and /c/d.nii. Give /tmp/x.", "'b.nii' and d.nii. Give x."),
        ("series/a.dcm, 1/2 of it, a / b", "series/a.dcm, 1/2 of it, a / b"),
        ("https://pacs.example/dicom/studies: 404", "https://pacs.example/dicom/studies: 404"),
    ],
)
def test_paths_are_told_by_their_last_part(text, told):
    error = ApiError("unusable", text, text)
    assert (error.message, error.remedy, str(error)) == (told, told, told)
    again = pickle.loads(pickle.dumps(error))
    assert (
        again.body == error.body == {"error": {"code": "unusable", "message": told, "remedy": told}}
    )


def test_file_names():
    assert shown_name("C:\\scans\\a b.nii.gz") == "a b.nii.gz"
    assert shown_name("../..") == ".."
    assert name_on_disk("../..", ()) == "unnamed"
    assert name_on_disk("a.nii.gz", {"a.nii.gz"}) == "2_a.nii.gz"
    assert name_on_disk("脳.nii.gz", ()) == "_.nii.gz"
    assert len(name_on_disk("x" * 999 + ".nii.gz", ())) <= 120
