"""Images and masks side by side: `images/` and `masks/`, or one folder with `NAME_mask` files.

Photographs or volumes, in any depth of folders; an image may be the folder of a DICOM series. Equal
stems, or the mask's with a suffix. What the masks' values mean is told by `labels.json` or found in
the masks themselves (`masks.py`). Folders `train`, `val` and `test` are the data set's own split.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from transunet.data.cases import Case, DataSet
from transunet.data.checks.problems import Problem
from transunet.data.formats import (
    FORMATS,
    SLICES,
    case_of_mask,
    channel_of,
    is_header_of_pair,
    kind_in_folder,
    known_format,
    raster,
    read_volume,
    stem_of,
    suffix_of,
)
from transunet.data.formats.dicom.headers import is_dicom
from transunet.data.layouts import description, masks
from transunet.data.layouts.description import SPLITS, files_in, folders_in
from transunet.data.text import some
from transunet.data.walking import walk
from transunet.errors import DataError, TransUNetError

SHAPE = "images/NAME.png and masks/NAME.png (or labels/), or NAME.png beside NAME_mask.png"

IMAGES = ("images", "image", "imgs", "img", "inputs", "input", "original", "originals")
MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "ground_truth"),
    *("groundtruth", "segmentations", "segmentation", "seg"),
)
"""What the two folders may be called, in any case and with the name of a split around it."""
_SAMPLED = 2000  # images whose headers tell colours, depth and orientation
_HOUNSFIELD_AIR = -500  # a volume of whole numbers that reaches this low is CT


@dataclass(frozen=True)
class _Pair:
    """A folder of images, that of their masks (perhaps the same), and the split they are."""

    images: Path
    masks: Path
    split: str | None
    part: str | None = None
    """The folder around both, such as a patient's, of a data set that has a pair per folder."""


def recognises(folder: Path) -> bool:
    """Whether there are folders of images and masks, or masks beside images."""
    return any(pair.masks.is_dir() for pair in _pairs(folder))


def recognises_parts(folder: Path) -> bool:
    """Whether there are several folders, such as patients', and each holds images and masks."""
    parts = folders_in(folder)
    return len(parts) > 1 and all(any(p.masks.is_dir() for p in _pairs_in(part)) for part in parts)


def open(folder: Path) -> DataSet:
    """Find the pairs, and what the masks' values mean.

    Raises:
        ConfigError: for photographs without pillow.
        DataError: when no mask could be read, or they hold no classes that could be told apart.
    """
    pairs = list(_pairs(folder)) or [
        replace(pair, part=part.name) for part in folders_in(folder) for pair in _pairs_in(part)
    ]
    cases, masks_of_pairs = [], list[Path]()
    for pair in pairs:
        cases_of_pair, files = _cases(pair)
        cases += cases_of_pair
        masks_of_pairs += [path for path in files if kind_in_folder(path)]
    notes = description.unused_files(masks_of_pairs, cases, "this mask has no image")
    dataset = dataset_of(folder, cases, notes)
    if cases and (parts := sorted({pair.part for pair in pairs if pair.part})):
        # They may be patients, but also data sets of their own.
        found = f"its {len(parts)} folders are taken as one data set: {some(parts)}"
        remedy = (
            "If each is a patient, keep its cases together with --group-by; if each is a data set, "
            "give one of them"
        )
        note = Problem("parts", str(folder), found, remedy, "warning")
        dataset = replace(dataset, notes=(*dataset.notes, note))
    return dataset


def dataset_of(
    folder: Path, cases: Sequence[Case], unused: Sequence[Problem], channels: Sequence[str] = ()
) -> DataSet:
    """Return the data set of `cases`, perhaps none, with what its masks and images tell.

    Cases of one name are called by their splits too. `unused` are notes on masks that belong to no
    case. Where `channels` are not named, the images tell them. Errors as `open`.
    """
    if not cases:
        return DataSet((), {}, ())
    if len({case.name for case in cases}) < len(cases):  # train/1.png and test/1.png
        cases = [
            replace(case, name=f"{case.split}_{case.name}") if case.split else case
            for case in cases
        ]
    label_maps = [case.label for case in cases if case.label]
    labels = masks.meaning(folder, label_maps, [Path(note.where) for note in unused])
    intensity_range, notes = None, list[Problem]()
    if not channels:
        channels, intensity_range, notes = channels_of(folder, cases)
    return DataSet(
        cases=tuple(cases),
        labels=labels.names,
        channels=tuple(channels),
        label_values=labels.indices,
        regions=labels.regions,
        learned_regions=labels.learned_regions,
        intensity_range=intensity_range,
        notes=(*labels.notes, *notes, *unused),
    )


