"""Training on images of three axes: held to scipy and MONAI, and to what two axes give."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import nn
from torch.utils.data import DataLoader

from transunet.data.sampling.patches import Patches
from transunet.data.store import Store
from transunet.training.augmentation import BatchAugmentation
from transunet.training.distributed import SharedBatchNorm
from transunet.training.losses import DeepSupervisionLoss, SegmentationLoss, nearest_labels
from transunet.training.recipe import Augmentation, load_recipe
from transunet.training.sampler import Batches
from transunet.training.samples import Samples
from transunet.training.step import Arithmetic, train_step
from transunet.training.trainer import MovingAverage

EVERY = [name for name in Augmentation.model_fields if name.startswith("p_")]
MOVING = {"p_affine", "p_rotation", "p_scale", "p_elastic", "p_mirror"}
"""What moves voxels, and so the labels with them."""
SIZE = (12, 18, 16)


@pytest.fixture
def batch():
    """Smooth volumes whose labels are a threshold of them, so that both must move together."""
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(3, 2, 3, 4, 4), size=SIZE, mode="trilinear")
    return images, (images[:, 0] > 0.5).long(), [(i, 10 + i) for i in range(3)]


def augmentation(spared_axis=None, **settings):
    return BatchAugmentation(Augmentation(**settings), 5, spared_axis)


def changed(batch, rng, spared_axis=None, **settings):
    """The batch's first image and label, changed with the numbers of `rng`."""
    ((_, change),) = augmentation(spared_axis, **settings).changes
    images, labels, _ = batch
    new, moved = change(images[:1].clone(), labels[:1].clone(), [rng])
    return new[0], moved[0]


def stub(*numbers):
    """Draws that come true, and then these numbers, whatever their range."""
    left = list(numbers)
    return SimpleNamespace(random=lambda: 0.0, uniform=lambda *_: left.pop(0))


@pytest.mark.parametrize("spared_axis", [None, 0])
@pytest.mark.parametrize("name", EVERY)
def test_each_change_changes_the_image_and_keeps_form_and_classes(batch, name, spared_axis):
    images, labels, draws = batch
    new, moved = augmentation(spared_axis, **{name: 1, "elastic": 0.2})(images, labels, draws)
    assert (new.shape, new.dtype) == (images.shape, torch.float32)
    assert (moved.shape, moved.dtype) == (labels.shape, torch.int64)
    assert not torch.equal(new, images)
    assert set(moved.unique().tolist()) <= {0, 1}
    assert torch.isfinite(new).all()
    assert torch.equal(moved, labels) == (name not in MOVING)


@pytest.mark.parametrize("name", ["p_affine", "p_elastic", "p_mirror"])
def test_image_and_label_move_together(batch, name):
    images, labels, draws = batch
    new, moved = augmentation(**{name: 1, "scale": (0.9, 1.1)})(images, labels, draws)
    clear = (new[:, 0] - 0.5).abs() > 0.12
    assert clear.float().mean() > 0.3
    assert (moved == (new[:, 0] > 0.5))[clear].float().mean() > 0.98


def test_a_volume_does_not_depend_on_its_neighbours_in_the_batch(batch):
    images, labels, draws = batch
    settings = load_recipe("modern").augmentation.replace(p_mirror=0.5, mirror_axes=(0, 1, 2))
    change = BatchAugmentation(settings, seed=3)
    together = change(images, labels, draws)
    for i in range(len(images)):
        alone = change(images[i : i + 1], labels[i : i + 1], draws[i : i + 1])
        torch.testing.assert_close(alone[0][0], together[0][i], rtol=0, atol=1e-5)
        assert torch.equal(alone[1][0], together[1][i])


@pytest.mark.parametrize("degrees", [(25, 0, 0), (0, -40, 0), (0, 0, 30), (20, -15, 35)])
def test_rotation_zoom_and_shift_are_scipys(batch, degrees):
    zoom, shift = 1.2, np.array([0.05, -0.02, 0.1])  # x, y, z: shares of the sides
    rng = stub(np.array(degrees), np.log(zoom), shift)
    new, moved = changed(batch, rng, p_affine=1)
    about = {"x-y": (0, 0, 1), "x-z": (0, -1, 0), "y-z": (1, 0, 0)}  # right-handed, in x, y, z
    turns = [
        Rotation.from_rotvec(degree * np.array(axis), degrees=True).as_matrix()
        for degree, axis in zip(degrees, about.values(), strict=True)
    ]
    matrix = (turns[0] @ turns[1] @ turns[2])[::-1, ::-1] / zoom  # of z, y, x
    middle = (np.array(SIZE) - 1) / 2
    offset = middle - matrix @ middle + shift[::-1] * SIZE
    images, labels, _ = batch
    for channel, image in zip(new, images[0].numpy(), strict=True):
        floor = image.min()
        how = {"offset": offset, "order": 1, "mode": "grid-constant"}
        expected = ndimage.affine_transform(image - floor, matrix, **how) + floor
        np.testing.assert_allclose(channel, expected, atol=2e-5)
    expected = ndimage.affine_transform(
        labels[0].numpy(), matrix, offset=offset, order=0, mode="grid-constant"
    )
    assert (moved.numpy() == expected).mean() > 0.999  # but for ties


