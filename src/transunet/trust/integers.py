"""How large a network's activations get on held-out cases, and what int8 then changes of labels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.integer_ranges import IntegerFidelity, IntegerRanges
from transunet.bundle.io import from_pretrained
from transunet.data.regions import inside, members_of_structures
from transunet.data.resize import nearest
from transunet.data.sampling.patches import Patches
from transunet.device import choose_device
from transunet.errors import DataError
from transunet.inference.slice_inference import VolumeSlices
from transunet.inference.typical_samples import evenly_chosen, typical_samples, usual_count
from transunet.models.network_fingerprint import fingerprint_of
from transunet.models.quantised import measured_ranges, quantised
from transunet.trust.fitting import HeldOutCase

Sample = tuple[NDArray[np.float32], NDArray[np.integer], int | None]
"""An image (C, *spatial), its label map (*spatial), and the label of what nobody labelled."""


def measure_ranges(
    bundle: Path, cases: Sequence[HeldOutCase], device: str | None = None
) -> IntegerRanges:
    """Measure the ranges on some slices or patches of the cases, and what they cost on others.

    What int8 changes is computed by PyTorch, which rounds as the engines do, so that none of them
    need be installed.

    Args:
        bundle: its folder.
        cases: at least one; of each the samples that are not empty are taken, evenly spread.
        device: where the network computes; the best one there is if not given.

    Raises:
        DataError, GeometryError: when a case cannot be used, or all are empty.
        ConfigError, DataError, WeightsError: when the bundle is missing or damaged.
    """
    on = choose_device(device)
    model, config = from_pretrained(bundle, on)
    count = usual_count(config.sampling)
    samples = evenly_chosen(list(_samples(cases, config, 2 * count)), 2 * count)
    if not samples:
        raise DataError(f"{bundle}: every slice of the held-out cases is empty.")
    # Neighbours of one case, in turn: what is checked was not measured.
    measured, checked = samples[::2], samples[1::2] or samples
    ends = measured_ranges(model, (_tensor(image, on) for image, _, _ in measured))
    fidelity = _fidelity(model, quantised(model, ends).to(on), checked, config, on)
    return IntegerRanges.of(fingerprint_of(model), len(measured), ends, fidelity)


def _samples(cases: Sequence[HeldOutCase], config: BundleConfig, most: int) -> Iterator[Sample]:
    sampling, preprocessing = config.sampling, config.preprocessing
    chosen = evenly_chosen(cases, most)
    for case in chosen:
        image, label = case.read()
        planes = VolumeSlices(image, preprocessing)
        labels = preprocessing.labels_to_working(label)
        for place, sample in typical_samples(planes, sampling, -(-most // len(chosen))):
            if isinstance(sampling, Patches):
                assert isinstance(place, tuple)
                yield sample, sampling.read(labels, place), case.ignored
            else:
                yield sample, nearest(labels[place], sampling.size, edge="kept"), case.ignored


@torch.inference_mode()
def _fidelity(
    model: torch.nn.Module,
    integers: torch.nn.Module,
    samples: Sequence[Sample],
    config: BundleConfig,
    device: torch.device,
) -> IntegerFidelity:
    """Compare the labels of the two with each other and with the reference."""
    members = members_of_structures(config.labels, config.regions)
    equal: list[float] = []
    counts = np.zeros((2, 2, len(members)))  # of both networks: 2 x common voxels, voxels of both
    for image, label, ignored in samples:
        known = np.ones(label.shape, bool) if ignored is None else label != ignored
        truth = np.stack([inside(label, values) & known for values in members.values()])
        found = [
            _found(network(_tensor(image, device))[0].cpu().numpy(), config) & known
            for network in (model, integers)
        ]
        equal.append(float((found[0] == found[1]).all(0).mean()))
        for count, masks in zip(counts, found, strict=True):
            axes = tuple(range(1, masks.ndim))
            count += 2 * (masks & truth).sum(axes), masks.sum(axes) + truth.sum(axes)
    with np.errstate(invalid="ignore"):
        dice = counts[:, 0] / counts[:, 1]
    there = np.isfinite(dice).all(0)
    fp32, int8 = (float(each[there].mean()) if there.any() else 0.0 for each in dice)
    return IntegerFidelity(
        samples=len(samples),
        kind=config.sampling.kind,
        equal=float(np.mean(equal)),
        dice=(fp32, int8) if there.any() else None,
    )


def _found(logits: NDArray[np.float32], config: BundleConfig) -> NDArray[np.bool_]:
    """Return where logits (classes, *spatial) find each structure, (structures, *spatial)."""
    if config.regions:
        return logits > 0
    classes = np.arange(1, len(logits)).reshape(-1, *[1] * (logits.ndim - 1))
    return np.asarray(logits.argmax(0) == classes)


def _tensor(image: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[None])).to(device)
