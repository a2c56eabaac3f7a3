import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from transunet.data.formats import raster, read_grid, read_labels, read_volume, write_volume
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError


def bits(path):
    """Channels and bits per channel, from the header."""
    header = raster.read_header(path)
    return header.channels, 8 * header.dtype.itemsize


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
    assert bits(tmp_path / "a.png") == (1, np.iinfo(dtype).bits)


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


def oriented(path, shown, orientation, **options):
    """Save a picture so that viewers show `shown`."""
    back = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = back  # turned back by Pillow's own hand
    stored = ImageOps.exif_transpose(with_exif(Image.fromarray(shown), exif))
    exif[0x0112] = orientation
    stored.save(path, exif=exif, **options)


def with_exif(image, exif):
    stream = io.BytesIO()
    image.save(stream, "png", exif=exif)
    return Image.open(stream)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_pictures_and_masks_are_read_as_they_are_shown(tmp_path, suffix, orientation):
    shown = np.zeros((16, 24), np.uint8)
    shown[:8, :8] = 255
    path = tmp_path / f"a{suffix}"
    oriented(path, shown, orientation, **({"quality": 100} if suffix == ".jpg" else {}))
    np.testing.assert_allclose(read_volume(path).array[0, ..., 0], shown, atol=3)
    np.testing.assert_array_equal(read_labels(path).array[0, ..., 0], shown)
    assert read_grid(path).spatial_shape == (16, 24, 1)


