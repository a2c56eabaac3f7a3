"""A CT for MRI is refused, what training did not see is doubtful, and what it saw passes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from transunet.data.checks.suitability import (
    ImageFacts,
    SeenChannel,
    TrainingData,
    check_suitability,
    mismatch,
    modality_of_name,
)
from transunet.data.formats import read_volume
from transunet.data.planning import channel_for
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.volume import Volume
from transunet.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
MRI = Preprocessing(channels=(Channel(name="MRI"),))
CT = Preprocessing(channels=(channel_for("CT"),))


def image(
    low: float, high: float, air: float | None = None, *, name: str = "a.nii.gz",
    modality: str = "", spacing: float = 1.0, channels: int = 1,
    shape: tuple[int, int, int] = (40, 40, 10),
) -> Volume:  # fmt: skip
    """Values from `low` to `high`, and a border of `air`."""
    values = np.random.default_rng(0).uniform(low, high, (channels, *shape)).astype(np.float32)
    if air is not None:
        values[:, :8] = air
    affine = np.diag([spacing, spacing, spacing, 1])
    return Volume(values, affine, name, SimpleNamespace(modality=modality))


def seen(*volumes: Volume, modality: str | None = "MR", space: Any = "known") -> TrainingData:
    """What training on these volumes, of slices along the last axis, would have seen."""
    found = [ImageFacts.of(volume) for volume in volumes]
    return TrainingData(
        cases=len(found),
        space=space,
        channels=tuple(
            SeenChannel(
                modality=modality,
                percentiles=span([one.channels[index].percentiles for one in found]),
                standardised=span([one.channels[index].standardised for one in found]),
            )
            for index in range(volumes[0].channels)
        ),
        spacing_mm=span([volume.spacing_mm for volume in volumes]),
        view_mm=span([np.multiply(v.spatial_shape[:2], v.spacing_mm[:2]) for v in volumes]),
    )


def span(rows: Any) -> Any:
    return np.min(rows, axis=0).tolist(), np.max(rows, axis=0).tolist()


HOUNSFIELD = image(-150, 400, air=-1024)
RAW_MR = image(0, 900)


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("CT", "CT"), ("cbct", "CT"), ("CT arterial", "CT"), ("MRI", "MR"), ("MRI 0", "MR"),
        ("T1", "MR"), ("T1ce", "MR"), ("t2_flair", "MR"), ("ADC", "MR"), ("PET", "PT"),
        ("PET/CT", None), ("SUV", "PT"), ("ultrasound", "US"), ("X-ray", "DX"), ("red", "XC"),
        ("rgb_to_0_1", "XC"), ("image", None), ("0", None), ("fact", None), ("noNorm", None),
    ],
)  # fmt: skip
def test_channel_names_tell_a_modality(name: str, modality: str | None) -> None:
    assert modality_of_name(name) == modality


@pytest.mark.parametrize("training", [None, seen(RAW_MR)])
@pytest.mark.parametrize(
    "ct",
    [
        HOUNSFIELD,
        image(-150, 400, air=-1000),
        image(-150, 400, air=-2000),
        image(-150, 400, air=-8192),
        image(-1000, 3000),
        image(-124, 275, air=-1000, modality="CT"),
    ],
)
def test_a_ct_for_mri_is_refused(ct: Volume, training: TrainingData | None) -> None:
    with pytest.raises(DataError, match=r"a\.nii\.gz: .*CT.* trained on MRI .*'MRI'.*--force"):
        check_suitability(MRI, training, ct, force=False)
    assert "Segmented although" in check_suitability(MRI, training, ct, force=True)[0]


@pytest.mark.parametrize("training", [None, seen(RAW_MR)])
@pytest.mark.parametrize("values", [(0, 900), (-124, 275)])
def test_a_header_of_ct_that_nothing_confirms_is_doubtful_for_mri(
    values: tuple[float, float], training: TrainingData | None
) -> None:
    first, *_ = check_suitability(MRI, training, image(*values, modality="CT"), force=False)
    assert first == (
        "It is CT by its DICOM header, though without air; the model was trained on MRI."
    )


@pytest.mark.parametrize("training", [None, seen(HOUNSFIELD, modality="CT")])
@pytest.mark.parametrize("modality", ["", "MR", "PT", "US"])
def test_another_scan_for_ct_is_refused(modality: str, training: TrainingData | None) -> None:
    with pytest.raises(DataError, match="trained on CT"):
        check_suitability(CT, training, image(0, 900, modality=modality), force=False)


@pytest.mark.parametrize("training", [None, seen(RAW_MR)])
def test_a_ct_without_air_is_doubtful_for_mri(training: TrainingData | None) -> None:
    for windowed in (image(-160, 240), image(20, 90, air=-120)):
        first, *_ = check_suitability(MRI, training, windowed, force=False)
        assert "reach below 0" in first
    standardised = image(-2, 3)
    assert check_suitability(MRI, training, standardised, force=False) == []
    ringing = image(0, 900)
    ringing.array[0, 0, 0, 0] = -150
    assert check_suitability(MRI, training, ringing, force=False) == []
    negative = seen(image(-700, 700))
    assert check_suitability(MRI, negative, image(-600, 650), force=False) == []


@pytest.mark.parametrize("most", [1, 255, 2000, 4095])
def test_a_ct_that_is_not_in_hounsfield_units_is_refused(most: float) -> None:
    cone_beam = seen(image(-1000, 5000), image(-990, 3000), modality="CT")
    with pytest.raises(DataError, match="no Hounsfield units"):
        check_suitability(CT, cone_beam, image(0, most), force=False)


@pytest.mark.parametrize("modality", ["PT", "US", "CR", "SM"])
def test_dicom_tells_other_modalities(modality: str) -> None:
    assert mismatch(MRI, None, ImageFacts.of(image(0, 9, modality=modality))).contradiction


@pytest.mark.parametrize("modality", ["MR", "OT", "XA", "?", ""])
def test_what_dicom_leaves_open_passes(modality: str) -> None:
    assert check_suitability(MRI, None, image(0, 900, modality=modality), force=False) == []


def test_what_dicom_calls_mr_is_no_ct_whatever_its_values() -> None:
    assert check_suitability(MRI, None, image(-4096, 4094, modality="MR"), force=False) == []


@pytest.mark.parametrize("factor", [0.12, 1, 1900])
def test_the_scale_of_mri_is_nothing_to_warn_of(factor: float) -> None:
    assert check_suitability(MRI, seen(RAW_MR), image(0, 900 * factor), force=False) == []


def test_photographs_are_told_from_scans() -> None:
    three = Preprocessing(channels=tuple(Channel(name=name) for name in ("T1", "T2", "FLAIR")))
    photograph = image(0, 255, name="a.png", channels=3, shape=(64, 64, 1))
    with pytest.raises(DataError, match=r"colour picture, but .* trained on MRI"):
        check_suitability(three, None, photograph, force=False)
    with pytest.raises(DataError, match="trained on CT"):
        check_suitability(CT, None, image(0, 255, name="a.jpg"), force=False)
    grey = Preprocessing(channels=(channel_for("grey"),))
    with pytest.raises(DataError, match=r"Hounsfield units .* trained on photographs"):
        check_suitability(grey, None, HOUNSFIELD, force=False)
    (doubt,) = check_suitability(MRI, seen(RAW_MR), image(0, 900, name="a.png"), force=False)
    assert "picture without voxel sizes" in doubt


def test_what_training_did_not_see_is_doubtful() -> None:
    training = seen(RAW_MR)
    assert check_suitability(MRI, training, image(0, 900, spacing=1.4), force=False) == []
    fine, wide = check_suitability(MRI, training, image(0, 900, spacing=3), force=False)
    assert fine == "Slices, rows and columns lie 3 x 3 x 3 mm apart; in training 1 x 1 x 1 mm."
    assert wide == "A slice shows 120 x 120 mm; in training 40 x 40 mm."
    bright_spot = RAW_MR.with_array(np.where(RAW_MR.array > 880, 1e6, RAW_MR.array))
    (doubt,) = check_suitability(MRI, training, bright_spot, force=False)
    assert "distributed otherwise" in doubt
    coarse = mismatch(MRI, training, ImageFacts.of(image(0, 900, spacing=3)))
    bright = mismatch(MRI, training, ImageFacts.of(bright_spot))
    assert (len(coarse.doubts), coarse.of_values) == (2, False)
    assert (len(bright.doubts), bright.of_values) == (1, True)


def test_a_voxel_size_that_no_memory_holds_is_doubtful() -> None:
    far = ImageFacts.of(image(0, 900, spacing=900))
    isotropic = MRI.replace(spacing_mm=(1, 1, 1))
    (doubt,) = mismatch(isotropic, seen(RAW_MR), far).doubts
    assert "resampled from 900 x 900 x 900 mm to 1 x 1 x 1 mm" in doubt


def test_pictures_of_another_depth_are_compared_by_their_white(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="needs the extra [images]")
    bytes_ = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.uint8)
    depths = {"8": bytes_, "16": bytes_.astype(np.uint16) * 257, "12": bytes_.astype(np.uint16) * 9}
    volumes = {}
    for name, pixels in depths.items():
        image_module.fromarray(pixels).save(tmp_path / f"{name}.png")
        volumes[name] = read_volume(tmp_path / f"{name}.png")
    grey = Preprocessing(channels=(channel_for("grey"),))
    training = seen(volumes["8"], modality=None, space="pixels")
    assert check_suitability(grey, training, volumes["16"], force=False) == []
    (doubt,) = check_suitability(grey, training, volumes["12"], force=False)
    assert "in training they reached" in doubt


def test_a_ct_on_another_scale_is_doubtful() -> None:
    training = seen(HOUNSFIELD, modality="CT")
    padded = image(-150, 400, air=-3024)
    assert check_suitability(CT, training, padded, force=False) == []
    (doubt,) = check_suitability(CT, training, image(-1, 1), force=False)
    assert doubt.startswith(
        "The values reach from -0.9897 to 0.9924; in training they reached from -1024"
    )


def test_a_bundle_whose_channel_says_nothing_warns_of_hounsfield_units() -> None:
    unnamed = Preprocessing()
    for training in (None, seen(RAW_MR, modality=None)):
        doubt, *_ = check_suitability(unnamed, training, HOUNSFIELD, force=False)
        assert "Hounsfield" in doubt
    training = seen(HOUNSFIELD, modality=None)
    assert check_suitability(unnamed, training, HOUNSFIELD, force=False) == []


def test_training_that_its_headers_call_ct_is_ct_whatever_the_channel_is_called() -> None:
    training = seen(HOUNSFIELD, modality="CT")
    assert check_suitability(MRI, training, HOUNSFIELD, force=False) == []


def test_real_images_of_the_same_kind_pass_and_others_do_not() -> None:
    hippocampus = sorted((SHARED / "Task04_Hippocampus/imagesTr").glob("*.nii.gz"))
    heart = sorted((SHARED / "acdc/imagesTr").glob("*.nii.gz"))
    if not hippocampus or not heart:
        pytest.skip("needs shared/data")
    training = seen(*map(read_volume, hippocampus[:10]))
    for path in hippocampus[10:40]:
        assert check_suitability(MRI, training, read_volume(path), force=False) == []
    doubts = check_suitability(MRI, training, read_volume(heart[0]), force=False)
    assert any("A slice shows" in doubt for doubt in doubts)
