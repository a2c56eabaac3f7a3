"""A volume as normalised slices, each made when it is asked for.

The whole volume is never copied: a CT of 512 x 512 x 1000 voxels would be another gibibyte.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.volume import Volume
from transunet.errors import DataError

_AT_ONCE = 8  # slices that are looked at together when the volume is measured
_AS_IT_IS = Channel(normalisation="range", high=1.0)


class Slabs:
    """The slices (S, C, H, W) of `preprocessing.to_slices(volume)`; index with a slice.

    Raises:
        DataError: for another number of channels, or voxels that are not finite.
    """

    def __init__(self, volume: Volume, preprocessing: Preprocessing) -> None:
        self._axis = 1 + preprocessing.slice_axis
        self._volume = volume.reoriented(preprocessing.orientation)
        self._preprocessing = self._settings = preprocessing
        self._scores: dict[int, tuple[float, float]] = {}
        with np.errstate(all="ignore"):  # voxels that are not finite are refused in the next line
            self[0:1]  # refuses another number of channels before anything is measured
        self._check_finite()
        self._measure()

    @property
    def name(self) -> str:
        """The volume's."""
        return self._volume.name

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Slices, channels, height and width."""
        height, width = self._preprocessing.slice_size(self._volume)
        return len(self), self._volume.channels, height, width

    def __len__(self) -> int:
        return int(self._volume.array.shape[self._axis])

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        return self._settings.to_slices(
            replace(self._volume, array=self._standardised(self.raw(part)))
        )

    def raw(self, part: slice) -> NDArray[np.float32]:
        """The voxels of some slices as they are, (C, X, Y, Z)."""
        index = [slice(None)] * 4
        index[self._axis] = part
        return np.asarray(self._volume.array[tuple(index)])

    def parts(self) -> list[slice]:
        """A few slices after the other, through the whole volume."""
        return [slice(start, start + _AT_ONCE) for start in range(0, len(self), _AT_ONCE)]

    def _measure(self) -> None:
        # Mean and deviation of the whole volume, as `Channel.normalise` takes them.
        count = self._volume.array[0].size
        for index, channel in enumerate(self._preprocessing.channels):
            if channel.normalisation == "zscore":
                parts = [self.raw(part)[index] for part in self.parts()]
                mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / count
                squares = sum(_squares(part, mean) for part in parts)
                self._scores[index] = mean, float(np.sqrt(squares / count)) or 1.0
        channels = [
            _AS_IT_IS if index in self._scores else channel
            for index, channel in enumerate(self._preprocessing.channels)
        ]
        self._settings = self._preprocessing.replace(channels=tuple(channels))

    def _standardised(self, slab: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._scores:
            return slab
        out = np.array(slab, dtype=np.float32)
        for index, (mean, deviation) in self._scores.items():
            out[index] = (slab[index].astype(np.float64) - mean) / deviation
        return out

    def _check_finite(self) -> None:
        if not all(np.isfinite(self.raw(part)).all() for part in self.parts()):
            raise DataError(
                f"{self.name}: has voxels that are NaN or infinite; expected finite "
                "intensities. Repair the image before predicting."
            )


def _squares(part: NDArray[np.float32], mean: float) -> float:
    return float(np.square(part.astype(np.float64) - mean).sum())
