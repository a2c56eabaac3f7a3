import numpy as np
import pytest

from transunet.data.fingerprint import CaseFingerprint, intensities_of, summarise
from transunet.data.planning import (
    BYTES_PER_PIXEL,
    FIXED_BYTES,
    SHARE,
    derive_defaults,
)
from transunet.data.preprocessing import Channel, Preprocessing

GIB = 1 << 30


def fingerprint(slices=100, rows=512, columns=512):
    (intensity,) = intensities_of(np.arange(8.0).reshape(1, 2, 2, 2))
    case = CaseFingerprint(
        shape=(rows, columns, slices),
        spacing_mm=(0.7, 0.7, 3),
        orientation="RAS",
        intensities=(intensity,),
        foreground=(),
        voxels={0: 7, 1: 1},
    )
    return summarise([case], [((slices, rows, columns), (3, 0.7, 0.7))], {0: "background", 1: "a"})


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [(35, 51, 64), (256, 256, 256), (250, 200, 256), (10, 10, 64), (4000, 3000, 512)],
)
def test_the_image_size_follows_the_median_slice(rows, columns, size):
    defaults = derive_defaults(fingerprint(rows=rows, columns=columns), 200 * GIB)
    assert defaults.image_size.value == (size, size)
    assert f"{rows} x {columns}" in defaults.image_size.reason
    assert defaults.batch_size.value == 24


def test_little_memory_makes_smaller_images_then_smaller_batches():
    wide = derive_defaults(fingerprint(), 200 * GIB)
    some = derive_defaults(fingerprint(), 12 * GIB)
    little = derive_defaults(fingerprint(), 4 * GIB)
    assert wide.image_size.value[0] == 512
    assert 224 <= some.image_size.value[0] < 512
    assert "512 would leave room" in some.image_size.reason
    assert some.batch_size.value >= 8
    assert little.image_size.value[0] == 224
    assert 1 <= little.batch_size.value < 8
    for defaults, memory in ((some, 12), (little, 4)):
        pixels = defaults.batch_size.value * defaults.image_size.value[0] ** 2
        assert pixels * BYTES_PER_PIXEL + FIXED_BYTES <= SHARE * memory * GIB


def test_hopeless_memory_still_gives_a_value_and_says_so():
    defaults = derive_defaults(fingerprint(), GIB)
    assert defaults.batch_size.value == 1
    assert "too little" in defaults.batch_size.reason


def test_a_smaller_model_fits_more():
    small = derive_defaults(fingerprint(), 4 * GIB, fixed_bytes=10**8, bytes_per_pixel=2000)
    assert small.batch_size.value > derive_defaults(fingerprint(), 4 * GIB).batch_size.value


def test_a_batch_is_no_larger_than_the_data_set():
    defaults = derive_defaults(fingerprint(slices=5, rows=64, columns=64), 100 * GIB)
    assert defaults.batch_size.value == 5
    assert "5 slices" in defaults.batch_size.reason


def test_the_normalisation_is_told_with_its_reason():
    ct = Channel(name="CT", normalisation="clip", low=-125, high=275)
    photograph = Channel(name="red", normalisation="range", high=255)
    used = Preprocessing(channels=(ct, photograph, Channel(name="MRI")), slice_axis=1)
    defaults = derive_defaults(fingerprint(), 8 * GIB, used)
    assert defaults.normalisation.value == (
        "CT: -125..275 to 0..1, clipped",
        "red: divided by 255",
        "MRI: mean 0 and deviation 1 per volume",
    )
    assert "Hounsfield" in defaults.normalisation.reason
    assert defaults.slice_axis.value == 1
    assert "3 x 0.7 x 0.7" in defaults.slice_axis.reason