def test_bending_is_smooth_and_along_every_axis(batch):
    points = np.zeros((3, 8, 8, 8))
    for axis in range(3):  # the same everywhere: a shift by a whole number of pixels
        points[:] = 0
        points[axis] = 1
        pixels, side = 2, SIZE[::-1][axis]
        new, moved = changed(batch, stub(points, pixels / side), p_elastic=1)
        images, labels, _ = batch
        take = [slice(None)] * 3
        take[2 - axis] = slice(0, side - pixels)
        there = [slice(None)] * 3
        there[2 - axis] = slice(pixels, side)
        expected = images[0][:, *there]
        torch.testing.assert_close(new[:, *take], expected, rtol=0, atol=1e-5)
        assert torch.equal(moved[tuple(take)], labels[0][tuple(there)])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blur_is_scipys_and_spares_the_axis(batch, axis):
    image = batch[0][0].numpy()
    for spared in (None, axis):
        new, _ = changed(batch, stub(0.8), spared, p_blur=1)
        sigmas = [0.0 if i == spared else 0.8 for i in range(3)]
        expected = ndimage.gaussian_filter(
            image, [0.0, *sigmas], mode="nearest", radius=[0, 3, 3, 3]
        )
        np.testing.assert_allclose(new, expected, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_low_resolution_treats_all_axes_alike(batch, axis):
    image = batch[0][:1]
    order = [0, 1, *np.roll([2, 3, 4], axis)]
    back = np.argsort(order).tolist()
    ((_, change),) = augmentation(p_low_resolution=1).changes
    expected, _ = change(image, batch[1][:1], [stub(0.6)])
    found, _ = change(image.permute(order), batch[1][:1], [stub(0.6)])
    torch.testing.assert_close(found.permute(back), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("p_noise", "p_mirror")])
def test_with_an_axis_spared_equal_planes_are_what_one_plane_becomes(batch, name):
    """Of equal planes, each becomes the same; of noise and mirrors, planes are their own."""
    images, labels, draws = batch
    planes = images[:, :, :1].expand(-1, -1, 5, -1, -1)
    new, moved = augmentation(0, **{name: 1, "shift": 0})(
        planes.contiguous(), labels[:, :1].expand(-1, 5, -1, -1).contiguous(), draws
    )
    if name != "p_elastic":  # which bends neighbouring planes nearly alike
        torch.testing.assert_close(new, new[:, :, :1].expand_as(new), rtol=0, atol=1e-5)
        assert torch.equal(moved, moved[:, :1].expand_as(moved))
    # And planes of nothing stay so: none is mixed with its neighbours.
    planes = planes.clone()
    planes[:, :, ::2] = 0
    new, _ = augmentation(0, **{name: 1})(planes, labels[:, :5].contiguous(), draws)
    if name not in ("p_contrast", "p_gamma"):
        assert new[:, :, ::2].abs().max() < 1e-4
    assert new[:, :, 1::2].abs().max() > 0.1


def test_mirroring_takes_each_axis(batch):
    images, labels, draws = batch
    seen = set()
    for epoch in range(30):
        keys = [(draw + 100 * epoch, index) for draw, index in draws]
        new, moved = augmentation(p_mirror=1, mirror_axes=(0, 1, 2))(images, labels, keys)
        for image, label, old, old_label in zip(new, moved, images, labels, strict=True):
            axes = [
                axes
                for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
                if torch.equal(image, old.flip([a + 1 for a in axes]))
            ]
            assert len(axes) == 1
            assert torch.equal(label, old_label.flip(axes[0]))
            seen |= set(axes)
    assert len(seen) == 8


@pytest.mark.runtime
def test_intensities_are_monais(batch):
    transforms = pytest.importorskip("monai.transforms", reason="compares with MONAI's")
    image = batch[0][0]
    new, _ = changed(batch, stub(1.4), p_gamma=1)
    for channel, old in zip(new, image, strict=True):
        expected = transforms.AdjustContrast(gamma=1.4)(old[None])[0]
        torch.testing.assert_close(channel, torch.as_tensor(expected), rtol=0, atol=1e-5)
    new, _ = changed(batch, stub(1.2), p_brightness=1)
    torch.testing.assert_close(new, transforms.ScaleIntensity(None, None, factor=0.2)(image))
    new, _ = changed(batch, stub(1.2), p_contrast=1)
    contrast = transforms.ScaleIntensityFixedMean(
        factor=0.2, preserve_range=True, channel_wise=True
    )
    torch.testing.assert_close(new, torch.as_tensor(contrast(image)), rtol=0, atol=1e-5)


