"""Members that see a volume in unlike ways: their mean on its own grid, in bounded memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logit

from prediction import OBLIQUE, noise, tiny_bundle
from transunet.data.formats import read_volume
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.regions import Region
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor

LABELS = {0: "background", 1: "left", 2: "right"}
SPACINGS = {
    "slices": None,
    "slices, resampled": (None, 1.0, 0.9),
    "patches, finer planes": (1.2, 1.0, 1.0),
    "patches, coarser planes": (4.0, 0.6, 0.9),
}


class Intensity:
    """Classes that follow from a voxel's intensity: the same of slices and of patches."""

    device = "cpu"

    def __init__(self, size: tuple[int, ...], slope: float = 1.0, classes: int = 3) -> None:
        self.image_size, self.slope, self.classes = size, slope, classes
        self.fingerprint = f"intensity {size} {slope}"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        classes = np.arange(self.classes, dtype=np.float32).reshape(-1, *(1,) * (images.ndim - 2))
        return self.slope * images[:, :1] * classes - classes**2 / 2


class Constant(Intensity):
    """A network that says the same of every voxel."""

    def __init__(self, size: tuple[int, ...], logits: NDArray[np.float32]) -> None:
        super().__init__(size)
        self.logits = logits

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = self.logits.reshape(-1, *(1,) * (images.ndim - 2))
        return np.broadcast_to(logits, (len(images), len(logits), *images.shape[2:])).copy()


def scan(shape: tuple[int, int, int] = (26, 30, 17)) -> Volume:
    return Volume(noise(shape)[None].astype(np.float32), OBLIQUE, "scan")


def member(what: str, slope: float = 1.0, orientation: str = "SRA") -> Predictor:
    preprocessing = Preprocessing(
        channels=(Channel(name="MRI"),), spacing_mm=SPACINGS[what], orientation=orientation
    )
    shape = (16, 16) if what.startswith("slices") else (8, 16, 16)
    return Predictor(Intensity(shape, slope), preprocessing, LABELS)


def probabilities_of(predictor: Predictor, folder: Path) -> NDArray[np.float32]:
    """(classes, X, Y, Z)."""
    predictor(scan(), probabilities=folder / "alone.npy")
    return np.load(folder / "alone.npy").astype(np.float32)


@pytest.mark.parametrize(
    "orientations",
    [("SRA", "SRA", "SRA"), ("SRA", "SPL", "SAR"), ("SRA", "LPS", "IRA")],
    ids=["alike", "other rows and columns", "other planes"],
)
def test_members_are_averaged_on_the_images_own_grid(orientations, tmp_path):
    kinds = ("patches, coarser planes", "slices", "patches, finer planes")
    members = [
        member(what, slope, orientation)
        for what, slope, orientation in zip(kinds, (1.0, -2.0, 3.0), orientations, strict=True)
    ]
    alone = np.stack([probabilities_of(each, tmp_path) for each in members])
    first, *others = members
    together = first.replace(others=others)
    labels = together(scan(), probabilities=tmp_path / "mean.npy")
    stored = np.load(tmp_path / "mean.npy").astype(np.float32)
    np.testing.assert_allclose(stored, alone.mean(axis=0), atol=1.5e-3)  # both are float16
    assert np.abs(alone[0] - alone[1]).max() > 0.5
    assert labels.array.shape == scan().array.shape
    assert (labels.array[0] == alone.mean(axis=0).argmax(axis=0)).mean() > 0.995
    for each in members:
        assert (labels.array != each(scan()).array).any()


def test_slices_that_are_resampled_meet_the_others_too(tmp_path):
    first = member("slices, resampled")
    labels = first.replace(others=[member("patches, coarser planes")])(scan())
    # Both know intensities alone, of which resampling leaves nearly all.
    expected = member("slices")(scan())
    assert (labels.array == expected.array).mean() > 0.8


def constant_members(logits, **settings) -> list[Predictor]:
    members = member("slices"), member("patches, finer planes")
    return [
        Predictor(
            Constant(each.network.image_size, values.astype(np.float32)),
            *(each.preprocessing, LABELS),
            **settings,
        )
        for each, values in zip(members, logits, strict=True)
    ]


