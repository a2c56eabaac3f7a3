"""Clicks of a person, simulated: where the network is wrong, as it is at that very step.

Sofiiuk et al. 2021 ("Reviving iterative training with mask guidance") show that it is the network's
own previous prediction, given back with the clicks, from which it learns to be corrected.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transunet.backends.pytorch import evaluating
from transunet.data.click_maps import PlacedClick, draw_guidance, largest_error, middle_of
from transunet.inference.logits import label_map_of
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.training.sampler import SampleKey
from transunet.training.step import autocast

_GUIDED = 0.5
"""Share of samples with clicks; the others train the network as it is without."""
_ROUNDS = 2
"""Most looks at the network's prediction, each of which costs a forward pass of such samples."""
_CLICKS = 3
"""Most clicks after a look."""
_ANYWHERE = 0.25
"""Share of clicks at any voxel, where nothing need be wrong."""


class SimulatedClicks:
    """Guidance for a batch: of half of the samples zeros, of the others simulated clicks.

    What happens to a sample is a function of its key and of the network's weights, as its
    augmentation is of its key, so that resuming repeats it.

    Args:
        model: the network, which is trained.
        seed: the run's.
        precision: in which the run computes.
        ignored: the label of pixels that nobody labelled.
    """

    def __init__(
        self, model: SegmentationNetwork, seed: int, precision: str, ignored: int | None
    ) -> None:
        self.model, self.seed, self.precision, self.ignored = model, seed, precision, ignored

    @torch.no_grad()
    def __call__(
        self, images: Tensor, labels: Tensor, keys: Sequence[SampleKey | tuple[int, int]]
    ) -> Tensor:
        """Return the guidance (B, channels, *spatial) of images (B, C, *spatial).

        Args:
            images: augmented, on the network's device.
            labels: (B, *spatial), int64.
            keys: of the samples.
        """
        config = self.model.config
        guidance = images.new_zeros(len(images), config.guidance_channels, *images.shape[2:])
        rngs = [np.random.default_rng((self.seed, 4, *key[:2])) for key in keys]
        rounds = [int(rng.integers(1, _ROUNDS + 1)) * (rng.random() < _GUIDED) for rng in rngs]
        clicks: list[list[PlacedClick]] = [[] for _ in rngs]
        wanted = self._positions(labels).cpu().numpy()
        for done in range(max(rounds)):
            active = [i for i, number in enumerate(rounds) if number > done]
            with evaluating(self.model), autocast(images.device, self.precision):
                logits = self.model(images[active], guidance=guidance[active])
            regions = range(1, len(config.regions) + 1)
            for i, found in zip(active, label_map_of(logits.float(), regions, 0), strict=True):
                counted = None
                if self.ignored is not None:
                    counted = (labels[i] != self.ignored).cpu().numpy()
                clicks[i] += _clicks_at_errors(found, wanted[i], counted, rngs[i])
                drawn = draw_guidance(found, clicks[i], config.structures)
                guidance[i] = torch.from_numpy(drawn).to(guidance)
        return guidance

    def _positions(self, labels: Tensor) -> Tensor:
        """Return labels as positions, 0 for what is none; regions one over the other."""
        regions = self.model.config.regions
        if not regions:
            return labels
        positions = torch.zeros_like(labels)
        for number, members in enumerate(regions, 1):
            positions[torch.isin(labels, torch.tensor(members).to(labels))] = number
        return positions


def _clicks_at_errors(
    found: NDArray[Any],
    wanted: NDArray[np.int64],
    counted: NDArray[np.bool_] | None,
    rng: np.random.Generator,
) -> list[PlacedClick]:
    """Return clicks in what is wrong, the largest piece first; some of them anywhere."""
    clicks: list[PlacedClick] = []
    left = np.ones(found.shape, bool) if counted is None else counted.copy()
    for _ in range(rng.integers(1, _CLICKS + 1)):
        anywhere = rng.random() < _ANYWHERE
        voxel = tuple(int(rng.integers(side)) for side in found.shape)
        if not anywhere and (error := largest_error(found, wanted, left)):
            piece, _ = error
            voxel = middle_of(piece, rng)
            left &= ~piece
        if counted is None or counted[voxel]:
            clicks.append((voxel, int(wanted[voxel])))
    return clicks
