from math import prod

import numpy as np
import pytest

from transunet.data.cases import DataSet
from transunet.data.fingerprint import CaseFingerprint, Fingerprint
from transunet.data.planning import (
    PATCHES,
    most_patches,
    patch_decisions,
    planned_patches,
    recommendation,
    volume_preprocessing,
)
from transunet.data.preprocessing import coarse_axis
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError
from transunet.models.transunet3d.config import plan_trunk

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


def planned(median, spacing=(1, 1, 1), most=128**3, poolings=1):
    return planned_patches(
        fingerprint(median, spacing),
        plan_trunk,
        lambda plan: prod(plan.image_size) <= most,
        poolings,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_patches_are_about_those_of_the_published_plans(name):
    median, spacing, published = PUBLISHED[name]
    plan = planned(median, spacing, most=prod(published))
    assert prod(published) >= prod(plan.image_size) > 0.65 * prod(published)
    for side, other in zip(plan.image_size, published, strict=True):
        assert side == pytest.approx(other, rel=0.35)
    assert len(plan.poolings) == 5


def test_a_small_volume_is_one_patch():
    plan = planned((36, 35, 51))
    assert plan.image_size == (32, 32, 48)
    assert len(plan.poolings) == 3
    shown = patch_decisions(fingerprint((36, 35, 51)), plan.image_size, plan.poolings, 2, "UNet3D")
    size, poolings, batch = shown
    assert size.value == "32x32x48"
    assert "the median working volume, 36 x 35 x 51" in size.reason
    assert poolings.value == "3 (3 x 3 x 3 halvings along planes, rows, columns)"
    assert (batch.value, batch.option) == ("2", "--memory-gib, train --batch-size")
    assert "5.10% of the data set's voxels: 2 at least" in batch.reason  # of 30 volumes


def test_a_batch_sees_a_twentieth_of_the_data_at_most():
    many = fingerprint((36, 35, 51), cases=200)
    assert most_patches(many, (32, 32, 48)) == 13  # 12.85 million voxels, 49,152 in a patch
    assert most_patches(many, (160, 160, 192)) == PATCHES
    assert most_patches(fingerprint((36, 35, 51), cases=5), (32, 32, 48)) == PATCHES

    def reason(batch):
        told = patch_decisions(many, (32, 32, 48), ((2, 2, 2),) * 3, batch, "UNet3D")
        return told[-1].reason

    assert "4.97% of the data set's voxels, of which it shall see 5% at most" in reason(13)
    assert "1.91% of the data set's voxels: as many as the memory" in reason(5)


def test_a_part_of_a_volume_is_told_as_such():
    plan = planned((300, 400, 400))
    size = patch_decisions(
        fingerprint((300, 400, 400)), plan.image_size, plan.poolings, 2, "UNet3D"
    )[0]
    assert "% of the median working volume, 300 x 400 x 400: what UNet3D can" in size.reason


def test_slices_that_lie_apart_are_pooled_in_plane_until_voxels_are_cubes():
    plan = planned((10, 256, 216), (10, 1.5, 1.5))
    assert plan.image_size == (10, 256, 224)
    assert [pooling[0] for pooling in plan.poolings] == [1, 1, 2, 1, 1]


@pytest.mark.parametrize("planes", [9, 10])
def test_few_planes_are_seen_whole_while_rows_and_columns_can_give(planes):
    median, spacing = (planes, 216, 256), (10, 1.5, 1.5)
    assert planned(median, spacing).image_size == (10, 224, 256)
    laptop = planned(median, spacing, most=64**3)
    assert laptop.image_size == (10, 160, 160)
    assert [pooling[0] for pooling in laptop.poolings].count(2) == 1  # 5 planes are not halved
    assert planned(median, spacing, most=48**3).image_size == (
        8,
        96,
        128,
    )  # now the planes give too


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((10, 1.5, 1.5), 0),
        ((1, 1, 3.1), 2),
        ((1, 1, 3), None),
        ((5, 1, 2), None),  # planes across the first are no pictures either
        ((5, 1, 5), None),
    ],
)
def test_an_axis_is_coarse_beside_both_others(spacing, expected):
    assert coarse_axis(spacing) == expected


def test_less_memory_makes_smaller_patches_of_like_proportions():
    median, spacing, _ = PUBLISHED["Vessel"]
    sizes = [planned(median, spacing, most).image_size for most in (2**21, 2**20, 2**19)]
    assert prod(sizes[0]) > 1.5 * prod(sizes[1]) > 2 * prod(sizes[2])
    for planes, rows, columns in sizes:
        assert 2 <= rows / planes <= 5
        assert 0.7 <= rows / columns <= 1.4


def test_the_smallest_patch_is_still_pooled_as_often_as_the_network_needs():
    smallest = planned((64, 64, 64), most=0, poolings=3)
    assert len(smallest.poolings) == 3
    assert prod(smallest.image_size) <= 32**3


def test_volumes_too_small_for_the_network_are_padded_along_the_axes_that_it_needs():
    assert planned((26, 28, 30)).image_size == (24, 28, 32)  # two poolings need no padding
    plan = planned((26, 28, 30), poolings=3)
    assert (plan.image_size, len(plan.poolings)) == ((24, 32, 32), 3)
    told = patch_decisions(fingerprint((26, 28, 30)), plan.image_size, plan.poolings, 2, "UNet3D")
    assert told[0].reason.endswith(", and padded where it is shorter")
    assert planned((16, 16, 9), poolings=3).image_size == (32, 32, 10)
    assert planned((6, 7, 5)).image_size == (8, 8, 5)


