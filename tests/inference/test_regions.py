"""From logits of regions to label maps: against numpy, through slices, patches, mirrors, files."""

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prediction import tiny_config
from transunet import create_model
from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.bundle.io import save_pretrained
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.regions import Region
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.inference.logits import entropy, label_map_of
from transunet.inference.postprocessing import keep_largest_regions, measure_structures
from transunet.inference.predictor import Predictor
from transunet.integrations.monai.monai_bundle import write_monai_bundle

REGIONS = (
    Region(name="whole", members=(1, 2, 4), label=2),
    Region(name="core", members=(1, 4), label=1),
    Region(name="enhancing", members=(4,), label=4),
)
NAMES = {0: "background", 1: "core", 2: "whole", 4: "enhancing"}
FOUR = Preprocessing(
    channels=tuple(Channel(name=n, normalisation="range", high=1) for n in "abcd"),
    orientation="SRA",
)


class Told:
    """A network whose logits are the image's last three channels."""

    device = "cpu"
    fingerprint = "told"

    def __init__(self, size: tuple[int, ...] | None) -> None:
        self.image_size = size

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(images[:, 1:])


def expected(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Write the regions of logits (3, ...) voxel by voxel."""
    labels = np.zeros(values.shape[1:], np.uint8)
    for place in np.ndindex(labels.shape):
        for region, value in zip(REGIONS, values[(slice(None), *place)], strict=True):
            if 1 / (1 + np.exp(-value)) > 0.5:
                labels[place] = region.label
    return labels


@pytest.fixture(scope="module")
def volume() -> Volume:
    array = np.random.default_rng(0).normal(size=(4, 10, 9, 8)).astype(np.float32)
    return Volume(array, np.diag([1.0, 2.0, 3.0, 1.0]), "drawn")


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [None, (4, 6, 5)], ids=["slices", "patches"])
def test_regions_are_written_over_each_other_in_their_order(volume, size, mirror, tmp_path) -> None:
    predictor = Predictor(Told(size), FOUR, NAMES, regions=REGIONS, mirror=mirror)
    files = {"probabilities": tmp_path / "p.npy", "uncertainty": tmp_path / "u.nii"}
    labels = predictor(volume, **files).array[0]
    np.testing.assert_array_equal(labels, expected(volume.array[1:]))
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2, 4}
    probabilities = 1 / (1 + np.exp(-volume.array[1:].astype(np.float64)))
    np.testing.assert_allclose(np.load(files["probabilities"]), probabilities, atol=1e-3)
    each = -(probabilities * np.log2(probabilities))
    each -= (1 - probabilities) * np.log2(1 - probabilities)
    uncertain = np.asarray(nib.load(files["uncertainty"]).dataobj)
    np.testing.assert_allclose(uncertain, each.mean(axis=0), atol=1e-5)


def test_tensors_become_the_labels_of_arrays(volume) -> None:
    values = volume.array[1:][None]
    for threshold in (0, 0.5):
        found = label_map_of(torch.from_numpy(values), [2, 1, 4], threshold)
        np.testing.assert_array_equal(found, label_map_of(values, [2, 1, 4], threshold))


def test_regions_are_uncertain_each_by_itself() -> None:
    rows = np.array([[0.5, 0.5, 0.5], [0, 1, 1], [0.5, 0, 1]], np.float32)
    found = entropy(rows[:, :, None, None], regions=True).ravel()
    np.testing.assert_allclose(found, [1, 0, 1 / 3], atol=1e-6)


def test_the_mean_of_networks_is_of_their_probabilities(volume, tmp_path) -> None:
    """Two bundles that differ: each region's sigmoid is averaged, and none is scaled by others."""
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = tiny_config(4, 3).replace(regions=[r.members for r in REGIONS])
        model = create_model(**config.model_dump(exclude={"family", "name"}))
        described = BundleConfig(
            architecture=model.config, preprocessing=FOUR, labels=NAMES, regions=REGIONS
        )
        save_pretrained(model, described, tmp_path / str(seed))
        networks.append(model.eval())
    assert read_config(tmp_path / "0").replace(versions={}) == described
    both = Predictor.from_pretrained([tmp_path / "0", tmp_path / "1"], device="cpu", engine="eager")
    images = np.random.default_rng(1).normal(size=(2, 4, 32, 32)).astype(np.float32)
    with torch.no_grad():
        mean = sum(m(torch.from_numpy(images)).sigmoid().numpy() for m in networks) / 2
    np.testing.assert_allclose(1 / (1 + np.exp(-both.network(images))), mean, atol=1e-5)
    with pytest.raises(ConfigError, match="a MONAI bundle of regions cannot be written"):
        write_monai_bundle(model, described, tmp_path / "monai")
    assert not (tmp_path / "monai").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"regions": REGIONS[:2]}, "are not those of the model"),
        ({"regions": REGIONS[::-1]}, "which 'core' holds too and overwrites"),
        ({"labels": {0: "background", 1: "core", 2: "whole"}}, r"do not name \[4\]"),
    ],
)
def test_a_bundle_whose_regions_contradict_it_is_refused(changes, says) -> None:
    architecture = tiny_config(4, 3).replace(regions=[r.members for r in REGIONS])
    whole = {
        "architecture": architecture, "preprocessing": FOUR, "labels": NAMES, "regions": REGIONS
    }  # fmt: skip
    with pytest.raises(ConfigError, match=says):
        BundleConfig(**whole | changes)


