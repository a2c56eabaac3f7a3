"""A predictor may be given a volume, a path, or an array and its spacing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prediction import noise, save_nifti, tiny_bundle
from transunet.data.formats import read_image, read_volume
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.inference.predictor import Predictor, as_volume


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle(tmp_path_factory.mktemp("bundle")), device="cpu")


def test_path_text_and_volume_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz")
    labels = [predictor(image).array for image in (read_volume(path), path, str(path), [path])]
    assert all(np.array_equal(labels[0], other) for other in labels[1:])


def test_an_array_with_its_spacing(predictor: Predictor, tmp_path: Path) -> None:
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    path = save_nifti(tmp_path / "a.nii.gz", affine=affine)
    labels = predictor(noise(), spacing_mm=(0.8, 0.8, 3.0))
    np.testing.assert_allclose(labels.spacing_mm, (0.8, 0.8, 3))
    assert np.array_equal(labels.array, predictor(path).array)
    assert np.array_equal(labels.array, predictor(noise()[None], spacing_mm=(0.8, 0.8, 3)).array)


def test_arrays_that_cannot_be(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="needs spacing_mm"):
        predictor(noise())
    with pytest.raises(ConfigError, match="needs spacing_mm"):
        predictor(noise(), spacing_mm=(1, 1))
    with pytest.raises(GeometryError, match="no volume"):
        predictor(noise(), spacing_mm=(1, 0, 1))
    with pytest.raises(GeometryError, match="three axes"):
        predictor(np.zeros((3, 3)), spacing_mm=(1, 1, 1))
    with pytest.raises(DataError, match="complex"):
        predictor(noise().astype(complex), spacing_mm=(1, 1, 1))
    with pytest.raises(ConfigError, match="for arrays"):
        predictor(as_volume(noise(), (1, 1, 1)), spacing_mm=(1, 1, 1))


def test_a_constant_image_is_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "black.nii.gz", np.full((5, 6, 7), 3, np.int16))
    with pytest.raises(DataError, match=r"black.nii.gz: every voxel is 3"):
        read_image([path])


def test_the_largest_component_is_kept_where_asked(tmp_path: Path) -> None:
    from scipy.ndimage import label

    bundle = tiny_bundle(tmp_path / "bundle")
    image = as_volume(noise(), (1, 1, 1))
    kept = Predictor.from_pretrained(bundle, device="cpu", largest_component=["all"])(image)
    for index in (1, 2):
        assert label(kept.array[0] == index, np.ones((3, 3, 3)))[1] <= 1


@pytest.mark.process
def test_the_road_without_torch_does_not_import_it() -> None:
    code = "import sys, transunet.inference.predictor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
