"""Every example runs, with fewer steps than a reader would give it."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_demo_leaves_labels_overlay_report_and_bundle(tmp_path: Path) -> None:
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
