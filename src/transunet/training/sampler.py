"""Which samples make up the batch of which step: a function of seed and step, with no memory.

Resuming is therefore nothing but starting at another step, and several processes agree without
talking to each other.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """What a sample is a function of, besides the seed."""

    draw: int
    """A number that is the sample's own."""
    sample: int
    """Which of the data set's samples."""
    wanted_class: int = 0
    """The class that it was drawn for; 0 for any."""


class Batches(Sampler[list[SampleKey]]):
    """The batches of a training run from any step on.

    Every epoch is a permutation of the samples, its last batch possibly smaller. With `foreground`,
    that share of the draws is replaced by samples holding a class drawn at random.

    Args:
        samples: how many there are.
        batch_size: samples per step, over all processes.
        seed: of the permutations.
        start: first step to yield.
        part: this process's number and how many share each batch.
        accumulate: pieces in which batches are computed; processes share each piece, so that the
            pieces hold the same samples however many processes there are.
        foreground: share of draws to replace.
        indices_by_class: foreground class -> the indices of the samples that hold it.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        accumulate: int = 1,
        foreground: float = 0.0,
        indices_by_class: Mapping[int, np.ndarray] = MappingProxyType({}),
    ) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.start, self.part, self.accumulate = start, part, accumulate
        self.foreground = foreground
        self.indices_by_class = [
            (index, holding) for index, holding in indices_by_class.items() if len(holding)
        ]
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def per_epoch(self) -> int:
        """Steps in which every sample comes once."""
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this process's part of every batch, without end."""
        for step in count(self.start):
            batch = self.batch(step)
            rank, world_size = self.part
            pieces = np.array_split(np.arange(len(batch)), self.pieces(batch))
            yield [batch[i] for piece in pieces for i in piece[rank::world_size]]

    def pieces(self, batch: list[SampleKey]) -> int:
        """Return in how many pieces `batch` is computed; every process has a share of each."""
        return max(1, min(self.accumulate, len(batch) // self.part[1]))

    def batch(self, step: int) -> list[SampleKey]:
        """Return the whole batch of `step`."""
        epoch, position = divmod(step, self.per_epoch)
        first = position * self.batch_size
        indices = self._permutation(epoch)[first : first + self.batch_size].copy()
        wanted = np.zeros(len(indices), np.intp)
        if self.foreground and self.indices_by_class:
            rng = np.random.default_rng((self.seed, 1, step))
            for i in np.flatnonzero(rng.random(len(indices)) < self.foreground):
                wanted[i], holding = self.indices_by_class[rng.integers(len(self.indices_by_class))]
                indices[i] = holding[rng.integers(len(holding))]
        draws = range(step * self.batch_size, step * self.batch_size + len(indices))
        return list(map(SampleKey, draws, indices.tolist(), wanted.tolist()))

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.samples)
            self._order = epoch, order
        return self._order[1]
