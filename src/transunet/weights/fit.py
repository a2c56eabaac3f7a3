"""Fitting what a file holds to a model: adapt what may differ, name everything else that does."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from transunet.errors import WeightsError
from transunet.models.positions import resize_positions
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.weights.identify import (
    classes_of,
    skips_of,
    square_grid_of,
    tokens_of,
    traits_of,
    traits_of_config,
    variant_of,
)
from transunet.weights.renaming import ENCODER, PATCHES, POSITIONS, ROOT, RenamedState

_LISTED = 4  # entries named per kind of problem

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class EntryMismatch:
    """One entry that does not fit, with both shapes: None where one side has no such entry."""

    name: str
    in_file: tuple[int, ...] | None
    in_model: tuple[int, ...] | None
    note: str = ""

    @property
    def kind(self) -> str:
        """missing, extra or misshapen."""
        if self.in_file is None:
            return "missing"
        return "extra" if self.in_model is None else "misshapen"

    def __str__(self) -> str:
        found = f"the file has {self.in_file}" if self.in_file is not None else "not in the file"
        wanted = f"expects {self.in_model}" if self.in_model is not None else "has no such entry"
        return f"{self.name}: {found}, the model {wanted}{self.note}"


def fit(
    renamed: RenamedState, config: TransUNetConfig, expected: Shapes, source: str, hint: str = ""
) -> dict[str, Tensor]:
    """Return the state of `renamed` as a model of `config` takes it.

    Position embeddings of another grid are resized, a stem of three channels is adapted to another
    number. The decoder and the head are expected only of a file of a whole TransUNet.

    Args:
        renamed: The entries of a file, under our names.
        config: The model's.
        expected: The shape of each entry of the model's state dict.
        source: The file, for the error.
        hint: What to do besides, for the error.

    Raises:
        WeightsError: naming the entries that are missing, extra or misshapen, with both shapes.
    """
    state = adapted(renamed, config)
    if differing := mismatches(state, renamed, config, wanted(expected, renamed.whole)):
        raise WeightsError(_report(renamed, config, differing, source, hint))
    # A state on the meta device has names and shapes alone.
    broken = [n for n, v in state.items() if not v.is_meta and not torch.isfinite(v).all()]
    if broken:
        raise WeightsError(
            f"{source}: holds values that are not finite (NaN or infinity) in {len(broken)} "
            f"entries, {broken[0]} among them. It would predict nothing: take another checkpoint."
        )
    return state


def wanted(expected: Shapes, whole: bool) -> dict[str, tuple[int, ...]]:
    """Return the part of `expected` that a file has to hold: everything, or the encoder alone."""
    return {
        name: shape for name, shape in expected.items() if whole or name.startswith("transformer.")
    }


def adapted(renamed: RenamedState, config: TransUNetConfig) -> dict[str, Tensor]:
    """Return the state with position embeddings and stem adapted to `config` where they can be."""
    state = dict(renamed.state)
    grid = position_grid(renamed, config)
    if grid is not None and grid != config.grid:
        # fidelity: linear with aligned corners, as scipy.ndimage.zoom(order=1); also for a `.pth`
        state[POSITIONS] = resize_positions(state[POSITIONS].float(), grid, config.grid)
    stem = ROOT if config.hybrid else PATCHES
    if stem in state:
        state[stem] = adapt_stem(state[stem], config.stem_channels)
    return state


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """Make a stem's weight (out, 3, k, k) see `channels`: its three in turn, times 3 / channels.

    The factor keeps the size of the response. (A hybrid's root is standardised and then normalised,
    so there it changes nothing.) A weight of other than three channels is returned as it is.
    """
    if weight.dim() != 4 or weight.shape[1] != 3 or channels == 3:
        return weight
    turns = torch.arange(channels, device=weight.device) % 3
    return weight[:, turns] * (3 / channels)


def position_grid(renamed: RenamedState, config: TransUNetConfig) -> tuple[int, ...] | None:
    """Return the grid that the position embeddings of `renamed` fill, None where none is known.

    Its bundle tells. Without one a file of this project with as many tokens as the model is taken
    to have the model's grid, and every other grid to be square, as the reference's are.
    """
    tokens = tokens_of(renamed.state)
    if renamed.grid and prod(renamed.grid) == tokens:
        return renamed.grid
    if renamed.ours and tokens == prod(config.grid):
        return config.grid
    return square_grid_of(renamed.state)


def about_positions(renamed: RenamedState, config: TransUNetConfig) -> str:
    """Return in a few words what becomes of the position embeddings."""
    theirs, ours = position_grid(renamed, config) or config.grid, config.grid
    told = "" if renamed.grid or not renamed.whole else " (assumed: the file does not tell)"
    became = "kept" if theirs == ours else f"resized to {ours[0]} x {ours[1]}"
    return f"position embeddings: {theirs[0]} x {theirs[1]}{told} {became}"


def doubt_about_positions(renamed: RenamedState, config: TransUNetConfig) -> str | None:
    """Return what was assumed of the position embeddings and need not be so; None if nothing was.

    As many tokens as the model's, in a grid that is not square, may lie as the model's do or in a
    square: 16 are 2 x 8 or 4 x 4.
    """
    tokens, (rows, columns) = tokens_of(renamed.state), config.grid
    told = renamed.grid and prod(renamed.grid) == tokens
    if told or not renamed.whole or rows == columns or tokens != rows * columns:
        return None
    grid = position_grid(renamed, config) or config.grid
    return (
        f"The file does not tell how its {tokens} position embeddings lie: taken as {grid[0]} x "
        f"{grid[1]} (the model's are {rows} x {columns}). Give its bundle's folder, whose "
        "config.json tells, where that may be wrong."
    )


def mismatches(
    state: Mapping[str, Tensor],
    renamed: RenamedState,
    config: TransUNetConfig,
    expected: Shapes,
) -> list[EntryMismatch]:
    """Return everything in which `state` differs from `expected`: misshapen, missing, extra."""

    def with_name_in_file(name: str) -> str:
        theirs = renamed.origin.get(name)
        return f"{name} ({theirs} in the file)" if theirs else name

    shapes = {name: tuple(value.shape) for name, value in state.items()}
    result = [
        EntryMismatch(with_name_in_file(name), shapes[name], shape)
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    heads, size = renamed.heads, config.hidden_size
    query = f"{ENCODER}.layer.0.attn.query.weight"
    if heads not in (None, config.num_heads) and shapes.get(query) == (size, size):
        # The weights' shapes would fit, and the function would be another.
        in_file, in_model = ((size, n, size // n) for n in (heads, config.num_heads))
        result.append(EntryMismatch(query, in_file, in_model, " (size, heads, size per head)"))
    result += [
        EntryMismatch(name, None, shape)
        for name, shape in expected.items()
        if name not in shapes and not name.endswith("num_batches_tracked")  # a count nobody uses
    ]
    result += [
        EntryMismatch(with_name_in_file(name), shape, None)
        for name, shape in shapes.items()
        if name not in expected
    ]
    return result + [EntryMismatch(name, shape, None) for name, shape in renamed.unknown.items()]


def _report(
    renamed: RenamedState,
    config: TransUNetConfig,
    differing: list[EntryMismatch],
    source: str,
    hint: str,
) -> str:
    """Name the entries, after a sentence each on where the difference comes from."""
    kinds = {
        kind: [entry for entry in differing if entry.kind == kind]
        for kind in ("misshapen", "missing", "extra")
    }
    counts = ", ".join(f"{len(entries)} {kind}" for kind, entries in kinds.items() if entries)
    lines = [f"{source} does not fit the model: {counts}.", *_explanations(renamed, config)]
    for kind, entries in kinds.items():
        lines += [f"  {kind}: {entry}" for entry in entries[:_LISTED]]
        if len(entries) > _LISTED:
            lines.append(f"  ... and {len(entries) - _LISTED} more {kind}")
    return "\n".join([*lines, hint] if hint else lines)


def _explanations(renamed: RenamedState, config: TransUNetConfig) -> list[str]:
    state = renamed.state
    theirs, ours = traits_of(state), traits_of_config(config)
    if not theirs.fits(ours):
        name = variant_of(state)
        # By name, unless it is a variant whose parts were changed.
        model = str(ours) if config.name in ("custom", name) else config.name
        other = f', or load it into create_model("{name}") (--model {name})' if name else ""
        return [
            f"This file is {name or theirs} ({renamed.scheme}); the model is {model}. "
            f"Give one for {config.name}{other}."
        ]
    lines = []
    tokens = tokens_of(state)
    if position_grid(renamed, config) is None and tokens not in (0, prod(config.grid)):
        known_by = (
            "its bundle's config.json tells: give the bundle's folder"
            if renamed.whole
            else "it does not tell: create the model with the image size of the file"
        )
        lines.append(
            f"The file's {tokens} position embeddings fill no square; which grid they fill, "
            f"{known_by}."
        )
    if (classes := classes_of(state)) not in (None, config.num_classes):
        lines.append(
            f"The file is of a model for {classes} classes, this model has {config.num_classes}: "
            f"create it with num_classes={classes}, or load with partial=True for a fresh head."
        )
    if (skips := skips_of(state)) not in (None, config.n_skip):
        lines.append(
            f"The file is of a model with n_skip={skips}, this model has n_skip={config.n_skip}: "
            f"create it with n_skip={skips} (--set n_skip={skips})."
        )
    return lines
