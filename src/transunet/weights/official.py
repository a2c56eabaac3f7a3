"""The reference's own `.pth` checkpoints and files of this project: their names are ours."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from transunet.weights.remapped import Remapped

SCHEME = "TransUNet's own names"

_OWN = ("transformer.", "decoder.", "segmentation_head.")
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # of data-parallel, compiled and wrapped models


def recognises(names: Iterable[str]) -> bool:
    """Whether `names` are those of a TransUNet, wrapped or not."""
    return any(_unwrapped(name).startswith(_OWN) for name in names)


def remap(entries: Mapping[str, Tensor]) -> Remapped:
    """Return `entries` without the prefix that a wrapper (`DataParallel`, `compile`) gave them."""
    origin = {_unwrapped(name): name for name in entries}
    own = {ours: theirs for ours, theirs in origin.items() if ours.startswith(_OWN)}
    unknown = {n: tuple(v.shape) for n, v in entries.items() if n not in set(own.values())}
    return Remapped(
        SCHEME,
        whole=True,
        state={ours: entries[theirs] for ours, theirs in own.items()},
        origin={ours: theirs for ours, theirs in own.items() if ours != theirs},
        unknown=unknown,
    )


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name
