"""Every example runs, with fewer steps than a reader would give it."""

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from prediction import save_nifti, tiny_bundle

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is no folder: nothing is converted for OpenVINO, which takes long."""
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))


@pytest.mark.process
@pytest.mark.slow
def test_the_demo_leaves_labels_overlay_report_and_bundle(tmp_path: Path, no_cache: None) -> None:
    pytest.importorskip("nilearn", reason="the demo's images come with the extra [demo]")
    out = tmp_path / "demo"
    command = [sys.executable, str(EXAMPLES / "brain_tissue.py"), str(out), "2"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "mean foreground Dice 0." in found.stdout
    assert (out / "overlay.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "report/report.html").is_file()
    config = json.loads((out / "run/best/config.json").read_text())
    assert config["labels"] == {"0": "background", "1": "grey matter", "2": "white matter"}
    volumes = sorted((out / "labels").glob("*.nii.gz"))
    assert len(volumes) == 5
    for path in volumes:
        labels, image = nibabel.load(path), nibabel.load(out / "unseen/images" / path.name)
        assert labels.shape == image.shape
        assert np.array_equal(labels.affine, image.affine)


def executed(notebook: str) -> list[dict[str, Any]]:
    """Run every cell in a fresh kernel, in the folder of the examples; return all outputs."""
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run with the extra [dev]")
    nbformat = pytest.importorskip("nbformat", reason="notebooks are run with the extra [dev]")
    traitlets = pytest.importorskip("traitlets.config")
    for package in ("ipyniivue", "ipykernel", "matplotlib"):
        pytest.importorskip(package, reason="the notebook needs the extra [notebook]")
    content = nbformat.read(EXAMPLES / notebook, as_version=4)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    with tempfile.TemporaryDirectory() as folder:  # of sockets; another kernel may take a port
        config = {"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}
        nbclient.NotebookClient(
            content,
            timeout=600,
            startup_timeout=300,
            resources=resources,
            config=traitlets.Config(config),
        ).execute()
    return [output for cell in content.cells for output in cell.get("outputs", [])]


def shown(outputs: list[dict[str, Any]], kind: str) -> list[Any]:
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.process
def test_the_notebook_shows_a_prediction_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSUNET_BUNDLE", str(tiny_bundle(tmp_path / "bundle")))
    monkeypatch.setenv("TRANSUNET_IMAGE", str(save_nifti(tmp_path / "image.nii.gz")))
    monkeypatch.setenv("TRANSUNET_WORK", str(tmp_path / "work"))
    outputs = executed("view_prediction.ipynb")
    (table,) = shown(outputs, "text/markdown")
    labels = nibabel.load(tmp_path / "work/labels.nii.gz")
    voxels = int((np.asarray(labels.dataobj) == 1).sum())
    volume = voxels * abs(np.linalg.det(labels.affine[:3, :3])) / 1000
    assert f"| left | {voxels:,} | {volume:,.1f} |" in table
    (sheet,) = shown(outputs, "image/png")
    assert base64.b64decode(sheet).startswith(b"\x89PNG")
    (viewer,) = shown(outputs, "application/vnd.jupyter.widget-view+json")
    assert viewer["model_id"]


@pytest.mark.process
@pytest.mark.exhaustive  # the demo's training and the notebook, which the two tests above run
def test_the_notebook_runs_without_anything_given(
    tmp_path: Path, no_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nilearn", reason="the demo's images come with the extra [demo]")
    for name in ("TRANSUNET_BUNDLE", "TRANSUNET_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSUNET_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("TRANSUNET_ITERATIONS", "2")
    outputs = executed("view_prediction.ipynb")
    (table,) = shown(outputs, "text/markdown")
    assert "white matter" in table
    image, labels = (nibabel.load(tmp_path / "work" / name) for name in ("brain.nii.gz", "labels.nii.gz"))  # fmt: skip  # noqa: E501
    assert labels.shape == image.shape == (160, 190, 43)
    assert np.array_equal(labels.affine, image.affine)


def test_every_example_is_run_by_a_test() -> None:
    """An example that nobody runs breaks unnoticed."""
    source = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb", ".sh"}}
    assert names
    assert {name for name in names if f'"{name}"' not in source} == set()


def test_notebooks_are_stored_without_outputs() -> None:
    for path in EXAMPLES.glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
