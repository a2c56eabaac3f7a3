"""A new format is one module and one entry of `FORMATS`: everything else asks the record."""

import json
from pathlib import Path

import numpy as np
import pytest

from transunet.batch.outputs import label_name, write_labels
from transunet.data.cases import Case
from transunet.data.checks.suitability import ImageFacts
from transunet.data.formats import (
    FORMATS,
    channels_in,
    files_of,
    kind_in_folder,
    read_grid,
    read_labels,
    read_volume,
    stem_of,
    write_volume,
)
from transunet.data.formats.volume_format import VolumeFormat
from transunet.data.layouts import open_dataset
from transunet.data.volume import Grid, Volume
from transunet.drawing.panels import tells_space
from transunet.errors import ConfigError
from transunet.evaluation.pairs import Pair, files_in
from transunet.evaluation.structure_names import names_of
from transunet.serve.uploads.accept import check_format
from transunet.serve.uploads.inspection import declared_voxels


def read(path: Path) -> Volume:
    return Volume(np.array(json.loads(path.read_text())), np.diag([2.0, 2, 2, 1]), str(path))


def write(volume: Volume, path: Path) -> None:
    path.write_text(json.dumps(volume.array.tolist()))


TOY = VolumeFormat(
    read=read,
    read_labels=read,
    read_grid=lambda path: Grid(read(path).spatial_shape, np.diag([2.0, 2, 2, 1]), str(path)),
    channels_in=lambda path: read(path).channels,
    write=write,
    label_suffixes={".toy": ".nii.gz"},
    label_names=lambda _: {1: "liver"},
    companion=lambda path: path.with_suffix(".also"),
    magic={".toys": rb"\[\[\[\["},
)


@pytest.fixture
def scan(tmp_path, monkeypatch):
    for suffix in (".toy", ".toys"):
        monkeypatch.setitem(FORMATS, suffix, TOY)
    path = tmp_path / "scan.toy"
    write(Volume(np.arange(24).reshape(1, 2, 3, 4), np.eye(4)), path)
    return path


def test_it_is_read_written_and_known_by_name_and_content(scan, tmp_path):
    assert read_volume(scan).array.dtype == np.float32
    assert read_labels(scan).array.dtype == np.uint8
    assert read_grid(scan).spacing_mm == (2, 2, 2)
    assert (channels_in(scan), stem_of(scan), kind_in_folder(scan)) == (1, "scan", ".toy")
    write_volume(read_volume(scan), tmp_path / "copy.TOY")
    np.testing.assert_array_equal(read(tmp_path / "copy.TOY").array, read(scan).array)
    scan.rename(tmp_path / "without")
    assert read_volume(tmp_path / "without").channels == 1
    scan.with_name("copy.also").touch()
    assert files_of(tmp_path / "copy.toy")[1:] == [tmp_path / "copy.also"]


def test_what_it_tells_of_itself_counts_everywhere(scan, monkeypatch):
    assert tells_space(scan)
    assert Pair("a", scan, scan).tells_space
    assert ImageFacts.of(read_volume(scan)).space == "known"
    assert label_name(Case("scan", (scan,), None)) == "scan.nii.gz"
    assert declared_voxels(scan) == 24
    check_format(scan)
    assert names_of(scan).labels[1] == "liver"
    assert files_in(scan.parent, "prediction") == {"scan": scan}
    pictures = VolumeFormat(**{**vars(TOY), "space": "pixels", "oriented": False, "rank": 1})
    monkeypatch.setitem(FORMATS, ".toy", pictures)
    assert not tells_space(scan)
    assert ImageFacts.of(read_volume(scan)).space == "pixels"


def test_label_maps_in_two_files_are_refused(scan, monkeypatch):
    split = VolumeFormat(**{**vars(TOY), "two_files": frozenset({".toy"})})
    monkeypatch.setitem(FORMATS, ".toy", split)
    with pytest.raises(ConfigError, match="not written as two files"):
        write_labels(read_labels(scan), scan)


def test_folders_of_it_are_a_data_set(scan):
    folder = scan.parent / "set"
    for number in range(2):
        for part, array in (("images", np.arange(24)), ("masks", np.arange(24) > 9 + number)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            volume = Volume(array.astype(int).reshape(1, 2, 3, 4), np.eye(4))
            write(volume, folder / part / f"c{number}.toy")
    dataset = open_dataset(folder)
    assert [case.name for case in dataset.cases] == ["c0", "c1"]
