"""Damaged files: an error of ours or a result, never anything else."""

import random
import zipfile

import numpy as np
import pytest

from dicom_made import enhanced, ramp, save, series_of
from transunet.data.formats import dicom
from transunet.data.formats.dicom.segmentation import read_seg, write_seg
from transunet.errors import TransUNetError

pytestmark = pytest.mark.slow  # damages and reads hundreds of files

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")

TRIES = 60


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut short, or with some bits flipped, most of them in the header."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    broken = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 40])):
        reach = len(broken) if rng.random() < 0.3 else min(len(broken), 1500)
        broken[rng.randrange(128, reach)] ^= 1 << rng.randrange(8)
    return bytes(broken)


def attempt(use, *given):
    """Return what `use` returns, or the message of our error; anything else fails the test."""
    try:
        return use(*given), None
    except TransUNetError as error:
        return None, str(error)


def plain(folder):
    return save(folder, series_of(ramp(3)))


def run_length(folder):
    datasets = series_of(np.abs(ramp(3, 16, 16)).astype(np.uint16))
    for dataset in datasets:
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    return save(folder, datasets)


def multi_frame(folder):
    return save(folder, [enhanced(ramp(3), [2, 0, 1])])


@pytest.mark.parametrize("kind", [plain, run_length, multi_frame])
def test_damaged_slices(tmp_path, kind):
    rng, folder = random.Random(kind.__name__), kind(tmp_path / "s")
    file = sorted(folder.iterdir())[-1]
    whole, outcomes = file.read_bytes(), set()
    for _ in range(TRIES):
        file.write_bytes(damaged(whole, rng))
        volume, message = attempt(dicom.read, folder)
        outcomes.add(message is None)
        assert str(folder) in message if message else volume.array.ndim == 4
    assert outcomes == {True, False}


def test_a_series_with_a_damaged_header_as_source(tmp_path):
    pytest.importorskip("highdicom", reason="needs the extra [dicom]")
    rng, folder = random.Random(5), plain(tmp_path / "s")
    file = sorted(folder.iterdir())[0]
    whole = file.read_bytes()
    for _ in range(TRIES // 2):
        file.write_bytes(damaged(whole, rng))
        try:
            image = dicom.read(folder)
            labels = image.with_array(np.ones(image.array.shape, np.uint8))
            write_seg(labels, image, {1: "liver"}, tmp_path / "l.dcm")
        except TransUNetError:
            continue
        np.testing.assert_array_equal(read_seg(tmp_path / "l.dcm", image).array, labels.array)


def test_damaged_segmentations(tmp_path):
    pytest.importorskip("highdicom", reason="needs the extra [dicom]")
    rng, image = random.Random(7), dicom.read(plain(tmp_path / "s"))
    labels = image.with_array((image.array > 30).astype(np.uint8))
    file = tmp_path / "l.dcm"
    write_seg(labels, image, {1: "liver"}, file)
    whole = file.read_bytes()
    for _ in range(TRIES):
        file.write_bytes(damaged(whole, rng))
        back, message = attempt(read_seg, file, image)
        assert "l.dcm" in message if message else back.spatial_shape == image.spatial_shape


def test_damaged_archives(tmp_path):
    rng, path = random.Random(9), tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one in plain(tmp_path / "s").iterdir():
            file.write(one, one.name)
    whole = path.read_bytes()
    for _ in range(TRIES):
        broken = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole)
        for _ in range(rng.choice([1, 3, 20])):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        volume, message = attempt(dicom.read, path)
        assert "s.zip" in message if message else volume.array.ndim == 4
