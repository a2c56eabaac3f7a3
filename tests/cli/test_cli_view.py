"""`transunet view` as it is typed: which files make a sheet, what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from prediction import left_in, save_nifti, tiny_bundle
from small_data import describe_decathlon
from transunet.cli.main import app
from transunet.data.formats import write_volume
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError, TransUNetError

pytest.importorskip("matplotlib", reason="pictures are drawn with the extra [train]")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["view", *map(str, arguments)])


def refused(error: type[TransUNetError], *arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, error), result.output
    return str(result.exception)


def labels(shape: tuple[int, ...] = (20, 24, 6)) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[4:9, 5:12, 1:4] = 1
    array[10:15, 5:12, 2:5] = 2
    return array


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two images and their label maps."""
    for name in ("a", "b"):
        save_nifti(tmp_path / "images" / f"{name}.nii.gz")
        save_nifti(tmp_path / "labels" / f"{name}.nii.gz", labels())
    return tmp_path


def test_one_case_becomes_one_sheet_with_its_names(cases: Path) -> None:
    image, found = (cases / folder / "a.nii.gz" for folder in ("images", "labels"))
    (cases / "dataset.json").write_text(json.dumps({"labels": {"1": "liver", "2": "spleen"}}))
    out = cases / "sheet.svg"
    result = run(image, found, "-o", out, "--bundle", cases / "dataset.json", "--axis", "axial")
    assert result.exit_code == 0, result.output
    assert f"Written: {out}" in result.output
    drawn = out.read_text()
    assert "liver" in drawn
    assert "spleen" in drawn
    assert "axial" in drawn


def test_a_bundle_names_the_labels(cases: Path) -> None:
    bundle = tiny_bundle(cases / "bundle")
    image, found = (cases / folder / "a.nii.gz" for folder in ("images", "labels"))
    assert run(image, found, "-o", cases / "s.svg", "--bundle", bundle).exit_code == 0
    assert "right" in (cases / "s.svg").read_text()


def test_a_predictions_manifest_names_the_labels(cases: Path) -> None:
    (cases / "labels" / "manifest.json").write_text('{"labels": {"0": "background", "1": "lung"}}')
    assert run(cases / "images", cases / "labels", "-o", cases / "s.svg").exit_code == 0
    assert "lung" in (drawn := (cases / "s.svg").read_text())
    assert "label 2" in drawn
    (cases / "labels" / "manifest.json").write_text('{"name": "of a web page"}')
    assert run(cases / "images", cases / "labels", "-o", cases / "s.svg").exit_code == 0
    assert "label 1" in (cases / "s.svg").read_text()


def test_a_data_set_of_masks_is_named_by_its_own_file(cases: Path) -> None:
    listed = cases / "labels.json"
    listed.write_text('{"background": 0, "lung": 1, "heart": 2}')
    for given in (cases, cases / "labels"):  # the data set, or the masks in it
        assert run(cases / "images", given, "-o", cases / "s.svg").exit_code == 0
        assert "heart" in (cases / "s.svg").read_text()
    listed.write_text('{"whole": [1, 2], "heart": 2, "regions_class_order": [1, 2]}')
    assert run(cases / "images", cases / "labels", "-o", cases / "s.svg").exit_code == 0
    assert "heart" in (cases / "s.svg").read_text()
    listed.write_text("[")  # somebody else's, for all that is known
    assert run(cases / "images", cases / "labels", "-o", cases / "s.svg").exit_code == 0
    assert "label 1" in (cases / "s.svg").read_text()


def test_a_manifest_is_believed_before_a_bundle_that_counts_otherwise(cases: Path) -> None:
    told = '{"labels": {"0": "background", "1": "lung", "2": "heart"}}'
    (cases / "labels" / "manifest.json").write_text(told)
    (cases / "config.json").write_text(
        told.replace('"1"', '"3"').replace('"2"', '"1"').replace('"3"', '"2"')
    )
    result = run(cases / "images" / "a.nii.gz", cases / "labels" / "a.nii.gz", "--bundle",
                 cases / "config.json", "-o", cases / "s.svg")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "numbers the classes otherwise" in result.output + result.stderr


def test_folders_become_a_sheet_per_case(cases: Path) -> None:
    result = run(cases / "images", cases / "labels", "-o", cases / "sheets")
    assert result.exit_code == 0, result.output
    assert "2 sheets in" in result.output
    assert left_in(cases / "sheets") == {"a.png", "b.png"}


def test_folders_become_an_overview(cases: Path) -> None:
    assert run(cases / "images", cases / "labels", "-o", cases / "all.svg").exit_code == 0
    drawn = (cases / "all.svg").read_text()
    assert "2 cases" in drawn
    assert "sagittal" in drawn  # across the slices of 2.5 mm


