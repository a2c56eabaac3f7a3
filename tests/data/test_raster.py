import numpy as np
import pytest
from PIL import Image

from transunet.data.formats import raster, read_grid, read_labels, read_volume, write_volume
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError


@pytest.fixture
def colours(rng):
    return rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_colours_become_channels_and_rows_the_first_axis(tmp_path, colours, suffix):
    Image.fromarray(colours).save(tmp_path / f"a{suffix}")
    v = read_volume(tmp_path / f"a{suffix}")
    assert v.array.shape == (3, 6, 9, 1)
    assert v.array.dtype == np.float32
    np.testing.assert_array_equal(v.array[..., 0], colours.transpose(2, 0, 1))
    assert read_grid(tmp_path / f"a{suffix}").spatial_shape == (6, 9, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_has_one_channel(tmp_path, rng, dtype):
    grey = rng.integers(0, np.iinfo(dtype).max, (6, 9)).astype(dtype)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[0, ..., 0], grey)
    assert raster.bits(tmp_path / "a.png") == (1, np.iinfo(dtype).bits)


def test_alpha_is_dropped_and_indices_are_looked_up(tmp_path, colours):
    alpha = np.dstack([colours, np.full((6, 9), 7, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(
        read_volume(tmp_path / "alpha.png").array[1, ..., 0], colours[..., 1]
    )
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8))
    indexed.putpalette([9, 8, 7, 30, 20, 10])
    indexed.save(tmp_path / "indexed.png")
    assert read_volume(tmp_path / "indexed.png").array[:, 0, 1, 0].tolist() == [30, 20, 10]
    assert read_labels(tmp_path / "indexed.png").array.flatten().tolist() == [0, 1]


def test_jpeg_is_read(tmp_path):
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    np.testing.assert_allclose(read_volume(tmp_path / "a.jpg").array, 90, atol=2)


def test_pages_are_slices(tmp_path, rng):
    pages = rng.integers(0, 9, (4, 6, 9)).astype(np.uint8)
    write_volume(Volume(pages.transpose(1, 2, 0)[None], np.eye(4)), tmp_path / "a.tif")
    assert read_grid(tmp_path / "a.tif").spatial_shape == (6, 9, 4)
    np.testing.assert_array_equal(
        read_labels(tmp_path / "a.tif").array[0].transpose(2, 0, 1), pages
    )


def test_pages_of_several_sizes_are_refused(tmp_path):
    first, second = (Image.fromarray(np.zeros((n, 5), np.uint8)) for n in (4, 6))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(DataError, match=r"a\.tif.*pages differ"):
        read_volume(tmp_path / "a.tif")


def test_coloured_masks_have_a_value_per_colour(tmp_path):
    pixels = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 5]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    values = read_labels(tmp_path / "m.png").array.flatten().tolist()
    assert values == [0, 255, raster.COLOUR + 0xFF0000, raster.COLOUR + 0x000005]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA"])
def test_black_and_white_is_the_same_however_it_is_stored(tmp_path, mode):
    mask = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert(mode)
    mask.save(tmp_path / "m.png")
    values = read_labels(tmp_path / "m.png").array.flatten().tolist()
    assert values == ([0, 1, 1] if mode == "1" else [0, 255, 255])


def test_a_jpeg_mask_is_rounded_to_black_and_white_or_refused(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 25:50] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg")
    np.testing.assert_array_equal(read_labels(tmp_path / "m.jpg").array[0, ..., 0], mask)
    mask[:15] = 128
    Image.fromarray(mask).save(tmp_path / "three.jpg")
    with pytest.raises(DataError, match=r"three\.jpg.*PNG"):
        read_labels(tmp_path / "three.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_damage_is_one_clear_error(tmp_path, rng, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    for keep in (0, 20, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=rf"a\{suffix}.*cut short"):
            read_volume(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_come_back(tmp_path, rng, dtype):
    labels = Volume(rng.integers(0, 200, (1, 6, 9, 1)).astype(dtype), np.eye(4))
    write_volume(labels, tmp_path / "l.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "l.png").array, labels.array)


def test_colours_come_back(tmp_path, colours):
    write_volume(Volume(colours.transpose(2, 0, 1)[..., None], np.eye(4)), tmp_path / "c.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "c.png")), colours)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "says"),
    [
        ("a.jpg", (1, 4, 4, 1), np.uint8, "JPEG"),
        ("a.png", (1, 4, 4, 2), np.uint8, "2 slices"),
        ("a.png", (1, 4, 4, 1), np.float32, "float32"),
        ("a.png", (2, 4, 4, 1), np.uint8, "2 of uint8"),
    ],
)
def test_what_an_image_cannot_hold_is_refused(tmp_path, name, shape, dtype, says):
    with pytest.raises(ConfigError, match=says):
        write_volume(Volume(np.zeros(shape, dtype), np.eye(4), "case"), tmp_path / name)


def test_a_tiff_without_its_sizes_is_one_clear_error(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    raw = path.read_bytes()
    width_tag = (
        raw.index(b"\x00\x01\x04\x00")
        if b"\x00\x01\x04\x00" in raw
        else raw.index(b"\x00\x01\x03\x00")
    )
    path.write_bytes(raw[:width_tag] + b"\x99\x99" + raw[width_tag + 2 :])
    with pytest.raises(DataError, match=r"a\.tif"):
        read_volume(path)
