from math import prod

import pytest

from transunet.data.fingerprint import Fingerprint
from transunet.data.planning import planned_patches
from transunet.errors import ConfigError
from transunet.models.transunet3d.config import plan_trunk
from transunet.models.transunet3d.footprint import training_bytes
from transunet.models.variants import variant

PUBLISHED = {
    "Synapse": ((148, 512, 512), (3, 0.76, 0.76), (48, 192, 192)),
    "Vessel": ((150, 480, 480), (1.5, 0.8, 0.8), (64, 192, 192)),
    "BraTS": ((138, 171, 137), (1, 1, 1), (128, 128, 128)),
}
"""Median volume, its spacing, and the patch that nnU-Net planned. (The poolings and kernels that
`plan_trunk` gives for them are tested with it.)"""


def fingerprint(median, spacing=(1, 1, 1), cases=30):
    return Fingerprint(
        cases=cases,
        slices=cases * median[0],
        spacing_mm={"median": spacing},
        size={"median": median},
        orientations={},
        intensities=(),
        foreground=(),
        voxels={},
        cases_with={},
    )


def planned(median, spacing=(1, 1, 1), model="UNet3D", memory=8 << 30, cases=30):
    poolings = 3 if variant(model).queries else 1

    def step_bytes(plan, batch_size):
        return training_bytes(variant(model, **plan._asdict()), batch_size)

    return planned_patches(
        fingerprint(median, spacing, cases), plan_trunk, step_bytes, memory, poolings
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_patches_are_about_those_of_the_published_plans(name):
    median, spacing, published = PUBLISHED[name]
    plan = planned(median, spacing)
    assert prod(plan.size) == pytest.approx(prod(published), rel=0.35)
    for side, other in zip(plan.size, published, strict=True):
        assert side == pytest.approx(other, rel=0.35)
    assert plan.batch_size == 2
    assert len(plan.poolings) == 5


def test_a_small_volume_is_one_patch_and_several_make_a_step():
    plan = planned((50, 35, 36), cases=160)
    assert plan.size == (56, 40, 40)
    assert len(plan.poolings) == 3
    assert plan.batch_size == 5  # a twentieth of the voxels, where nnU-Net's has 6 of smaller ones
    size, poolings, batch = plan.decisions
    assert "the median working volume, 50 x 35 x 36" in size.reason
    assert poolings.value == "3 (3 x 3 x 3 halvings along planes, rows, columns)"
    assert (batch.value, batch.option) == ("5", "train --batch-size")


def test_slices_that_lie_apart_are_pooled_in_plane_until_voxels_are_cubes():
    plan = planned((10, 256, 216), (10, 1.5, 1.5))
    assert plan.size == (10, 256, 224)
    assert [pooling[0] for pooling in plan.poolings] == [1, 1, 2, 1, 1]


def test_less_memory_makes_smaller_patches_of_like_proportions():
    sizes = [planned(*PUBLISHED["Vessel"][:2], memory=n << 30).size for n in (8, 4, 2)]
    assert prod(sizes[0]) > 1.5 * prod(sizes[1]) > 2 * prod(sizes[2])
    for planes, rows, columns in sizes:
        assert 2 <= rows / planes <= 5
        assert 0.7 <= rows / columns <= 1.4
    more = [planned(*PUBLISHED["Vessel"][:2], memory=n << 30).size for n in (8, 80)]
    assert more[0] == more[1]


def test_what_cannot_be_trained_is_said_in_one_sentence():
    with pytest.raises(ConfigError, match=r"6 x 7 x 5 voxels .*too few.*--plane-spacing"):
        planned((6, 7, 5))
    with pytest.raises(ConfigError, match=r"too few for 3 poolings.*without queries"):
        planned((20, 20, 20), model="TransUNet3D-S")
    with pytest.raises(ConfigError, match=r"Not even patches of .* GiB of memory.*smaller --model"):
        planned((64, 64, 64), model="TransUNet3D", memory=1 << 30)
