"""Small label maps, as arrays and as files, and the evaluations made of them."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from transunet.evaluation.measure import Settings, gather
from transunet.evaluation.metrics import ClassMetrics, case_metrics
from transunet.evaluation.records import CaseRecord, Evaluation, Structure

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture
def save() -> Callable[..., Path]:
    """Write an array as NIfTI (1 x 1 x 2 mm), making folders on the way."""

    def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)
        return path

    return write


@pytest.fixture
def blocks() -> Callable[..., np.ndarray]:
    """A 12 x 10 x 6 label map: label 1 and 2 as blocks, shifted along the first axis."""

    def make(shift: int = 0, second: bool = True) -> np.ndarray:
        array = np.zeros((12, 10, 6), np.uint8)
        array[1 + shift : 5 + shift, 2:6, 1:4] = 1
        if second:
            array[6 + shift : 9 + shift, 5:9, 2:5] = 2
        return array

    return make


@pytest.fixture
def folders(tmp_path, save, blocks) -> tuple[Path, Path]:
    """Predictions and references of four cases; `d` is predicted without its label 2."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for index, name in enumerate("abcd"):
        save(references / f"{name}.nii.gz", blocks())
        save(predictions / f"{name}.nii.gz", blocks(index % 3, second=name != "d"))
    return predictions, references


@pytest.fixture
def evaluation_of() -> Callable[..., Evaluation]:
    """An evaluation of given Dice values (cases, structures); NaN: empty in both."""

    def make(dice, names=("liver", "spleen"), convention="honest", **more) -> Evaluation:
        structures = tuple(Structure((i,), name) for i, name in enumerate(names, start=1))
        cases = [
            CaseRecord(
                f"case{index:02d}",
                {one.key: _figures(value) for one, value in zip(structures, row, strict=True)},
            )
            for index, row in enumerate(dice)
        ]
        settings = Settings(structures, convention)
        return gather(cases, [], settings, more.pop("predictions", "P"), "R", **more)

    return make


def _figures(dice: float) -> ClassMetrics:
    if np.isnan(dice):
        nothing = np.zeros((2, 2), int)
        return case_metrics(nothing, nothing, (1, 1), [1])[1]
    return ClassMetrics(
        dice=dice,
        iou=dice / (2 - dice),
        hd95=10 * (1 - dice),
        assd=2 * (1 - dice),
        nsd=dice,
        prediction_ml=10 * dice,
        reference_ml=10.0,
    )
