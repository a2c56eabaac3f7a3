"""What training does to images and labels: the paper's slice by slice, a recipe's by the batch.

Every sample has its own random numbers, seeded by its key: what happens to it depends neither on
its neighbours in the batch nor on the process that it is in.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from transunet.training.recipe import Augmentation
from transunet.training.sampler import SampleKey

_ELASTIC_POINTS = 8  # per axis: displacements are drawn on a coarse grid and smoothed in between

SliceAugmentation = Callable[
    [NDArray[np.float32], NDArray[Any], np.random.Generator],
    tuple[NDArray[np.float32], NDArray[Any]],
]
"""From an image (C, H, W), its label (H, W) and a generator to another pair, before resizing."""

Rngs = Sequence[np.random.Generator]
Change = Callable[[Tensor, Tensor, Rngs], tuple[Tensor, Tensor]]
"""From the samples that it was drawn for, their labels and generators, to new ones."""


def paper(
    image: NDArray[np.float32], label: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Augment as the paper does, at the slice's own size.

    With probability 1/2 a random quarter-turn and flip; else with probability 1/2 a rotation by a
    whole number of degrees in [-20, 20).

    Args:
        image: (C, H, W) float32.
        label: (H, W), any integers.
        rng: the only source of randomness.

    Returns:
        Image and label; a quarter-turn swaps height and width.
    """
    if rng.random() < 0.5:
        return turn_and_flip(image, label, int(rng.integers(4)), int(rng.integers(2)))
    if rng.random() < 0.5:
        return rotate(image, label, int(rng.integers(-20, 20)))
    return image, label


