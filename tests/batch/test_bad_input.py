"""Bad images through the whole road: an error of ours that names the file, or a result."""

import gzip
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prediction import noise, save_nifti, tiny_bundle
from transunet.batch.run import OutputOptions, predict_cases, predict_file
from transunet.data.inputs import find_inputs
from transunet.errors import DataError, TransUNetError
from transunet.inference.predictor import Predictor


class Threshold:
    """A network that costs nothing."""

    image_size, device, fingerprint = (16, 16), "cpu", "threshold"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([images, -images], axis=1)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    from transunet.data.preprocessing import Preprocessing

    return Predictor(Threshold(), Preprocessing(), {0: "background", 1: "dark"})


def text(path: Path) -> None:
    path.write_text("This is a letter, not an image.\n" * 40)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def constant(path: Path) -> None:
    save_nifti(path, np.full((8, 9, 5), 7, np.int16))


def series(path: Path) -> None:
    save_nifti(path, np.stack([noise(), noise(seed=1), noise(seed=2)], axis=-1))


def not_a_number(path: Path) -> None:
    array = noise().astype(np.float32)
    array[3, 4, 2] = np.nan
    save_nifti(path, array)


def infinite(path: Path) -> None:
    array = noise().astype(np.float64)
    array[3, 4, 2] = 1e300  # more than float32 holds
    save_nifti(path, array)


def no_spacing(path: Path) -> None:
    content = bytearray(gzip.decompress(save_nifti(path).read_bytes()))
    content[252:256] = struct.pack("<2h", 0, 1)  # no qform, only the sform, whose x is nothing
    content[280:328] = struct.pack("<12f", 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)))


def no_voxels(path: Path) -> None:
    content = bytearray(gzip.decompress(save_nifti(path).read_bytes()))
    content[40:56] = struct.pack("<8h", 3, 20, 0, 6, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)))


def absurdly_large(path: Path) -> None:
    content = bytearray(gzip.decompress(save_nifti(path).read_bytes()))
    content[40:56] = struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)))


def truncated(path: Path) -> None:
    path.write_bytes(save_nifti(path).read_bytes()[:900])


BAD = [text, empty, constant, series, not_a_number, infinite, no_spacing, no_voxels]
BAD += [absurdly_large, truncated]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_bad_image_is_told_by_name_and_leaves_nothing(
    predictor: Predictor, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "bad.nii.gz")
    with pytest.raises(TransUNetError, match=r"bad\.nii\.gz") as found:
        predict_file(predictor, tmp_path / "bad.nii.gz", tmp_path / "out" / "bad.nii.gz")
    assert len(str(found.value)) < 600
    assert not (tmp_path / "out" / "bad.nii.gz").exists()


def test_a_slice_too_large_to_be_resized_is_told_so(predictor: Predictor, tmp_path: Path) -> None:
    long = save_nifti(tmp_path / "long.nii.gz", noise((20000, 2, 2)))
    with pytest.raises(DataError, match=r"long.nii.gz: its slices are 2 x 20000 .*--window"):
        predict_file(predictor, long, tmp_path / "out.nii.gz")


