import numpy as np
import pytest

from transunet.data.cases import DataSet
from transunet.data.fingerprint import CaseFingerprint, intensities_of, summarise
from transunet.data.planning import channels_like, decisions, image_sides, preprocessing_for
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.errors import ConfigError


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


def told(used, planned=None):
    decided = decisions(
        used, planned or fingerprint(), recipe="paper", image_size=224, batch_size=24
    )
    return {decision.name: decision for decision in decided}


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
    planned = fingerprint(rows=rows, columns=columns)
    assert list(image_sides(planned)) == sides
    assert f"{rows} x {columns} pixels" in told(Preprocessing(), planned)["image size"].reason


def test_the_image_size_is_whole_patches():
    assert image_sides(fingerprint(rows=256, columns=200), patch=24) == (264, 240)


def test_intensities_are_taken_over_where_they_are_of_one_kind():
    ct, wide = (Channel(name="CT", normalisation="clip", low=low, high=275) for low in (-125, -900))
    mri, flair = Channel(name="MRI"), Channel(name="FLAIR")
    photo = Channel(name="red", normalisation="range", high=255)
    assert channels_like([wide], [ct]) == (wide,)
    assert channels_like([mri], [ct]) == (ct,)
    assert channels_like([wide], [mri]) == (mri,)
    assert channels_like([flair], [mri]) == (mri,)
    assert channels_like([photo.replace(high=65535)], [photo]) == (photo,)
    assert channels_like([ct], [photo.replace(name="CT", high=1)]) == (
        photo.replace(name="CT", high=1),
    )
    assert channels_like([wide, flair], [flair, ct]) == (flair, wide)
    assert channels_like([wide], [ct, mri]) == (wide, mri)


def test_the_normalisation_is_told_with_its_reason():
    ct = Channel(name="CT", normalisation="clip", low=-125, high=275)
    photograph = Channel(name="red", normalisation="range", high=255)
    used = Preprocessing(channels=(ct, photograph, Channel(name="MRI")), orientation="ARS")
    normalisation = told(used)["normalisation"]
    assert normalisation.value == (
        "CT: -125..275 to 0..1, clipped, red: divided by 255, "
        "MRI: mean 0 and deviation 1 per volume"
    )
    assert "Hounsfield" in normalisation.reason
    assert told(used)["slices along"].value == "A, rows along R, columns along S"
    assert "3 x 0.7 x 0.7" in told(used)["slices along"].reason


def test_a_window_of_ones_own_is_not_called_the_papers():
    data = DataSet(cases=(), labels={}, channels=("CT", "MRI"))
    used = preprocessing_for(data, window=(0, 80))
    assert [channel.normalisation for channel in used.channels] == ["clip", "clip"]
    assert told(used)["normalisation"].reason == "the window that was asked for"
    with pytest.raises(ConfigError, match="needs --window"):
        preprocessing_for(data, normalisation="range")
