import numpy as np
import pytest

from transunet.data.fingerprint import CaseFingerprint, intensities_of, summarise
from transunet.data.planning import image_sides, normalisation_of, orientation_of
from transunet.data.preprocessing import Channel, Preprocessing


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
    ("rows", "columns", "sides"),
    [
        (35, 51, [64]),
        (256, 256, [256, 224]),
        (250, 200, [256, 224]),
        (10, 10, [64]),
        (4000, 3000, [512, 480, 448, 416, 384, 352, 320, 288, 256, 224]),
    ],
)
def test_the_image_size_follows_the_median_slice(rows, columns, sides):
    planned = image_sides(fingerprint(rows=rows, columns=columns))
    assert list(planned.value) == sides
    assert f"{rows} x {columns}" in planned.reason


def test_the_normalisation_is_told_with_its_reason():
    ct = Channel(name="CT", normalisation="clip", low=-125, high=275)
    photograph = Channel(name="red", normalisation="range", high=255)
    used = Preprocessing(channels=(ct, photograph, Channel(name="MRI")), orientation="ARS")
    normalisation, orientation = normalisation_of(used), orientation_of(used, fingerprint())
    assert normalisation.value == (
        "CT: -125..275 to 0..1, clipped",
        "red: divided by 255",
        "MRI: mean 0 and deviation 1 per volume",
    )
    assert "Hounsfield" in normalisation.reason
    assert orientation.value == "ARS"
    assert "3 x 0.7 x 0.7" in orientation.reason
