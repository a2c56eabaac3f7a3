"""The reference's own `.pth` checkpoints and files of this project: their names are ours."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from transunet.weights.renaming import CLICKS, RenamedState

SCHEME = "TransUNet's own names"

_OWN = ("transformer.", "decoder.", "segmentation_head.", CLICKS)
_NETWORK = re.compile(
    r"(.*?\.|)(?:transformer\.(?:embeddings|encoder)|decoder\.(?:conv_more|blocks)"
    r"|segmentation_head\.0)\."
)
_AVERAGE = re.compile(r"(?:^|[._])ema(?:[._]|$)")
_LOSS = re.compile(r"(?:\w*loss\w*|criterion|\w*metrics?)(?:\.|$)", re.IGNORECASE)
_COUNTED = re.compile(r"(?:.*\.)?total_(?:ops|params)$")
"""What thop, which counts operations, adds to every part of a network."""


def recognises(names: Iterable[str]) -> bool:
    """Whether `names` are those of a TransUNet, wrapped or not."""
    return any(_NETWORK.match(_plain(name)) for name in names)


def renamed(entries: Mapping[str, Tensor]) -> RenamedState:
    """Return `entries` without what wrappers put before their names.

    `DataParallel` and `torch.compile` put something there, and so does every class that holds the
    network as an attribute; what such a class holds besides is of no use here.
    """
    plain = {_plain(name): name for name in entries}
    prefixes = Counter(match[1] for name in plain if (match := _NETWORK.match(name)))
    prefix = max(prefixes, key=lambda known: (bool(_AVERAGE.search(known)), prefixes[known]))
    origin, unused, unknown = {}, [], {}
    for name, theirs in plain.items():
        ours = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if _COUNTED.match(name):
            unused.append(theirs)
        elif ours.startswith(_OWN):
            origin[ours] = theirs
        elif _LOSS.match(name) or (
            prefix and (_AVERAGE.search(prefix) or not _NETWORK.match(name))
        ):
            unused.append(theirs)
        else:
            unknown[theirs] = tuple(entries[theirs].shape)
    return RenamedState(
        SCHEME,
        whole=True,
        state={ours: entries[theirs] for ours, theirs in origin.items()},
        origin={ours: theirs for ours, theirs in origin.items() if ours != theirs},
        unused=tuple(unused),
        unknown=unknown,
    )


def _plain(name: str) -> str:
    """Return `name` without the separators that edits for Windows leave: `block1/.unit1/.conv1`."""
    return re.sub(r"[/\\]+(?=\.|$)", "", name)
