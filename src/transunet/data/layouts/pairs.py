"""Images and masks side by side: `images/` and `masks/`, or one folder with `NAME_mask` files.

Photographs or volumes; equal stems, or the mask's with a suffix. What the masks' values mean is
told by `labels.json` or found in the masks themselves (`masks.py`). Folders `train`, `val` and
`test` are the data set's own split.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transunet.data.cases import Case, DataSet
from transunet.data.formats import FORMATS, dicom, raster, read_volume, stem_of, suffix_of, synapse
from transunet.data.layouts import description, masks
from transunet.data.problems import Problem
from transunet.errors import DataError, TransUNetError

SHAPE = "images/NAME.png and masks/NAME.png (or labels/), or NAME.png beside NAME_mask.png"

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "labels", "label", "annotations", "gt")
SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt")
"""What may follow the image's stem in its mask's."""
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}

_KNOWN = tuple(suffix for suffix, module in FORMATS.items() if module not in (synapse, dicom))
_SAMPLED = 50  # images whose headers tell colours and depth
_HOUNSFIELD_AIR = -500  # a volume of whole numbers that reaches this low is CT


@dataclass(frozen=True)
class _Side:
    """A folder of images, that of their masks (perhaps the same), and the split they are."""

    images: Path
    masks: Path
    split: str | None


def recognises(folder: Path) -> bool:
    """Whether there are folders of images and masks, or masks beside images."""
    return any(True for _ in _sides(folder))


def open(folder: Path) -> DataSet:
    """Find the pairs, and what the masks' values mean.

    Raises:
        ConfigError: for photographs without pillow.
        DataError: when the masks hold no classes that could be told apart.
    """
    sides = list(_sides(folder))
    cases = [case for side in sides for case in _cases(side)]
    if len({case.name for case in cases}) < len(cases):  # train/1.png and test/1.png
        cases = [_named_by_split(case) for case in cases]
    if not cases:
        return DataSet(folder.name, folder, "pairs", (), {}, ())
    orphans = _orphans(sides, cases)
    meaning = masks.meaning(
        folder,
        [case.label for case in cases if case.label],
        unused=[Path(orphan.where) for orphan in orphans],
    )
    channels, intensity_range = _channels([case.images[0] for case in cases])
    return DataSet(
        name=folder.name,
        folder=folder,
        layout="pairs",
        cases=tuple(cases),
        labels=meaning.labels,
        channels=channels,
        label_values=meaning.values,
        intensity_range=intensity_range,
        notes=(*meaning.notes, *orphans),
    )


def _sides(folder: Path) -> Iterator[_Side]:
    yield from _sides_at(folder, None)
    for name, split in SPLITS.items():
        yield from _sides_at(folder / name, split)


def _sides_at(root: Path, split: str | None) -> Iterator[_Side]:
    images = [root / name for name in IMAGES if (root / name).is_dir()]
    labels = [root / name for name in MASKS if (root / name).is_dir()]
    if images and labels:
        yield _Side(images[0], labels[0], split)
        for name, inner in SPLITS.items():  # images/train and masks/train
            if (images[0] / name).is_dir():
                yield _Side(images[0] / name, labels[0] / name, inner)
    elif any(_is_mask(path) for path in description.listed(root, _KNOWN)):
        yield _Side(root, root, split)


def _is_mask(path: Path) -> bool:
    return stem_of(path).lower().endswith(SUFFIXES)


def _cases(side: _Side) -> Iterator[Case]:
    """A case for every image; where its mask is missing, the path it should have."""
    images = description.listed(side.images, _KNOWN)
    if side.images == side.masks:
        images = [path for path in images if not _is_mask(path)]
    labels = {stem_of(path).lower(): path for path in description.listed(side.masks, _KNOWN)}
    suffixes = SUFFIXES if side.images == side.masks else ("", *SUFFIXES)
    for image in images:
        stem = stem_of(image)
        found = [labels[name] for end in suffixes if (name := f"{stem}{end}".lower()) in labels]
        expected = side.masks / f"{stem}{suffixes[0]}{suffix_of(image)}"
        label = found[0] if found else expected
        unlabelled = side.split == "test" and not labels
        yield Case(stem, (image,), None if unlabelled else label, split=side.split)


def _named_by_split(case: Case) -> Case:
    name = f"{case.split}_{case.name}" if case.split else case.name
    return Case(name, case.images, case.label, case.group, case.split)


def _channels(images: Sequence[Path]) -> tuple[tuple[str, ...], tuple[float, float] | None]:
    """Names of the channels and, for photographs, the range of values: as most images have."""
    step = -(-len(images) // _SAMPLED)
    photographs = [p for p in images[::step] if FORMATS[suffix_of(p) or ""] is raster]
    if not photographs:
        return _volume_channels(images[0]), None
    kinds = Counter(kind for path in photographs if (kind := _bits(path)))
    channels, depth = max(kinds, key=lambda kind: kinds[kind], default=(1, 8))
    names = ("red", "green", "blue") if channels == 3 else ("grey",)
    return names, (0.0, float(2**depth - 1))


def _bits(path: Path) -> tuple[int, int] | None:
    try:
        return raster.bits(path)
    except DataError:
        return None  # reading the case will tell what is wrong with it


def _volume_channels(image: Path) -> tuple[str, ...]:
    try:
        array = read_volume(image).array
    except TransUNetError:
        return ("image",)  # reading the case will tell what is wrong with it
    if array.min() <= _HOUNSFIELD_AIR and (array == np.rint(array)).all():
        return ("CT",) * len(array)
    return ("image",) if len(array) == 1 else tuple(f"image {i}" for i in range(len(array)))


def _orphans(sides: Iterable[_Side], cases: Iterable[Case]) -> list[Problem]:
    used = {path for case in cases for path in (*case.images, case.label) if path}
    files = [path for side in sides for path in description.listed(side.masks, _KNOWN)]
    return description.orphans(files, used, "orphan", "this mask has no image")