def test_all_of_them_at_once_harm_no_good_one(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for make in BAD:
        make(tmp_path / "in" / f"{make.__name__}.nii.gz")
    save_nifti(tmp_path / "in" / "good.nii.gz")
    found = predict_cases(predictor, find_inputs([tmp_path / "in"], 1), tmp_path / "out")
    assert {o.case for o in found if o.status == "done"} == {"good"}
    for outcome in found:
        assert outcome.status == "done" or outcome.case in str(outcome.error)
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["good.nii.gz"]


def array_of(values: object, **sidecar: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        np.save(path, values)
        if sidecar:
            path.with_name(path.name + ".json").write_text(json.dumps(sidecar))

    return make


def spoilt(value: float) -> np.ndarray:
    values = noise().astype(np.float64)
    values[3, 4, 2] = value
    return values


ARRAYS = {
    "text": text,
    "empty": empty,
    "constant": array_of(np.full((8, 9, 5), 7, np.int16)),
    "nan": array_of(spoilt(np.nan)),
    "infinite": array_of(spoilt(1e300)),
    "series": array_of(np.stack([noise(), noise(seed=1)])),
    "five axes": array_of(np.zeros((2, 2, 2, 2, 2))),
    "complex": array_of(noise() * 1j),
    "no voxels": array_of(np.zeros((3, 0, 4))),
    "no spacing": array_of(noise(), spacing_mm=[0, 1, 1]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_bad_array_is_told_by_name_and_leaves_nothing(
    predictor: Predictor, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    ARRAYS[name](tmp_path / "in/bad.npy")
    np.save(tmp_path / "in/good.npy", noise())
    outcomes = predict_cases(predictor, find_inputs([tmp_path / "in"], 1), tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "bad.npy" in str(outcomes[0].error)
    assert len(str(outcomes[0].error)) < 600
    written = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert written == {"good.npy", "manifest.json", "statistics.csv", "statistics.json"}


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("I000", bytes(2**25))


def absolute(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("/etc/I000", b"x" * 200)


@pytest.mark.parametrize("make", [bomb, absolute, text, empty], ids=lambda make: make.__name__)
@pytest.mark.parametrize("series", [None, "all", "1"])
def test_a_bad_archive_is_told_by_name_and_leaves_nothing(
    predictor: Predictor, tmp_path: Path, make: Callable[[Path], None], series: str | None
) -> None:
    pytest.importorskip("pydicom", reason="needs the extra [dicom]")
    make(tmp_path / "bad.zip")
    cases = find_inputs([tmp_path / "bad.zip"], 1, series=series)
    (outcome,) = predict_cases(predictor, cases, tmp_path / "out")
    assert outcome.status == "failed"
    assert "bad.zip" in str(outcome.error)
    assert not (tmp_path / "out/bad.nii.gz").exists()


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    predictor = Predictor.from_pretrained(tiny_bundle(tmp_path / "b", channels=2), device="cpu")
    one = save_nifti(tmp_path / "p_0000.nii.gz")
    other = save_nifti(tmp_path / "p_0001.nii.gz", affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    with pytest.raises(TransUNetError, match=r"one grid.*p_0001"):
        predict_file(predictor, [one, other], tmp_path / "out.nii.gz")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, with some bits flipped, or with a block of noise."""
    data = bytearray(content)
    kind = rng.integers(3)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        # Half of them in the header, where they do the most harm.
        reach = len(data) if rng.random() < 0.5 else min(352, len(data))
        for place in rng.integers(reach, size=rng.integers(1, 9)):
            data[place] ^= 1 << rng.integers(8)
        return bytes(data)
    start = int(rng.integers(len(data)))
    noisy = rng.integers(256, size=min(64, len(data) - start), dtype=np.uint8).tobytes()
    data[start : start + len(noisy)] = noisy
    return bytes(data)


def write_png(path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra [images]")
    pillow.fromarray((noise()[:, :, 0] % 255).astype(np.uint8)).save(path)


def write_itk(path: Path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="needs the extra [images]")
    itk.WriteImage(itk.GetImageFromArray(noise()), str(path))


def write_npz(path: Path) -> None:
    np.savez_compressed(path, image=noise())


def write_npy(path: Path) -> None:
    np.save(path, noise())


WRITERS = {
    ".nii": save_nifti,
    ".nii.gz": save_nifti,
    ".png": write_png,
    ".tif": write_png,
    ".nrrd": write_itk,
    ".mha": write_itk,
    ".npy": write_npy,
    ".npz": write_npz,
}


@pytest.mark.filterwarnings("default")  # a reader may warn of damage
@pytest.mark.parametrize("suffix", WRITERS)
def test_damaged_files_end_in_a_result_or_an_error_of_ours(
    predictor: Predictor, tmp_path: Path, suffix: str
) -> None:
    rng = np.random.default_rng(1234)
    whole = tmp_path / f"whole{suffix}"
    WRITERS[suffix](whole)
    content, results, told = whole.read_bytes(), 0, []
    for number in range(60):
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damaged(content, rng))
        try:
            predict_file(predictor, path, tmp_path / "out.nii.gz")
            results += 1
        except TransUNetError as error:
            told.append(f"{number}: {error}")
    assert all(len(line) > 20 for line in told)
    assert results < 60  # some of it must have been noticed


def test_a_run_into_a_folder_that_vanishes_is_told(predictor: Predictor, tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(TransUNetError, match="Choose another"):
        predict_cases(
            predictor, find_inputs([tmp_path / "a.nii.gz"], 1), tmp_path / "out", OutputOptions()
        )


def test_round_trips_of_awkward_grids(predictor: Predictor, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for number in range(8):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # flips as often as not
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(rng.uniform(0.3, 5, 3))
        affine[:3, 3] = rng.normal(size=3) * 100
        shape = tuple(int(n) for n in rng.integers(1, 30, 3))
        image = nib.load(
            save_nifti(tmp_path / f"{number}.nii.gz", rng.integers(0, 99, shape, np.int16), affine)
        )
        if np.ptp(np.asarray(image.dataobj)) == 0:
            continue
        written = predict_file(predictor, tmp_path / f"{number}.nii.gz", tmp_path / "out.nii.gz")
        labels = nib.load(written)
        assert labels.shape == image.shape
        assert np.array_equal(labels.affine, image.affine)
