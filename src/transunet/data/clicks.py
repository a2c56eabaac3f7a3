"""Clicks: what a person says of single voxels of an image, and the file that holds them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from transunet.data.classes import classes_named
from transunet.data.text import extents
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, DataError
from transunet.files import read_json
from transunet.settings import Configuration

_REMEDY = (
    'Expected a list of clicks, such as [{"voxel": [17, 20, 12], "structure": "liver"}], or such '
    "a list for each case by its name (docs/how-to/clicks.md)."
)


class Click(Configuration):
    """What a person says of one voxel: which structure is there, or that none is.

    Raises:
        ConfigError: without a place, or with two.
    """

    voxel: tuple[int, ...] | None = Field(default=None, min_length=2, max_length=3)
    """Along the axes of the image's file, from 0; of a picture two numbers are enough."""
    mm: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    """Instead, the place in millimetres to the right, to the front and up, as the image's affine
    gives them."""
    structure: str | int | None = None
    """By its name or number; None where there is none."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.voxel is None) == (self.mm is None):
            raise ValueError("a click has a place: give either voxel or mm")
        return self

    def voxel_in(self, image: Grid | Volume) -> tuple[int, int, int]:
        """Return the voxel of `image` that is meant.

        Raises:
            DataError: when it lies outside, or has two numbers and the image several slices.
        """
        shape = image.spatial_shape
        if self.voxel is not None and len(self.voxel) == 2 and shape[2] > 1:
            raise DataError(
                f"{image.name}: a click at voxel {list(self.voxel)} has two numbers, and the image "
                f"has {extents(shape)} voxels. Give three."
            )
        if self.mm is not None:
            place = np.rint(np.linalg.inv(image.affine) @ (*self.mm, 1))[:3].tolist()
        else:
            place = [*(self.voxel or ()), 0][:3]
        if not all(0 <= at < side for at, side in zip(place, shape, strict=True)):
            said = f"mm {list(self.mm)}" if self.mm else f"voxel {list(self.voxel or ())}"
            raise DataError(
                f"{image.name}: a click at {said} lies outside the image of "
                f"{extents(shape)} voxels, counted from 0. Correct its place."
            )
        x, y, z = map(int, place)
        return x, y, z

    def label_in(self, structures: Mapping[int, str]) -> int:
        """Return the label that is said to be there, 0 for none.

        Raises:
            ConfigError: for a structure that is not among `structures` (number -> name).
        """
        if self.structure in (None, 0):
            return 0
        return classes_named([str(self.structure)], structures)[0]


def read_clicks(path: Path, cases: Sequence[str]) -> dict[str, tuple[Click, ...]]:
    """Return the clicks in a JSON file by the case that they are for.

    Args:
        path: a list of clicks for a single case, or an object of such lists by the cases' names.
        cases: the names that there are.

    Raises:
        ConfigError: when the file is missing, for clicks that are none, or for a case that is not
            among `cases`.
        DataError: when it is no JSON.
    """
    values = read_json(path, _REMEDY)
    if isinstance(values, list):
        if len(cases) != 1:
            raise ConfigError(
                f"{path}: a list of clicks is for one image, and there are {len(cases)}. Give an "
                f'object of lists by the names of the cases, such as {{"{cases[0]}": [...]}}.'
            )
        values = {cases[0]: values}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}. {_REMEDY}")
    if unknown := [name for name in values if name not in cases]:
        known = ", ".join(cases[:8]) + (" ..." if len(cases) > 8 else "")
        raise ConfigError(f"{path}: there is no case {unknown[0]!r}; there are {known}.")
    return {name: _clicks(clicks, f"{path}, {name}") for name, clicks in values.items()}


def _clicks(values: Any, where: str) -> tuple[Click, ...]:
    if not isinstance(values, list):
        raise ConfigError(f"{where}: found {type(values).__name__}. {_REMEDY}")
    return tuple(
        Click.from_json(value, f"{where}, click {number}") for number, value in enumerate(values, 1)
    )
