"""What can be corrected in a case without guessing.

- A label map of 0 and 255 where there is one class: 255 becomes 1.
- A label map that can be placed on its image's grid (`placing.py`).
- Voxels that are NaN or infinite: they become the file's smallest finite value.
- A grey photograph among coloured ones: its channel is repeated; a coloured one without colours
  among grey ones: one channel is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transunet.data.cases import (
    Case,
    DataSet,
    file_problems,
    image_problems,
    label_problems,
    raise_first,
)
from transunet.data.checks.problems import Problem
from transunet.data.formats import format_of, join_channels, read_labels
from transunet.data.layouts.masks import LABELS
from transunet.data.placing import placed
from transunet.data.volume import Volume, same_grid


@dataclass(frozen=True)
class Corrected:
    """A case without errors."""

    files: Mapping[Path, Volume | None]
    """What to write in the place of each file; None: the file as it is."""
    done: tuple[Problem, ...]
    """What was wrong, `remedy` saying what was done."""


def corrected(dataset: DataSet, case: Case) -> Corrected:
    """Correct one case.

    Raises:
        DataError, GeometryError: for the first error that cannot be corrected safely.
    """
    raise_first(file_problems(case))
    done: list[Problem] = []
    images = {path: _image(dataset, case, path, done) for path in case.images}
    image = join_channels(list(images.values()))
    raise_first(image_problems(dataset, image))
    changed = {problem.where for problem in done}
    files: dict[Path, Volume | None] = {
        path: volume if str(path) in changed else None for path, volume in images.items()
    }
    if case.label is not None and case.label not in images:
        before = len(done)
        label = _label(dataset, image, case.label, done)
        files[case.label] = label if len(done) > before else None
    elif case.label is not None:  # one file holds both, and is never written
        raise_first(label_problems(dataset, image, read_labels(case.label)))
    return Corrected(files, tuple(done))


def _image(dataset: DataSet, case: Case, path: Path, done: list[Problem]) -> Volume:
    volume: Volume = format_of(path).read(path)
    if case.label in case.images:
        return volume
    volume = _finite(volume, done)
    return _coloured(dataset, volume, done) if len(case.images) == 1 else volume


def _finite(volume: Volume, done: list[Problem]) -> Volume:
    finite = np.isfinite(volume.array)
    if finite.all() or not finite.any():
        return volume
    least = volume.array[finite].min()
    found = f"{int((~finite).sum())} of {finite.size} voxels were NaN or infinite"
    done.append(_done("not-finite", volume, found, f"replaced by the smallest value, {least:g}"))
    return volume.with_array(np.where(finite, volume.array, least))


def _coloured(dataset: DataSet, volume: Volume, done: list[Problem]) -> Volume:
    wanted, has = len(dataset.channels), volume.channels
    photograph = dataset.intensity_range is not None and volume.array.dtype == np.uint8
    if photograph and (has, wanted) == (1, 3):
        done.append(_done("channels", volume, "it was grey", "channel repeated three times"))
        return volume.with_array(np.repeat(volume.array, 3, axis=0))
    if photograph and (has, wanted) == (3, 1) and (volume.array == volume.array[:1]).all():
        done.append(_done("channels", volume, "it held grey as colours", "one channel kept"))
        return volume.with_array(volume.array[:1])
    return volume


def _label(dataset: DataSet, image: Volume, path: Path, done: list[Problem]) -> Volume:
    label = _on_grid(image, read_labels(path), done)
    label = _listed_255(dataset, label, done)
    raise_first(label_problems(dataset, image, label))
    return _numbered(dataset, label, done)


def _on_grid(image: Volume, label: Volume, done: list[Problem]) -> Volume:
    difference, found = same_grid(image, label), placed(image, label)
    if difference is None or found is None:
        return label
    label, how = found
    done.append(_done("grid", label, difference, how))
    return label


def _listed_255(dataset: DataSet, label: Volume, done: list[Problem]) -> Volume:
    """255 that no description lists, where only class 1 can be meant."""
    values = set(np.unique(label.array.ravel("K")).tolist())
    if not 255 in values <= {0, 255} or set(dataset.values) != {0, 1}:
        return label
    return _as_one(label, done)


def _numbered(dataset: DataSet, label: Volume, done: list[Problem]) -> Volume:
    """255 that was found to be the only class, unless `labels.json` says so."""
    settled = (dataset.folder / LABELS).exists()
    if settled or sorted(dataset.label_values) != [0, 255] or not label.array.any():
        return label
    return _as_one(label, done)


def _as_one(label: Volume, done: list[Problem]) -> Volume:
    done.append(_done("255-mask", label, "its foreground was stored as 255", "stored as 1"))
    return label.with_array((label.array > 0).astype(np.uint8))


def _done(kind: str, volume: Volume, found: str, remedy: str) -> Problem:
    return Problem(kind, volume.name, found, remedy, "warning")
