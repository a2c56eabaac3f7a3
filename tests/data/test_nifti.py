import gzip
from dataclasses import replace
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest

from transunet.colours import colour_of
from transunet.data.formats import nifti, read_grid, read_labels, read_volume, write_volume
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError


def test_scaling_is_applied(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz")
    v = read_volume(tmp_path / "a.nii.gz")
    assert v.array.dtype == np.float32
    assert v.array.shape == (1, 2, 3, 4)
    np.testing.assert_allclose(v.array[0], stored.get_fdata(), rtol=1e-6)


def test_slope_and_intercept_of_the_file_are_used(tmp_path):
    image = nib.Nifti1Image(np.full((2, 2, 2), 7, np.int16), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([2.0, -3.0], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(raw)
    assert read_volume(tmp_path / "a.nii").array.flat[0] == 11


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5), (1, 4, 5, 1)),
        ((4, 5, 6, 2), (2, 4, 5, 6)),
        ((4, 5, 6, 1, 3), (3, 4, 5, 6)),
        ((4, 5, 6, 3, 1), (3, 4, 5, 6)),
        ((4, 5, 6, 1, 1, 1), (1, 4, 5, 6)),
        ((4, 5, 6, 1, 1, 1, 1), (1, 4, 5, 6)),
        ((4, 5, 1, 1, 1, 1, 3), (3, 4, 5, 1)),
    ],
)
def test_axes_beyond_the_third_are_channels(tmp_path, save, shape, expected):
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    v = read_volume(save(tmp_path / "a.nii.gz", array))
    assert v.array.shape == expected
    last = array.reshape(expected[1:] + expected[:1])[..., -1]
    np.testing.assert_array_equal(v.array[-1], last)


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000), ("micron", 1e-3), ("mm", 1)])
def test_units_become_millimetres_and_stay_in_the_file(tmp_path, unit, mm):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "in.nii.gz")
    v = read_volume(tmp_path / "in.nii.gz")
    assert v.spacing_mm == pytest.approx((2 * mm, 3 * mm, 4 * mm))
    assert read_grid(tmp_path / "in.nii.gz").spacing_mm == pytest.approx(v.spacing_mm)
    write_volume(v.with_array(np.ones((1, 3, 4, 5), np.uint8)), tmp_path / "out.nii.gz")
    out = nib.load(tmp_path / "out.nii.gz")
    assert out.header.get_xyzt_units()[0] == unit
    np.testing.assert_array_equal(out.affine, nib.load(tmp_path / "in.nii.gz").affine)


def test_a_written_label_map_keeps_shape_affines_codes_and_units(tmp_path, oblique, rng):
    image = nib.Nifti1Image(rng.integers(0, 9, (4, 5, 6)).astype(np.int16), oblique)
    other = oblique.copy()
    other[:3, 3] += 1
    image.set_qform(other, code=1)
    image.set_sform(oblique, code=4)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "in.nii.gz")
    source = nib.load(tmp_path / "in.nii.gz")
    v = read_volume(tmp_path / "in.nii.gz")
    labels = rng.integers(0, 4, (1, 4, 5, 6)).astype(np.uint8)
    write_volume(v.with_array(labels), tmp_path / "out.nii.gz")
    out = nib.load(tmp_path / "out.nii.gz")
    assert out.shape == (4, 5, 6)
    assert out.get_data_dtype() == np.uint8
    for name in ["qform_code", "sform_code", "xyzt_units", "pixdim", "quatern_b", "qoffset_x"]:
        np.testing.assert_array_equal(out.header[name], source.header[name], err_msg=name)
    np.testing.assert_array_equal(out.affine, source.affine)
    np.testing.assert_array_equal(out.get_qform(), source.get_qform())
    np.testing.assert_array_equal(np.asanyarray(out.dataobj), labels[0])


