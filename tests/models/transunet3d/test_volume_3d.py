"""A volume in windows, as the reference's inference computes it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_figures import uniform
from golden_figures_3d import close_3d, config_3d, facts_3d, figure_3d, seeded_3d, stored
from transunet.data.sampling.patches import Patches, gaussian

pytestmark = pytest.mark.slow

SHAPE, PATCH = (20, 44, 52), (16, 32, 32)


@pytest.fixture(scope="module")
def volume() -> Tensor:
    values = uniform("volume3d", SHAPE).clip(0.05, 0.95)
    return torch.from_numpy((values - np.float32(0.5)) / np.float32(0.25))[None, None]


def test_windows_of_a_volume_sum_up_to_the_references(volume: Tensor) -> None:
    """Its scores are weighted by a Gaussian and not divided by the weights."""
    model = seeded_3d(config_3d(facts_3d()["cases"]["decoder"]))
    weights = torch.from_numpy(gaussian(PATCH, [side // 2 for side in PATCH], least=1e-4))
    total = torch.zeros(4, *SHAPE)
    for position in Patches(size=PATCH, overlap=0.3).positions(SHAPE):
        window = tuple(slice(a, a + side) for a, side in zip(position, PATCH, strict=True))
        with torch.inference_mode():
            scores = model(volume[..., *window]).exp()[0]
        total[:, *window] += scores * weights
    close_3d("inference/volume", total[None], 5e-5)
    same = stored("inference/volume_labels", total.argmax(0)[None].numpy()) == figure_3d(
        "inference/volume_labels"
    )
    assert same.mean() > 0.999


@pytest.mark.slow
def test_regions_of_a_volume_are_the_references(volume: Tensor) -> None:
    """The mean of the windows that see a voxel, each region apart."""
    config = config_3d(facts_3d()["cases"]["decoder"]).replace(num_classes=3)
    model = seeded_3d(config)
    total, count = torch.zeros(3, *SHAPE), torch.zeros(SHAPE)
    for position in Patches(size=PATCH, overlap=0.5).positions(SHAPE):
        window = tuple(slice(a, a + side) for a, side in zip(position, PATCH, strict=True))
        with torch.inference_mode():
            total[:, *window] += model(volume[..., *window]).exp()[0]
        count[window] += 1
    mean = (total / count)[None]
    close_3d("inference/volume_region", mean, 5e-5)
    regions = stored("inference/volume_region_labels", (mean > 0.5).numpy())
    assert (regions == figure_3d("inference/volume_region_labels")).mean() > 0.999
