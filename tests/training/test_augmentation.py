import numpy as np
import pytest
import torch

from transunet.training.augmentation import BatchAugmentation
from transunet.training.recipe import Augmentation, load_recipe

EVERY = [name.removeprefix("p_") for name in Augmentation.model_fields if name.startswith("p_")]
MOVING = {"affine", "rotation", "scale", "elastic", "mirror"}


def augmentation(seed=5, **settings):
    return BatchAugmentation(Augmentation(**settings), seed)


@pytest.fixture
def batch():
    """Smooth images whose labels are a threshold of them, so that both must move together."""
    torch.manual_seed(0)
    coarse = torch.rand(6, 1, 6, 8)
    images = torch.nn.functional.interpolate(coarse, size=(48, 64), mode="bicubic")
    return images, (images[:, 0] > 0.5).long(), [(i, 10 + i) for i in range(6)]


@pytest.mark.parametrize("name", EVERY)
def test_each_change_changes_the_image_and_keeps_form_and_classes(batch, name):
    images, labels, draws = batch
    before = images.clone(), labels.clone()
    new, moved = augmentation(**{f"p_{name}": 1})(images, labels, draws)
    assert (new.shape, new.dtype) == (images.shape, torch.float32)
    assert (moved.shape, moved.dtype) == (labels.shape, torch.int64)
    assert not torch.equal(new, images)
    assert set(moved.unique().tolist()) <= {0, 1}
    assert torch.isfinite(new).all()
    assert torch.equal(images, before[0])  # the caller's batch is left alone
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("name", sorted(MOVING))
def test_image_and_label_move_together(batch, name):
    images, labels, draws = batch
    new, moved = augmentation(**{f"p_{name}": 1, "scale": (0.9, 1.1)})(images, labels, draws)
    assert not torch.equal(moved, labels)
    # Labels are not interpolated: they may differ near the threshold, and at the image's edge.
    clear = (new[:, 0] - 0.5).abs() > 0.12
    assert clear.float().mean() > 0.6
    assert (moved == (new[:, 0] > 0.5))[clear].float().mean() > 0.99


@pytest.mark.parametrize("name", [name for name in EVERY if name not in MOVING])
def test_intensities_change_without_the_labels(batch, name):
    images, labels, draws = batch
    assert torch.equal(augmentation(**{f"p_{name}": 1})(images, labels, draws)[1], labels)


def test_a_slice_does_not_depend_on_its_neighbours(batch):
    images, labels, draws = batch
    change = BatchAugmentation(load_recipe("modern").augmentation, seed=3)
    together = change(images, labels, draws)
    for i in range(len(images)):
        alone = change(images[i : i + 1], labels[i : i + 1], draws[i : i + 1])
        torch.testing.assert_close(alone[0][0], together[0][i], rtol=0, atol=1e-5)
        assert torch.equal(alone[1][0], together[1][i])


def test_seed_and_draw_decide_and_nothing_else(batch):
    images, labels, draws = batch
    first = augmentation(p_noise=1)(images, labels, draws)[0]
    torch.rand(7)
    assert torch.equal(augmentation(p_noise=1)(images, labels, draws)[0], first)
    assert not torch.equal(augmentation(p_noise=1, seed=6)(images, labels, draws)[0], first)
    other = [(draw + 100, index) for draw, index in draws]
    assert not torch.equal(augmentation(p_noise=1)(images, labels, other)[0], first)


def test_nothing_asked_for_changes_nothing(batch):
    images, labels, draws = batch
    new, moved = augmentation()(images, labels, draws)
    assert torch.equal(new, images)
    assert torch.equal(moved, labels)


def test_a_quarter_turn_is_one():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    change = augmentation(p_affine=1, rotation=90, scale=(1, 1), shift=0).changes[0][1]
    new, labels = change(image.clone(), image[:, 0].long(), [AlwaysMost()])
    turned = torch.rot90(image, 1, (2, 3))
    torch.testing.assert_close(new, turned, rtol=0, atol=1e-4)
    assert torch.equal(labels, turned[:, 0].long())


class AlwaysMost:
    """Random numbers that are always the largest possible."""

    def random(self):
        return 0.0

    def uniform(self, low, high, size=None):
        return np.full(size, high) if size else high
