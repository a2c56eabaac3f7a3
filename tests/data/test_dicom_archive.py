"""Zip archives: series in them are read, and unsafe ones refused before anything is unpacked."""

import gc
import shutil
import stat
import tempfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from dicom_made import ramp, save, series_of
from transunet.data.formats import archive
from transunet.data.formats.archive import Unpacked
from transunet.data.formats.dicom import read, read_series
from transunet.data.formats.dicom.series import find_series
from transunet.errors import DataError


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where archives are unpacked, alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def zipped(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def zipped_series(tmp_path):
    folder = save(tmp_path / "s", series_of(ramp()), [3, 0, 4, 1, 2])
    entries = {f"case/series/{file.name}": file.read_bytes() for file in folder.iterdir()}
    return zipped(tmp_path / "s.zip", entries | {"__MACOSX/case/._I000": b"junk"})


def test_a_series_in_a_zip_and_nothing_left_behind(tmp_path, temporary):
    pytest.importorskip("pydicom", reason="needs the extra [dicom]")
    volume = read(zipped_series(tmp_path))
    np.testing.assert_array_equal(volume.array, ramp().transpose(2, 1, 0)[None])
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_the_files_stay_for_as_long_as_a_series_may_be_read(tmp_path, temporary):
    pytest.importorskip("pydicom", reason="needs the extra [dicom]")
    series = find_series(zipped_series(tmp_path))[0]
    gc.collect()
    assert len(list(temporary.iterdir())) == 1
    assert read_series(series).spatial_shape == (7, 6, 5)
    del series
    gc.collect()
    assert list(temporary.iterdir()) == []


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("/etc/cron.d/x", "absolute path"),
        ("\\\\server\\x", "absolute path"),
        ("C:/x", "absolute path"),
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("a\\..\\..\\x", "leads out"),
        (link("a/x"), "symbolic link"),
        ("a\x07", "not printable"),
        ("a" * 1001, "too long"),
    ],
)
def test_unsafe_names_are_refused_before_anything_is_unpacked(tmp_path, temporary, entry, expected):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("first", b"harmless")
        file.writestr(entry, b"/etc/passwd")
    with pytest.raises(DataError, match=rf"bad\.zip.*{expected}"):
        Unpacked(path)
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "x").exists()


def test_a_thousandfold_expansion_is_refused(tmp_path, temporary):
    path = zipped(tmp_path / "bomb.zip", {f"{i}": b"\0" * 2**20 for i in range(8)})
    with pytest.raises(DataError, match=r"bomb\.zip.*unpacks to \d+ times its size"):
        Unpacked(path)
    assert list(temporary.iterdir()) == []


def test_sizes_that_lie_unpack_no_more_than_they_said(tmp_path, temporary):
    path = zipped(tmp_path / "liar.zip", {"a": b"\0" * 2**20})
    raw = path.read_bytes()
    path.write_bytes(raw.replace((2**20).to_bytes(4, "little"), (64).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"liar\.zip.*cannot be unpacked"):
        Unpacked(path)
    assert list(temporary.iterdir()) == []


def test_too_many_files_or_bytes_are_refused(tmp_path, temporary, monkeypatch):
    path = zipped(tmp_path / "many.zip", {f"{i}": bytes([i]) * 10 for i in range(4)})
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    with pytest.raises(DataError, match="holds 4 files, more than 3"):
        Unpacked(path)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_BYTES", 39)
    with pytest.raises(DataError, match="unpacks to"):
        Unpacked(path)


def test_more_than_the_disk_holds_is_refused(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {"a": b"x" * 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50))
    with pytest.raises(DataError, match="Make room"):
        Unpacked(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_occurs_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.writestr("a", b"1")
        file.writestr("a", b"2")
    with pytest.raises(DataError, match="occurs twice"):
        Unpacked(tmp_path / "two.zip")


def test_a_name_that_is_a_file_and_a_folder(tmp_path, temporary):
    path = zipped(tmp_path / "both.zip", {"a": b"1", "a/b": b"2"})
    with pytest.raises(DataError, match=r"both\.zip"):
        Unpacked(path)
    assert list(temporary.iterdir()) == []


def test_a_password_is_said(tmp_path):
    path = zipped(tmp_path / "secret.zip", {"a": b"1"})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="needs a password"):
        Unpacked(path)


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_zip_cut_short_or_of_something_else_is_refused(tmp_path, cut):
    path = zipped(tmp_path / "cut.zip", {"a": bytes(range(256)) * 4})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"cut\.zip.*cannot be unpacked"):
        Unpacked(path)
