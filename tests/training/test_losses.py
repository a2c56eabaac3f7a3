import numpy as np
import pytest
import torch

from golden_figures import facts, figure, normal, uniform
from transunet.training.losses import (
    LOSSES,
    DeepSupervisionLoss,
    LossTerm,
    SegmentationLoss,
    dice_sums,
    nearest_labels,
    weighted_dice,
)
from transunet.training.recipe import Recipe
from transunet.training.trainer import make_loss


@pytest.fixture
def golden_batch():
    logits = torch.from_numpy(2 * normal("loss/logits", (3, 9, 32, 40))).requires_grad_()
    labels = torch.from_numpy((9 * uniform("loss/labels", (3, 32, 40))).astype(np.int64))
    return logits, labels


@pytest.mark.parametrize(
    ("part", "weights"),
    [
        ("ce", {"ce_weight": 1}),
        ("dice", {"dice_weight": 1}),
        ("total", {"ce_weight": 0.5, "dice_weight": 0.5}),
    ],
)
def test_the_loss_is_the_references(golden_batch, part, weights):
    logits, labels = golden_batch
    value = SegmentationLoss(weights)(logits, labels).item()
    assert value == pytest.approx(facts()["loss"][part], rel=1e-6)


def test_the_gradient_is_the_references(golden_batch):
    logits, labels = golden_batch
    SegmentationLoss()(logits, labels).backward()
    entry, expected = facts()["loss_grad"], figure("loss_grad")
    found = logits.grad.numpy()[tuple(slice(None, None, s) for s in entry["stride"])]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * entry["std"])


def test_dice_by_hand():
    # Two classes, two images of two pixels; class 1: sum(p t) = 0.9, sum(p p) = 1.06, sum(t t) = 1.
    ones = torch.tensor([[[[0.9, 0.1]]], [[[0.2, 0.4]]]]).reshape(2, 1, 1, 2)
    probabilities = torch.cat([1 - ones, ones], dim=1)
    labels = torch.tensor([[[1, 0]], [[0, 0]]])
    class_1 = 1 - 2 * 0.9 / (0.81 + 0.01 + 0.04 + 0.16 + 1)
    class_0 = 1 - 2 * (0.9 + 0.8 + 0.6) / (0.01 + 0.81 + 0.64 + 0.36 + 3)
    found = weighted_dice(1.0, dice_sums(probabilities.log(), labels))
    assert found.item() == pytest.approx((class_0 + class_1) / 2, abs=1e-5)


def test_a_class_that_is_absent_and_not_predicted_costs_nothing():
    probabilities = torch.zeros(1, 2, 4, 4)
    probabilities[:, 0] = 1
    sums = dice_sums(probabilities.log(), torch.zeros(1, 4, 4, dtype=torch.int64))
    assert weighted_dice(1.0, sums).item() == 0


def test_a_new_loss_is_an_entry_and_a_setting_of_the_recipe(golden_batch, monkeypatch):
    class RecipeWithSquares(Recipe):
        square_weight: float = 0.0

    # Each process sums its share; the term is made of the sums over all of them.
    squares = LossTerm(lambda logits, labels, ignored: logits.square().sum(), torch.mul)
    monkeypatch.setitem(LOSSES, "square_weight", squares)
    recipe = RecipeWithSquares(epochs=1, ce_weight=1, dice_weight=0, square_weight=0.5)
    logits, labels = golden_batch
    found = make_loss(recipe, lambda sums: 2 * sums)(logits, labels)
    expected = SegmentationLoss({"ce_weight": 1})(logits, labels) + logits.square().sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_half_precision_logits_give_a_float32_loss(golden_batch):
    logits, labels = golden_batch
    exact = SegmentationLoss()(logits, labels)
    half = SegmentationLoss()(logits.to(torch.bfloat16), labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=1e-2)


def test_deep_supervision_weighs_depths_and_sums_to_one(golden_batch):
    logits, labels = golden_batch
    loss = SegmentationLoss()
    coarse = logits[:, :, ::2, ::2]
    found = DeepSupervisionLoss(loss, [0.5])([logits, coarse], labels)
    expected = (loss(logits, labels) + 0.5 * loss(coarse, labels[:, 1::2, 1::2])) / 1.5
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (8, 6), (3, 5)])
def test_nearest_labels_takes_the_pixel_under_the_centre(size):
    labels = torch.arange(2 * 4 * 6).reshape(2, 4, 6)
    found = nearest_labels(labels, size)
    rows = [int((i + 0.5) * 4 / size[0]) for i in range(size[0])]
    columns = [int((i + 0.5) * 6 / size[1]) for i in range(size[1])]
    assert torch.equal(found, labels[:, rows][:, :, columns])


IGNORED = 255


@pytest.mark.parametrize("weights", [{"ce_weight": 1}, {"dice_weight": 1}, None])
def test_pixels_that_nobody_labelled_count_in_neither_term(golden_batch, weights):
    logits, labels = golden_batch
    counted = SegmentationLoss(weights)(logits[:, :, :20], labels[:, :20])
    labels[:, 20:] = IGNORED
    loss = SegmentationLoss(weights, ignored=IGNORED)
    found = loss(logits, labels)
    assert found.item() == pytest.approx(counted.item(), rel=1e-6)
    found.backward()
    assert not logits.grad[:, :, 20:].any()
    assert logits.grad[:, :, :20].any()


def test_without_such_pixels_the_loss_is_the_same_to_the_bit(golden_batch):
    logits, labels = golden_batch
    assert torch.equal(
        SegmentationLoss(ignored=IGNORED)(logits, labels), SegmentationLoss()(logits, labels)
    )


@pytest.mark.parametrize("depths", [(), (0.5, 0.25)])
def test_a_batch_that_nobody_labelled_costs_nothing(golden_batch, depths):
    logits, labels = golden_batch
    loss = SegmentationLoss(ignored=IGNORED)
    outputs = [logits, logits[:, :, ::2, ::2], logits[:, :, ::4, ::4]][: len(depths) + 1]
    found = DeepSupervisionLoss(loss, depths)(outputs, torch.full_like(labels, IGNORED))
    assert found.item() == pytest.approx(0, abs=1e-6)
    found.backward()
    assert torch.isfinite(logits.grad).all()


def test_a_coarser_depth_leaves_out_what_lies_under_its_pixels(golden_batch):
    logits, labels = golden_batch
    labels[:, ::2] = IGNORED  # the pixels under the centres of half the size are the odd ones
    loss, coarse = SegmentationLoss(ignored=IGNORED), logits[:, :, ::2, ::2]
    found = DeepSupervisionLoss(loss, [1])([logits, coarse], labels)
    expected = (loss(logits, labels) + loss(coarse, labels[:, 1::2, 1::2])) / 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
