"""What the numbers in DICOM files mean."""

import numpy as np
import pytest

from dicom_made import enhanced, ramp, save, series_of, two_echoes
from transunet.data.formats.dicom import read
from transunet.data.formats.dicom.series import find_series
from transunet.errors import DataError

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")


def expected(pixels):
    return pixels.transpose(2, 1, 0)[None].astype(np.float32)


def test_every_slice_has_its_own_slope_and_intercept(tmp_path):
    def edit(dataset, index):
        dataset.Modality, dataset.RescaleSlope, dataset.RescaleIntercept = (
            "PT",
            0.5 * (index + 1),
            -9,
        )

    save(tmp_path, series_of(ramp(), edit=edit), [2, 1, 0, 4, 3])
    slopes = 0.5 * np.arange(1, 6)[:, None, None]
    np.testing.assert_allclose(read(tmp_path).array, expected(ramp() * slopes - 9), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_signed_and_unsigned_numbers_of_any_width(tmp_path, rng, dtype):
    limits = np.iinfo(dtype)
    pixels = rng.integers(limits.min, limits.max, (3, 5, 5), dtype, endpoint=True)
    save(tmp_path, series_of(pixels))
    np.testing.assert_array_equal(read(tmp_path).array, expected(pixels))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_bits_above_the_stored_ones_do_not_count(tmp_path, rng, dtype):
    low = -2048 if dtype == np.int16 else 0
    pixels = rng.integers(low, low + 4096, (3, 4, 4)).astype(dtype)
    overlaid = ((pixels & 0x0FFF) | 0x5000).astype(dtype)

    def edit(dataset, index):
        dataset.BitsStored, dataset.HighBit = 12, 11

    save(tmp_path, series_of(overlaid, edit=edit))
    np.testing.assert_array_equal(read(tmp_path).array, expected(pixels))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("high", [11, 13, 15])
def test_the_stored_bits_lie_below_the_high_bit(tmp_path, rng, dtype, high):
    low = -2048 if dtype == np.int16 else 0
    pixels = rng.integers(low, low + 4096, (3, 4, 4)).astype(dtype)
    moved = pixels.view(np.uint16) << np.uint16(high - 11)
    beside = rng.integers(0, 2**16, pixels.shape, dtype=np.uint16)  # overlays in the other bits
    mask = np.uint16(0x0FFF << (high - 11))

    def edit(dataset, index):
        dataset.BitsStored, dataset.HighBit = 12, high

    save(tmp_path, series_of(((moved & mask) | (beside & ~mask)).view(dtype), edit=edit))
    np.testing.assert_array_equal(read(tmp_path).array, expected(pixels))


def test_without_a_high_bit_it_is_the_stored_bits_last(tmp_path):
    def edit(dataset, index):
        dataset.BitsStored, dataset.HighBit = 12, None

    save(tmp_path, series_of(np.abs(ramp()).astype(np.uint16), edit=edit))
    np.testing.assert_array_equal(read(tmp_path).array, expected(np.abs(ramp())))


@pytest.mark.parametrize(("stored", "high"), [(12, 16), (12, 10), (16, 11)])
def test_a_high_bit_that_cannot_be_is_named(tmp_path, stored, high):
    def edit(dataset, index):
        dataset.BitsStored, dataset.HighBit = stored, high

    save(tmp_path, series_of(ramp().astype(np.uint16), edit=edit))
    with pytest.raises(DataError, match=rf"I000.*HighBit is {high}, with BitsStored {stored}"):
        read(tmp_path)


def test_the_high_bit_of_compressed_numbers_is_not_guessed(tmp_path):
    syntax = pydicom.uid.JPEGLSLossless
    if not pydicom.pixels.get_encoder(syntax).is_available:
        pytest.skip("no encoder is installed")
    folder = compressed(tmp_path, syntax)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.BitsStored, dataset.HighBit = 12, 15
        dataset.save_as(path)
    with pytest.raises(DataError, match="HighBit"):
        read(folder)


def test_numbers_in_floating_point(tmp_path):
    pixels = ramp().astype(np.float32) / 7

    def edit(dataset, index):
        dataset.FloatPixelData = pixels[index].tobytes()
        for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(dataset, keyword)
        dataset.BitsAllocated = 32

    save(tmp_path, series_of(ramp(), edit=edit))
    np.testing.assert_array_equal(read(tmp_path).array, expected(pixels))


@pytest.mark.parametrize(("dtype", "ends"), [(np.uint16, 4095), (np.int16, -1)])
def test_monochrome1_is_inverted_unless_its_numbers_are_physical(tmp_path, dtype, ends):
    pixels = np.abs(ramp()).astype(dtype)

    def edit(dataset, index):
        dataset.PhotometricInterpretation, dataset.BitsStored = "MONOCHROME1", 12
        dataset.HighBit = 11
        dataset.Modality = "MR"

    save(tmp_path / "mr", series_of(pixels, edit=edit))
    np.testing.assert_array_equal(read(tmp_path / "mr").array, expected(ends - pixels.astype(int)))

    def ct(dataset, index):
        edit(dataset, index)
        dataset.Modality = "CT"

    save(tmp_path / "ct", series_of(pixels, edit=ct))
    np.testing.assert_array_equal(read(tmp_path / "ct").array, expected(pixels))


def test_a_multi_frame_file_is_sorted_and_scaled_by_its_groups(tmp_path):
    save(tmp_path, [enhanced(ramp(), [3, 0, 4, 1, 2])])
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, expected(ramp() * 2 - 3))
    assert volume.spacing_mm == pytest.approx((0.75, 0.5, 2.5))


