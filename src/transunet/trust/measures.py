"""What a prediction shows of its own quality, without a reference."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from transunet.inference.logits import argmax, label_type
from transunet.inference.postprocessing import pieces_of

DOUBT = 0.02
"""Added to the doubt that intervals are proportional to, so that no interval is empty."""
_LEAST = 0.005  # shares are kept this far from 0 and 1 before their logit is taken


class StructureMeasures(NamedTuple):
    """Of one structure in one prediction."""

    volume_ml: float
    soft_dice: float
    """2 sum(p over its voxels) / (its voxels + sum(p over all)): the Dice that its probabilities,
    taken at their word, let expect."""
    confidence: float
    """Mean probability inside."""
    border: float
    """Mean probability at its voxels that have another class beside them in the plane."""
    surprise: float
    """How many deviations the logarithm of its volume lies from training's mean, without sign."""
    pieces: float
    """Share of its voxels outside its largest piece."""
    edge: float
    """Share of its voxels at the edge of the field of view."""
    agreement: float
    """Dice with the prediction of the mirror image; 1 where there is none."""

    def vector(self) -> NDArray[np.float64]:
        """The measures that regression takes: shares near 1 are spread out by the logit."""
        spread = [_logit(self.soft_dice), _logit(self.confidence), _logit(self.agreement)]
        others = [self.border, min(self.surprise, 5.0), self.pieces, self.edge]
        return np.array(spread + others)


MEASURES = (
    "logit of soft Dice",
    "logit of confidence",
    "logit of agreement",
    "border",
    "surprise of the volume",
    "pieces",
    "edge",
)
"""What `StructureMeasures.vector` holds."""


class ProbabilityMeter:
    """Gathers, from probabilities that pass by, what is measured of each structure.

    Args:
        classes: how many there are, with the background.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._sums = np.zeros((6, classes))
        """Voxels, their probability, that of all voxels, border voxels, their probability, and
        voxels at the edge."""
        self._labels: list[NDArray[np.unsignedinteger]] = []

    def __call__(self, part: slice, probabilities: NDArray[np.float32]) -> None:
        """Take the next planes of a volume, (S, classes, H, W)."""
        labels, own = argmax(probabilities), probabilities.max(axis=1)
        flat, count = labels.ravel(), self.classes
        border = _beside_another(labels)
        edge = np.zeros(labels.shape[1:], bool)
        edge[[0, -1]] = edge[:, [0, -1]] = True
        self._sums[0] += np.bincount(flat, minlength=count)
        self._sums[1] += np.bincount(flat, own.ravel(), count)
        self._sums[2] += probabilities.sum(axis=(0, 2, 3), dtype=np.float64)
        self._sums[3] += np.bincount(labels[border], minlength=count)
        self._sums[4] += np.bincount(labels[border], own[border], count)
        self._sums[5] += np.bincount(labels[:, edge].ravel(), minlength=count)
        self._labels.append(labels.astype(label_type(count - 1)))

    @property
    def labels(self) -> NDArray[np.unsignedinteger]:
        """The label map (S, H, W) of all that passed by."""
        return np.concatenate(self._labels)

    def structures(
        self,
        voxel_ml: float,
        log_volumes: Mapping[int, tuple[float, float] | None],
        mirrored: NDArray[np.unsignedinteger] | None = None,
    ) -> dict[int, StructureMeasures]:
        """Return class index -> measures, of the classes that were predicted, background left out.

        Args:
            voxel_ml: a voxel's volume.
            log_volumes: per class, mean and deviation of the logarithm of training's millilitres.
            mirrored: the label map of the mirror image, mirrored back, (S, H, W).
        """
        labels = self.labels
        boxes = find_objects(labels.astype(np.int32), max_label=self.classes - 1)
        measured = {}
        for index in range(1, self.classes):
            voxels, inside, everywhere, border, at_border, at_edge = self._sums[:, index]
            if not voxels:
                continue
            _, sizes = pieces_of(labels[boxes[index - 1]] == index)
            agreement = 1.0
            if mirrored is not None:
                both = np.count_nonzero((labels == index) & (mirrored == index))
                agreement = 2 * both / (voxels + np.count_nonzero(mirrored == index))
            measured[index] = StructureMeasures(
                volume_ml=voxels * voxel_ml,
                soft_dice=2 * inside / (voxels + everywhere),
                confidence=inside / voxels,
                border=at_border / border if border else 1.0,
                surprise=surprise_of(voxels * voxel_ml, log_volumes.get(index)),
                pieces=1 - sizes[1:].max() / voxels,
                edge=at_edge / voxels,
                agreement=agreement,
            )
        return measured


def _beside_another(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    border = np.zeros(labels.shape, bool)
    for axis in (1, 2):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        differ = labels[*low] != labels[*high]
        border[*low] |= differ
        border[*high] |= differ
    return border


def surprise_of(volume_ml: float, usual: tuple[float, float] | None) -> float:
    """Return how many deviations from the mean a volume's logarithm lies; 0 if none are known."""
    if usual is None or not usual[1]:
        return 0.0
    return abs(float(np.log(volume_ml)) - usual[0]) / usual[1]


def _logit(share: float) -> float:
    kept = min(max(share, _LEAST), 1 - _LEAST)
    return float(np.log(kept / (1 - kept)))
