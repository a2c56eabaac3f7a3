"""References as people have them: black and white, named in another order, packed, in pairs."""

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import serving  # noqa: F401 - skips where the extra is missing
from prediction import OBLIQUE, save_nifti
from transunet.data.formats import read_grid
from transunet.data.regions import Region
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.messages import LABELS
from transunet.serve.jobs.reference import score

ONE = {0: "background", 1: "lesion"}
TWO = {0: "background", 1: "grey matter", 2: "white matter"}


@pytest.fixture
def labels() -> np.ndarray:
    found = np.zeros((12, 14, 6), np.uint8)
    found[2:6, 2:8, 1:5] = 1
    found[6:10, 2:8, 1:5] = 2
    return found


def scored(tmp_path: Path, predicted: np.ndarray, names: dict[int, str], *files: Path) -> dict:
    save_nifti(tmp_path / "job" / LABELS, predicted)
    return score(files, tmp_path / "job", names, 10**6, 10**8)


def dice(found: dict) -> list[float | None]:
    return [row["dice"] for row in found["structures"]]


def upload(tmp_path: Path, array: np.ndarray, name: str = "r.nii.gz") -> Path:
    return save_nifti(tmp_path / "upload" / name, array)


def test_a_black_and_white_reference(tmp_path: Path, labels: np.ndarray) -> None:
    mask = (labels > 0).astype(np.uint8)
    found = scored(tmp_path, mask, ONE, upload(tmp_path, mask * 255))
    assert dice(found) == [1.0]
    assert found["warnings"] == ["255 in the reference was read as lesion."]
    with pytest.raises(ApiError, match="255"):  # of two classes it could be either
        scored(tmp_path, labels, TWO, upload(tmp_path, mask * 255))


def test_regions_are_compared_whole(tmp_path: Path, labels: np.ndarray) -> None:
    regions = (
        Region(name="whole", members=(1, 2), label=1),
        Region(name="core", members=(2,), label=2),
    )
    reference = labels.copy()
    reference[6:8] = 1  # half of the core, which stays whole
    reference[2:4] = 0  # half of what is around it
    save_nifti(tmp_path / "job" / LABELS, labels)
    names = {0: "background", 1: "whole", 2: "core"}
    path = upload(tmp_path, np.where(labels, reference, 0).astype(np.uint8))
    found = score([path], tmp_path / "job", names, 10**6, 10**8, regions=regions)
    assert [(row["index"], row["name"]) for row in found["structures"]] == [
        (1, "whole"),
        (2, "core"),
    ]
    assert dice(found) == pytest.approx([2 * 144 / (192 + 144), 2 * 48 / (96 + 48)])


def test_voxels_that_nobody_labelled_are_left_out(tmp_path: Path, labels: np.ndarray) -> None:
    reference = labels.copy()
    reference[4:7] = 255
    path = upload(tmp_path, reference)
    with pytest.raises(ApiError, match=r"\?ignore=255"):
        scored(tmp_path, labels, TWO, path)
    wrong = np.where(reference == 255, 3 - labels, labels).astype(np.uint8) % 3
    save_nifti(tmp_path / "job" / LABELS, wrong)
    assert dice(score([path], tmp_path / "job", TWO, 10**6, 10**8, ignore=255)) == [1.0, 1.0]


def slicers(path: Path, array: np.ndarray, *names: str) -> Path:
    """A `.seg.nrrd` as 3D Slicer writes it, and a prediction on its grid."""
    itk = pytest.importorskip("SimpleITK", reason="NRRD needs the extra images")
    image = itk.GetImageFromArray(np.ascontiguousarray(array.T))
    for index, name in enumerate(names):
        image.SetMetaData(f"Segment{index}_Name", name)
        image.SetMetaData(f"Segment{index}_LabelValue", str(index + 1))
    path.parent.mkdir()
    itk.WriteImage(image, str(path))
    return path


def test_a_named_reference_is_compared_by_name(tmp_path: Path, labels: np.ndarray) -> None:
    other = np.array([0, 2, 1], np.uint8)[labels]  # 1 is white matter here
    path = slicers(tmp_path / "upload" / "r.seg.nrrd", other, "White Matter", "grey_matter")
    nib.save(nib.Nifti1Image(labels, read_grid(path).affine), tmp_path / LABELS)
    found = score([path], tmp_path, TWO, 10**6, 10**8)
    assert dice(found) == [1.0, 1.0]
    assert "compared by name" in found["warnings"][0]


def test_a_reference_of_other_classes_is_refused(tmp_path: Path, labels: np.ndarray) -> None:
    path = slicers(tmp_path / "upload" / "r.seg.nrrd", labels, "white matter", "vessel")
    nib.save(nib.Nifti1Image(labels, read_grid(path).affine), tmp_path / LABELS)
    with pytest.raises(ApiError, match=r"it holds vessel; expected .* grey matter, white matter"):
        score([path], tmp_path, TWO, 10**6, 10**8)


def test_a_reference_in_a_zip_in_a_pair_and_without_a_suffix(
    tmp_path: Path, labels: np.ndarray
) -> None:
    plain = upload(tmp_path / "a", labels)
    archive = tmp_path / "b" / "r.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as out:
        out.write(plain, "r.nii.gz")
    unnamed = upload(tmp_path / "c", labels).rename(tmp_path / "c" / "r")
    (tmp_path / "d").mkdir()
    nib.save(nib.Nifti1Pair(labels, OBLIQUE), tmp_path / "d" / "r.hdr")
    pair = [tmp_path / "d" / "r.hdr", tmp_path / "d" / "r.img"]
    for files in ([plain], [archive], [unnamed], pair):
        assert dice(scored(tmp_path, labels, TWO, *files)) == [1.0, 1.0]
    with pytest.raises(ApiError, match="found 2") as caught:
        scored(tmp_path, labels, TWO, plain, upload(tmp_path / "e", labels))
    assert caught.value.code == "malformed"