def test_what_is_not_the_largest_piece_falls_to_the_region_around_it() -> None:
    labels = np.zeros((9, 5, 3), np.uint8)
    labels[:6] = 2  # 90 voxels of whole in one piece
    labels[8, 4, 2] = 4  # another, of all three regions
    labels[0:2, :2], labels[4, 1, 1], labels[4, 1, 2] = 1, 1, 4  # two cores, the second with edge
    kept = labels.copy()
    keep_largest_regions(kept, [REGIONS[1]], REGIONS)
    wanted = labels.copy()
    wanted[4, 1], wanted[8, 4, 2] = 2, 2
    np.testing.assert_array_equal(kept, wanted)
    keep_largest_regions(kept := labels.copy(), [REGIONS[0]], REGIONS)
    wanted = labels.copy()
    wanted[8] = 0
    np.testing.assert_array_equal(kept, wanted)


def test_regions_are_measured_whole(volume) -> None:
    predictor = Predictor(Told(None), FOUR, NAMES, regions=REGIONS)
    labels = predictor(volume)
    measured = measure_structures(labels, volume, NAMES, 2, REGIONS)
    assert list(measured) == ["whole", "core", "enhancing"]
    for region in REGIONS:
        inside = np.isin(labels.array[0], region.members)
        found = measured[region.name]
        assert found["voxels"] == inside.sum()
        assert found["volume_ml"] == pytest.approx(inside.sum() * 6 / 1000)
        assert found["slices"] == inside.any(axis=(0, 1)).sum()
        np.testing.assert_allclose(
            found["mean_intensity"], volume.array[:, inside].mean(1, np.float64)
        )


def test_patches_resized_are_cut_at_a_half(volume, tmp_path) -> None:
    """Probabilities are brought to the image's grid, and become labels there."""
    coarse = FOUR.replace(spacing_mm=(6.0, 2.0, 4.0))
    predictor = Predictor(Told((4, 5, 5)), coarse, NAMES, regions=REGIONS)
    labels = predictor(volume, probabilities=tmp_path / "p.npy").array[0]
    assert labels.shape == volume.spatial_shape
    logits = np.load(tmp_path / "p.npy").astype(np.float32) - 0.5
    near = (np.abs(logits) < 1e-3).any(axis=0)  # files hold half precision
    np.testing.assert_array_equal(labels[~near], expected(logits)[~near])
