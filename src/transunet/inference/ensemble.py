"""Ensembles of unlike members: each sees a volume in its own way, and they meet on its own grid.

Networks of other patches, spacings or axes cannot be given the same samples. So each member's
probabilities come to the volume's own grid, plane by plane, and are averaged there: no more planes
are held than each member holds by itself.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.preprocessing import Preprocessing
from transunet.data.volume import Volume, orientation_change
from transunet.inference.logits import as_array, concatenate, flip, lies_on_device
from transunet.inference.probability_files import probability_file
from transunet.inference.slice_inference import Progress

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits

_AT_ONCE = 8
"""Planes that are averaged together."""


def mean_planes(
    members: "Sequence[tuple[Preprocessing, Iterable[Logits]]]",
    volume: Volume,
    classes: int,
    watch: "Callable[[list[Logits], Logits], object] | None" = None,
) -> "Generator[Logits]":
    """Yield the members' mean probabilities, (B, classes, H, W) of some planes at a time.

    They are averaged on the device where all of them lie, or on the CPU.

    Planes run as the first member's do. Of a member whose planes run otherwise, a slice of all is
    in each of its own: what it finds waits in a temporary file (float16, on the disk of `TMPDIR`).

    Args:
        members: how each sees the volume, and its probabilities on the volume's own grid, some
            planes (B, classes, H, W) at a time.
        volume: what is segmented.
        classes: how many there are.
        watch: called with each member's probabilities of some planes, and their mean.

    Raises:
        ConfigError: where the disk has no room for the temporary file.
    """
    first = members[0][0]
    with ExitStack() as files:
        aligned: list[Iterable[Logits]] = []
        for preprocessing, planes in members:
            affine = volume.reoriented(preprocessing.orientation).affine
            change = orientation_change(affine, first.orientation)
            if tuple(change[0]) == (0, 1):
                aligned.append(_turned(planes, change))
                continue
            path = Path(files.enter_context(TemporaryDirectory(prefix="transunet-"))) / "member.npy"
            with probability_file(path, classes, volume, preprocessing) as store:
                start = 0
                for some in planes:
                    store(slice(start, start + len(some)), as_array(some))
                    start += len(some)
            stored = volume.with_array(np.load(path, mmap_mode="r"))
            aligned.append(first.oriented(stored).swapaxes(0, 1)[None])
        for parts in zip(*map(_regrouped, aligned), strict=True):
            there = all(map(lies_on_device, parts)) and len({part.device for part in parts}) == 1
            parts = parts if there else tuple(map(as_array, parts))
            mean: Logits = sum(parts) / len(parts)
            if watch is not None:
                watch(list(parts), mean)
            yield mean


def shared_progress(progress: Progress | None, count: int, members: int) -> list[Progress]:
    """Return what each member calls with what it has done, and of how much.

    Args:
        progress: called with the planes done, by the share of work that is, and those in all.
        count: planes in all.
        members: how many there are.
    """
    shares = [0.0] * members

    def of(member: int) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            shares[member] = done / total
            if progress is not None:
                progress(int(count * sum(shares) / members + 1e-6), count)

        return tell

    return [of(member) for member in range(members)]


def _turned(planes: "Iterable[Logits]", change: NDArray[np.float64]) -> "Iterator[Logits]":
    """Yield planes with rows and columns as nibabel's orientation array of three axes says."""
    reversed_axes = [axis + 1 for axis in (1, 2) if change[axis, 1] < 0]
    for some in planes:
        turned = flip(some, reversed_axes)
        yield turned.swapaxes(2, 3) if change[1, 0] == 2 else turned


def _regrouped(planes: "Iterable[Logits]") -> "Iterator[Logits]":
    """Yield planes that come some at a time in groups of one size, the last one smaller."""
    waiting: list[Any] = []
    for some in planes:
        while len(some):
            missing = _AT_ONCE - sum(map(len, waiting))
            waiting.append(some[:missing])
            some = some[missing:]
            if sum(map(len, waiting)) == _AT_ONCE:
                yield concatenate(waiting)
                waiting = []
    if waiting:
        yield concatenate(waiting)
