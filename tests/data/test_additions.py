"""Cases added to an nnU-Net data set: what is written, refused, and left where it is cut off."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import forks
from small_data import describe_decathlon, pair_of_arrays, write_pair
from transunet.data import additions
from transunet.data.additions import (
    Classes,
    KnownImageError,
    OtherClassesError,
    add_case,
    case_of,
    check_addable,
    training_cases,
)
from transunet.data.formats import read_labels, read_volume, write_volume
from transunet.data.layouts import open_dataset
from transunet.data.regions import Region
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError

BRAIN = Classes(("T1", "T2"), {0: "background", 1: "left", 2: "right"})


def image(seed: int, affine: np.ndarray | None = None, channels: int = 2) -> Volume:
    voxels = np.random.default_rng(seed).integers(-9, 900, (channels, 6, 5, 4))
    return Volume(voxels.astype(np.float32), np.eye(4) if affine is None else affine, f"i{seed}")


def labels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (1, 6, 5, 4)).astype(np.uint8)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def visible(folder: Path) -> set[str]:
    return {name for name in files_in(folder) if not name.startswith(".")}


def test_a_new_folder_becomes_a_data_set_on_the_images_own_grid(tmp_path, oblique) -> None:
    folder = tmp_path / "new" / "Dataset001_Brain"
    first, second = image(0, oblique), image(1)
    second.array[:] += 0.5
    assert add_case(folder, "p 1/../x", first, labels(), BRAIN) == ("p_1_.._x", 1)
    assert add_case(folder, "p2", second, labels(1), BRAIN) == ("p2", 2)
    assert visible(folder) == {
        "dataset.json",
        *(f"imagesTr/{name}_000{n}.nii.gz" for name in ("p_1_.._x", "p2") for n in (0, 1)),
        *(f"labelsTr/{name}.nii.gz" for name in ("p_1_.._x", "p2")),
    }
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "left": 1, "right": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    data = open_dataset(folder)
    assert data.notes == ()
    for case, expected, drawn in zip(
        data.cases, (second, first), (labels(1), labels()), strict=True
    ):
        stored, label = data.read_case(case)
        np.testing.assert_array_equal(stored.array, expected.array)
        np.testing.assert_allclose(stored.affine, expected.affine, atol=1e-5)
        np.testing.assert_array_equal(label.array, drawn)
    kinds = {p.name: nib.load(p).get_data_dtype() for p in (folder / "imagesTr").iterdir()}
    assert kinds["p_1_.._x_0000.nii.gz"] == np.int16
    assert kinds["p2_0000.nii.gz"] == np.float32


def test_a_picture_makes_a_data_set_of_pictures(tmp_path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 1)).astype(np.uint8)
    write_volume(Volume(colours, np.eye(4)), tmp_path / "a.png")
    cells = Classes(("red", "green", "blue"), {0: "background", 1: "nucleus"})
    drawn = (colours[:1] > 99).astype(np.uint8)
    add_case(tmp_path / "cells", "a", read_volume(tmp_path / "a.png"), drawn, cells)
    assert visible(tmp_path / "cells") == {
        "dataset.json",
        "imagesTr/a_0000.png",
        "labelsTr/a.png",
    }
    data = open_dataset(tmp_path / "cells")
    stored, label = data.read_case(data.cases[0])
    np.testing.assert_array_equal(stored.array, colours)
    np.testing.assert_array_equal(label.array, drawn)


def test_an_image_is_known_by_its_voxels_however_it_lies(tmp_path) -> None:
    first = image(0)
    add_case(tmp_path, "first", first, labels(), BRAIN)
    again = Volume(first.array, np.diag([2.0, 3, 4, 1]), "copy")
    turned = first.reoriented("LPS")
    before = files_in(tmp_path)
    for same in (first, again, turned):
        with pytest.raises(KnownImageError, match="already, as first"):
            add_case(tmp_path, "other", same, labels(1), BRAIN)
        assert case_of(tmp_path, same) == "first"
    assert files_in(tmp_path) - before == {".contents.json"}
    assert case_of(tmp_path, image(1)) is None
    # What is remembered of a file ends with it.
    write_volume(image(1, channels=1), tmp_path / "imagesTr" / "first_0000.nii.gz")
    assert case_of(tmp_path, first) is None
    (tmp_path / "imagesTr" / "first_0001.nii.gz").write_bytes(b"damaged")
    assert add_case(tmp_path, "FIRST", first, labels(), BRAIN) == ("FIRST-2", 2)


def test_values_are_those_of_the_data_set(tmp_path, save) -> None:
    description = {
        "channel_names": {"0": "a", "1": "b"},
        "labels": {"background": 0, "Right": 2, "LEFT": 5, "ignore": 7},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "licence": "mine",
        "dataset": {"old": {"images": ["imagesTr/x.nii.gz"], "label": "labelsTr/x.nii.gz"}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    add_case(tmp_path, "new", image(0), labels(), BRAIN)
    written = read_labels(tmp_path / "labelsTr" / "new.nii.gz").array
    np.testing.assert_array_equal(written, np.array([0, 5, 2])[labels()])
    now = json.loads((tmp_path / "dataset.json").read_text())
    assert now == {
        **description,
        "numTraining": 2,
        "dataset": {
            **description["dataset"],
            "new": {
                "images": ["imagesTr/new_0000.nii.gz", "imagesTr/new_0001.nii.gz"],
                "label": "labelsTr/new.nii.gz",
            },
        },
    }


def test_regions_are_kept(tmp_path) -> None:
    regions = (
        Region(name="whole", members=(1, 2), label=1),
        Region(name="core", members=(2,), label=2),
    )
    tumour = BRAIN._replace(labels={0: "background", 1: "whole", 2: "core"}, regions=regions)
    add_case(tmp_path, "a", image(0), labels(), tumour)
    assert open_dataset(tmp_path).learned_regions == regions
    add_case(tmp_path, "b", image(1), labels(), tumour)
    with pytest.raises(OtherClassesError, match="regions that are told apart"):
        add_case(tmp_path, "c", image(2), labels(), tumour._replace(regions=()))


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (BRAIN._replace(labels={0: "background", 1: "left", 2: "spleen"}), r"spleen \(only in the"),
        (BRAIN._replace(channels=("T1",)), "has the channels T1, T2; the images have T1"),
        (BRAIN._replace(channels=("T2", "T1")), "the images have T2, T1"),
        (BRAIN._replace(labels={0: "background", 1: "left"}), r"right \(only in the data set"),
    ],
)
def test_other_classes_are_refused_with_what_differs(tmp_path, classes, says) -> None:
    add_case(tmp_path, "a", image(0), labels(), BRAIN)
    before = files_in(tmp_path)
    for refused in (
        lambda: check_addable(tmp_path, classes),
        lambda: add_case(tmp_path, "b", image(1), labels() % 2, classes),
    ):
        with pytest.raises(OtherClassesError, match=says):
            refused()
    with pytest.raises(OtherClassesError, match="its label map holds 9"):
        add_case(tmp_path, "b", image(1), np.full((1, 6, 5, 4), 9, np.uint8), BRAIN)
    assert files_in(tmp_path) - before <= {".contents.json"}


def test_what_is_no_place_for_cases_is_refused(tmp_path, monkeypatch) -> None:
    write_pair(tmp_path / "msd", "a", *pair_of_arrays(0, (6, 5, 4)))
    describe_decathlon(tmp_path / "msd", ["left", "right"], ["a"])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "notes.txt").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "dataset.json").write_text("{")
    (tmp_path / "file").touch()
    for name, error, says in (
        ("msd", ConfigError, "no data set as nnU-Net v2"),
        ("files", ConfigError, r"holds notes\.txt and no dataset\.json"),
        ("damaged", DataError, "not valid JSON"),
        ("file", ConfigError, "Cannot write to the folder"),
    ):
        for refused in (
            lambda where: check_addable(where, BRAIN),
            lambda where: add_case(where, "x", image(0), labels(), BRAIN),
        ):
            with pytest.raises(error, match=says):
                refused(tmp_path / name)
    monkeypatch.setattr(additions, "_LOCK_SECONDS", 0.1)
    with additions._locked(tmp_path), pytest.raises(ConfigError, match="has been adding"):
        check_addable(tmp_path, BRAIN)


def test_a_full_disk_leaves_no_half_case(tmp_path, monkeypatch) -> None:
    add_case(tmp_path, "a", image(0), labels(), BRAIN)
    before = {name: (tmp_path / name).read_bytes() for name in visible(tmp_path)}
    written = []

    def write_until_full(volume: Volume, path: Path) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_volume(volume, path)

    with monkeypatch.context() as patched:
        patched.setattr(additions, "write_volume", write_until_full)
        with pytest.raises(ConfigError, match="No space left"):
            add_case(tmp_path, "b", image(1), labels(), BRAIN)
    assert {name: (tmp_path / name).read_bytes() for name in visible(tmp_path)} == before
    assert not list(tmp_path.glob(".partial-*"))
    assert add_case(tmp_path, "b", image(1), labels(), BRAIN).cases == 2


def test_what_a_killed_process_had_written_whole_is_brought_to_its_place(
    tmp_path, monkeypatch
) -> None:
    add_case(tmp_path, "a", image(0), labels(), BRAIN)
    moved = []
    replace_file = Path.replace

    def die_at_the_second_image(path: Path, target: Path) -> Path:
        if path.parent.name == "imagesTr" and moved:
            raise KeyboardInterrupt
        moved.extend([path] if path.parent.name == "imagesTr" else [])
        return replace_file(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die_at_the_second_image)
        with pytest.raises(KeyboardInterrupt):
            add_case(tmp_path, "b", image(1), labels(1), BRAIN)
    assert len(list((tmp_path / "imagesTr").iterdir())) == 3
    check_addable(tmp_path, BRAIN)
    data = open_dataset(tmp_path)
    assert (len(data.cases), data.notes, training_cases(tmp_path)) == (2, (), 2)
    stored, label = data.read_case(data.cases[1])
    np.testing.assert_array_equal(stored.array, image(1).array)
    np.testing.assert_array_equal(label.array, labels(1))


ADD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_additions import BRAIN, image, labels
from transunet.data.additions import add_case
for seed in range(int(sys.argv[2]), 12, 2):
    add_case(Path(sys.argv[1]), "scan", image(seed), labels(seed), BRAIN)
"""


@pytest.mark.process
def test_two_processes_at_once_lose_nothing(tmp_path) -> None:
    tests = Path(__file__).parents[:2]
    both = [forks.Process(ADD, tmp_path / "set", first, *tests) for first in (0, 1)]
    assert [process.wait(60) for process in both] == [0, 0]
    data = open_dataset(tmp_path / "set")
    assert (len(data.cases), data.notes) == (12, ())
    found = {read_volume(case.images).array.tobytes() for case in data.cases}
    assert found == {image(seed).array.tobytes() for seed in range(12)}