def turn_and_flip(
    image: NDArray[np.float32], label: NDArray[Any], quarters: int, axis: int
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Turn by `quarters` quarter-turns, then flip rows (`axis` 0) or columns (1)."""
    turned = np.rot90(image, quarters, axes=(-2, -1)), np.rot90(label, quarters, axes=(-2, -1))
    return np.flip(turned[0], axis - 2), np.flip(turned[1], axis - 2)


def rotate(
    image: NDArray[np.float32], label: NDArray[Any], degrees: float
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Rotate about the middle, picking the nearest pixel, to the same size; corners become 0."""
    # fidelity: 0 also where the darkest intensity is another, as the reference fills corners.
    how: dict[str, Any] = {"axes": (-2, -1), "order": 0, "reshape": False}
    return ndimage.rotate(image, degrees, **how), ndimage.rotate(label, degrees, **how)


class BatchAugmentation:
    """What a recipe's `augmentation` does to a batch of images with two or three axes.

    Args:
        settings: probabilities and sizes.
        seed: the run's.
        spared_axis: the axis (0 is the first) along which images are much coarser than along the
            others: planes across it are neither mixed nor moved against each other, as if each were
            an image of its own; mirroring, which keeps planes whole, takes it as any other.
    """

    def __init__(self, settings: Augmentation, seed: int, spared_axis: int | None = None) -> None:
        self.settings, self.seed, self.spared_axis = settings, seed, spared_axis
        s = settings
        changes: list[tuple[float, Change]] = [
            (float(any((s.p_affine, s.p_rotation, s.p_scale, s.p_elastic))), self._warp),
            (s.p_noise, _intensity(self._noise)),
            (s.p_blur, _intensity(self._blur)),
            (s.p_brightness, _intensity(self._brightness)),
            (s.p_contrast, _intensity(self._contrast)),
            (s.p_low_resolution, _intensity(self._low_resolution)),
            (s.p_inverted_gamma, _intensity(lambda x, rngs: -self._gamma(-x, rngs))),
            (s.p_gamma, _intensity(self._gamma)),
            (s.p_mirror, self._mirror),
        ]
        self.changes = [(p, change) for p, change in changes if p]

    @torch.no_grad()
    def __call__(
        self, images: Tensor, labels: Tensor, keys: Sequence[SampleKey | tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Return changed images (B, C, *spatial), float32, and labels (B, *spatial), int64.

        Labels may have planes, (B, 1 + planes, *spatial), which move with them.
        """
        images, labels = images.clone(), labels.clone()
        rngs = [np.random.default_rng((self.seed, 2, *key[:2])) for key in keys]
        for p, change in self.changes:
            chosen = [i for i, rng in enumerate(rngs) if rng.random() < p]
            if chosen:
                images[chosen], labels[chosen] = change(
                    images[chosen], labels[chosen], [rngs[i] for i in chosen]
                )
        return images, labels

    def _warp(self, images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
        """Rotate, zoom, shift and bend in one resampling; outside lies background."""
        size = images.shape[2:]
        warps = [self._draw_warp(rng, size) for rng in rngs]
        moved = [i for i, warp in enumerate(warps) if warp is not None]
        if not moved:
            return images, labels
        matrices, bends = map(np.stack, zip(*(warp for warp in warps if warp), strict=True))
        shape = [len(moved), 1, *size]
        grid = F.affine_grid(torch.from_numpy(matrices).to(images), shape, align_corners=False)
        if bends.any():
            grid += _cubic(torch.from_numpy(bends).to(images), size).movedim(1, -1)
        floor = images[moved].amin(_spatial(images), keepdim=True)
        images[moved] = floor + F.grid_sample(images[moved] - floor, grid, align_corners=False)
        classes = labels[moved].reshape(len(moved), -1, *size).float()
        nearest = F.grid_sample(classes, grid, mode="nearest", align_corners=False)
        labels[moved] = nearest.long().reshape(len(moved), *labels.shape[1:])
        return images, labels

    def _draw_warp(
        self, rng: np.random.Generator, size: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return where each pixel looks, in units of [-1, 1] across the image; None for itself.

        As a matrix (axes, axes + 1) and a displacement (axes, P, ..., P) at P points along each
        axis, the last axis (x) before the others in both.
        """
        s, axes, sides = self.settings, len(size), np.array(size[::-1])
        spared = None if self.spared_axis is None else axes - 1 - self.spared_axis
        moves, bends = rng.random() < s.p_affine, rng.random() < s.p_elastic
        # Drawn only where they are asked for: so does an earlier version's recipe repeat itself.
        turns = moves or bool(s.p_rotation and rng.random() < s.p_rotation)
        zooms = moves or bool(s.p_scale and rng.random() < s.p_scale)
        matrix, bend = np.eye(axes, axes + 1), np.zeros((axes, *axes * [_ELASTIC_POINTS]))
        if turns or zooms:
            planes = list(combinations(range(axes), 2))  # a rotation in each: x-y, x-z, y-z
            angles = np.deg2rad(rng.uniform(-s.rotation, s.rotation, len(planes))) * turns
            zoom = np.exp(rng.uniform(*np.log(s.scale)) * zooms)
            turn = np.eye(axes)
            for (a, b), angle in zip(planes, angles, strict=True):
                if spared not in (a, b):
                    rotation, (cos, sin) = np.eye(axes), (np.cos(angle), np.sin(angle))
                    rotation[[a, a, b, b], [a, b, a, b]] = cos, -sin, sin, cos
                    turn = turn @ rotation
            matrix[:, :-1] = turn / zoom * sides / sides[:, None]  # a circle stays one
            if moves:
                matrix[:, -1] = 2 * rng.uniform(-s.shift, s.shift, axes)
        if bends:
            bend = rng.uniform(-1, 1, bend.shape) * 2 * rng.uniform(0, s.elastic)
        if spared is not None:
            matrix[spared], bend[spared] = np.eye(axes, axes + 1)[spared], 0.0
        return (matrix, bend) if turns or zooms or bends else None

    def _mirror(self, images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
        spatial = images.ndim - 2
        for i, rng in enumerate(rngs):
            axes = [axis - spatial for axis in self.settings.mirror_axes if rng.random() < 0.5]
            images[i], labels[i] = images[i].flip(axes), labels[i].flip(axes)
        return images, labels

    def _noise(self, images: Tensor, rngs: Rngs) -> Tensor:
        strength = _each(rngs, images, lambda rng: rng.uniform(0, self.settings.noise))
        noise = torch.empty_like(images)
        for image, rng in zip(noise, rngs, strict=True):
            seed = int(rng.integers(2**63))
            image.normal_(generator=torch.Generator(image.device).manual_seed(seed))
        return images + noise * strength * images.std(_spatial(images), keepdim=True)

    def _blur(self, images: Tensor, rngs: Rngs) -> Tensor:
        """Blur each image with its own sigma, edges repeated."""
        sigma = _each(rngs, images, lambda rng: rng.uniform(*self.settings.blur))
        radius, axes = ceil(3 * self.settings.blur[1]), images.ndim - 2
        offsets = torch.arange(-radius, radius + 1, device=images.device)
        kernel = torch.exp(-0.5 * (offsets / sigma.reshape(-1, 1)).square())  # (B, taps)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)
        convolve = F.conv2d if axes == 2 else F.conv3d
        x = images.flatten(0, 1)[None]  # one group per image and channel
        for axis in reversed(range(axes)):
            if axis != self.spared_axis:
                around = [0, 0] * axes
                last_first = 2 * (axes - 1 - axis)
                around[last_first : last_first + 2] = radius, radius
                shape = [len(kernel), 1, *(len(offsets) if i == axis else 1 for i in range(axes))]
                x = F.pad(x, around, mode="replicate")
                x = convolve(x, kernel.reshape(shape), groups=len(kernel))
        return x[0].reshape(images.shape)

    def _brightness(self, images: Tensor, rngs: Rngs) -> Tensor:
        most = self.settings.brightness
        return images * _each(rngs, images, lambda rng: rng.uniform(1 - most, 1 + most))

    def _contrast(self, images: Tensor, rngs: Rngs) -> Tensor:
        most, over = self.settings.contrast, _spatial(images)
        factor = _each(rngs, images, lambda rng: rng.uniform(1 - most, 1 + most))
        mean = images.mean(over, keepdim=True)
        low, high = images.amin(over, keepdim=True), images.amax(over, keepdim=True)
        return ((images - mean) * factor + mean).clamp(low, high)

    def _gamma(self, images: Tensor, rngs: Rngs) -> Tensor:
        exponent = _each(rngs, images, lambda rng: rng.uniform(*self.settings.gamma))
        over = _spatial(images)
        low, high = images.amin(over, keepdim=True), images.amax(over, keepdim=True)
        span = (high - low).clamp(min=1e-6)
        return ((images - low) / span).pow(exponent) * span + low

    def _low_resolution(self, images: Tensor, rngs: Rngs) -> Tensor:
        size, results = images.shape[2:], []
        for image, rng in zip(images, rngs, strict=True):
            factor = rng.uniform(*self.settings.low_resolution)
            small = [
                side if axis == self.spared_axis else max(round(side * factor), 1)
                for axis, side in enumerate(size)
            ]
            coarse = F.interpolate(image[None], size=small, mode="nearest")
            results.append(_cubic(coarse, size))
        return torch.cat(results)


def _spatial(images: Tensor) -> tuple[int, ...]:
    return tuple(range(2, images.ndim))


def _cubic(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images (B, C, *spatial) to `size` by cubic convolution."""
    in_plane = F.interpolate(x.flatten(1, -3), size=tuple(size[-2:]), mode="bicubic")
    if x.ndim == 4:
        return in_plane
    # PyTorch has no tricubic: along the first axis, a product with what it makes of the identity.
    points = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)[None, None]
    weights = F.interpolate(points, size=(size[0], x.shape[2]), mode="bicubic")[0, 0]
    return (weights @ in_plane.reshape(*x.shape[:3], -1)).reshape(*x.shape[:2], *size)


def _intensity(change: Callable[[Tensor, Rngs], Tensor]) -> Change:
    """Return a change that leaves labels as they are."""
    return lambda images, labels, rngs: (change(images, rngs), labels)


def _each(rngs: Rngs, like: Tensor, draw: Callable[[np.random.Generator], float]) -> Tensor:
    """Return one number per image, shaped to multiply images (B, C, *spatial)."""
    return torch.tensor([draw(rng) for rng in rngs]).to(like).reshape(-1, *like[0].ndim * [1])