@pytest.mark.parametrize("orientation", [3, 6])
def test_samples_that_pillow_does_not_hold_are_turned_too(tmp_path, rng, orientation):
    tifffile = pytest.importorskip("tifffile", reason="reads TIFFs that are turned")
    stored = rng.integers(0, 65536, (4, 6, 3)).astype(np.uint16)
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extratags=[tag])
    shown = np.rot90(stored, 2 if orientation == 3 else -1)
    np.testing.assert_array_equal(
        read_volume(tmp_path / "a.tif").array[..., 0], shown.transpose(2, 0, 1)
    )
    assert read_grid(tmp_path / "a.tif").spatial_shape == (*shown.shape[:2], 1)


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path):
    path = tmp_path / "a.png"
    oriented(path, np.arange(6, dtype=np.uint8).reshape(2, 3), 6)
    raw = path.read_bytes()
    start = raw.index(b"eXIf") - 4
    chunk = raw[start : start + 12 + int.from_bytes(raw[start : start + 4])]
    end = raw.index(b"IEND") - 4
    path.write_bytes(raw.replace(chunk, b"")[: end - len(chunk)] + chunk + raw[end:])
    assert read_grid(path).spatial_shape == (2, 3, 1)
    assert read_volume(path).array.ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_damaged_orientation_leaves_the_picture_readable(tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    assert read_volume(tmp_path / "a.png").spatial_shape == (4, 6, 1)


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colours_of_16_bits_keep_them(tmp_path, rng, suffix, samples):
    sitk = pytest.importorskip("SimpleITK", reason="needs the extra [images]")
    pixels = rng.integers(0, 4096, (6, 9, samples)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array[..., 0], pixels[..., :3].transpose(2, 0, 1))
    assert bits(tmp_path / f"a{suffix}") == (3, 16)


KINDS = {
    "rgb float32": ((6, 9, 3), np.float32, {"photometric": "rgb"}),
    "rgb float64": ((6, 9, 3), np.float64, {"photometric": "rgb"}),
    "grey float16": ((6, 9), np.float16, {}),
    "grey float32": ((6, 9), np.float32, {}),
    "grey float64": ((6, 9), np.float64, {}),
    "uint32": ((6, 9), np.uint32, {}),
    "int16": ((6, 9), np.int16, {}),
    "int8": ((6, 9), np.int8, {}),
    "near infrared": ((6, 9, 4), np.uint8, {"photometric": "rgb", "extrasamples": [0]}),
    "two bands": ((6, 9, 2), np.uint8, {"photometric": "minisblack", "planarconfig": "contig"}),
    "five bands": ((6, 9, 5), np.uint8, {"photometric": "minisblack", "planarconfig": "contig"}),
    "tiles": ((32, 48, 3), np.uint16, {"photometric": "rgb", "tile": (16, 16)}),
    "bigtiff": ((6, 9, 3), np.uint16, {"photometric": "rgb", "bigtiff": True}),
    "big-endian": ((6, 9, 3), np.uint16, {"photometric": "rgb", "byteorder": ">"}),
    "deflate": ((6, 9, 3), np.uint16, {"photometric": "rgb", "compression": "zlib"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_a_tiff_are_read_as_they_are(tmp_path, rng, kind):
    tifffile = pytest.importorskip("tifffile", reason="writes and reads such TIFFs")
    shape, dtype, options = KINDS[kind]
    whole = np.issubdtype(dtype, np.integer)
    top = np.iinfo(dtype).max if whole else 1.0
    pixels = (rng.random(shape) * top).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, **options)
    volume = read_volume(tmp_path / "a.tif")
    expected = pixels.reshape(*shape[:2], -1).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(volume.array[..., 0], expected)
    assert bits(tmp_path / "a.tif") == (len(expected), 8 * pixels.itemsize)


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_is_no_band(tmp_path, rng, dtype, extra):
    tifffile = pytest.importorskip("tifffile", reason="writes such TIFFs")
    pixels = rng.integers(0, 200, (6, 9, 2)).astype(dtype)
    pixels[..., 1] = np.iinfo(dtype).max
    options = {"photometric": "minisblack", "extrasamples": [extra], "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array[0, ..., 0], pixels[..., 0])


def test_a_kind_of_tiff_that_is_not_read_is_told(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile", reason="writes such TIFFs")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((6, 9, 5), np.uint8), photometric="minisblack")
    tifffile.imwrite(
        path, np.zeros((6, 9, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"a\.tif: it holds 5 uint8 per pixel, in a form .* cut"):
        read_volume(path)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ConfigError, match=r"'tifffile'.*transunet-torch\[images\]"):
        read_volume(path)


def test_a_palette_of_greys_is_a_grey_picture(tmp_path):
    mask = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    mask.putpalette([255, 255, 255, 0, 0, 0])  # white first
    for suffix in (".png", ".tif", ".bmp"):
        mask.save(tmp_path / f"m{suffix}")
        assert read_labels(tmp_path / f"m{suffix}").array.ravel().tolist() == [255, 0, 0]
        assert read_volume(tmp_path / f"m{suffix}").array.ravel().tolist() == [255, 0, 0]
        assert bits(tmp_path / f"m{suffix}") == (1, 8)


@pytest.mark.parametrize(
    "palette",
    [
        [0, 0, 0, 128, 0, 0, 128, 128, 128],  # classes with colours, some of them grey
        [0, 0, 0, 0, 0, 0, 0, 0, 0],  # nobody looked at the colours
    ],
)
def test_a_palette_of_classes_stays_one(tmp_path, palette):
    mask = Image.fromarray(np.array([[0, 2, 2]], np.uint8))
    mask.putpalette(palette)
    mask.save(tmp_path / "m.png")
    assert read_labels(tmp_path / "m.png").array.ravel().tolist() == [0, 2, 2]


def test_colours_of_16_bits_in_masks(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="needs the extra [images]")
    pixels = np.array([[[0, 0, 0], [65535, 65535, 65535], [65535, 0, 0]]], np.uint16)
    for name, columns in (("grey.png", slice(2)), ("colours.png", slice(3))):
        image = sitk.GetImageFromArray(np.ascontiguousarray(pixels[:, columns]), isVector=True)
        sitk.WriteImage(image, str(tmp_path / name))
    assert read_labels(tmp_path / "grey.png").array.ravel().tolist() == [0, 65535]
    expected = [0, 255, raster.COLOUR + 0xFF0000]
    assert read_labels(tmp_path / "colours.png").array.ravel().tolist() == expected


@pytest.mark.parametrize("order", ["XYCZT", "XYZCT"])
def test_channels_as_pages_are_channels(tmp_path, rng, order):
    tifffile = pytest.importorskip("tifffile", reason="writes OME-TIFF")
    pixels = rng.integers(0, 255, (3, 2, 6, 9)).astype(np.uint8)  # slices, channels
    axes, stored = ("ZCYX", pixels) if order == "XYCZT" else ("CZYX", pixels.swapaxes(0, 1))
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, metadata={"axes": axes})
    volume = read_volume(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(volume.array, pixels.transpose(1, 2, 3, 0))
    assert read_grid(tmp_path / "a.ome.tif").spatial_shape == (6, 9, 3)
    assert bits(tmp_path / "a.ome.tif") == (2, 8)


def test_imagej_tells_channels_too(tmp_path, rng):
    tifffile = pytest.importorskip("tifffile", reason="writes ImageJ's TIFF")
    pixels = rng.integers(0, 255, (2, 6, 9)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array[..., 0], pixels)


def test_smaller_copies_in_a_slide_are_passed_over(tmp_path, rng):
    tifffile = pytest.importorskip("tifffile", reason="writes pyramids")
    pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels, photometric="rgb", metadata=None)
        file.write(pixels[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(
        read_volume(tmp_path / "a.tif").array[..., 0], pixels.transpose(2, 0, 1)
    )


def test_pictures_larger_than_pillow_expects_are_read(tmp_path, monkeypatch):
    Image.fromarray(np.ones((30, 40), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_volume(tmp_path / "a.png").array.min() == 1
    assert read_grid(tmp_path / "a.png").spatial_shape == (30, 40, 1)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_tifffile_tells_channels_too(tmp_path, rng):
    tifffile = pytest.importorskip("tifffile", reason="writes such TIFFs")
    pixels = rng.integers(0, 255, (3, 6, 9)).astype(np.uint8)
    for axes, shape in (("CYX", (3, 6, 9, 1)), ("ZYX", (1, 6, 9, 3)), ("QYX", (1, 6, 9, 3))):
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": axes}
        )
        assert read_volume(tmp_path / "a.tif").array.shape == shape


@pytest.mark.parametrize("extra", ["unspecified", "unassalpha"])
def test_inks_beyond_four_are_bands_as_they_are(tmp_path, rng, extra):
    tifffile = pytest.importorskip("tifffile", reason="writes and reads such TIFFs")
    pixels = rng.integers(0, 255, (6, 9, 5)).astype(np.uint8)
    options = {"photometric": "separated", "extrasamples": [extra], "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    expected = pixels[..., : 5 if extra == "unspecified" else 4].transpose(2, 0, 1)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array[..., 0], expected)
