"""The loss of regions against the formula written out, of maps and of queries."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from transunet import create_model
from transunet.models.transunet3d.network import QueryOutputs
from transunet.models.transunet3d.query_decoder import QueryPrediction
from transunet.training.losses import DeepSupervisionLoss
from transunet.training.losses3d import RegionLoss, TransUNet3DLoss
from transunet.training.recipe import load_recipe
from transunet.training.trainer import make_loss

REGIONS = ((1, 2, 4), (1, 4), (4,))


def plain(logits: Tensor, labels: Tensor, counted: Tensor, terms: tuple[float, float]) -> Tensor:
    """Mean binary cross-entropy, less the mean of the regions' Dice over the whole batch."""
    entropies, dice = [], []
    for index, members in enumerate(REGIONS):
        truth = sum((labels == value).double() for value in members)[counted]
        p = 1 / (1 + torch.exp(-logits[:, index][counted]))
        entropies.append(-(truth * p.log() + (1 - truth) * (1 - p).log()).mean())
        dice.append(2 * (p * truth).sum() / (p.sum() + truth.sum()))
    return terms[0] * sum(entropies) / 3 - terms[1] * sum(dice) / 3


@pytest.mark.parametrize("ignored", [None, 255])
@pytest.mark.parametrize("spatial", [(9, 7), (4, 6, 5)])
def test_maps_of_regions(spatial: tuple[int, ...], ignored: int | None) -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, 3, *spatial, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(0, 4, (2, *spatial))]
    counted = torch.ones_like(labels, dtype=torch.bool)
    if ignored:
        counted[:, 2:] = False
        labels[:, 2:] = ignored
    loss = RegionLoss(REGIONS, (0.3, 0.7), ignored=ignored)
    expected = plain(logits, labels, counted, (0.3, 0.7))
    torch.testing.assert_close(loss(logits, labels), expected, atol=1e-7, rtol=0)


def test_the_recipe_weighs_its_terms_and_depths_in_2d() -> None:
    recipe = load_recipe("modern", {"ce_weight": 0.4, "dice_weight": 0.6})
    config = create_model(recipe.model, num_classes=3, regions=REGIONS, image_size=32).config
    loss = make_loss(recipe, config=config)
    depths = recipe.deep_supervision
    assert depths
    assert isinstance(loss, DeepSupervisionLoss)
    assert isinstance(loss.loss, RegionLoss)
    assert loss.loss.maps.terms == (0.4, 0.6)


def test_each_region_is_matched_with_the_query_that_costs_least() -> None:
    """Of every way to give the regions queries, the cheapest is learned: tried one by one."""
    torch.manual_seed(0)
    size, queries = (3, 4, 5), 4
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(0, 4, (1, *size))]
    classes = torch.randn(1, queries, 4, dtype=torch.float64)
    masks = torch.randn(1, queries, *size, dtype=torch.float64)
    settings = {"image_size": 16, "poolings": ((2, 2, 2),) * 3, "kernels": ((3, 3, 3),) * 4}
    config = create_model(
        "TransUNet3D-decoder-S", num_classes=3, regions=REGIONS, width=4, **settings
    ).config
    found = TransUNet3DLoss(config)(QueryOutputs((QueryPrediction(classes, masks),), ()), labels)

    p = classes[0].softmax(-1)

    def costs(query: int, region: int) -> tuple[Tensor, Tensor]:
        truth = torch.isin(labels[0], torch.tensor(REGIONS[region])).double()
        s = masks[0, query].sigmoid()
        entropy = -(truth * s.log() + (1 - truth) * (1 - s).log()).mean()
        dice = 1 - (2 * (s * truth).sum() + 1) / (s.sum() + truth.sum() + 1)
        return entropy, dice

    def total(given: tuple[int, ...]) -> float:
        parts = (-2 * p[q, k] + 5 * sum(costs(q, k)) for k, q in enumerate(given))
        return float(sum(parts))

    best = min(permutations(range(queries), 3), key=total)
    nothing = ({*range(queries)} - {*best}).pop()
    learned = {q: k for k, q in enumerate(best)} | {nothing: 3}
    entropy = -sum(p[q, k].log() for q, k in learned.items()) / queries
    pairs = [costs(q, k) for k, q in enumerate(best)]
    expected = 0.2 * entropy + sum(0.5 * e + 0.5 * d for e, d in pairs) / 3
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