def test_the_mean_and_the_disagreement_are_told(tmp_path):
    """Two members, each nearly certain of another class, are uncertain together."""
    predictors = constant_members([np.log([0.01, 0.98, 0.01]), np.log([0.01, 0.05, 0.94])])
    together = predictors[0].replace(others=predictors[1:])
    labels = together(scan(), probabilities=tmp_path / "p.nii", uncertainty=tmp_path / "u.npy")
    found = read_volume(tmp_path / "p.nii").array
    mean = np.array([0.01, 0.515, 0.475])
    np.testing.assert_allclose(
        found, np.broadcast_to(mean[:, None, None, None], found.shape), atol=1e-5
    )
    uncertainty = np.load(tmp_path / "u.npy")
    entropy = -(mean * np.log(mean)).sum() / np.log(3)
    np.testing.assert_allclose(uncertainty.astype(float), entropy, atol=1e-3)
    assert (labels.array == 1).all()


def test_regions_are_averaged_one_by_one(tmp_path):
    regions = [
        Region(name="all", members=(1, 2), label=1),
        Region(name="core", members=(2,), label=2),
    ]
    first, other = constant_members([logit([0.9, 0.2]), logit([0.3, 0.9])], regions=regions)
    labels = first.replace(others=[other])(scan(), probabilities=tmp_path / "p.npy")
    stored = np.load(tmp_path / "p.npy").astype(float)
    np.testing.assert_allclose(stored - np.array([0.6, 0.55])[:, None, None, None], 0, atol=1e-3)
    assert (labels.array == 2).all()
    assert (first(scan()).array == 1).all()
    with pytest.raises(ConfigError, match="must have the same labels"):
        first.replace(others=[member("slices")])


def test_planes_done_are_told_up_to_all_of_them():
    told: list[tuple[int, int]] = []
    first, *others = (
        member(what, orientation=way)
        for what, way in (
            ("slices", "SRA"),
            ("patches, finer planes", "SRA"),
            ("slices", "LPS"),
        )
    )
    first.replace(others=others)(scan(), lambda *done: told.append(done))
    planes = first.preprocessing.native_shape(scan())[0]
    assert told[-1] == (planes, planes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({done for done, _ in told}) > planes / 3


def test_memory_is_bounded_by_what_each_member_holds():
    """Three members take less than what one's classes of the whole volume would."""
    volume = Volume(np.random.default_rng(0).random((1, 32, 32, 320), np.float32), np.eye(4))
    names = {index: str(index) for index in range(20)}
    first, *others = (
        Predictor(Intensity(each.network.image_size, classes=20), each.preprocessing, names)
        for each in map(member, ("patches, finer planes", "slices", "slices, resampled"))
    )
    together = first.replace(others=others)
    tracemalloc.start()
    together(volume)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.75 * 20 * volume.array.nbytes


def test_settings_reach_all_members():
    first = member("slices").replace(others=[member("patches, finer planes")])
    mirrored = first.replace(mirror=True, batch_size=2)
    assert [each.mirror for each in (mirrored, *mirrored.others)] == [True, True]
    assert [each.batch_size for each in (mirrored, *mirrored.others)] == [2, 2]
    assert mirrored.fingerprint == first.fingerprint != member("slices").fingerprint
    with pytest.raises(ConfigError, match="Use procedure='native'"):
        member("slices").replace(others=[member("slices, resampled")]).by_procedure(scan())
    with pytest.raises(ConfigError, match=r"window=True \(--window\) is for slices"):
        first.replace(window=True)


def test_what_one_member_cannot_segment_is_refused():
    picture = Volume(np.zeros((1, 30, 40, 1), np.float32), np.eye(4), "photo.png")
    first = member("slices").replace(others=[member("patches, finer planes")])
    with pytest.raises(DataError, match=r"photo\.png: is a picture or a single plane"):
        first(picture)


@pytest.mark.parametrize(
    ("change", "what"), [({"classes": 4}, "labels"), ({"channels_named": ["CT"]}, "channels")]
)
def test_bundles_of_other_labels_or_channels_are_refused(tmp_path, change, what):
    one, other = tiny_bundle(tmp_path / "one"), tiny_bundle(tmp_path / "other", **change)
    with pytest.raises(ConfigError, match=rf"their {what} differ: .*one.*other"):
        Predictor.from_pretrained([one, other], device="cpu")


@pytest.mark.parametrize("change", [{"slice_axis": 0}, {"size": 48}])
def test_bundles_of_another_axis_or_size_are_averaged(tmp_path, change):
    one, other = tiny_bundle(tmp_path / "one"), tiny_bundle(tmp_path / "other", 1, **change)
    together = Predictor.from_pretrained([one, other], device="cpu", engine="eager")
    alone = np.stack(
        [
            probabilities_of(Predictor.from_pretrained(each, device="cpu"), tmp_path)
            for each in (one, other)
        ]
    )
    labels = together(scan())
    assert (labels.array[0] == alone.mean(axis=0).argmax(axis=0)).mean() > 0.995