@pytest.fixture
def scores():
    torch.manual_seed(1)
    labels = F.interpolate(torch.randint(0, 4, (2, 1, 3, 4, 4)).float(), size=SIZE).long()[:, 0]
    return torch.randn(2, 4, *SIZE, requires_grad=True), labels


@pytest.mark.runtime
@pytest.mark.parametrize("depths", [(), (0.5, 0.25)])
def test_the_loss_and_its_gradient_are_monais(scores, depths):
    losses = pytest.importorskip("monai.losses", reason="compares with MONAI's")
    logits, labels = scores
    theirs = losses.DiceCELoss(
        to_onehot_y=True,
        softmax=True,
        squared_pred=True,
        batch=True,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    expected = theirs(logits, labels[:, None])
    found = SegmentationLoss({"ce_weight": 1, "dice_weight": 1})(logits, labels)
    if depths:
        coarse = [logits[..., ::2, ::2], logits[..., ::2, ::3, ::4]]
        # MONAI takes the nearest label by another rule, so that labels are given to it resized.
        exact = [
            F.interpolate(labels[:, None].float(), c.shape[2:], mode="nearest-exact")
            for c in coarse
        ]
        for weight, output, label in zip(depths, coarse, exact, strict=True):
            expected = expected + weight * theirs(output, label)
        expected = expected / (1 + sum(depths))
        ours = DeepSupervisionLoss(SegmentationLoss({"ce_weight": 1, "dice_weight": 1}), depths)
        found = ours([logits, *coarse], labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_voxels_that_nobody_labelled_count_in_neither_term(scores):
    logits, labels = scores
    counted = SegmentationLoss()(logits[:, :, :7], labels[:, :7])
    labels[:, 7:] = 255
    found = SegmentationLoss(ignored=255)(logits, labels)
    assert found.item() == pytest.approx(counted.item(), rel=1e-6)


@pytest.mark.parametrize("size", [(6, 9, 8), (4, 9, 16), (12, 6, 5), (24, 18, 20)])
def test_nearest_labels_are_pytorchs_nearest_exact(scores, size):
    labels = scores[1]
    expected = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")
    assert torch.equal(nearest_labels(labels, size), expected[:, 0].long())


@pytest.mark.parametrize("axes", [1, 3])
def test_shared_batch_norm_alone_is_batch_norm(axes):
    torch.manual_seed(0)
    usual = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[axes](5)
    shared = SharedBatchNorm(5)
    x = (3 + 2 * torch.randn(4, 5, *SIZE[:axes])).requires_grad_()
    weight = torch.randn_like(x)
    results = []
    for norm in (usual, shared):
        trained = norm.train()(x)
        results.append((trained, *torch.autograd.grad((trained * weight).sum(), x), norm.eval()(x)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value, rtol=1e-5, atol=1e-6)


class TwoDepths(nn.Module):
    """A small network of three axes with logits at its own size and at half of it."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU())
        self.heads = nn.ModuleList(nn.Conv3d(8, 3, 1) for _ in "ab")

    def forward(self, x):
        features = self.features(x)
        return [self.heads[0](features), self.heads[1](features[..., ::2, ::2])]


@pytest.mark.slow
def test_a_network_learns_from_patches_that_are_drawn_and_changed(store):
    torch.manual_seed(0)
    store = Store.open(store)
    samples = Samples(store, list(store.cases), Patches(size=(3, 16, 16)))
    by_class = {index: samples.with_class(index) for index in (1, 2)}
    sampler = Batches(len(samples), 4, seed=1, foreground=0.5, indices_by_class=by_class)
    augment = BatchAugmentation(load_recipe("modern").augmentation, 1, spared_axis=0)
    network = TwoDepths().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)
    loss = DeepSupervisionLoss(SegmentationLoss(), [0.5])
    average = MovingAverage(network, 0.9)
    losses = []
    loader = DataLoader(samples, batch_sampler=sampler)
    for step, (keys, batch) in enumerate(zip(islice(sampler, 30), loader, strict=False)):
        images, labels = augment(batch["image"], batch["label"], keys)
        assert images.shape == (len(keys), 1, 3, 16, 16)
        how = Arithmetic(accumulate=2, clip_norm=1.0)
        losses.append(train_step(network, loss, optimizer, images, labels, how))
        average.update(network, step)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert torch.isfinite(average.model(images)[0]).all()
