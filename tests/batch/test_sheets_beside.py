"""`predict --view`: a sheet beside each label map, drawn once and missed if it is gone."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from prediction import left_in, save_nifti, tiny_bundle
from transunet.cli.main import app
from transunet.errors import ConfigError

pytest.importorskip("matplotlib", reason="pictures are drawn with the extra [train]")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", "--device", "cpu", *map(str, arguments)])


def test_a_sheet_beside_each_label_map(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / "in" / f"{name}.nii.gz")
    out = tmp_path / "out"
    assert run(bundle, tmp_path / "in", "-o", out, "--view").exit_code == 0
    assert {"a.nii.gz", "b.nii.gz", "sheets/a.png", "sheets/b.png"} <= left_in(out)
    assert (out / "sheets/a.png").read_bytes().startswith(b"\x89PNG")
    assert "2 finished before" in run(bundle, tmp_path / "in", "-o", out, "--view").output
    # Without it they are finished all the same, and one that is gone is drawn again.
    assert "2 finished before" in run(bundle, tmp_path / "in", "-o", out).output
    (out / "sheets/b.png").unlink()
    assert "1 finished before" in run(bundle, tmp_path / "in", "-o", out, "--view").output
    assert (out / "sheets/b.png").exists()


def test_the_sheet_is_the_native_procedures_where_both_are_run(
    bundle: Path, tmp_path: Path
) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    run(bundle, image, "-o", tmp_path / "out", "--procedure", "both", "--view")
    assert {"sheets/a.png", "native/a.nii.gz"} <= left_in(tmp_path / "out")


def test_without_matplotlib_nothing_is_predicted(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    image = save_nifti(tmp_path / "a.nii.gz")
    result = run(bundle, image, "-o", tmp_path / "out", "--view")
    assert isinstance(result.exception, ConfigError)
    assert "transunet-torch[train]" in str(result.exception)
    assert not list((tmp_path / "out").glob("*.nii.gz"))
