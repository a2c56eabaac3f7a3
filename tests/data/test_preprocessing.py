import numpy as np
import pytest

from transunet.data.cases import DataSet
from transunet.data.planning import preprocessing_for
from transunet.data.preprocessing import Channel, Preprocessing, planes_first
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, DataError, GeometryError

CT = Channel(name="CT", normalisation="clip", low=-125, high=275)


def dataset(*channels: str) -> DataSet:
    return DataSet((), {0: "background", 1: "organ"}, channels, name="toy")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "AIL"])
def test_labels_come_back_exactly_on_the_volumes_grid(rng, oblique, axis, codes):
    image = Volume(rng.normal(size=(1, 4, 5, 6)), oblique, "c", header="kept")
    labels = Volume(rng.integers(0, 5, (1, 4, 5, 6)).astype(np.uint8), oblique)
    pre = Preprocessing(orientation=planes_first(codes, axis))
    working = pre.to_working(image)
    working_labels = pre.labels_to_working(labels)
    assert working.shape == (1, *pre.working_shape(image))
    assert working_labels.shape == working.shape[1:]
    back = pre.from_working(working_labels, image)
    np.testing.assert_array_equal(back.array, labels.array)
    np.testing.assert_array_equal(back.affine, image.affine)
    assert back.header == "kept"
    assert back.array.flags.c_contiguous


def test_slices_are_axial_in_ras():
    array = np.zeros((1, 3, 4, 5), np.uint8)
    array[0, 2, 1, 4] = 1
    # LPS: the first two axes run the other way.
    labels = Volume(array, np.diag([-1, -1, 1, 1]))
    working = Preprocessing().labels_to_working(labels)
    assert working.shape == (5, 3, 4)
    assert np.argwhere(working).tolist() == [[4, 0, 2]]


def test_an_axis_on_the_diagonal_comes_back_too():
    # 45 degrees between axes: which axis is "right" is a matter of rounding.
    c = np.sqrt(0.5)
    affine = np.eye(4)
    affine[:2, :2] = [[c, -c], [c, c]]
    labels = Volume(np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4), affine)
    pre = Preprocessing(orientation="SLP")
    np.testing.assert_array_equal(
        pre.from_working(pre.labels_to_working(labels), labels).array, labels.array
    )


def test_ct_is_clipped_to_a_window():
    values = np.array([-1000, -125, 75, 275, 3000], np.float32)
    np.testing.assert_allclose(CT.normalise(values), [0, 0, 0.5, 1, 1])