def test_codes_of_zero_stay_zero(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    image.header["qform_code"] = image.header["sform_code"] = 0
    image.header["pixdim"][1:4] = (2, 3, 4)
    nib.save(image, tmp_path / "in.nii")
    v = read_volume(tmp_path / "in.nii")
    write_volume(v.with_array(np.ones((1, 3, 4, 5), np.uint8)), tmp_path / "out.nii")
    header = nib.load(tmp_path / "out.nii").header
    assert (header["qform_code"], header["sform_code"]) == (0, 0)
    np.testing.assert_array_equal(header["pixdim"][1:4], (2, 3, 4))


def test_channels_over_time_are_refused_with_what_to_do(tmp_path, save):
    path = save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 2, 3), np.int16))
    with pytest.raises(DataError, match=r"\(4, 5, 6, 2, 3\).*each point in time in its own"):
        read_volume(path)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 1), (4, 5, 6, 1, 1, 1)])
def test_a_label_map_has_the_shape_of_its_image(tmp_path, save, shape):
    v = read_volume(save(tmp_path / "in.nii.gz", np.zeros(shape, np.int16)))
    write_volume(v.with_array(v.array.astype(np.uint8)), tmp_path / "out.nii.gz")
    assert nib.load(tmp_path / "out.nii.gz").shape == shape


def test_a_label_map_of_several_channels_is_three_dimensional(tmp_path, save):
    v = read_volume(save(tmp_path / "in.nii.gz", np.zeros((4, 5, 6, 2), np.int16)))
    write_volume(v.with_array(v.array[:1].astype(np.uint8)), tmp_path / "out.nii.gz")
    assert nib.load(tmp_path / "out.nii.gz").shape == (4, 5, 6)


def test_a_volume_moved_to_another_grid_takes_its_affine_along(tmp_path, save, oblique):
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    v = read_volume(save(tmp_path / "in.nii.gz", array, oblique))
    write_volume(v.reoriented("RAS"), tmp_path / "out.nii.gz")
    out = nib.load(tmp_path / "out.nii.gz")
    assert out.shape == (6, 4, 5)  # as many voxels as before, in another order
    np.testing.assert_array_equal(np.asanyarray(out.dataobj), v.reoriented("RAS").array[0])
    assert nib.aff2axcodes(out.affine) == ("R", "A", "S")
    np.testing.assert_allclose(out.affine, v.reoriented("RAS").affine, rtol=1e-5, atol=1e-4)


