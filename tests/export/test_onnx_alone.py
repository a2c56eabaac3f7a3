"""The example that computes an exported file with onnxruntime and numpy alone."""

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest

from prediction import noise
from transunet.data.resize import zoom_matrix
from transunet.data.volume import Volume
from transunet.inference.predictor import Predictor

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_alone.py"


def test_it_gives_the_labels_of_predict(written, small_bundle):
    image = np.stack([noise((20, 45, 5), seed) for seed in (3, 4)])
    expected = Predictor.from_pretrained(small_bundle, device="cpu", engine="eager")(
        Volume(image, np.eye(4))
    ).array[0]
    example = runpy.run_path(str(EXAMPLE))
    labels = example["segment"](str(written("onnx").path), image)
    assert len(np.unique(expected)) == 3
    assert np.mean(labels == expected) > 0.9999  # equal logits but for their last bits
    with pytest.raises(ValueError, match="argument 2 is longer"):
        example["segment"](str(written("onnx").path), image[0])


@pytest.mark.parametrize(("length", "new"), [(45, 32), (32, 45), (512, 224), (3, 64)])
@pytest.mark.parametrize("degree", [1, 3])
def test_its_splines_are_those_of_predict(length, new, degree):
    pytest.importorskip("onnxruntime")
    spline = runpy.run_path(str(EXAMPLE))["spline"]
    assert np.allclose(
        spline(length, new, degree), zoom_matrix(length, new, degree, "kept"), atol=1e-6
    )


def test_it_imports_nothing_else():
    tree = ast.parse(EXAMPLE.read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"json", "sys", "numpy", "onnxruntime"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
