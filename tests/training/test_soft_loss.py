"""What a teacher adds to the loss, by hand."""

from math import exp, log

import pytest
import torch

from transunet.models.families import build
from transunet.training.losses import SegmentationLoss
from transunet.training.losses3d import RegionLoss
from transunet.training.recipe import Distillation, load_recipe
from transunet.training.soft_loss import SoftTargetLoss
from transunet.training.trainer import make_loss, trained_network


def targets(labels, *planes):
    """Targets (1, 1 + planes, pixels, 1): labels, and the teacher's probabilities."""
    rows = [torch.tensor(labels), *(torch.round(255 * torch.tensor(plane)) for plane in planes)]
    return torch.stack([row.long() for row in rows])[None, :, :, None]


def logits(*classes):
    return torch.tensor(classes)[None, :, :, None]


def softmax(values, temperature=1.0):
    raised = [exp(value / temperature) for value in values]
    return [value / sum(raised) for value in raised]


def soft_loss(temperature, weight, terms=(1.0, 0.0), hard=None, **more):
    settings = Distillation(teachers=("T",), temperature=temperature, soft_weight=weight)
    return SoftTargetLoss(hard or SegmentationLoss(), settings, terms, **more)


def test_the_divergence_at_a_temperature_by_hand():
    # Two pixels of three classes; the teacher's probabilities at the temperature are whole 255ths.
    students = [(0.5, 2.0, -1.0), (1.0, 0.0, 0.0)]
    teachers = [(153 / 255, 51 / 255, 51 / 255), (0.0, 1.0, 0.0)]
    expected = 0.0
    for student, teacher in zip(students, teachers, strict=True):
        softened = softmax(student, temperature=4)
        pairs = zip(teacher, softened, strict=True)
        expected += 16 / 2 * sum(q * log(q / p) for q, p in pairs if q)
    of_pixels = logits(*map(list, zip(*students, strict=True)))
    asked = targets([1, 1], *map(list, list(zip(*teachers, strict=True))[1:]))
    assert soft_loss(4.0, 1.0)(of_pixels, asked).item() == pytest.approx(expected, rel=1e-5)


def test_dice_asks_for_the_probabilities_as_they_were_before_they_were_softened():
    # At the temperature 2 the teacher says 1/5, 4/5; squared and normalised that is 1/17, 16/17.
    student, teacher = softmax((0.3, 0.9)), (1 / 17, 16 / 17)
    scores = [
        (2 * p * q + 1e-5) / (p * p + q * q + 1e-5) for p, q in zip(student, teacher, strict=True)
    ]
    found = soft_loss(2.0, 1.0, (0.0, 1.0))(logits([0.3], [0.9]), targets([1], [4 / 5]))
    assert found.item() == pytest.approx(1 - sum(scores) / 2, rel=1e-5)


def test_who_agrees_with_the_teacher_has_nothing_to_learn_from_it():
    probabilities = [51 / 255, 102 / 255]  # at the temperature
    agreed = logits(*([3 * log(p)] for p in (1 - sum(probabilities), *probabilities)))
    asked = targets([0], *([p] for p in probabilities))
    agreed.requires_grad_()
    loss = soft_loss(3.0, 1.0, (1.0, 1.0))(agreed, asked)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert agreed.grad.abs().max() < 1e-5


def test_both_parts_are_weighed():
    of_pixels, asked = logits([0.5, 1.0], [2.0, 0.0]), targets([1, 0], [0.8, 0.2])
    soft, mixed = (soft_loss(2.0, weight)(of_pixels, asked) for weight in (1.0, 0.3))
    hard = SegmentationLoss()(of_pixels, asked[:, 0])
    assert mixed.item() == pytest.approx(0.7 * hard.item() + 0.3 * soft.item(), rel=1e-6)


def test_regions_are_asked_one_by_one():
    # One voxel of two regions: binary divergences, each from the teacher's own probability.
    of_voxel, asked = logits([1.0], [-2.0]), targets([1], [204 / 255], [51 / 255])
    expected = 0.0
    for value, q in ((1.0, 0.8), (-2.0, 0.2)):
        p = 1 / (1 + exp(-value / 2))
        expected += 4 / 2 * (q * log(q / p) + (1 - q) * log((1 - q) / (1 - p)))
    loss = soft_loss(2.0, 1.0, hard=RegionLoss([[1, 2], [2]]), regions=True)
    assert loss(of_voxel, asked).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", ["testing", "TransUNet3D-decoder-S", "UNet3D-S"])
def test_images_that_nobody_labelled_teach_by_the_teacher_alone(model):
    """Whatever the labels' loss is, its gradient is 0 and the teacher's is not."""
    distillation = {"teachers": ["T"], "soft_weight": 0.5}
    spatial = (16, 16) if model == "testing" else (16, 16, 16)
    recipe = load_recipe(None, {"model": model, "iterations": 1, "distillation": distillation})
    recipe = recipe.replace(image_size=spatial)
    if len(spatial) == 3:
        trunk = {"poolings": [(1, 2, 2), (2, 2, 2), (2, 2, 2)], "kernels": [(3, 3, 3)] * 4}
        recipe = recipe.replace(architecture={**trunk, "width": 4, "max_width": 8})
    network = trained_network(build(recipe.network(3, 1)), recipe).train()
    images = torch.randn(2, 1, *spatial, generator=torch.Generator().manual_seed(0))
    asked = torch.full((2, 3, *spatial), 255)
    asked[:, 1:] = 40
    gradients = {}
    for weight in (0.0, 0.5, 1.0):
        own = recipe.replace(distillation=recipe.distillation.replace(soft_weight=weight))
        loss = make_loss(own, ignored=255, config=recipe.network(3, 1))
        network.zero_grad()
        torch.manual_seed(0)
        loss(network(images), asked).backward()
        gradients[weight] = torch.cat(
            [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        )
    assert gradients[0.0].abs().max() == 0
    assert gradients[1.0].isfinite().all()
    assert gradients[1.0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[0.5], gradients[1.0] / 2, rtol=1e-3, atol=1e-6)