def channels_of(
    folder: Path, cases: Sequence[Case]
) -> tuple[tuple[str, ...], tuple[float, float] | None, list[Problem]]:
    """Names of the channels and, for photographs, the range of values: as most images have."""
    photographs = {
        case: header
        for case in cases[:: -(-len(cases) // _SAMPLED)]
        if (header := _picture_header(case.images[0]))
    }
    if photographs:
        kinds = Counter((h.channels, h.dtype.name, h.white) for h in photographs.values())
        channels, _, white = max(kinds, key=lambda kind: kinds[kind])
        if white is None or channels not in (1, 3):
            names = tuple(f"band {index + 1}" for index in range(channels))
        else:
            names = ("red", "green", "blue") if channels == 3 else ("grey",)
        notes = list(_notes_on_photographs(folder, photographs))
        return names, (0.0, white) if white else None, notes
    try:
        array = read_volume(cases[0].images[0]).array
    except TransUNetError:
        return ("image",), None, []  # reading the case will tell what is wrong with it
    if array.min() <= _HOUNSFIELD_AIR and (array == np.rint(array)).all():
        return ("CT",) * len(array), None, []
    if len(array) == 1:
        return ("image",), None, []
    return tuple(f"image {index}" for index in range(len(array))), None, []


def _picture_header(path: Path) -> raster.PictureHeader | None:
    """A picture's header; None for other formats and for a damaged one, which reading will tell."""
    if known_format(path) is not raster.FORMAT:
        return None
    try:
        return raster.read_header(path)
    except DataError:
        return None


def _notes_on_photographs(
    folder: Path, headers: Mapping[Case, raster.PictureHeader]
) -> Iterator[Problem]:
    depths = Counter(f"{header.dtype.name}" for header in headers.values())
    if len(depths) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in depths.most_common())
        found = (
            f"its images hold several types of numbers ({counts}); white is taken as 255 in uint8 "
            "and as 65535 in uint16"
        )
        remedy = "Check that white is the same in all, or convert them to one type"
        yield Problem("several-depths", str(folder), found, remedy, "warning")
    # Masks may have been drawn on a turned picture as it is shown, or as it is stored.
    untold = [
        case
        for case, header in headers.items()
        if header.orientation != 1
        and case.label
        and case.label.is_file()
        and known_format(case.label) is raster.FORMAT
        and ((mask := _picture_header(case.label)) is None or mask.orientation == 1)
    ]
    if untold:
        found = (
            f"{len(untold)} images have an orientation tag and their masks none, such as "
            f"{untold[0].images[0].name}; the images are read turned, as viewers show them"
        )
        remedy = "Where a mask was drawn on the picture as it is stored, turn it or remove the tag"
        yield Problem("orientation-tag", str(folder), found, remedy, "warning")


def _pairs(folder: Path) -> Iterator[_Pair]:
    yield from _pairs_in(folder)
    for inner in folders_in(folder):
        if split := SPLITS.get(inner.name.lower()):
            yield from _pairs_in(inner, split)


def _pairs_in(root: Path, split: str | None = None) -> Iterator[_Pair]:
    """The folders in `root` that hold images and masks, or `root` where it holds both."""
    # Train_Images -> roles["train"]["images"], "ground truth" -> roles[None]["ground_truth"]
    roles: dict[str | None, dict[str, Path]] = defaultdict(dict)
    for folder in folders_in(root):
        words = re.split(r"[-_. ]+", folder.name.lower())
        named_split = next((SPLITS[word] for word in words if word in SPLITS), None)
        role = "_".join(word for word in words if word not in SPLITS)
        roles[named_split].setdefault(role, folder)
    paired = False
    for named_split, folders in roles.items():
        images = next((folders[name] for name in IMAGES if name in folders), None)
        labels = next((folders[name] for name in MASKS if name in folders), None)
        if images and (labels or (named_split or split) == "test"):
            paired = True
            yield _Pair(images, labels or root / MASKS[0], named_split or split)
    masks_or_not = {bool(case_of_mask(stem_of(p))) for p in files_in(root, _suffixes())}
    if not paired and len(masks_or_not) == 2:  # masks alone are a folder of label maps
        yield _Pair(root, root, split)


def _cases(pair: _Pair) -> tuple[list[Case], list[Path]]:
    """A case for every image; where its mask is missing, the path it should have. And all masks."""
    together = pair.images == pair.masks
    images = [
        (name, path)
        for name, path in named_files(pair.images, together)
        if path.is_dir() or kind_in_folder(path) is not None
    ]
    labels = [(name, path) for name, path in named_files(pair.masks, together) if path.is_file()]
    if together:
        images = [(name, path) for name, path in images if not case_of_mask(name)]
        labels = [(name, path) for name, path in labels if case_of_mask(name)]
    mask_of = _masks_of_images([name for name, _ in images], labels)
    labelled_splits = {_split_in(name) or pair.split for name, _ in labels}
    cases = []
    for name, image in images:
        split = _split_in(name) or pair.split
        label = mask_of.get(name)
        if label is None and (split != "test" or split in labelled_splits):
            suffix = "" if image.is_dir() else suffix_of(image)
            label = pair.masks / f"{name}{'_mask' if together else ''}{suffix or '.nii.gz'}"
        parts = name.split("/")[1 if _split_in(name) else 0 :]
        case = "_".join([pair.part, *parts] if pair.part else parts)
        cases.append(Case(case, (image,), label, split=split))
    return cases, [path for _, path in labels]


def _split_in(name: str) -> str | None:
    """The split of an image that lies in a folder `train`, `val` or `test` of `images`."""
    first, *inner = name.split("/")
    return SPLITS.get(first.lower()) if inner else None


def named_files(folder: Path, flat: bool) -> list[tuple[str, Path]]:
    """Images or masks with their names: the folders that lead to them, and the stem.

    A folder of DICOM slices is one image. Files of formats that are not read come last, so that a
    mask is told as such and not as missing.
    """
    files = files_in(folder) if flat else sorted(walk(folder).files)
    files = [path for path in files if not is_header_of_pair(path)]
    slices = [
        path
        for path in files
        if path.parent != folder and suffix_of(path) in {None, *SLICES} and is_dicom(path)
    ]
    series = sorted({path.parent for path in slices})
    images = [path for path in files if kind_in_folder(path) in _suffixes()]
    others = [path for path in files if kind_in_folder(path) is None and path.parent not in series]
    return [
        ((path.parent.relative_to(folder) / stem_of(path)).as_posix(), path)
        for path in (*images, *series, *others)
    ]


def _suffixes() -> tuple[str, ...]:
    """Of the formats in which a file is an image or a mask."""
    return tuple(suffix for suffix, known in FORMATS.items() if known.stands_alone)


def _masks_of_images(images: Sequence[str], labels: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Image -> its mask: of the same name, else of a name that begins with the image's.

    Accents count as the same in both ways of writing them. What differs in the case of letters, in
    folders (`p1/0` and `p1_0`, or `p1`), or where the image's name ends in `_image` or `_0000`, is
    paired where only one image and one mask are left that it can be.
    """

    def composed(name: str) -> str:
        return unicodedata.normalize("NFC", name)

    def case_of_label(name: str) -> str:
        return case_of_mask(composed(name)) or composed(name)

    def loose(name: str) -> str:
        return case_of_label(name).casefold().replace("/", "_")

    def loose_image(name: str) -> str:
        name = composed(name).casefold().replace("/", "_")
        channel = channel_of(name)
        return channel[0] if channel else re.sub("[-_.](image|img|im)$", "", name)

    rules: tuple[tuple[Callable[[str], str], Callable[[str], str], bool], ...] = (
        (composed, composed, True),
        (composed, case_of_label, True),
        (case_of_label, case_of_label, True),  # images whose own names end as masks' do
        (loose_image, loose, False),
        (lambda name: loose_image(name.split("/")[0]), loose, False),
    )
    mask_of: dict[str, Path] = {}
    for case_of_name, case_of_path, exact in rules:
        taken = set(mask_of.values())
        names, paths = defaultdict[str, list[str]](list), defaultdict[str, list[Path]](list)
        for name in dict.fromkeys(images):
            if name not in mask_of:
                names[case_of_name(name)].append(name)
        for name, path in labels:
            if path not in taken:
                paths[case_of_path(name)].append(path)
        for case, alike in names.items():
            if len(alike) == 1 and (len(paths[case]) == 1 or (paths[case] and exact)):
                mask_of[alike[0]] = paths[case][0]
    return mask_of
