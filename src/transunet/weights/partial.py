"""Fine-tuning: a network's weights for other classes or other channels.

What fits is kept. Each class takes the weights of the class of its name, each channel those of the
channel of its name; what has no counterpart starts as a new model does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from torch import Tensor

from transunet.data.classes import match_classes
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.weights.origin import Origin
from transunet.weights.renaming import CLICKS, RenamedState

Labels = Mapping[int, str]
"""Class index -> name, 0 is the background; or number -> region, from 1."""


@dataclass(frozen=True)
class Rows:
    """Which class takes which class's weights."""

    taken: Mapping[int, int]
    """Class of the model -> class of the file; a class that is not listed starts fresh."""
    classes: int
    """How many the model has."""
    note: str
    """The same in words."""

    def of(self, theirs: Tensor, ours: Tensor) -> Tensor:
        """Return `ours` (classes, ...) with the rows of `theirs` that are taken, on the CPU."""
        result = ours.detach().to("cpu", theirs.dtype, copy=True)
        for index, row in self.taken.items():
            result[index] = theirs[row]
        # What follows the classes ("no object") is the same for all.
        if beyond := len(result) - self.classes:
            result[-beyond:] = theirs[-beyond:]
        return result

    def of_clicks(self, theirs: Tensor, ours: Tensor, first: int) -> Tensor:
        """Return `ours` (channels out, guidance, *kernel) with what `theirs` has for structures.

        Guidance is of each structure in the label map, of clicks that remove, and of clicks for
        each structure; the row of the first structure is `first`.
        """
        result = ours.detach().to("cpu", theirs.dtype, copy=True)
        own, other = ours.shape[1] // 2, theirs.shape[1] // 2
        result[:, own] = theirs[:, other]
        for index, row in self.taken.items():
            if index >= first and row >= first:
                result[:, index - first] = theirs[:, row - first]
                result[:, own + 1 + index - first] = theirs[:, other + 1 + row - first]
        return result


def match_rows(theirs: Labels | None, ours: Labels | None, in_file: int, in_model: int) -> Rows:
    """Match classes by name where both sides name them, else by number where both have as many.

    Args:
        theirs: the classes of the file, as its bundle names them; None where nothing does.
        ours: the model's; None where they have no names.
        in_file: how many the file has.
        in_model: how many the model has.
    """
    if theirs and ours and (len(theirs), len(ours)) == (in_file, in_model):
        matched = match_classes(ours, theirs)
        kept = [index for index in sorted(matched.numbers) if index]
        names = ", ".join(ours[index] for index in kept)
        first = min(ours)  # regions have no background
        none = "none kept" if first else "only the background kept"
        parts = [f"kept for {names}" if kept else none]
        if matched.first_only:
            parts.append(f"fresh for {', '.join(ours[index] for index in matched.first_only)}")
        if matched.second_only:
            parts.append(f"left out {', '.join(theirs[index] for index in matched.second_only)}")
        if not matched.in_order:
            moved = (
                f"{ours[index]} is {index} and was {row}"
                for index, row in sorted(matched.numbers.items())
                if index != row
            )
            parts.append(f"matched by name, since the order differs ({', '.join(moved)})")
        taken = {o - first: t - first for o, t in matched.numbers.items() if o >= first}
        return Rows(taken, in_model, f"head: {'; '.join(parts)}")
    if in_file == in_model:
        rows = {index: index for index in range(in_model)}
        return Rows(rows, in_model, "head: kept, class by class number (names are not known)")
    return Rows({}, in_model, f"head: fresh ({in_file} classes in the weights, {in_model} here)")


def fitted(
    renamed: RenamedState,
    origin: Origin,
    model: SegmentationNetwork,
    labels: Labels | None = None,
    channels: Sequence[str] | None = None,
) -> tuple[RenamedState, Rows | None, list[str]]:
    """Return `renamed` with the head and the first convolution as `model` takes them.

    Args:
        renamed: the entries of a file of a whole network.
        origin: where they come from, and what its classes and channels are called.
        model: what they are for; what starts fresh is taken from its state.
        labels: the model's classes.
        channels: the names of the model's channels.

    Returns:
        The entries; which class took which, None where the head was left alone; what was done, in
        a sentence each.
    """
    state, notes, rows = dict(renamed.state), [], None
    own, heads, stem = model.state_dict(), model.head_names, model.stem_name
    if heads and all(n in state and state[n].shape[1:] == own[n].shape[1:] for n in heads):
        needed = model.config.num_classes
        classes = len(state[heads[0]]) - (len(own[heads[0]]) - needed)
        configs = model.config, origin.config or model.config
        rows = match_rows(origin.labels, labels, classes, needed)
        if len({bool(config.regions) for config in configs}) > 1:
            rows = Rows({}, needed, "head: fresh (classes on one side, regions on the other)")
        state |= {name: rows.of(state[name], own[name]) for name in heads}
        if CLICKS in state and CLICKS in own:
            first = 0 if model.config.regions else 1  # a structure's row less its number, from 0
            state[CLICKS] = rows.of_clicks(state[CLICKS], own[CLICKS], first)
        notes.append(rows.note)
    if stem in state and state[stem].dim() == own[stem].dim():
        known, wanted = state[stem].shape[1], own[stem].shape[1]
        theirs, ours = origin.channels, channels
        if not (theirs and ours and (len(theirs), len(ours)) == (known, wanted)):
            theirs, ours = (), ()  # names that do not number the planes tell nothing
        planes = _planes(theirs, ours, known, wanted)
        if planes != list(range(known)):
            state[stem] = state[stem][:, planes] * (known / wanted)
            taken = (
                ", ".join(
                    f"{n} from {theirs[plane]}" for n, plane in zip(ours, planes, strict=True)
                )
                if ours
                else f"those of the weights in turn: {', '.join(str(p + 1) for p in planes)}"
            )
            scale = "" if known == wanted else f", times {known} / {wanted}"
            notes.append(f"first convolution: {wanted} channels, {taken}{scale}")
    return replace(renamed, state=state), rows, notes


def _planes(theirs: Sequence[str], ours: Sequence[str], known: int, wanted: int) -> list[int]:
    """Return which of `known` channels each of `wanted` takes: that of its name, else in turn."""
    numbers = {name.casefold(): index for index, name in enumerate(theirs)}
    own = [numbers.get(name.casefold()) for name in ours] or [None] * wanted
    others = cycle([index for index in range(known) if index not in own] or range(known))
    return [next(others) if number is None else number for number in own]
