"""Which files make a case, and what it is called."""

from pathlib import Path

import numpy as np
import pytest

from prediction import save_nifti
from transunet.data.cases import Case
from transunet.data.inputs import find_inputs
from transunet.errors import ConfigError, DataError


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


def test_a_folder_gives_its_images_in_order_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nii", "notes.txt", ".hidden.nii.gz")
    (tmp_path / "deeper").mkdir()
    assert [case.name for case in find_inputs([tmp_path], 1)] == ["a", "b"]


def test_channel_files_make_one_case(tmp_path: Path) -> None:
    t1, t2 = touch(tmp_path, "p_0000.nii.gz", "p_0001.nii.gz")
    assert find_inputs([tmp_path], 2) == [Case("p", (t1, t2), None)]
    # With one channel, numbered files are patients, unless all of them are channel 0.
    assert [case.name for case in find_inputs([tmp_path], 1)] == ["p_0000", "p_0001"]
    assert [case.name for case in find_inputs([t1], 1)] == ["p"]


@pytest.mark.parametrize("numbers", [(1, 2), (0, 1), (1,)])
def test_numbered_files_that_hold_all_channels_are_cases(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    for number in numbers:
        save_nifti(tmp_path / f"case_{number:04d}.nii.gz", np.zeros((4, 4, 3, 2), np.int16))
    cases = find_inputs([tmp_path], 2)
    assert [case.name for case in cases] == [f"case_{number:04d}" for number in numbers]
    assert all(len(case.images) == 1 for case in cases)


def test_numbered_photographs_are_cases_of_a_network_for_colours(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the extra images")
    for number in (1, 2, 3):
        image.new("RGB", (8, 8)).save(tmp_path / f"photo_{number:04d}.png")
    assert [case.name for case in find_inputs([tmp_path], 3)] == [
        "photo_0001",
        "photo_0002",
        "photo_0003",
    ]


def test_files_per_channel_and_with_all_channels_go_together(tmp_path: Path) -> None:
    for index in (0, 1):
        save_nifti(tmp_path / f"a_000{index}.nii.gz", np.zeros((4, 4, 3), np.int16))
    save_nifti(tmp_path / "b.nii.gz", np.zeros((4, 4, 3, 2), np.int16))
    assert {case.name: len(case.images) for case in find_inputs([tmp_path], 2)} == {"a": 2, "b": 1}


def test_a_case_without_all_its_channels_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p_0000.nii.gz", "q_0000.nii.gz", "q_0001.nii.gz", "q_0002.nii.gz")
    with pytest.raises(DataError, match=r"Case q .*expected 2"):
        find_inputs([tmp_path], 2)


def test_folders_lead_the_names_of_inputs_that_are_called_the_same(tmp_path: Path) -> None:
    for folder in ("p1/ct", "p2/ct", "p2/ct/deep"):
        (tmp_path / folder).mkdir(parents=True)
    first = touch(tmp_path / "p1/ct", "a.nii.gz", "b.nii.gz")
    second = touch(tmp_path / "p2/ct", "a.nii", "deep/a.nrrd")
    assert [case.name for case in find_inputs([*first, second[0]], 1)] == ["p1/a", "b", "p2/a"]
    assert [case.name for case in find_inputs([first[0], second[1]], 1)] == [
        "p1/ct/a",
        "p2/ct/deep/a",
    ]
    assert [case.name for case in find_inputs(second, 1)] == ["a", "deep/a"]
    folders = [tmp_path / "p1/ct", tmp_path / "p2/ct"]
    assert [case.name for case in find_inputs(folders, 1)] == ["p1/a", "b", "p2/a", "deep/a"]


def test_an_input_that_is_given_twice_is_taken_once(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "a.nii")
    assert len(find_inputs([tmp_path, image, image], 1)) == 1


def test_two_inputs_of_one_name_in_one_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="called a"):
        find_inputs(touch(tmp_path, "a.nii.gz", "a.nii"), 1)


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("/nowhere/b.nii")
    with pytest.raises(ConfigError, match=r"a\.nii is a link to /nowhere/b\.nii, which is not"):
        find_inputs([tmp_path / "a.nii"], 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.nii.gz", "no image"), ("notes.txt", "not an image"), ("empty", "holds no images")],
)
def test_inputs_that_cannot_be_are_wrong_use(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        find_inputs([tmp_path / name], 1)


def test_patterns_are_expanded_where_the_shell_did_not(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a1.nii", "a2.nii")
    assert [case.name for case in find_inputs([tmp_path / "a*.nii"], 1)] == ["a1", "a2"]
    assert [case.name for case in find_inputs([tmp_path / "*.nii*"], 1)] == ["a1", "a2", "b"]
    with pytest.raises(ConfigError, match=r"no image .*c\*"):
        find_inputs([tmp_path / "c*"], 1)
