"""Slices made when they are asked for are those of the whole volume."""

import numpy as np
import pytest

from prediction import OBLIQUE, noise
from transunet.data.preprocessing import Channel, Preprocessing, planes_first
from transunet.data.volume import Volume
from transunet.errors import DataError
from transunet.inference.slice_inference import VolumeSlices

CT = Channel(name="CT", normalisation="clip", low=-125, high=275)
MRI = Channel(name="MRI")


def volume(channels: int = 1) -> Volume:
    array = np.stack([noise((20, 24, 17), seed) for seed in range(channels)])
    return Volume(array.astype(np.float32) + 300, OBLIQUE, "scan")


@pytest.mark.parametrize("channels", [(CT,), (MRI,), (MRI, CT)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slab_is_a_part_of_the_whole(channels: tuple[Channel, ...], axis: int) -> None:
    settings = Preprocessing(channels=channels, orientation=planes_first("LPS", axis))
    image = volume(len(channels))
    whole = settings.to_working(image).swapaxes(0, 1)
    slabs = VolumeSlices(image, settings)
    assert slabs.shape == whole.shape
    assert len(slabs) == len(whole)
    for part in (slice(0, 3), slice(5, 6), slice(len(slabs) - 2, len(slabs))):
        np.testing.assert_allclose(slabs[part], whole[part], atol=2e-6)


def test_resampling_in_the_plane_is_done_slab_by_slab_too() -> None:
    settings = Preprocessing(channels=(MRI,), spacing_mm=(None, 1.0, 0.9))
    whole = settings.to_working(volume()).swapaxes(0, 1)
    slabs = VolumeSlices(volume(), settings)
    assert slabs.shape == whole.shape
    np.testing.assert_allclose(slabs[2:4], whole[2:4], atol=1e-5)


def test_voxels_that_are_not_finite_are_refused_by_name() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        image = volume()
        image.array[0, 3, 4, 5] = bad
        with pytest.raises(DataError, match=r"scan: .*NaN or infinite"):
            VolumeSlices(image, Preprocessing(channels=(MRI,)))


def test_another_channel_count_is_refused_with_both() -> None:
    with pytest.raises(DataError, match=r"scan: it has 2 channels; expected 1"):
        VolumeSlices(volume(2), Preprocessing(channels=(MRI,)))
