"""Slice inference: slices go through a network in batches and become labels at their own size.

While the network computes, the next batch is resized and the last one's logits become labels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network
from transunet.data.resize import Edge, nearest, resize
from transunet.data.sampling.slices import neighbourhoods, stack_neighbours
from transunet.inference.logits import argmax, as_array, enlarge, softmax
from transunet.inference.prefetch import map_in_thread, prefetch
from transunet.inference.volume_slices import VolumeSlices

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits

Procedure = Literal["native", "paper"]
PROCEDURES: tuple[Procedure, Procedure] = ("native", "paper")
Progress = Callable[[int, int], None]
"""Called with the slices done and the slices in all."""
StoreProbabilities = Callable[[slice, NDArray[np.float32]], None]
"""Called with which slices, and their probabilities (S, classes, H, W)."""


def label_slices(
    network: Network,
    slices: NDArray[np.float32] | VolumeSlices,
    classes: int,
    *,
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
        context: neighbours on each side that the network sees with each slice.
        batch_size: slices that go through at once.
        procedure: "native" resizes the logits to the slices' size and then takes the label; "paper"
            takes the label at the network's size and enlarges it with nearest neighbour.
        progress: called after each batch.
        stores: called with each batch's probabilities, at the slices' size.
    """
    size = slices.shape[2], slices.shape[3]
    network_size = network.image_size or size
    # fidelity: for some sizes scipy's last row is zeros, and the reference resizes with it.
    edge: Edge = "scipy" if procedure == "paper" else "kept"
    labels = np.empty((len(slices), *size), np.uint8 if classes <= 256 else np.uint16)

    def resized() -> Iterator[tuple[slice, NDArray[np.float32]]]:
        for start in range(0, len(slices), batch_size):
            part = slice(start, min(start + batch_size, len(slices)))
            around, chosen = neighbourhoods(part, len(slices), context)
            planes = resize(slices[around], network_size, order=3, edge=edge)
            yield part, stack_neighbours(planes, chosen)

    def computed() -> "Iterator[tuple[slice, Logits]]":
        for part, images in prefetch(resized()):
            yield part, network(images)

    def store(batch: "tuple[slice, Logits]") -> int:
        part, logits = batch
        if procedure == "native":
            logits = enlarge(logits, size)
        if stores:
            probabilities = nearest(as_array(softmax(logits)), size, edge="scipy")
            for store_probabilities in stores:
                store_probabilities(part, probabilities)
        labels[part] = nearest(argmax(logits), size, edge="scipy")
        return int(part.stop)

    for done in map_in_thread(store, computed()):
        if progress is not None:
            progress(done, len(slices))
    return labels