def test_a_frames_own_scale_comes_before_the_shared_one(tmp_path):
    def edit(groups, index):
        scale = pydicom.Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = index + 1, 0
        groups.PixelValueTransformationSequence = [scale]

    save(tmp_path, [enhanced(ramp(), [3, 0, 4, 1, 2], edit)])
    own = ramp() * np.arange(1, 6)[:, None, None]
    np.testing.assert_array_equal(read(tmp_path).array, expected(own))


def test_echoes_in_one_multi_frame_file_are_told_apart(tmp_path):
    save(tmp_path, [two_echoes()])
    assert [s.part for s in find_series(tmp_path)] == [
        "EffectiveEchoTime 10.0",
        "EffectiveEchoTime 20.0",
    ]
    np.testing.assert_array_equal(read(tmp_path, 2).array, expected((ramp() + 7) * 2 - 3))


def compressed(folder, syntax):
    datasets = series_of(np.abs(ramp(5, 32, 40)).astype(np.uint16))
    for dataset in datasets:
        dataset.compress(syntax, generate_instance_uid=False)
    return save(folder, datasets)


@pytest.mark.parametrize("name", ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless"])
def test_compressed_series(tmp_path, name):
    syntax = getattr(pydicom.uid, name)
    if not pydicom.pixels.get_encoder(syntax).is_available:
        pytest.skip(f"no encoder for {name} is installed")
    folder = compressed(tmp_path, syntax)
    np.testing.assert_array_equal(read(folder).array, expected(np.abs(ramp(5, 32, 40))))


def test_deflated_files(tmp_path):
    datasets = series_of(ramp())
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(read(save(tmp_path, datasets)).array, expected(ramp()))


def test_a_deflated_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("transunet.data.formats.dicom.headers.MAX_INFLATED", 2**20)
    datasets = series_of(np.zeros((1, 1024, 1024), np.int16))
    datasets[0].file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    with pytest.raises(DataError, match="inflates to more than"):
        read(save(tmp_path, datasets))


def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch):
    datasets = series_of(ramp())
    for dataset in datasets:
        fragments = pydicom.encaps.encapsulate([dataset.PixelData])
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        dataset.PixelData, dataset["PixelData"].VR = fragments, "OB"
        dataset["PixelData"].is_undefined_length = True
    folder = save(tmp_path, datasets)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(DataError, match=r"I000.*JPEG 2000.*Install pylibjpeg"):
        read(folder)


def test_a_transfer_syntax_nobody_knows(tmp_path):
    datasets = series_of(ramp())
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    folder = save(tmp_path, datasets)
    one = folder / "I002"
    known, unknown = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"
    one.write_bytes(one.read_bytes().replace(known, unknown))
    with pytest.raises(DataError, match=r"I002.*transfer syntax"):
        read(folder)


def test_cut_short_pixel_data_is_refused_by_file(tmp_path):
    folder = save(tmp_path, series_of(ramp()))
    one = folder / "I003"
    one.write_bytes(one.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"I003.*cannot be read as DICOM"):
        read(folder)


def test_a_file_without_pixels_is_refused_by_file(tmp_path):
    def edit(dataset, index):
        if index == 1:
            del dataset.PixelData

    with pytest.raises(DataError, match=r"I001.*before its pixel data"):
        read(save(tmp_path, series_of(ramp(), edit=edit)))