def test_zscore_is_per_volume_and_channel(rng):
    scales = np.array([1, 1e6])[:, None, None, None]
    image = Volume((rng.normal(3, 2, (2, 6, 7, 8)) * scales).astype(np.float32), np.eye(4))
    working = Preprocessing(channels=(Channel(), Channel())).to_working(image)
    assert working.dtype == np.float32
    np.testing.assert_allclose(working.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(working.std(axis=(1, 2, 3)), 1, atol=1e-5)


def test_a_constant_image_becomes_zeros():
    image = Volume(np.full((1, 2, 3, 4), 7, np.float32), np.eye(4))
    assert not Preprocessing().to_working(image).any()


def test_a_photograph_is_divided_by_its_range():
    channel = Channel(normalisation="range", high=255)
    np.testing.assert_allclose(channel.normalise(np.array([0, 51, 255], np.uint8)), [0, 0.2, 1])


@pytest.mark.parametrize(
    ("name", "normalisation"),
    [("CT", "clip"), ("MRI", "zscore"), ("T1", "zscore"), ("red", "range"), ("Gray", "range")],
)
def test_the_modality_chooses_the_normalisation(name, normalisation):
    (channel,) = preprocessing_for(dataset(name)).channels
    assert channel.normalisation == normalisation
    if name == "CT":
        assert (channel.low, channel.high) == (-125, 275)


def test_slices_follow_the_scanner_where_it_cut_another_way(oblique):
    thin = Grid((9, 9, 9), np.diag([1, 1, 2, 1]))
    # The oblique one has 3 mm along its second axis (head to foot), 0.7 and 1.1 else: axial.
    assert preprocessing_for(dataset("MRI"), [thin]).orientation == "SRA"
    assert preprocessing_for(dataset("MRI"), [Grid((9, 9, 9), oblique)]).orientation == "SRA"
    sagittal = Grid((9, 9, 9), np.diag([3, 1, 1, 1]))
    assert preprocessing_for(dataset("MRI"), [sagittal] * 2 + [thin]).orientation == "RAS"
    coronal = Grid((9, 9, 9), np.array([[1, 0, 0, 0], [0, 0, 5, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]))
    assert preprocessing_for(dataset("MRI"), [coronal]).orientation == "ARS"


def test_in_plane_resampling_goes_there_and_back():
    labels = np.zeros((1, 20, 30, 4), np.uint8)
    labels[0, 5:15, 10:20, 1:3] = 1
    volume = Volume(labels, np.diag([0.5, 1, 3, 1]))
    pre = Preprocessing(spacing_mm=(None, 1, 1))
    assert pre.to_working(volume.with_array(labels.astype(np.float32))).shape == (1, 4, 10, 30)
    assert pre.working_spacing_mm(volume) == pytest.approx((3, 1, 1))
    working = pre.labels_to_working(volume)
    assert working.shape == (4, 10, 30)
    back = pre.from_working(working, volume)
    assert back.array.shape == labels.shape
    assert (back.array == labels).mean() > 0.97


def test_another_number_of_channels_names_the_case():
    with pytest.raises(DataError, match=r"case_7.*2 channels.*CT"):
        Preprocessing(channels=(CT,)).to_working(
            Volume(np.zeros((2, 3, 3, 3)), np.eye(4), "case_7")
        )


def test_labels_that_do_not_fit_are_refused():
    like = Volume(np.zeros((1, 3, 4, 5)), np.eye(4), "case_7")
    with pytest.raises(GeometryError, match="case_7"):
        Preprocessing().from_working(np.zeros((5, 4, 3), np.uint8), like)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="orientation"):
        Preprocessing(orientation="RRR")
    with pytest.raises(ConfigError, match="above"):
        Channel(normalisation="clip", low=2, high=1)
    with pytest.raises(ConfigError, match="positive"):
        Preprocessing(spacing_mm=(None, 0, 1))


def test_it_survives_json():
    pre = Preprocessing(channels=(CT,), orientation="ARS", spacing_mm=(None, 1, 2))
    assert Preprocessing.from_json(pre.model_dump(mode="json"), "config.json") == pre


def test_a_slab_is_normalised_as_a_part_of_the_whole(rng):
    values = (rng.normal(size=(9, 20, 24)) * 300 + 1000).astype(np.float32)
    channel = Channel(normalisation="zscore")
    scale = channel.measure([values[:4], values[4:]])
    np.testing.assert_allclose(scale, (values.mean(), values.std()), rtol=1e-6)
    whole = channel.normalise(values, scale)
    assert np.array_equal(channel.normalise(values[3:5], scale), whole[3:5])
    np.testing.assert_allclose(channel.normalise(values), whole, atol=1e-6)
    assert channel.measure([np.full((2, 3), 7.0)]) == (7, 1)
    assert Channel(normalisation="clip", low=0, high=1).measure([values]) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_format_1_named_an_axis_to_cut_along(axis):
    values = {"channels": [CT], "orientation": "LPS", "slice_axis": axis, "spacing_mm": (1.5, 2)}
    pre = Preprocessing.of_format_1(values)
    assert pre.orientation == ("LPS", "PLS", "SLP")[axis]
    assert pre.spacing_mm == (None, 1.5, 2)
    assert Preprocessing.of_format_1({}) == Preprocessing()


def test_working_volumes_are_resampled_along_all_axes(rng):
    volume = Volume(rng.normal(size=(1, 8, 10, 6)).astype(np.float32), np.diag([2, 1, 3, 1]))
    pre = Preprocessing(spacing_mm=(1.5, None, 2))
    assert pre.working_shape(volume) == (12, 8, 5)
    assert pre.to_working(volume).shape == (1, 12, 8, 5)
    assert pre.working_spacing_mm(volume) == pytest.approx((1.5, 2, 2))
    labels = pre.labels_to_working(volume.with_array(np.ones((1, 8, 10, 6), np.uint8)))
    assert pre.from_working(labels, volume).array.all()


def test_an_orientation_that_is_none_is_told_as_it_was_given():
    with pytest.raises(ConfigError, match="'XYZ' does not name three directions"):
        planes_first("XYZ", 2)
