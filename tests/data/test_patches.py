"""Patches: where they lie, what is read of a volume, how they are drawn, how they are weighed."""

import json
import warnings
from itertools import product

import numpy as np
import pytest
from pydantic import TypeAdapter

from golden_figures import GOLDEN
from transunet.data.sampling import Sampling
from transunet.data.sampling.patches import Patches, gaussian
from transunet.data.sampling.slices import Slices
from transunet.errors import ConfigError

INFERENCE = json.loads((GOLDEN / "golden3d.json").read_text())["inference"]


@pytest.fixture
def volume(tmp_path, rng):
    np.save(tmp_path / "image.npy", rng.normal(size=(2, 7, 9, 8)).astype(np.float32))
    return np.load(tmp_path / "image.npy", mmap_mode="r")


@pytest.mark.parametrize("case", INFERENCE["steps"], ids=str)
def test_patches_lie_where_the_references_do(case):
    patches = Patches(size=case["patch"], overlap=1 - case["step"])
    assert patches.positions(case["image"]) == list(product(*case["starts"]))


@pytest.mark.parametrize("shape", [(4, 6, 8), (8, 6, 12), (6, 9, 20)])
@pytest.mark.runtime
def test_patches_lie_where_monais_do_if_its_steps_end_at_the_edge(shape):
    """MONAI steps by half a patch and moves the last one; here all are moved a little instead."""
    with warnings.catch_warnings(action="ignore"):
        data = pytest.importorskip("monai.data.utils", reason="compares with MONAI's windows")
    patches = Patches(size=(4, 6, 8))
    expected = data.dense_patch_slices(shape, patches.size, (2, 3, 4))
    assert patches.positions(shape) == [tuple(s.start for s in at) for at in expected]


@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 6, 31), (23, 14, 9), (2, 30, 3)])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
def test_patches_cover_the_volume_with_at_least_the_overlap(shape, overlap):
    patches = Patches(size=(4, 6, 8), overlap=overlap)
    positions = patches.positions(shape)
    covered = np.zeros(shape, int)
    for position in positions:
        covered[
            tuple(slice(max(p, 0), p + n) for p, n in zip(position, patches.size, strict=True))
        ] = 1
    assert covered.all()
    for axis, (length, side) in enumerate(zip(shape, patches.size, strict=True)):
        starts = sorted({position[axis] for position in positions})
        if length <= side:
            assert starts == [-((side - length) // 2)]
        else:
            assert (starts[0], starts[-1]) == (0, length - side)
            assert max(np.diff(starts)) <= max(side * (1 - overlap) + 0.5, 1)  # in whole voxels


@pytest.mark.parametrize(
    "position", [(0, 0, 0), (3, 2, 1), (-2, -3, -1), (5, 6, 7), (-2, 1, 6), (-20, 0, 0), (0, 30, 0)]
)
def test_a_patch_is_a_box_of_the_padded_volume(volume, position):
    patches = Patches(size=(5, 4, 3))
    padded = np.pad(volume, [(0, 0), (40, 40), (40, 40), (40, 40)])
    box = tuple(slice(40 + p, 40 + p + n) for p, n in zip(position, patches.size, strict=True))
    found = patches.read(volume, position)
    np.testing.assert_array_equal(found, padded[:, *box])
    assert (type(found), found.dtype) == (np.ndarray, np.float32)
    np.testing.assert_array_equal(patches.read(volume[0], position), padded[0][box])


def test_outside_may_lie_the_darkest_of_the_patch(volume):
    patches = Patches(size=(5, 4, 3), padding="minimum")
    found = patches.read(volume, (-2, 0, 0), patches.padding)
    inside = volume[:, :3, :4, :3]
    np.testing.assert_array_equal(found[:, 2:], inside)
    np.testing.assert_array_equal(
        found[:, :2], np.broadcast_to(inside.min((1, 2, 3), keepdims=True), (2, 2, 4, 3))
    )


def test_patches_are_drawn_everywhere_and_leave_the_volume_only_where_they_must(rng):
    patches = Patches(size=(4, 6, 8))
    drawn = {patches.draw((6, 3, 8), rng) for _ in range(100)}
    assert drawn == {(n, -1, 0) for n in range(3)}
    for voxel in product(range(6), range(3), range(8)):
        plane, row, column = patches.around(voxel, (6, 3, 8))
        assert (row, column) == (-1, 0)
        assert plane == min(max(voxel[0] - 2, 0), 2)


def test_weights_are_the_references_and_monais():
    with np.load(GOLDEN / "golden3d.npz") as arrays:
        expected = arrays["inference/gaussian_16x32x32"]
    found = gaussian((16, 32, 32), middle=(8, 16, 16), least=0)
    np.testing.assert_allclose(found, expected, rtol=3e-5)
    weights = Patches(size=(16, 32, 32)).weights()
    assert np.array_equal(weights, weights[::-1, ::-1, ::-1])  # in the true middle


@pytest.mark.runtime
def test_weights_are_monais():
    with warnings.catch_warnings(action="ignore"):
        data = pytest.importorskip("monai.data.utils", reason="compares with MONAI's weights")
    expected = data.compute_importance_map((16, 9, 12), mode="gaussian", sigma_scale=0.125)
    floored = np.maximum(expected.numpy(), 1e-3)
    np.testing.assert_allclose(Patches(size=(16, 9, 12)).weights(), floored, rtol=1e-5)


def test_samplings_are_told_apart_by_their_kind():
    adapter = TypeAdapter(Sampling)
    for sampling in (Slices(size=(32, 32), context=1), Patches(size=(8, 16, 16), overlap=0.25)):
        assert adapter.validate_json(sampling.model_dump_json()) == sampling
    assert Slices(size=(32, 32), context=1).input_channels(2) == 6
    assert Patches(size=(8, 16, 16)).input_channels(2) == 2


def test_impossible_settings_are_refused():
    for settings in ({"size": (0, 8, 8)}, {"size": (8, 8)}, {"size": (8, 8, 8), "overlap": 1}):
        with pytest.raises(ConfigError, match="Patches"):
            Patches(**settings)
