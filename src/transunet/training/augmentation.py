"""What training does to images and labels: the paper's slice by slice, a recipe's by the batch.

Every slice has its own random numbers, seeded by its key: what happens to it depends neither on its
neighbours in the batch nor on the process that it is in.
"""

from collections.abc import Callable, Sequence
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
"""From the slices that it was drawn for, their labels and generators, to new ones."""


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
    """What a recipe's `augmentation` does to a batch.

    Args:
        settings: probabilities and sizes.
        seed: the run's.
    """

    def __init__(self, settings: Augmentation, seed: int) -> None:
        self.settings, self.seed = settings, seed
        s = settings
        changes: list[tuple[float, Change]] = [
            (1.0 if s.p_affine or s.p_elastic else 0.0, self._warp),
            (s.p_noise, _intensity(self._noise)),
            (s.p_blur, _intensity(self._blur)),
            (s.p_brightness, _intensity(self._brightness)),
            (s.p_contrast, _intensity(self._contrast)),
            (s.p_low_resolution, _intensity(self._low_resolution)),
            (s.p_gamma, _intensity(self._gamma)),
            (s.p_mirror, self._mirror),
        ]
        self.changes = [(p, change) for p, change in changes if p]

    @torch.no_grad()
    def __call__(
        self, images: Tensor, labels: Tensor, keys: Sequence[SampleKey]
    ) -> tuple[Tensor, Tensor]:
        """Return changed images (B, C, H, W), float32, and labels (B, H, W), int64; both new."""
        images, labels = images.clone(), labels.clone()
        rngs = [np.random.default_rng((self.seed, 2, *key)) for key in keys]
        for p, change in self.changes:
            chosen = [i for i, rng in enumerate(rngs) if rng.random() < p]
            if chosen:
                images[chosen], labels[chosen] = change(
                    images[chosen], labels[chosen], [rngs[i] for i in chosen]
                )
        return images, labels

    def _warp(self, images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
        """Rotate, zoom, shift and bend in one resampling; outside lies background."""
        size = images.shape[-2:]
        warps = [self._draw_warp(rng, size) for rng in rngs]
        moved = [i for i, warp in enumerate(warps) if warp is not None]
        if not moved:
            return images, labels
        matrices, bends = map(np.stack, zip(*(warp for warp in warps if warp), strict=True))
        shape = [len(moved), 1, *size]
        grid = F.affine_grid(torch.from_numpy(matrices).to(images), shape, align_corners=False)
        if bends.any():
            coarse = torch.from_numpy(bends).to(images)
            grid += F.interpolate(coarse, size=size, mode="bicubic").permute(0, 2, 3, 1)
        floor = images[moved].amin((2, 3), keepdim=True)
        images[moved] = floor + F.grid_sample(images[moved] - floor, grid, align_corners=False)
        classes = labels[moved][:, None].float()
        nearest = F.grid_sample(classes, grid, mode="nearest", align_corners=False)
        labels[moved] = nearest[:, 0].long()
        return images, labels

    def _draw_warp(
        self, rng: np.random.Generator, size: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return where each pixel of a slice looks, in units of [-1, 1] across it; None for itself.

        As a matrix (2, 3) and a displacement (2, P, P) at P x P points, x before y in both.
        """
        s, sides = self.settings, np.array([size[1], size[0]])
        turns, bends = rng.random() < s.p_affine, rng.random() < s.p_elastic
        matrix, bend = np.eye(2, 3), np.zeros((2, _ELASTIC_POINTS, _ELASTIC_POINTS))
        if turns:
            angle = np.deg2rad(rng.uniform(-s.rotation, s.rotation))
            zoom = np.exp(rng.uniform(*np.log(s.scale)))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            matrix[:, :2] = turn / zoom * sides / sides[:, None]  # a circle stays one
            matrix[:, 2] = 2 * rng.uniform(-s.shift, s.shift, 2)
        if bends:
            bend = rng.uniform(-1, 1, bend.shape) * 2 * rng.uniform(0, s.elastic)
        return (matrix, bend) if turns or bends else None

    def _mirror(self, images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
        for i, rng in enumerate(rngs):
            axes = [axis - 2 for axis in self.settings.mirror_axes if rng.random() < 0.5]
            images[i], labels[i] = images[i].flip(axes), labels[i].flip(axes)
        return images, labels

    def _noise(self, images: Tensor, rngs: Rngs) -> Tensor:
        strength = _each(rngs, images, lambda rng: rng.uniform(0, self.settings.noise))
        noise = torch.empty_like(images)
        for image, rng in zip(noise, rngs, strict=True):
            seed = int(rng.integers(2**63))
            image.normal_(generator=torch.Generator(image.device).manual_seed(seed))
        return images + noise * strength * images.std((2, 3), keepdim=True)

    def _blur(self, images: Tensor, rngs: Rngs) -> Tensor:
        """Blur each slice with its own sigma, edges repeated."""
        sigma = _each(rngs, images, lambda rng: rng.uniform(*self.settings.blur))
        radius = ceil(3 * self.settings.blur[1])
        offsets = torch.arange(-radius, radius + 1, device=images.device)
        kernel = torch.exp(-0.5 * (offsets / sigma[:, 0, 0]).square())  # (B, taps)
        kernel = kernel / kernel.sum(1, keepdim=True)
        x = images.flatten(0, 1)[None]  # one group per slice and channel
        kernel = kernel.repeat_interleave(images.shape[1], 0)[:, None, None]
        x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
        x = F.conv2d(x, kernel, groups=len(kernel))
        x = F.conv2d(x, kernel.transpose(2, 3), groups=len(kernel))
        return x[0].reshape(images.shape)

    def _brightness(self, images: Tensor, rngs: Rngs) -> Tensor:
        most = self.settings.brightness
        return images * _each(rngs, images, lambda rng: rng.uniform(1 - most, 1 + most))

    def _contrast(self, images: Tensor, rngs: Rngs) -> Tensor:
        most = self.settings.contrast
        factor = _each(rngs, images, lambda rng: rng.uniform(1 - most, 1 + most))
        mean = images.mean((2, 3), keepdim=True)
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        return ((images - mean) * factor + mean).clamp(low, high)

    def _gamma(self, images: Tensor, rngs: Rngs) -> Tensor:
        exponent = _each(rngs, images, lambda rng: rng.uniform(*self.settings.gamma))
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        span = (high - low).clamp(min=1e-6)
        return ((images - low) / span).pow(exponent) * span + low

    def _low_resolution(self, images: Tensor, rngs: Rngs) -> Tensor:
        height, width = images.shape[-2:]
        results = []
        for image, rng in zip(images, rngs, strict=True):
            factor = rng.uniform(*self.settings.low_resolution)
            small = (max(round(height * factor), 1), max(round(width * factor), 1))
            coarse = F.interpolate(image[None], size=small, mode="nearest")
            results.append(F.interpolate(coarse, size=(height, width), mode="bicubic"))
        return torch.cat(results)


def _intensity(change: Callable[[Tensor, Rngs], Tensor]) -> Change:
    """Return a change that leaves labels as they are."""
    return lambda images, labels, rngs: (change(images, rngs), labels)


def _each(rngs: Rngs, like: Tensor, draw: Callable[[np.random.Generator], float]) -> Tensor:
    """Return one number per slice, shaped to multiply images (B, C, H, W)."""
    return torch.tensor([draw(rng) for rng in rngs]).to(like)[:, None, None, None]
