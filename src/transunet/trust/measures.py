"""What a prediction shows of its own quality, without a reference."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from transunet.data.regions import Region, inside, members_of_structures
from transunet.inference.logits import label_map_of, label_type
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
    members: float = 1.0
    """Dice of an ensemble's members with what they find together; 1 where there are none."""

    def vector(self) -> NDArray[np.float64]:
        """The measures that regression takes: shares near 1 are spread out by the logit."""
        spread = [_logit(self.soft_dice), _logit(self.confidence), _logit(self.agreement)]
        others = [self.border, min(self.surprise, 5.0), self.pieces, self.edge]
        return np.array([*spread, *others, _logit(self.members)])


MEASURES = (
    "logit of soft Dice",
    "logit of confidence",
    "logit of agreement",
    "border",
    "surprise of the volume",
    "pieces",
    "edge",
    "logit of members' agreement",
)
"""What `StructureMeasures.vector` holds."""


class ProbabilityMeter:
    """Gathers, from probabilities that pass by, what is measured of each structure.

    Args:
        labels: value -> name of what a label map holds; 0 is the background.
        regions: where the network tells regions apart, in the order in which they are written.
    """

    def __init__(self, labels: Mapping[int, str], regions: Sequence[Region] = ()) -> None:
        self._members = members_of_structures(labels, regions)
        self._written = [region.label for region in regions]
        channels = {number: channel for channel, number in enumerate(self._written)}
        self._channels = channels or {number: number for number in self._members}
        self._type = label_type(max(labels))
        self._sums = {number: np.zeros(6) for number in self._members}
        """Voxels, their probability, that of all voxels, border voxels, their probability, and
        voxels at the edge."""
        self._labels: list[NDArray[np.unsignedinteger]] = []

    def __call__(self, part: slice, probabilities: NDArray[np.float32]) -> None:
        """Take the next planes of a volume, (S, classes or regions, H, W)."""
        labels = label_map_of(probabilities, self._written, 0.5)
        labels = labels.astype(self._type)  # in bytes, which are quick to look through
        everywhere = probabilities.sum(axis=(0, 2, 3), dtype=np.float64)
        for number, channel in self._channels.items():
            sums, mask = self._sums[number], inside(labels, self._members[number])
            sums[2] += everywhere[channel]
            if not mask.any():
                continue
            own = probabilities[:, channel]
            border = _border(mask)
            inner = np.count_nonzero(mask[:, 1:-1, 1:-1])
            sums[0] += (voxels := np.count_nonzero(mask))
            sums[1] += own[mask].sum(dtype=np.float64)
            sums[3] += np.count_nonzero(border)
            sums[4] += own[border].sum(dtype=np.float64)
            sums[5] += voxels - inner
        self._labels.append(labels)

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
        """Return number -> measures, of the structures that were predicted.

        Args:
            voxel_ml: a voxel's volume.
            log_volumes: of each structure, mean and deviation of the logarithm of training's
                millilitres.
            mirrored: the label map of the mirror image, mirrored back, (S, H, W).
        """
        labels = self.labels
        measured = {}
        for number, members in self._members.items():
            voxels, own, everywhere, border, at_border, at_edge = self._sums[number]
            if not voxels:
                continue
            mask = inside(labels, members)
            _, sizes = pieces_of(mask[find_objects(mask.view(np.uint8))[0]])
            agreement = 1.0
            if mirrored is not None:
                again = inside(mirrored, members)
                agreement = 2 * np.count_nonzero(mask & again) / (voxels + np.count_nonzero(again))
            measured[number] = StructureMeasures(
                volume_ml=voxels * voxel_ml,
                soft_dice=2 * own / (voxels + everywhere),
                confidence=own / voxels,
                border=at_border / border if border else 1.0,
                surprise=surprise_of(voxels * voxel_ml, log_volumes.get(number)),
                pieces=1 - sizes[1:].max() / voxels,
                edge=at_edge / voxels,
                agreement=agreement,
            )
        return measured


class MemberAgreement:
    """Gathers how far the members of an ensemble agree with what they find together.

    Args:
        labels: value -> name of what a label map holds; 0 is the background.
        regions: where the networks tell regions apart.
    """

    def __init__(self, labels: Mapping[int, str], regions: Sequence[Region] = ()) -> None:
        self._numbers = [region.label for region in regions] or list(range(len(labels)))
        self._of_regions = bool(regions)
        self._both, self._sizes = np.zeros((2, len(self._numbers)))

    def __call__(self, alone: Sequence[NDArray[Any]], together: NDArray[Any]) -> None:
        """Take what each member decides of some samples, and what all do together."""
        for member in alone:
            both = member & together if self._of_regions else member[member == together]
            self._both += self._voxels(both)
            self._sizes += self._voxels(member) + self._voxels(together)

    def _voxels(self, decided: NDArray[Any]) -> NDArray[np.int64]:
        """How many each class, or each region, has."""
        if self._of_regions:
            return np.asarray(np.moveaxis(decided, 1, 0).reshape(decided.shape[1], -1).sum(axis=1))
        return np.bincount(decided.ravel(), minlength=len(self._numbers))

    def of(self, number: int) -> float:
        """The Dice of the structure `number`, over all members; 1 where nothing was watched."""
        row = self._numbers.index(number)
        return float(2 * self._both[row] / self._sizes[row]) if self._sizes[row] else 1.0


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Its voxels that have another voxel beside them in the plane, (S, H, W)."""
    border = np.zeros(mask.shape, bool)
    for axis in (1, 2):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        differ = mask[*low] != mask[*high]
        border[*low] |= differ
        border[*high] |= differ
    return border & mask


def surprise_of(volume_ml: float, usual: tuple[float, float] | None) -> float:
    """Return how many deviations from the mean a volume's logarithm lies; 0 if none are known."""
    if usual is None or not usual[1]:
        return 0.0
    return abs(float(np.log(volume_ml)) - usual[0]) / usual[1]


def _logit(share: float) -> float:
    kept = min(max(share, _LEAST), 1 - _LEAST)
    return float(np.log(kept / (1 - kept)))
