"""What a weight file holds under our state dict's names, and how a table of rules renames it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

EMBEDDINGS = "transformer.embeddings"
BACKBONE = "transformer.embeddings.hybrid_model"
ENCODER = "transformer.encoder"
POSITIONS = f"{EMBEDDINGS}.position_embeddings"
PATCHES = f"{EMBEDDINGS}.patch_embeddings.weight"
ROOT = f"{BACKBONE}.root.conv.weight"

Rule = tuple[str, str, Callable[[Tensor], Tensor]]
"""A pattern for the whole name in the file, the name here, and what becomes of the array."""


@dataclass(frozen=True)
class Remapped:
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
    square: bool = True
    """Whether its position grid is square for sure; only this project trains others."""


def rename(
    entries: Mapping[str, Tensor], rules: Sequence[Rule], unused: str, scheme: str
) -> Remapped:
    """Bring an encoder's `entries` under our names by `rules`, knowing `unused` ones as such."""
    result = Remapped(scheme, whole=False, state={})
    left_out = []
    for name, value in entries.items():
        if re.fullmatch(unused, name):
            left_out.append(name)
        elif (found := _first_match(name, rules)) is None:
            result.unknown[name] = tuple(value.shape)
        else:
            ours, change = found
            result.state[ours] = change(value)
            result.origin[ours] = f"{name} {tuple(value.shape)}"
    return Remapped(scheme, False, result.state, result.origin, tuple(left_out), result.unknown)


def _first_match(name: str, rules: Sequence[Rule]) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    for pattern, template, change in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(template), change
    return None


# What follows changes an array of the expected number of dimensions, and leaves any other as it is:
# its shape then fits nothing, and the error that comes of it shows the shape that the file has.


def same(value: Tensor) -> Tensor:
    """Return `value` itself."""
    return value


def without_class_token(value: Tensor) -> Tensor:
    """Drop the first of (1, 1 + N, D) position embeddings, the class token's."""
    return value[:, 1:] if value.dim() == 3 else value