def test_the_window_of_a_ct_bundle_is_used(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_bundle(cases / "bundle")
    config = json.loads((bundle / "config.json").read_text())
    config["preprocessing"]["channels"][0] |= {"normalisation": "clip", "low": -125, "high": 275}
    (bundle / "config.json").write_text(json.dumps(config))
    looks = []
    monkeypatch.setattr(
        "transunet.drawing.sheets.slices_of",
        lambda image, labels, look, oriented: looks.append(look) or [],
    )
    image, found = (cases / folder / "a.nii.gz" for folder in ("images", "labels"))
    run(image, found, "-o", cases / "s.png", "--bundle", bundle)
    run(image, found, "-o", cases / "s.png", "--bundle", bundle, "--window", -160, 240)
    assert [look.window for look in looks] == [(-125, 275), (-160, 240)]


def test_a_channels_file_is_the_cases_image(cases: Path) -> None:
    (cases / "images" / "a.nii.gz").rename(cases / "images" / "a_0000.nii.gz")
    (cases / "images" / "b.nii.gz").rename(cases / "images" / "b_0000.nii.gz")
    assert run(cases / "images", cases / "labels", "-o", cases / "sheets").exit_code == 0
    assert left_in(cases / "sheets") == {"a.png", "b.png"}


def test_photographs(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="photographs are read with the extra [images]")
    for name in ("x", "y"):
        colours = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 1)).astype(np.uint8)
        mask = labels((1, 30, 40))[:, :, :, None]
        for folder, array in (("images", colours), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_volume(Volume(array, np.eye(4)), tmp_path / folder / f"{name}.png")
    result = run(tmp_path / "images", tmp_path / "masks", "-o", tmp_path / "all.svg")
    assert result.exit_code == 0, result.output
    drawn = (tmp_path / "all.svg").read_text()
    assert "axial" not in drawn


def test_a_label_map_without_its_image_is_named(cases: Path) -> None:
    out, label_maps = cases / "sheets", cases / "labels"
    told = run(cases / "images" / "b.nii.gz", label_maps, "-o", out).output
    assert "left out" not in told
    assert [path.name for path in out.iterdir()] == ["b.png"]
    (cases / "images" / "b.nii.gz").unlink()
    told = run(cases / "images", label_maps, "-o", cases / "others").output
    assert f"1 of 2 label maps in {label_maps} have no image in" in told
    assert "left out: b." in told
    assert [path.name for path in (cases / "others").iterdir()] == ["a.png"]
    for name in ("a", "b"):
        (label_maps / f"{name}.nii.gz").rename(label_maps / f"{name}2.nii.gz")
    message = refused(DataError, cases / "images", label_maps, "-o", cases / "none")
    assert "2 of 2 label maps" in message
    assert "a2, b2. An image and its label map need the same name" in message
    assert not (cases / "none").exists()


def test_a_folder_of_images_and_masks_of_one_name_is_refused(cases: Path) -> None:
    mixed = cases / "mixed"
    for folder in ("images", "labels"):
        shutil.copytree(cases / folder, mixed / f"{folder}Tr")
    message = refused(DataError, mixed, cases / "labels", "-o", cases / "sheets")
    assert f"several files called a: {mixed / 'imagesTr' / 'a.nii.gz'} and" in message
    assert not (cases / "sheets").exists()


def test_the_references_of_a_data_set_are_drawn_with_their_names(cases: Path) -> None:
    (cases / "images").rename(cases / "imagesTr")
    (cases / "labels").rename(cases / "labelsTr")
    describe_decathlon(cases, ["liver", "spleen"], ["a", "b"])
    result = run(cases, cases, "-o", cases / "all.svg", "--slice", 3)
    assert result.exit_code == 0, result.output
    drawn = (cases / "all.svg").read_text()
    assert drawn.count(" 3 of 6 -->") == 2
    assert "liver" in drawn


def test_an_image_of_another_grid_is_refused(cases: Path) -> None:
    save_nifti(cases / "other.nii.gz", labels((20, 24, 7)))
    image = cases / "images" / "a.nii.gz"
    message = refused(GeometryError, image, cases / "other.nii.gz", "-o", cases / "s.png")
    assert "other.nii.gz" in message
    assert "20 x 24 x 7" in message
    assert not (cases / "s.png").exists()


def test_an_image_instead_of_labels_is_refused(cases: Path) -> None:
    image = cases / "images" / "a.nii.gz"
    assert "label map" in refused(DataError, image, image, "-o", cases / "s.png")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.nii.gz", "labels"], "none.nii.gz"),
        (["images", "none"], "none"),
        (["images", "labels", "--bundle", "no/such/bundle"], "no/such/bundle"),
        (["images", "labels", "--window", "9", "1"], "window 9 to 1 is empty"),
    ],
)
def test_wrong_use(cases: Path, monkeypatch: pytest.MonkeyPatch, arguments, told: str) -> None:
    monkeypatch.chdir(cases)
    assert told in refused(ConfigError, *arguments, "-o", "s.png")
    assert not (cases / "s.png").exists()


def test_without_matplotlib_it_says_what_to_install(
    cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refused(ConfigError, cases / "images", cases / "labels", "-o", cases / "s.png")
    assert "pip install 'transunet-torch[train]'" in message