def test_a_volume_without_header_is_written_in_millimetres(tmp_path, oblique):
    write_volume(Volume(np.ones((1, 2, 3, 4), np.uint8), oblique), tmp_path / "a.nii.gz")
    v = read_labels(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(v.affine, oblique, atol=1e-5)
    assert nib.load(tmp_path / "a.nii.gz").header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_names_and_colours_of_labels_stay_with_them(tmp_path, save, rng, suffix):
    image = read_volume(save(tmp_path / "image.nii.gz", rng.integers(0, 99, (4, 5, 6), np.int16)))
    labels = rng.integers(0, 13, (1, 4, 5, 6)).astype(np.uint8)
    names = {0: "background", 1: "grey & <white>]]>", 12: "tumour [core]"}
    path = tmp_path / f"labels{suffix}"
    write_volume(replace(image.with_array(labels), label_names=names), path)
    assert nifti.label_names(path) == {1: names[1], 12: names[12]}
    np.testing.assert_array_equal(read_labels(path).array, labels)
    [extension] = nib.load(path).header.extensions
    table = ElementTree.fromstring(extension.content).find("VolumeInformation/LabelTable")
    told = {
        each.get("Key"): (
            each.text,
            "#"
            + "".join(f"{round(float(each.get(c)) * 255):02x}" for c in ("Red", "Green", "Blue")),
        )
        for each in table
    }
    assert told == {"1": (names[1], "#4fc3f7"), "12": (names[12], colour_of(11))}


def test_rgb_voxels_become_channels(tmp_path):
    rgb = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"] = 7
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").array[:, 0, 0, 0].tolist() == [0, 7, 0]


def test_complex_voxels_are_refused(tmp_path, save):
    path = save(tmp_path / "a.nii", np.zeros((2, 3, 4), np.complex64))
    with pytest.raises(DataError, match=r"a\.nii.*complex64"):
        read_volume(path)


@pytest.mark.parametrize("keep", [0, 5, 200, 1000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_one_clear_error(tmp_path, save, rng, suffix, keep):
    path = save(tmp_path / f"a{suffix}", rng.integers(0, 999, (9, 9, 9)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.nii.*cut short"):
        read_volume(path)


def test_a_file_of_another_kind_is_one_clear_error(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(b"not a volume" * 100))
    with pytest.raises(DataError, match=r"a\.nii\.gz.*another format"):
        read_volume(path)


def test_a_header_that_claims_absurd_sizes_is_one_clear_error(tmp_path, save):
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.int16))
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    path = path.rename(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="cannot be read"):
        nifti.read(path)


def test_a_singular_affine_names_the_file(tmp_path, save):
    path = save(tmp_path / "flat.nii", np.zeros((2, 3, 4), np.int16))
    raw = bytearray(path.read_bytes())
    raw[280:296] = bytes(16)  # srow_x
    path.write_bytes(raw)
    with pytest.raises(GeometryError, match=r"flat\.nii.*singular"):
        read_volume(path)


def unscaled(path, shape, form):
    """A file whose affine is its `form`, and whose second and third spacing are zero."""
    image = nib.Nifti1Image(np.ones(shape, np.int16), None)
    getattr(image, f"set_{form}")(np.diag([2.0, 3, 4, 1]), code=1)
    raw = bytearray(image.to_bytes())
    raw[84:92] = bytes(8)  # pixdim[2:4]
    packed = gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw)
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("read", [read_volume, read_grid, read_labels])
def test_a_spacing_of_zero_is_refused_where_it_counts(tmp_path, name, read):
    path = unscaled(tmp_path / name, (3, 4, 5), "qform")
    with pytest.raises(GeometryError, match=r"a\.nii.*\[2\.0, 0\.0, 0\.0\]; expected more than 0"):
        read(path)


def test_an_sform_of_no_known_kind_does_not_hide_a_spacing_of_zero(tmp_path):
    path = unscaled(tmp_path / "a.nii", (3, 4, 5), "qform")
    raw = bytearray(path.read_bytes())
    raw[254:256] = np.array([99], "<i2").tobytes()  # sform_code, which nibabel repairs to 0
    path.write_bytes(raw)
    with pytest.raises(GeometryError, match="expected more than 0"):
        read_volume(path)


def test_a_spacing_of_zero_does_not_matter_beside_an_sform(tmp_path):
    assert read_volume(unscaled(tmp_path / "a.nii", (3, 4, 5), "sform")).spacing_mm == (2, 3, 4)


def test_a_spacing_of_zero_does_not_matter_across_a_single_slice(tmp_path):
    path = unscaled(tmp_path / "a.nii", (3, 1, 1), "qform")
    assert read_volume(path).spacing_mm == (2, 1, 1)


def test_labels_keep_their_numbers(tmp_path, save):
    path = save(tmp_path / "l.nii.gz", np.array([[[0, 300, 65000]]], np.int32))
    assert read_labels(path).array.dtype == np.uint16
    assert read_labels(path).array.flatten().tolist() == [0, 300, 65000]
    path = save(tmp_path / "f.nii.gz", np.array([[[0, 1, 2]]], np.float64))
    assert read_labels(path).array.dtype == np.uint8


def scaled(path, raw, slope, intercept=0.0):
    """A label map that is stored in other steps: `raw` * slope + intercept."""
    nib.save(nib.Nifti1Image(raw, np.eye(4)), path)
    stored = bytearray(path.read_bytes())
    stored[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(stored)
    return path


@pytest.mark.parametrize(
    ("raw", "slope", "intercept"),
    [
        (np.array([0, 255, 510], np.int16), 1 / 255, 0),
        (np.array([0, 3, 6], np.uint8), 1 / 3, 0),
        (np.array([10000, 10100, 10200], np.int16), 0.01, -100),
        (
            np.array([-32768, -10923, 10922], np.int16),
            3 / 65535,
            1.5000229,
        ),
        (np.array([0, 64, 128], np.uint8), 4 / 255, 0),
        (np.array([0, 21, 43], np.uint8), 12 / 255, 0),  # 0, 0.988, 2.024
    ],
)
def test_whole_numbers_stored_in_other_steps_are_labels(tmp_path, raw, slope, intercept):
    path = scaled(tmp_path / "l.nii", raw.reshape(1, 1, 3), slope, intercept)
    assert read_labels(path).array.flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("raw", "slope", "says"), [(254, 1 / 255, "0.996"), (1, 0.5, "0.5"), (9, 1 / 9.01, "0.9988")]
)
def test_fractions_that_a_scaling_can_store_are_no_labels(tmp_path, raw, slope, says):
    path = scaled(tmp_path / "l.nii", np.full((1, 1, 1), raw, np.int16), slope)
    with pytest.raises(DataError, match=rf"value {says}\d*, which is not whole"):
        read_labels(path)


@pytest.mark.parametrize(("value", "label"), [(0.99999994, 1), (2.0000002, 2), (-1e-7, 0)])
def test_what_single_precision_leaves_is_rounded(tmp_path, save, value, label):
    path = save(tmp_path / "l.nii.gz", np.full((1, 1, 1), value, np.float32))
    assert read_labels(path).array.item() == label


@pytest.mark.parametrize(
    ("value", "says"),
    [(1.00001, "1.00001"), (0.5, "0.5"), (-1, "negative"), (np.nan, "nan"), (np.inf, "inf")],
)
def test_values_that_are_no_labels_are_refused(tmp_path, save, value, says):
    path = save(tmp_path / "l.nii.gz", np.array([[[0, 1, value]]], np.float32))
    with pytest.raises(DataError, match=rf"l\.nii\.gz.*{says}"):
        read_labels(path)


def test_several_files_are_channels_of_one_volume(tmp_path, save):
    a = save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16))
    b = save(tmp_path / "b.nii.gz", np.ones((2, 3, 4), np.int16))
    assert read_volume([a, b]).array[:, 0, 0, 0].tolist() == [0, 1]
    assert read_volume([b]).array.shape == (1, 2, 3, 4)
    flipped = np.array([[-1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    f = save(tmp_path / "f.nii.gz", array[::-1], flipped)
    np.testing.assert_array_equal(read_volume([a, f]).array[1], array)
    c = save(tmp_path / "c.nii.gz", np.ones((2, 3, 4), np.int16), np.diag([2, 1, 1, 1]))
    with pytest.raises(GeometryError, match=r"a\.nii\.gz.*c\.nii\.gz"):
        read_volume([a, c])


def test_wrong_paths_say_what_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="no file"):
        read_volume(tmp_path / "missing.nii.gz")
    (tmp_path / "a.xyz").touch()
    with pytest.raises(ConfigError, match=r"\.nii\.gz"):
        read_volume(tmp_path / "a.xyz")
    v = Volume(np.ones((1, 2, 3, 4), np.uint8), np.eye(4))
    with pytest.raises(ConfigError, match="Cannot write"):
        write_volume(v, tmp_path / "nowhere" / "a.nii.gz")


def test_paths_may_be_text(tmp_path):
    volume = Volume(np.ones((1, 3, 4, 5), np.float32), np.eye(4))
    write_volume(volume, str(tmp_path / "image.nii.gz"))
    np.testing.assert_array_equal(read_volume(str(tmp_path / "image.nii.gz")).array, volume.array)
