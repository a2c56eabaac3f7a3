"""Probabilities and uncertainty on disk: where they lie, what they say, what is refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prediction import OBLIQUE, left_in, noise, tiny_model
from transunet.data.preprocessing import Channel, Preprocessing, planes_first
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.inference import probability_files
from transunet.inference.logits import entropy
from transunet.inference.predictor import Predictor

NAMES = {0: "background", 1: "one", 2: "two"}


def predictor(axis: int = 2, **settings: object) -> Predictor:
    unit = Preprocessing(channels=(Channel(),), orientation=planes_first("RAS", axis))
    return Predictor(tiny_model(), unit, NAMES, device="cpu", batch_size=3, **settings)


@pytest.fixture
def image() -> Volume:
    return Volume(noise((20, 24, 7))[None].astype(np.float32), OBLIQUE, "scan")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("procedure", ["native", "paper"])
def test_the_most_probable_class_is_the_label(
    tmp_path: Path, image: Volume, axis: int, procedure: str
) -> None:
    path = tmp_path / "p.npy"
    labels = predictor(axis, procedure=procedure)(image, probabilities=path).array[0]
    found = np.load(path)
    assert found.shape == (3, 20, 24, 7)
    assert found.dtype == np.float16
    if procedure == "native":  # the paper's resizing has rows of zeros
        np.testing.assert_allclose(found.sum(axis=0, dtype=np.float32), 1, atol=2e-3)
    top = np.sort(found, axis=0)
    clear = top[-1] - top[-2] > 1e-2
    assert clear.mean() > 0.5
    assert np.array_equal(found.argmax(axis=0)[clear], labels[clear])


def test_nifti_maps_lie_where_the_image_lies(tmp_path: Path, image: Volume) -> None:
    npy, nii, sure = (tmp_path / name for name in ("p.npy", "p.nii", "u.nii"))
    predictor()(image, probabilities=npy)
    predictor()(image, probabilities=nii, uncertainty=sure)
    stored = nib.load(nii)
    assert stored.shape == (20, 24, 7, 3)
    np.testing.assert_allclose(stored.affine, OBLIQUE, atol=1e-5)
    assert stored.header.get_xyzt_units()[0] == "mm"
    probabilities = np.asarray(stored.dataobj)
    np.testing.assert_allclose(np.moveaxis(probabilities, -1, 0), np.load(npy), atol=1e-3)
    uncertain = nib.load(sure)
    assert uncertain.shape == (20, 24, 7)
    flat = probabilities.reshape(-1, 3, 1, 1)
    np.testing.assert_allclose(
        np.asarray(uncertain.dataobj).ravel(), entropy(flat).ravel(), atol=1e-5
    )


def test_uncertainty_goes_from_0_to_1() -> None:
    rows = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]], np.float32)
    found = entropy(rows[:, :, None, None]).ravel()
    np.testing.assert_allclose(found, [0, 1, 0.5], atol=1e-6)


def test_another_suffix_is_refused_and_nothing_is_left(tmp_path: Path, image: Volume) -> None:
    with pytest.raises(ConfigError, match=r"\.npy or \.nii"):
        predictor()(image, probabilities=tmp_path / "p.tif")
    assert not left_in(tmp_path)


def test_a_full_disk_is_told_before_anything_is_computed(
    tmp_path: Path, image: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probability_files.os, "posix_fallocate", full)
    for name in ("p.npy", "p.nii"):
        with pytest.raises(ConfigError, match=rf"{name}: No space left.*make room"):
            predictor()(image, probabilities=tmp_path / name)
    assert not left_in(tmp_path)


def test_a_failure_on_the_way_leaves_no_map(tmp_path: Path, image: Volume) -> None:
    failing = predictor()
    calls = []

    def fail(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        if len(calls) == 2:
            raise RuntimeError("the device is gone")
        return np.zeros((len(images), 3, 32, 32), np.float32)

    fail.image_size, fail.device, fail.fingerprint = (32, 32), "cpu", ""
    failing.network = fail
    with pytest.raises(RuntimeError, match="gone"):
        failing(image, probabilities=tmp_path / "p.npy", uncertainty=tmp_path / "u.nii")
    assert not left_in(tmp_path)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_lies_in_one_piece_of_the_file(tmp_path: Path, image: Volume, axis: int) -> None:
    predictor(axis)(image, probabilities=tmp_path / "p.npy")
    stored = np.load(tmp_path / "p.npy", mmap_mode="r")
    # Spread over the file, each slice would touch all of its pages.
    across = image.grid.axes_in("RAS")[axis]
    assert stored.flags.f_contiguous == (across == 2)
