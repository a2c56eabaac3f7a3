"""Small volumes and data sets, written where a test asks for them."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """A folder of the real data, or a skip that says what is missing."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs the real data in {path}")
        return path

    return folder


@pytest.fixture
def oblique() -> np.ndarray:
    """A rotated, flipped, anisotropic affine whose axes are permuted against RAS."""
    a, b = np.deg2rad(20), np.deg2rad(-12)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    permute = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ permute @ np.diag([0.7, 3.0, 1.1])
    affine[:3, 3] = (-30.5, 12.25, 7)
    return affine


@pytest.fixture
def save() -> Callable[..., Path]:
    """Write an array as NIfTI, making folders on the way."""

    def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


def edit(folder: Path, **changes: object) -> None:
    """Change a data set's description."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def label_of(folder: Path, number: int = 1) -> Path:
    return folder / f"labelsTr/toy_{number:02d}.nii.gz"


def image_of(folder: Path, number: int = 1) -> Path:
    return folder / f"imagesTr/toy_{number:02d}.nii.gz"


def times(store: Path) -> dict[Path, int]:
    """When each file below a folder was changed."""
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def pair_of_arrays(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, shape).astype(np.uint8)
    return (label * 100 + rng.normal(0, 5, shape)).astype(np.int16), label


def write_pair(root: Path, case: str, image: np.ndarray, label: np.ndarray) -> None:
    """Write imagesTr/CASE.nii.gz and labelsTr/CASE.nii.gz."""
    for folder, array in (("imagesTr", image), ("labelsTr", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{case}.nii.gz")


def describe_decathlon(
    root: Path, structures: Sequence[str], cases: Iterable[str], modality: str = "MRI", **more: str
) -> Path:
    """Write dataset.json for cases as `write_pair` writes them; return its folder."""
    training = [
        {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        for case in cases
    ]
    description = {
        "name": "Toy",
        "modality": {"0": modality},
        "labels": {str(number): name for number, name in enumerate(["background", *structures])},
        "numTraining": len(training),
        "training": training,
        "test": [],
        **more,
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.fixture
def decathlon(tmp_path: Path) -> Callable[..., Path]:
    """Make a small Decathlon data set, `decathlon(cases=4, modality="MRI", ...)` -> its folder."""

    def make(
        cases: int = 4,
        modality: str = "MRI",
        shape: tuple[int, int, int] = (8, 9, 5),
        folder: str = "Task99_Toy",
    ) -> Path:
        root = tmp_path / folder
        names = [f"toy_{number:02d}" for number in range(cases)]
        for number, name in enumerate(names):
            write_pair(root, name, *pair_of_arrays(number, shape))
        return describe_decathlon(root, ["left", "right"], names, modality)

    return make
