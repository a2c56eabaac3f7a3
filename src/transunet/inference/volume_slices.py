"""A volume as normalised slices, each made when it is asked for.

The whole volume is never copied: a CT of 512 x 512 x 1000 voxels would be another gibibyte.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from transunet.data.preprocessing import Preprocessing, Scale
from transunet.data.volume import Volume
from transunet.errors import DataError

_AT_ONCE = 8  # slices that are looked at together when the volume is measured


class VolumeSlices:
    """The planes (D, C, H, W) of `preprocessing.to_working(volume)`; index with a slice.

    Raises:
        DataError: for another number of channels, or voxels that are not finite.
    """

    def __init__(self, volume: Volume, preprocessing: Preprocessing) -> None:
        self._volume = volume.reoriented(preprocessing.orientation)
        self._preprocessing = preprocessing
        self._scales: list[Scale | None] | None = None
        with np.errstate(all="ignore"):  # voxels that are not finite are refused in the next lines
            self[0:1]  # refuses another number of channels before anything is measured
        starts = range(0, len(self), _AT_ONCE)
        parts = [self._voxels(slice(start, start + _AT_ONCE)) for start in starts]  # views
        if not all(np.isfinite(part).all() for part in parts):
            raise DataError(
                f"{volume.name}: has voxels that are NaN or infinite; expected finite "
                "intensities. Repair the image before predicting."
            )
        self._scales = [
            channel.measure([part[index] for part in parts])
            for index, channel in enumerate(preprocessing.channels)
        ]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Slices, channels, height and width."""
        planes, rows, columns = self._preprocessing.working_shape(self._volume)
        return planes, self._volume.channels, rows, columns

    def __len__(self) -> int:
        return int(self._volume.array.shape[1])

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        slab = replace(self._volume, array=self._voxels(part))
        return self._preprocessing.to_working(slab, self._scales).swapaxes(0, 1)

    def _voxels(self, part: slice) -> NDArray[np.float32]:
        """The voxels of some planes as they are, (C, D, H, W)."""
        return np.asarray(self._volume.array[:, part])
