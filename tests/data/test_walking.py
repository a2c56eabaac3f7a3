"""Folders are gone through with those that links lead to, each once, and the rest is said."""

from pathlib import Path

from transunet.data.walking import walk


def made(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in walk(root).files]


def test_folders_and_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    made(tmp_path, "b/2", "b/1", "a/deep/1", "c", ".hidden/1", "__MACOSX/1", "b/.hidden")
    assert names(tmp_path) == ["c", "a/deep/1", "b/1", "b/2"]
    assert not walk(tmp_path).not_followed


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    made(tmp_path, "elsewhere/deep/1", "elsewhere/2", "in/a/1")
    (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/c").symlink_to(tmp_path / "elsewhere/2")
    (tmp_path / "root").symlink_to(tmp_path / "in")
    for root in (tmp_path / "in", tmp_path / "root"):
        assert names(root) == ["c", "a/1", "b/2", "b/deep/1"]


def test_a_folder_that_is_reached_twice_is_taken_where_it_lies(tmp_path: Path) -> None:
    made(tmp_path, "elsewhere/1", "in/z/1", "in/z/deep/2")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/z")
    (tmp_path / "in/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/c").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "in") == ["b/1", "z/1", "z/deep/2"]
    assert set(walk(tmp_path / "in").not_followed) == {tmp_path / "in/a", tmp_path / "in/c"}


def test_circles_end(tmp_path: Path) -> None:
    made(tmp_path, "in/a/1", "in/b/2", "beside/3")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/out").symlink_to(tmp_path)
    (tmp_path / "in/b/self").symlink_to(tmp_path / "in/b/self")
    (tmp_path / "beside/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/beside").symlink_to(tmp_path / "beside")
    assert names(tmp_path / "in") == ["a/1", "b/2", "beside/3"]


def test_links_that_lead_nowhere_are_said(tmp_path: Path) -> None:
    made(tmp_path, "a/1")
    (tmp_path / "gone.nii").symlink_to("/nowhere/gone.nii")
    walked = walk(tmp_path)
    assert [file.name for file in walked.files] == ["1"]
    assert str(walked) == f"{tmp_path}/gone.nii is a link to /nowhere/gone.nii, which is not there"
