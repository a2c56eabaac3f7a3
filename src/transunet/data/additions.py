"""Adding cases, such as corrected predictions, to an nnU-Net data set in its folder.

A case appears whole or not at all. Its files and the new `dataset.json` are written into a folder
beside, which one renaming turns into `.added`; from there they go to their places, and where a
process is killed in between, the next one that comes goes on. A lock of the operating system keeps
others out meanwhile.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from transunet.data.cases import Case
from transunet.data.classes import match_classes, plain_name
from transunet.data.formats import read_grid, read_volume, stem_of, write_volume
from transunet.data.layouts import description, nnunet
from transunet.data.regions import Region
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.files import writable_folder, write_json, writing

_ADDED, _LOCK, _CONTENTS = ".added", ".lock", ".contents.json"
_LOCK_SECONDS = 60.0
_REMEDY = "Give another folder, or make it writable."


class Classes(NamedTuple):
    """What a label map's values mean and what an image's channels are: a bundle's."""

    channels: Sequence[str]
    labels: Mapping[int, str]
    """Value -> name; 0 is the background."""
    regions: Sequence[Region] = ()


class Added(NamedTuple):
    """What became of a case that was added."""

    case: str
    cases: int
    """The training cases that the data set has now."""


class KnownImageError(DataError):
    """The data set has the image already."""


class OtherClassesError(DataError):
    """The data set is of other classes, or other channels."""


def check_addable(folder: Path, classes: Classes) -> None:
    """Make sure that cases of these classes can be added to the data set in `folder`.

    A folder that is not there yet, or empty, is made into one by the first case.

    Raises:
        OtherClassesError: saying what differs.
        ConfigError: for a folder that cannot be written to, or holds something else.
        DataError: when its description is damaged.
    """
    writable_folder(folder, _REMEDY)
    with _locked(folder):
        _finish(folder)
    if (content := _described(folder)) is not None:
        _values_in_files(folder, content, classes)


def training_cases(folder: Path) -> int:
    """Return how many training cases the data set in `folder` has; 0 where none was made yet."""
    content = _described(folder)
    return sum(_is_training(case) for case in _cases(folder)) if content else 0


