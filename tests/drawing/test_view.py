"""`transunet.view`: what a notebook shows of an image and its label map."""

import io
import pickle
import pydoc
from dataclasses import replace

import numpy as np
import pytest

import transunet
from prediction import tiny_bundle
from transunet.errors import ConfigError, DataError, GeometryError

pytest.importorskip("matplotlib", reason="pictures are drawn with the extra [train]")

SPACING = np.diag([1.0, 1.0, 3.0, 1.0])


@pytest.fixture
def image():
    array = np.random.default_rng(0).normal(size=(1, 12, 10, 8)).astype(np.float32)
    return transunet.Volume(array, SPACING, "image.nii.gz")


@pytest.fixture
def labels(image):
    array = np.zeros((1, 12, 10, 8), np.uint8)
    array[0, 2:5, 3:6, 2:6] = 1
    array[0, 6:9, 3:6, 4] = 2
    return replace(image.with_array(array), label_names={0: "background", 1: "liver", 2: "spleen"})


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def legend(figure):
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def test_files_are_drawn_with_the_names_that_they_hold(tmp_path, image, labels):
    for name, volume in (("image.nii.gz", image), ("labels.nii.gz", labels)):
        transunet.write_volume(volume, tmp_path / name)
    figure = transunet.view(str(tmp_path / "image.nii.gz"), tmp_path / "labels.nii.gz")
    assert titles(figure) == [f"axial {n} of 8" for n in (3, 4, 5, 6)]
    assert legend(figure) == ["liver", "spleen"]
    pictures = pytest.importorskip("PIL.Image")
    shown = pictures.open(io.BytesIO(figure._repr_png_()))
    assert shown.format == "PNG"
    assert min(shown.size) > 300
    figure.savefig(tmp_path / "sheet.svg")


def test_volumes_and_arrays_give_the_same_figure(image, labels):
    both = transunet.view(image, labels, slices=5, crop=True)
    assert titles(both) == ["axial 5 of 8"]
    names = {1: "a", 2: "b"}
    arrays = transunet.view(
        image.array[0], labels.array[0], spacing_mm=(1, 1, 3), slices=5, crop=True, names=names
    )
    drawn = [np.asarray(figure.axes[0].images[0].get_array()) for figure in (both, arrays)]
    assert np.array_equal(*drawn)
    assert (legend(both), legend(arrays)) == (["liver", "spleen"], ["a", "b"])
    assert titles(transunet.view(image, labels.array, axis="coronal", slices=[4, 6])) == [
        "coronal 4 of 10",
        "coronal 6 of 10",
    ]


def test_an_image_is_drawn_alone_and_a_picture_as_it_is_stored(image):
    alone = transunet.view(image)
    assert (len(titles(alone)), legend(alone)) == (8, [])
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    mask = np.zeros((4, 6), bool)
    mask[0, 1:3] = True
    figure = transunet.view(picture, mask)
    assert (titles(figure), legend(figure)) == ([""], ["label 1"])
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.argmin(shown.sum(axis=2)) == 0
    assert shown.shape == (4, 6, 3)
    assert {text.get_text() for text in figure.axes[0].texts} == set()
    outline = figure.axes[0].patches[0].get_path().vertices
    assert (outline.min(axis=0).tolist(), outline.max(axis=0).tolist()) == ([1, 0], [3, 1])


@pytest.mark.parametrize(
    ("wanted", "error", "told"),
    [
        ({"slices": 9}, ConfigError, "has no slice 9 in this plane; its 8 slices are numbered"),
        ({"slices": [3, 0]}, ConfigError, "no slice 0"),
        ({"axis": "oblique"}, ConfigError, "Unknown axis 'oblique'; known: sagittal, coronal"),
        ({"spacing_mm": (1, 1, 1)}, ConfigError, "spacing_mm is for arrays"),
        ({"labels": "nowhere.nii.gz"}, ConfigError, "There is no file nowhere.nii.gz"),
        ({"labels": np.zeros((2, 12, 10, 8))}, DataError, "one channel; found Volume"),
        ({"labels": np.full((12, 10, 8), 0.5)}, DataError, "the value 0.5, which is not whole"),
        ({"labels": np.zeros((12, 10, 7))}, GeometryError, "1 x 12 x 10 x 7 does not fit the grid"),
    ],
)
def test_what_cannot_be_drawn_is_told(image, wanted, error, told):
    with pytest.raises(error, match=told):
        transunet.view(image, **wanted)


def test_objects_say_what_they_are(tmp_path, image, labels):
    bundle = tiny_bundle(tmp_path / "bundle")
    predictor = transunet.Predictor.from_pretrained(bundle, device="cpu", engine="eager")
    assert repr(predictor) == (
        f"Predictor({bundle}: finds left, right in MRI 0, by slices of 32 x 32, with eager in fp32 "
        "on cpu)"
    )
    assert repr(labels) == (
        "Volume(image.nii.gz: 12 x 10 x 8 voxels of 1 x 1 x 3 mm, RAS, 1 channel of uint8, "
        "1 liver, 2 spleen)"
    )
    config = transunet.from_pretrained(bundle)[1]
    assert str(config) == repr(config)
    assert repr(config).splitlines()[:5] == [
        "BundleConfig",
        "  network: custom (transunet2d)",
        "  takes: slices of 32 x 32 pixels",
        "  channels: MRI 0",
        "  finds: 1 left, 2 right",
    ]


@pytest.mark.parametrize("name", transunet.__all__)
def test_help_calls_public_things_by_their_public_names(name):
    thing = getattr(transunet, name)
    if name == "VARIANTS":
        assert "R50-ViT-B_16" in thing
        return
    assert pickle.loads(pickle.dumps(thing)) is thing
    assert "in module transunet\n" in pydoc.plain(pydoc.render_doc(thing))
