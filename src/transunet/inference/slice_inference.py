"""Slice inference: slices go through a network in batches and become labels at their own size.

A volume's slices are made when they are asked for, and while the network computes, the next batch
is made and the last one's logits become labels: nothing of a volume's size is copied.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network, innermost, uploaded
from transunet.data.preprocessing import Preprocessing, Scale
from transunet.data.resize import Edge, nearest, resize, resize_tensor
from transunet.data.sampling.slices import neighbourhoods, stack_neighbours
from transunet.data.volume import Volume
from transunet.errors import DataError
from transunet.inference.constant_samples import OncePerConstant, constant_values
from transunet.inference.logits import (
    as_array,
    enlarge,
    label_map_of,
    label_type,
    pieces,
    probabilities_of,
)
from transunet.inference.prefetch import map_in_thread, prefetch

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits

Procedure = Literal["native", "paper"]
PROCEDURES: tuple[Procedure, Procedure] = ("native", "paper")
Progress = Callable[[int, int], None]
"""Called with the slices done and the slices in all; of a network of volumes, the patches."""
StoreProbabilities = Callable[[slice, NDArray[np.float32]], None]
"""Called with which slices, and their probabilities (S, classes, H, W)."""
_AT_ONCE = 8  # slices that are looked at together when a volume is measured
_LARGEST_UPLOAD = 1 << 28
"""Bytes of the slices of a batch that a device is given at their own size."""


class VolumeSlices:
    """The planes (D, C, H, W) of `preprocessing.to_working(volume)`; index with a slice.

    The whole volume is not copied, a CT of 512 x 512 x 1000 voxels would be another gibibyte; but
    for resampling from plane to plane, which needs them all.

    Raises:
        DataError: for another number of channels, or voxels that are not finite.
    """

    def __init__(self, volume: Volume, preprocessing: Preprocessing) -> None:
        self._volume = volume.reoriented(preprocessing.orientation)
        self._preprocessing = preprocessing
        self._scales: list[Scale | None] | None = None
        self._whole: NDArray[np.float32] | None = None
        planes, rows, columns = preprocessing.working_shape(volume)
        self.shape = planes, volume.channels, rows, columns
        with np.errstate(all="ignore"):  # voxels that are not finite are refused in the next lines
            self[0:1]  # refuses another number of channels before anything is measured
        array = np.asarray(self._volume.array)
        parts = [array[:, start : start + _AT_ONCE] for start in range(0, array.shape[1], _AT_ONCE)]
        if not all(np.isfinite(part).all() for part in parts):
            raise DataError(
                f"{volume.name}: has voxels that are NaN or infinite; expected finite "
                "intensities. Repair the image before predicting."
            )
        self._scales = [
            channel.measure([part[index] for part in parts])
            for index, channel in enumerate(preprocessing.channels)
        ]
        if preprocessing.spacing_mm and preprocessing.spacing_mm[0] is not None:
            self._whole = preprocessing.to_working(volume, self._scales)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        if self._whole is not None:
            return self._whole[:, part].swapaxes(0, 1)
        slab = replace(self._volume, array=self._volume.array[:, part])
        return self._preprocessing.to_working(slab, self._scales).swapaxes(0, 1)


def label_slices(
    network: Network,
    slices: NDArray[np.float32] | VolumeSlices,
    classes: int,
    *,
    regions: Sequence[int] = (),
    context: int = 0,
    batch_size: int = 8,
    procedure: Procedure = "native",
    progress: Progress | None = None,
    stores: Sequence[StoreProbabilities] = (),
) -> NDArray[Any]:
    """Return the labels (S, H, W) of normalised slices (S, C, H, W); uint8, above 256 classes 16.

    Args:
        network: what gives the logits.
        slices: an array, or slices that are made when they are asked for.
        classes: how many there are.
        regions: for regions instead of classes, the label that is written for each.
        context: neighbours on each side that the network sees with each slice.
        batch_size: slices that go through at once.
        procedure: "native" resizes the logits to the slices' size and then takes the label; "paper"
            takes the label at the network's size and enlarges it with nearest neighbour.
        progress: called after each batch.
        stores: called with some slices' probabilities at a time, at the slices' size.
    """
    size = slices.shape[2], slices.shape[3]
    # fidelity: for some sizes scipy's last row is zeros, and the reference resizes with it.
    edge: Edge = "scipy" if procedure == "paper" else "kept"
    labels = np.empty((len(slices), *size), label_type(max([classes - 1, *regions])))

    def store(part: slice, batch: "Logits") -> int:
        stop = part.start
        for logits in pieces(batch):
            some = slice(stop, stop := stop + len(logits))
            if procedure == "native":
                logits = enlarge(logits, size)
            if stores:
                probabilities = as_array(probabilities_of(logits, bool(regions)))
                probabilities = nearest(probabilities, size, edge="scipy")
                for store_probabilities in stores:
                    store_probabilities(some, probabilities)
            labels[some] = nearest(label_map_of(logits, regions, 0), size, edge="scipy")
        return int(part.stop)

    computed = slice_logits(network, slices, context=context, batch_size=batch_size, edge=edge)
    with closing(map_in_thread(lambda batch: store(*batch), computed)) as stored:
        for done in stored:  # no more than two batches of logits are held
            if progress is not None:
                progress(done, len(slices))
    return labels


def slice_logits(
    network: Network,
    slices: NDArray[np.float32] | VolumeSlices,
    *,
    context: int = 0,
    batch_size: int = 8,
    edge: Edge = "kept",
) -> "Iterator[tuple[slice, Logits]]":
    """Yield which slices, and their logits at the network's size, (B, classes, H, W) at a time.

    Args:
        network: as for `label_slices`, and so are the others.
        slices: (S, C, H, W).
        context: neighbours on each side that the network sees with each slice.
        batch_size: slices that go through at once.
        edge: how slices are resized to the network's size.
    """
    size = network.image_size or (slices.shape[2], slices.shape[3])

    def samples() -> Iterator[tuple[slice, Any, list[bytes]]]:
        for start in range(0, len(slices), batch_size):
            part = slice(start, min(start + batch_size, len(slices)))
            around, chosen = neighbourhoods(part, len(slices), context)
            planes: Any = slices[around]
            values = constant_values(planes)
            constant = [[values[index] for index in row] for row in chosen]
            if planes.nbytes <= _LARGEST_UPLOAD:
                planes = uploaded(network, planes)
            resized = resize if isinstance(planes, np.ndarray) else resize_tensor
            planes = resized(planes, size, order=3, edge=edge)
            known = [b"".join(row) if all(row) else b"" for row in constant]
            yield part, stack_neighbours(planes, chosen), known

    watched = getattr(innermost(network), "watch", None) is not None  # by who counts slices of air
    once = OncePerConstant(network)
    with closing(prefetch(samples())) as prepared:
        for part, images, values in prepared:
            yield part, network(images) if watched else once(images, values)


def label_planes(
    planes: "Iterable[Logits]",
    shape: tuple[int, int, int],
    classes: int,
    regions: Sequence[int] = (),
    stores: Sequence[StoreProbabilities] = (),
) -> NDArray[Any]:
    """Return the labels (D, H, W) of planes' probabilities; uint8, above 256 classes uint16.

    Args:
        planes: some planes (B, classes, H, W) at a time.
        shape: (D, H, W) of all of them.
        classes: how many there are.
        regions: for regions instead of classes, the label that is written for each.
        stores: called with some planes' probabilities at a time.
    """
    labels = np.empty(shape, label_type(max([classes - 1, *regions])))
    start = 0
    for probabilities in planes:
        part = slice(start, start + len(probabilities))
        for store_probabilities in stores:
            store_probabilities(part, as_array(probabilities))
        labels[part] = label_map_of(probabilities, regions, 0.5)
        start = part.stop
    return labels
