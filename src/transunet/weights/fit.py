"""Fitting what a file holds to a model: adapt what may differ, name everything else that does."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from transunet.data.text import extents
from transunet.errors import WeightsError
from transunet.models.positions import resize_positions
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.weights.identify import (
    classes_of,
    skips_of,
    square_grid_of,
    tokens_of,
    traits_of,
    traits_of_config,
    variant_of,
)
from transunet.weights.renaming import CLICKS, ENCODER, POSITIONS, RenamedState
from transunet.weights.schemes.official3d import positions_in_volume

_LISTED = 4  # entries named per kind of problem


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
    renamed: RenamedState,
    model: SegmentationNetwork,
    fresh: Collection[str] = (),
    source: str = "",
    hint: str = "",
) -> dict[str, Tensor]:
    """Return the state of `renamed` as `model` takes it.

    Position embeddings of another grid are resized, a stem of three channels is adapted to another
    number; the convolution of clicks stays the model's where the file has none like it. The decoder
    and the head are expected only of a file of a whole network.

    Args:
        renamed: The entries of a file, under our names.
        model: What they are for; stays as it is.
        fresh: Entries of the model that the file need not hold.
        source: The file, for the error.
        hint: What to do besides, for the error.

    Raises:
        WeightsError: naming the entries that are missing, extra or misshapen, with both shapes.
    """
    state = adapted(renamed, model)
    if differing := mismatches(state, renamed, model, fresh):
        raise WeightsError(_report(renamed, model, differing, source, hint))
    if broken := [n for n, v in state.items() if not torch.isfinite(v).all()]:
        raise WeightsError(
            f"{source}: holds values that are not finite (NaN or infinity) in {len(broken)} "
            f"entries, {broken[0]} among them. It would predict nothing: take another checkpoint."
        )
    return state


def adapted(renamed: RenamedState, model: SegmentationNetwork) -> dict[str, Tensor]:
    """Return the state with position embeddings and stem adapted to `model` where they can be."""
    state, own = dict(renamed.state), model.state_dict()
    grid, positions, stem = model.config.grid, model.position_name, model.stem_name
    theirs = position_grid(renamed, model)
    vit = model.config.vit if isinstance(model.config, TransUNet3DConfig) else None
    if positions in state and vit and not renamed.whole:
        how = vit.positions_of_2d
        state[positions] = positions_in_volume(state[positions], grid, renamed.grid, how)
    elif positions and theirs is not None and theirs != grid:
        # fidelity: linear with aligned corners, as scipy.ndimage.zoom(order=1); also for a `.pth`
        state[positions] = resize_positions(state[positions].float(), theirs, grid)
    if stem in state:
        state[stem] = adapt_stem(state[stem], own[stem].shape[1])
    of_clicks = state.pop(CLICKS, None)
    if CLICKS in own and renamed.whole:
        fits = of_clicks is not None and of_clicks.shape == own[CLICKS].shape
        state[CLICKS] = of_clicks if of_clicks is not None and fits else own[CLICKS]
    return state


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """Make a stem's weight (out, 3, *kernel) see `channels`: its three in turn, times 3 / channels.

    The factor keeps the size of the response. (A hybrid's root is standardised and then normalised,
    so there it changes nothing.) A weight of other than three channels is returned as it is.
    """
    if weight.dim() < 3 or weight.shape[1] != 3 or channels == 3:
        return weight
    turns = torch.arange(channels, device=weight.device) % 3
    return weight[:, turns] * (3 / channels)


def position_grid(renamed: RenamedState, model: SegmentationNetwork) -> tuple[int, ...] | None:
    """Return the grid that the position embeddings of `renamed` fill, None where none is known.

    Its bundle tells. Without one a file of this project with as many tokens as the model is taken
    to have the model's grid, and every other grid to be square, as the reference's are.
    """
    tokens = tokens_of(renamed.state, model.position_name)
    if renamed.grid and prod(renamed.grid) == tokens:
        return renamed.grid
    if renamed.ours and tokens == model.config.tokens:
        return model.config.grid
    return square_grid_of(renamed.state, model.position_name) if model.config.axes == 2 else None


def about_positions(renamed: RenamedState, model: SegmentationNetwork) -> str:
    """Return in a few words what becomes of the position embeddings."""
    ours = model.config.grid
    if not renamed.whole and model.config.axes == 3:
        return f"position embeddings: an image's, resized to {extents(ours)}"
    theirs = position_grid(renamed, model) or ours
    told = "" if renamed.grid or not renamed.whole else " (assumed: the file does not tell)"
    became = "kept" if theirs == ours else f"resized to {extents(ours)}"
    return f"position embeddings: {extents(theirs)}{told} {became}"


def doubt_about_positions(renamed: RenamedState, model: SegmentationNetwork) -> str | None:
    """Return what was assumed of the position embeddings and need not be so; None if nothing was.

    As many tokens as the model's, in a grid that is not square, may lie as the model's do or in a
    square: 16 are 2 x 8 or 4 x 4.
    """
    tokens, ours = tokens_of(renamed.state, model.position_name), model.config.grid
    told = renamed.grid and prod(renamed.grid) == tokens
    if told or not renamed.whole or len(set(ours)) == 1 or tokens != prod(ours):
        return None
    grid, own = map(extents, (position_grid(renamed, model) or ours, ours))
    return (
        f"The file does not tell how its {tokens} position embeddings lie: taken as {grid} (the "
        f"model's are {own}). Give its bundle's folder, whose config.json tells, where that may be "
        "wrong."
    )


def mismatches(
    state: Mapping[str, Tensor],
    renamed: RenamedState,
    model: SegmentationNetwork,
    fresh: Collection[str] = (),
) -> list[EntryMismatch]:
    """Return everything in which `state` differs from what `model` takes from such a file.

    That is everything but `fresh`, of a file of an encoder its entries alone.
    """

    def with_name_in_file(name: str) -> str:
        theirs = renamed.origin.get(name)
        return f"{name} ({theirs} in the file)" if theirs else name

    shapes = {name: tuple(value.shape) for name, value in state.items()}
    expected = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if name not in fresh and (renamed.whole or name.startswith("transformer."))
    }
    result = [
        EntryMismatch(with_name_in_file(name), shapes[name], shape)
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    query = f"{ENCODER}.layer.0.attn.query.weight"
    if renamed.heads not in (None, model.config.heads) and shapes.get(query) == expected.get(query):
        # The weights' shapes would fit, and the function would be another.
        size = shapes[query][0]
        in_file, in_model = ((size, n, size // n) for n in (renamed.heads, model.config.heads))
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
    model: SegmentationNetwork,
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
    lines = [f"{source} does not fit the model: {counts}.", *_explanations(renamed, model)]
    for kind, entries in kinds.items():
        lines += [f"  {kind}: {entry}" for entry in entries[:_LISTED]]
        if len(entries) > _LISTED:
            lines.append(f"  ... and {len(entries) - _LISTED} more {kind}")
    return "\n".join([*lines, hint] if hint else lines)


def _explanations(renamed: RenamedState, model: SegmentationNetwork) -> list[str]:
    config, state = model.config, renamed.state
    if not isinstance(config, TransUNetConfig):
        return [f"The model is {config.name}, of the family {config.family}."]
    theirs, ours = traits_of(state), traits_of_config(config)
    if not theirs.fits(ours):
        name = variant_of(state)
        # By name, unless it is a variant whose parts were changed.
        known = str(ours) if config.name in ("custom", name) else config.name
        other = f', or load it into create_model("{name}") (--model {name})' if name else ""
        return [
            f"This file is {name or theirs} ({renamed.scheme}); the model is {known}. "
            f"Give one for {config.name}{other}."
        ]
    lines = []
    tokens = tokens_of(state, POSITIONS)
    if position_grid(renamed, model) is None and tokens not in (0, config.tokens):
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