def case_of(folder: Path, image: Volume) -> str | None:
    """Return which case of the data set in `folder`, of training or not, has the voxels of `image`.

    How the axes lie in the file does not matter. What was read once is remembered in the folder.

    Raises:
        ConfigError, DataError: as `check_addable`.
    """
    if _described(folder) is None:
        return None
    try:
        contents = dict(json.loads((folder / _CONTENTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        contents = {}
    wanted, shape, known = _digest(image), sorted(image.spatial_shape), dict(contents)
    found = None
    for case in _cases(folder):
        with suppress(TransUNetError, OSError):  # a damaged case is the same as none
            files = [[status.st_size, status.st_mtime_ns] for status in map(Path.stat, case.images)]
            if contents.get(case.name, {}).get("files") != files:
                known.pop(case.name, None)
                if sorted(read_grid(case.images[0]).spatial_shape) != shape:
                    continue
                digest = _digest(read_volume(case.images))
                known[case.name] = {"files": files, "sha256": digest}
            if known[case.name]["sha256"] == wanted:
                found = case.name
                break
    if known != contents:
        with suppress(ConfigError):  # it is only remembered
            write_json(known, folder / _CONTENTS)
    return found


def add_case(
    folder: Path, name: str, image: Volume, labels: NDArray[Any], classes: Classes
) -> Added:
    """Add an image and its label map to the training cases of the data set in `folder`.

    Both are written on the image's own grid, in the data set's format; in a new one's, pictures as
    PNG and all else as NIfTI, a file per channel.

    Args:
        folder: an nnU-Net data set; a new or empty folder becomes one.
        name: what the case is to be called; a number is put behind it where there is one.
        image: in its own intensities.
        labels: (1, X, Y, Z) whole numbers, by the values of `classes`.
        classes: what these are.

    Raises:
        KnownImageError: when a case has the same image, saying which.
        OtherClassesError: when the data set has other classes or channels, or the label map another
            value.
        ConfigError: when the folder cannot be written to or holds something else, or another
            process keeps it.
        DataError: when its description is damaged.
        GeometryError: for labels of another shape than the image's.
    """
    writable_folder(folder, _REMEDY)
    with _locked(folder):
        _finish(folder)
        content = _described(folder) or _new_description(image, classes)
        values = _values_in_files(folder, content, classes)
        if known := case_of(folder, image):
            raise KnownImageError(f"{image.name}: the data set has this image already, as {known}.")
        if strange := sorted(set(np.unique(labels).tolist()) - set(values)):
            raise OtherClassesError(
                f"{image.name}: its label map holds {', '.join(map(str, strange))}; expected "
                f"{_listed(classes.labels)}."
            )
        table = np.zeros(max(values) + 1, np.uint32 if max(values.values()) > 65535 else np.uint16)
        table[list(values)] = list(values.values())
        label_map = image.with_array(_smallest(table[labels]))
        cases = _cases(folder) if (folder / description.NAME).exists() else []
        case = _free_name(folder, name, cases)
        count = 1 + sum(map(_is_training, cases))
        scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
        try:
            with writing(folder, _REMEDY):
                _write(scratch, case, image, label_map, {**content, "numTraining": count})
                scratch.replace(folder / _ADDED)
                _finish(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return Added(case, count)


def _write(
    scratch: Path, case: str, image: Volume, label_map: Volume, content: dict[str, Any]
) -> None:
    """Write a case's files as they will lie in the data set, and its description."""
    ending = content["file_ending"]
    images, labels = scratch / "imagesTr", scratch / "labelsTr"
    images.mkdir()
    labels.mkdir()
    stored = _smallest(image.array)
    colour = ending in nnunet.COLOUR and image.channels == 3
    parts = [stored] if colour else [stored[[channel]] for channel in range(image.channels)]
    paths = []
    for channel, part in enumerate(parts):
        paths.append(images / f"{case}_{channel:04d}{ending}")
        write_volume(image.with_array(part), paths[-1])
    write_volume(label_map, labels / f"{case}{ending}")
    if isinstance(listed := content.get("dataset"), dict):
        names = [f"imagesTr/{path.name}" for path in paths]
        entry = {"images": names, "label": f"labelsTr/{case}{ending}"}
        content = {**content, "dataset": {**listed, case: entry}}
    description.rewrite(scratch, content)


def _finish(folder: Path) -> None:
    """Bring what was added whole to its place; `dataset.json` last, as it counts the cases."""
    if not (added := folder / _ADDED).is_dir():
        return
    with writing(folder, _REMEDY):
        for part in ("labelsTr", "imagesTr"):
            (folder / part).mkdir(exist_ok=True)
            for file in (added / part).iterdir():
                file.replace(folder / part / file.name)
        if (new := added / description.NAME).exists():
            new.replace(folder / description.NAME)
    shutil.rmtree(added)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise ConfigError(
            f"Another process has been adding to {folder} for {_LOCK_SECONDS:.0f} seconds. Try "
            "again when it has ended."
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"Cannot lock {folder}: {reason}. Choose a folder on a disk with room, whose file "
            "system has locks."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _described(folder: Path) -> dict[str, Any] | None:
    """Return the description of the data set in `folder`; None where none was made yet."""
    if not (folder / description.NAME).exists():
        there = [path.name for path in folder.iterdir() if path.name[0] != "."]
        if there:
            raise ConfigError(
                f"{folder} holds {', '.join(sorted(there)[:5])} and no {description.NAME}. Cases "
                "are added to nnU-Net's data sets: give the folder of one, or a new folder."
            )
        return None
    content = description.description_of(folder)
    if not nnunet.recognises(folder) or content.get("training"):
        raise ConfigError(
            f"{folder} is no data set as nnU-Net v2 has it ({nnunet.SHAPE}), or its "
            f"{description.NAME} lists its cases under 'training'. Cases are added to such, or to "
            "a new folder."
        )
    return {**content, "file_ending": nnunet.ending_of(folder, content)}


def _new_description(image: Volume, classes: Classes) -> dict[str, Any]:
    labels: dict[str, Any] = {name: value for value, name in sorted(classes.labels.items())}
    order = {}
    if classes.regions:
        labels = {classes.labels.get(0, "background"): 0}
        labels |= {region.name: list(region.members) for region in classes.regions}
        order = {"regions_class_order": [region.label for region in classes.regions]}
    picture = image.white == 255 and image.spatial_shape[2] == 1 and image.channels in (1, 3)
    return {
        "channel_names": {str(number): name for number, name in enumerate(classes.channels)},
        "labels": labels,
        **order,
        "file_ending": ".png" if picture else ".nii.gz",
    }


def _values_in_files(folder: Path, content: dict[str, Any], classes: Classes) -> dict[int, int]:
    """Return value of `classes` -> value in the data set's label files."""
    channels = description.channel_names(folder, content, "channel_names")
    ours, theirs = ([plain_name(name) for name in names] for names in (classes.channels, channels))
    if len(ours) != len(theirs) or (ours != theirs and sorted(ours) == sorted(theirs)):
        raise OtherClassesError(
            f"{folder}: the data set has the channels {', '.join(channels)}; the images have "
            f"{', '.join(classes.channels)}. Give another data set, or take a model of its "
            "channels."
        )
    labels = description.labels_of(folder, content)
    names = {index: name for index, name in labels.names.items() if name != "ignore"}
    matched = match_classes(classes.labels, names)
    alone = [f"{name} (only in the label map)" for name in matched.first_only.values()]
    alone += [f"{name} (only in the data set)" for name in matched.second_only.values()]
    if not alone and _comparable(classes.regions, matched.numbers) != _comparable(
        labels.learned_regions, {index: index for index in names}
    ):
        alone = ["the regions that are told apart"]
    if alone:
        raise OtherClassesError(
            f"{folder}: the data set has the classes {_listed(names)}; the label map has "
            f"{_listed(classes.labels)}. They differ in {', '.join(alone)}."
        )
    in_files = {index: value for value, index in labels.indices.items()}
    return {own: in_files.get(index, index) for own, index in matched.numbers.items()}


def _comparable(regions: Sequence[Region], numbers: Mapping[int, int]) -> list[Any]:
    return [
        (plain_name(region.name), {numbers[n] for n in region.members}, numbers[region.label])
        for region in regions
    ]


def _cases(folder: Path) -> list[Case]:
    return list(nnunet.open(folder).cases)


def _is_training(case: Case) -> bool:
    return case.split in (None, "train")


def _free_name(folder: Path, name: str, cases: Sequence[Case]) -> str:
    """Return a name for files that begins like `name` and that no case has, nor a stray file."""
    stem = re.sub(r"[^\w.+=@()-]+", "_", name).strip("._-")[:100] or "case"
    label_maps = description.files_in(folder / "labelsTr")
    taken = {case.name.casefold() for case in cases} | {stem_of(p).casefold() for p in label_maps}
    number, free = 2, stem
    while free.casefold() in taken:
        number, free = number + 1, f"{stem}-{number}"
    return free


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers in the smallest of a few types that holds them, others as float32."""
    if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        return array.astype(np.float32)
    low, high = array.min(), array.max()
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    return array.astype(np.float32)


def _digest(image: Volume) -> str:
    """SHA-256 of the voxels with their axes to the right, to the front and up."""
    voxels = np.ascontiguousarray(image.reoriented("RAS").array, dtype="<f4")
    return hashlib.sha256(str(voxels.shape).encode() + voxels.tobytes()).hexdigest()


def _listed(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))
