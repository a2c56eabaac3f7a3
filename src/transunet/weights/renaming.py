"""What a weight file holds under our state dict's names, and how a table of rules renames it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt

from torch import Tensor

EMBEDDINGS = "transformer.embeddings"
BACKBONE = "transformer.embeddings.hybrid_model"
ENCODER = "transformer.encoder"
POSITIONS = f"{EMBEDDINGS}.position_embeddings"
PATCHES = f"{EMBEDDINGS}.patch_embeddings.weight"
ROOT = f"{BACKBONE}.root.conv.weight"
CLICKS = "clicks.weight"
"""The convolution of guidance, (channels out, `guidance_channels`, *kernel)."""

Rule = tuple[str, str, Callable[[Tensor], Tensor]]
"""A pattern for the whole name in the file, the name here, and what becomes of the array."""


@dataclass(frozen=True)
class RenamedState:
    """The entries of one file under our names."""

    scheme: str
    """Whose names the file uses, in words."""
    whole: bool
    """Whether the file is of a whole TransUNet; otherwise of its encoder alone."""
    state: dict[str, Tensor]
    origin: dict[str, str] = field(default_factory=dict)
    """Our name -> the file's, and the shape that it has there, where they differ."""
    unused: tuple[str, ...] = ()
    """Entries that TransUNet has no use for, known as such: class token and classifier."""
    unknown: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Entries that nobody expects, with their shapes."""
    heads: int | None = None
    """Attention heads, where the file tells."""
    grid: tuple[int, ...] | None = None
    """Rows and columns of its position embeddings, where the file or its bundle tells."""
    ours: bool = False
    """Whether this project wrote it, which trains grids of any shape; others' are square."""


def rename(
    entries: Mapping[str, Tensor], rules: Sequence[Rule], unused: str, scheme: str
) -> RenamedState:
    """Bring an encoder's `entries` under our names by `rules`, knowing `unused` ones as such."""
    state, origin, left_out, unknown = {}, {}, [], {}
    for name, value in entries.items():
        if re.fullmatch(unused, name):
            left_out.append(name)
            continue
        for pattern, template, change in rules:
            if match := re.fullmatch(pattern, name):
                state[match.expand(template)] = change(value)
                origin[match.expand(template)] = f"{name} {tuple(value.shape)}"
                break
        else:
            unknown[name] = tuple(value.shape)
    return RenamedState(scheme, False, state, origin, tuple(left_out), unknown)


# What follows changes an array of the expected number of dimensions, and leaves any other as it is:
# its shape then fits nothing, and the error that comes of it shows the shape that the file has.


def same(value: Tensor) -> Tensor:
    """Return `value` itself."""
    return value


def positions(entries: Mapping[str, Tensor], name: str, class_token: str) -> Rule:
    """Return the rule for the position embeddings `name`: the class token's, the first, is dropped.

    Some files have none. What fills a square tells; where neither does, the `class_token` itself.
    """
    shape = entries[name].shape if name in entries else ()
    count = shape[1] if len(shape) == 3 else 0
    has_first = _is_square(count - 1) or class_token in entries
    drop = count > 1 and not _is_square(count) and has_first
    return re.escape(name), POSITIONS, (lambda value: value[:, 1:]) if drop else same


def _is_square(count: int) -> bool:
    return count >= 0 and isqrt(count) ** 2 == count


def without_prefix(entries: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """Return `entries` without what wrappers put before the names that `network` matches.

    What does not lie under that prefix belongs to the wrapper, and is left out.
    """
    found = (re.match(rf"(.*?\.|)(?:{network})", name) for name in entries)
    prefix = next((match[1] for match in found if match), "")
    return {n.removeprefix(prefix): v for n, v in entries.items() if n.startswith(prefix)}