def test_volumes_that_cannot_be_pooled_are_refused_with_what_to_do():
    with pytest.raises(
        ConfigError,
        match=r"3 x 7 x 3 voxels .*too few for a pooling.*--image-size 8 .*choose a 2D --model",
    ):
        planned((3, 7, 3))
    with pytest.raises(
        ConfigError, match=r"too few for 3 poolings.*--image-size 32 .*without queries"
    ):
        planned((15, 20, 12), poolings=3)


def measured(nonzero=1.0, foreground=((100, 20), (140, 30))):
    """Cases, each with a foreground of that many voxels that are normally distributed."""
    cases = []
    for number, (mean, deviation) in enumerate(foreground):
        values = np.random.default_rng(number).normal(mean, deviation, (1, 10, 30, 1000))
        label = Volume(np.ones((1, 10, 30, 1000), np.uint8), np.eye(4))
        image = Volume(values.astype(np.float32), np.eye(4))
        case = CaseFingerprint.of(image, label, {0: "background", 1: "a"}, finely=True)
        cases.append(case.replace(nonzero=nonzero))
    return cases


def chosen(channel="CT", spacings=((3, 0.8, 0.8),) * 3, cases=None, **asked):
    data = DataSet((), {0: "background", 1: "a"}, (channel,), name="toy")
    grids = [
        Grid((50, 60, 20), np.diag([rows, columns, planes, 1]))
        for planes, rows, columns in spacings
    ]
    preprocessing, decided = volume_preprocessing(
        data, grids, measured() if cases is None else cases, **asked
    )
    return preprocessing, {decision.name: decision for decision in decided}


def test_the_foreground_of_all_cases_normalises_a_ct():
    cases = measured()
    preprocessing, told = chosen(cases=cases)
    (channel,) = preprocessing.channels
    values = np.concatenate(
        [np.random.default_rng(n).normal(*f, 300_000) for n, f in enumerate([(100, 20), (140, 30)])]
    )
    assert channel.normalisation == "foreground"
    expected = np.percentile(values, (0.5, 99.5))  # nnU-Net's: of the voxels of all cases
    assert (channel.low, channel.high) == pytest.approx(expected, rel=0.02)
    assert (channel.mean, channel.deviation) == pytest.approx((values.mean(), values.std()), 1e-2)
    assert "0.5 and 99.5 percentiles" in told["normalisation"].reason
    assert "clipped to" in told["normalisation"].value


def test_zeros_around_an_mri_are_no_tissue():
    preprocessing, told = chosen("MRI", cases=measured(nonzero=0.4))
    assert preprocessing.channels[0].normalisation == "nonzero"
    assert preprocessing.is_cropped
    assert "60% of the voxels" in told["normalisation"].reason
    preprocessing, _ = chosen("MRI")
    assert preprocessing.channels[0].normalisation == "zscore"
    assert not preprocessing.is_cropped
    assert chosen("red", cases=measured(0.4))[0].channels[0].normalisation == "range"


def test_what_is_asked_for_is_taken():
    (channel,) = chosen(window=(0, 80))[0].channels
    assert (channel.normalisation, channel.low, channel.high) == ("clip", 0, 80)
    (channel,) = chosen("MRI", normalisation="foreground", window=(0, 80))[0].channels
    assert (channel.normalisation, channel.low, channel.high) == ("foreground", 0, 80)
    (channel,) = chosen(normalisation="nonzero")[0].channels
    assert channel.normalisation == "nonzero"
    preprocessing, told = chosen(plane_mm=2, in_plane_mm=(1, 1.5))
    assert preprocessing.spacing_mm == (2, 1, 1.5)
    assert told["spacing mm"].reason.startswith("what was asked for;")
    empty = [case.replace(foreground=(), quantiles=()) for case in measured()]
    assert chosen(cases=empty)[0].channels[0].normalisation == "clip"
    with pytest.raises(ConfigError, match="no case has any"):
        chosen(cases=empty, normalisation="foreground")


def test_the_spacing_is_the_median_and_of_a_coarse_axis_a_low_percentile():
    fine = [(z, 1.0, 1.1) for z in (1.0, 2.0, 2.5)]
    preprocessing, told = chosen(spacings=fine)
    assert preprocessing.spacing_mm == pytest.approx((2, 1, 1.1))
    assert "median of 3 volumes" in told["spacing mm"].reason
    coarse = [(z, 1.0, 1.0) for z in (2.0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 10)]
    preprocessing, told = chosen(spacings=coarse)
    assert preprocessing.spacing_mm == pytest.approx((5, 1, 1))
    coarse = [(z, 1.0, 1.0) for z in (0.5, 0.5, 5, 5, 5, 5, 10)]
    preprocessing, told = chosen(spacings=coarse)
    assert preprocessing.spacing_mm == pytest.approx((1, 1, 1))  # no finer than the others
    assert "10th percentile" in told["spacing mm"].reason


def test_what_suits_is_recommended_in_words():
    def told(median, spacing):
        return recommendation(fingerprint(median, spacing)).value

    assert told((50, 35, 36), (1, 1, 1)) == "3D"
    assert told((10, 256, 216), (10, 1.5, 1.5)).startswith("2D, or 2.5D")
    assert told((150, 300, 300), (3, 0.8, 0.8)) == "3D"  # abdominal CTs
    assert told((60, 300, 300), (6, 1, 1)).startswith("2D, or 2.5D")
    shown = recommendation(fingerprint((900, 512, 512)), (64, 64, 64))
    assert shown.value == "3D, or 2D for the overview"
    assert recommendation(fingerprint((2, 300, 300))).value == "2D"
