"""Cases and data sets: which files belong together, what labels mean, reading with every check."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats import (
    FORMATS,
    is_header_of_pair,
    kind_in_folder,
    read_labels,
    read_volume,
    smallest_unsigned,
)
from transunet.data.regions import Region
from transunet.data.text import groups_by, some
from transunet.data.volume import Volume, corner_distance, same_grid
from transunet.errors import ConfigError

IGNORED = 255
"""Class index of voxels that nobody labelled, where a data set has such: they count in nothing."""

HEADER_DRIFT = 1.0
"""In voxels: a label map whose corners lie less far off the image's takes the image's affine."""


@dataclass(frozen=True)
class Case:
    """The files of one case."""

    name: str
    images: tuple[Path, ...]
    """One file per channel, or one file with all of them."""
    label: Path | None
    """None for a case that has none, such as a challenge's test case."""
    group: str | None = None
    """Cases of one group (a patient) are never split apart; None: the case is its own group."""
    split: str | None = None
    """"train", "validation" or "test" where the data set itself says so."""
    fold: int | None = None
    """Where the data set makes folds of its cases: the one in which this one validates."""
    series: str | None = None
    """Of several DICOM series at its path: the UID of its own, or its number in the list."""
    origin: str | None = None
    """Where its images were fetched from, where they were."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Its images and, where it has one, its label map."""
        return (*self.images, self.label) if self.label else self.images


@dataclass(frozen=True)
class DataSet:
    """What a layout found in a folder."""

    cases: tuple[Case, ...]
    labels: Mapping[int, str]
    """Class index -> name; 0 is the background. Consecutive, but where regions are learned: there
    indices are the files' values."""
    channels: tuple[str, ...]
    """What each channel is: "CT", "MRI", "T1", "red", ..."""
    name: str = ""
    """What its description calls it; `open_dataset` takes the folder's name where none does."""
    folder: Path = Path()
    """Filled in by `open_dataset`, like the layout's name."""
    layout: str = ""
    label_values: Mapping[int, int] = field(default_factory=dict)
    """Value in the files -> class index, where they are not the same numbers."""
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Named unions of classes (nnU-Net's regions), by class index."""
    learned_regions: tuple[Region, ...] = ()
    """The same where a network is to tell them apart, as they are written; else it tells apart the
    classes."""
    label_map: str | None = None
    """The name of the map from the files' labels to these, where the layout has one."""
    intensity_range: tuple[float, float] | None = None
    """What intensities are known to lie in: (0, 255) for photographs, (0, 1) where prepared."""
    split_rule: str = "split of the data set"
    """What the cases' own splits come from, in words."""
    folds_file: Path | None = None
    """nnU-Net's `splits_final.json`, where it lies with the data set."""
    group_by: str | None = None
    """The pattern that made the cases' groups, where one was given."""
    notes: tuple[Problem, ...] = ()
    """What the layout noticed and no case shows: files that belong to nothing, for example."""
    ignore: int | None = None
    """The value in the files of voxels that nobody labelled; None where all are labelled."""

    @property
    def values(self) -> Mapping[int, int]:
        """Value in the files -> class index (`IGNORED` for `ignore`), complete."""
        values = self.label_values or {index: index for index in self.labels}
        return values if self.ignore is None else {**values, self.ignore: IGNORED}

    def ignoring(self, value: int) -> "DataSet":
        """Return the data set with the voxels of `value` in its files left out of everything.

        A class of this value is none any more, and those behind it move up.

        Raises:
            ConfigError: when another value is ignored already, or no class would remain.
        """
        if self.ignore not in (None, value):
            raise ConfigError(
                f"The data set {self.name} has {self.ignore} as its ignored value already; only "
                f"one is possible, so {value} cannot be ignored too. Store one value for both."
            )
        kept = {v: index for v, index in self.values.items() if v != value}
        classes = sorted(set(kept.values()))
        if value == 0 or not 2 <= len(classes) <= IGNORED:
            raise ConfigError(
                f"The data set {self.name} cannot ignore {value}: it would have {len(classes)} "
                f"classes, and it takes the background (0) and 1 to {IGNORED - 1} more."
            )
        if any(value == region.label for region in self.learned_regions):
            raise ConfigError(
                f"The data set {self.name} cannot ignore {value}: it is written for a region. "
                "Correct regions_class_order in its dataset.json."
            )
        index = {old: new for new, old in enumerate(classes)}
        if self.learned_regions:
            index = {old: old for old in classes}
        values = {v: index[old] for v, old in kept.items()}
        regions = {n: tuple(index[i] for i in m if i in index) for n, m in self.regions.items()}
        return replace(
            self,
            labels={index[old]: self.labels[old] for old in classes},
            label_values={} if all(v == new for v, new in values.items()) else values,
            regions={name: members for name, members in regions.items() if members},
            learned_regions=tuple(
                region.replace(members=[i for i in region.members if i != value])
                for region in self.learned_regions
            ),
            notes=tuple(note for note in self.notes if note.kind != f"{value}-label"),
            ignore=value,
        )

    def with_channels(self, names: tuple[str, ...]) -> "DataSet":
        """Return the data set with its channels called otherwise, such as ("CT",).

        Raises:
            ConfigError: for another number of names than channels.
        """
        if len(names) != len(self.channels):
            raise ConfigError(
                f"The data set {self.name} has {len(self.channels)} channels "
                f"({', '.join(self.channels)}), but {len(names)} names were given."
            )
        return replace(self, channels=names, intensity_range=None)

    def grouped(self, pattern: str) -> "DataSet":
        """Return the data set with cases in groups: by what `pattern` finds in their names.

        Test cases are in no group, since they are never split. See `text.groups_by`.

        Raises:
            ConfigError: for a pattern that is no regular expression or does not fit every name.
        """
        groups = groups_by(pattern, [case.name for case in self.cases if case.split != "test"])
        cases = tuple(replace(case, group=groups.get(case.name)) for case in self.cases)
        return replace(self, cases=cases, group_by=pattern)

    def read_case(self, case: Case) -> tuple[Volume, Volume | None]:
        """Read a case's image (float32) and label map (class indices, unsigned), both checked.

        Raises:
            DataError: for a file that is missing or damaged, voxels that are not finite, another
                number of channels, or a label value that the data set does not list.
            GeometryError: when image and label lie on different grids.
        """
        raise_first(file_problems(case))
        image = read_volume(case.images)
        raise_first(image_problems(self, image))
        if case.label is None:
            return image, None
        label = read_labels(case.label)
        raise_first(label_problems(self, image, label))
        label = label.on_grid(image) or label
        return image, label.with_array(self.class_indices(label.array))

    def class_indices(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the class index of each value of a label file; all are in `self.values`."""
        if not self.label_values and self.ignore is None:
            return smallest_unsigned(values)
        listed = np.array(sorted(self.values))
        indices = np.array([self.values[value] for value in listed.tolist()])
        return smallest_unsigned(indices[np.searchsorted(listed, values)])


def file_problems(case: Case) -> Iterator[Problem]:
    """Yield a problem for every file of `case` that is not there or of no known format."""
    for path, what in [(path, "image") for path in case.images] + [(case.label, "label map")]:
        if path is None:
            continue
        series = what == "image" and path.is_dir()
        if not path.is_file() and not series:
            remedy = "Put the file there, or take the case out of the data set"
            found = f"case {case.name} has no {what} here"
            yield Problem(f"missing-{what.split()[0]}", str(path), found, remedy)
        elif kind_in_folder(path) is None and not is_header_of_pair(path) and not series:
            found = f"it is of no format that can be read; known: {', '.join(FORMATS)}"
            yield Problem("format", str(path), found, "Convert the file to one of them")


def labels_missing(dataset: DataSet) -> Iterator[Problem]:
    """Yield a problem when no case has a label at all."""
    if not any(case.label for case in dataset.cases):
        found = f"none of its {len(dataset.cases)} cases has a label map"
        remedy = "Copy the label maps along; without them there is nothing to learn from"
        yield Problem("no-labels", str(dataset.folder), found, remedy)


def image_problems(dataset: DataSet, image: Volume) -> Iterator[Problem]:
    """Yield what makes an image unusable: other channels, voxels that are not finite."""
    if image.channels != len(dataset.channels):
        has = "1 channel" if image.channels == 1 else f"{image.channels} channels"
        found = (
            f"it has {has}, the data set {len(dataset.channels)} ({', '.join(dataset.channels)})"
        )
        yield Problem("channels", image.name, found, "Give every case the same channels, in order")
    if dataset.intensity_range and hasattr(image.header, "white") and image.white is None:
        found = (
            f"its numbers are {image.header.dtype.name}, whose white is not known, so that they "
            "cannot be compared with those of the other images"
        )
        yield Problem(
            "several-depths", image.name, found, "Store all images in one type of numbers"
        )
    bad = int(image.array.size - np.isfinite(image.array).sum())
    if bad:
        found = f"{bad} of {image.array.size} voxels are NaN or infinite; expected finite numbers"
        remedy = "Replace them; transunet check --fix writes a copy with the smallest value instead"
        yield Problem("not-finite", image.name, found, remedy)


def label_problems(dataset: DataSet, image: Volume, label: Volume) -> Iterator[Problem]:
    """Yield what makes a label map unusable: another grid, values that are not listed."""
    difference = same_grid(image, label)
    if difference and label.on_grid(image) is not None:
        found = f"its axes run otherwise than those of {image.name}: {difference}"
        remedy = "Nothing needs doing, it is turned exactly; --fix stores it turned"
        yield Problem("grid", label.name, found, remedy, "warning", geometry=True)
    elif difference:
        found = f"image and label must lie on one grid, but against {image.name} {difference}"
        remedy = "Resample the label map to the image's grid with nearest neighbour"
        if placement := placed(image, label):
            remedy = f"Let transunet check --fix write a copy with this corrected ({placement[1]})"
        if (
            getattr(image.header, "is_turned", False)
            and label.spatial_shape[:2] == image.spatial_shape[1::-1]
        ):
            found += f"; the orientation tag of {image.name} turns it"
            remedy = (
                "The mask lies on the picture as it is stored: turn the mask as viewers show the "
                "picture, or save the picture turned, without the tag"
            )
        yield Problem("grid", label.name, found, remedy, geometry=True)
    values = set(np.unique(label.array.ravel("K")).tolist())
    unknown = sorted(values - set(dataset.values))
    if not unknown:
        return
    names = {**dataset.labels, IGNORED: "ignored"} if dataset.ignore is not None else dataset.labels
    listed = ", ".join(f"{v} ({names[i]})" for v, i in sorted(dataset.values.items())[:100])
    found = (
        "label values that the data set does not list: "
        f"{some([str(value) for value in unknown], 10)}; listed: {listed}"
    )
    kind = "unknown-label"
    remedy = "Correct the label map, or add these labels to the data set's description"
    if unknown == [255]:
        kind = "255-mask" if values <= {0, 255} else "255-label"
        remedy = (
            "If 255 marks what nobody labelled, leave it out: --ignore 255 (in Python: "
            "open_dataset(folder, ignore=255)), or a label 'ignore': 255 in the data set's "
            "description. If it is a class, add it there"
        )
        if kind == "255-mask" and len(dataset.labels) == 2:
            remedy = (
                "In a black-and-white mask 255 stands for class 1: transunet check --fix stores 1"
            )
    yield Problem(kind, label.name, found, remedy)


def placed(image: Volume, label: Volume) -> tuple[Volume, str] | None:
    """Return `label` on the grid of `image` and what was done to it, or None where that is a guess.

    One whose axes are flipped or swapped against the image's is turned, voxel by voxel. One whose
    header is less than a voxel off, or holds no geometry, takes the image's affine.
    """
    turned = label.on_grid(image)
    if turned is not None:
        return turned, f"turned to {image.orientation}"
    if label.spatial_shape != image.spatial_shape:
        return None
    drift = HEADER_DRIFT * min(image.spacing_mm)
    near = image.orientation == label.orientation and corner_distance(image, label) < drift
    placeless = label.doubt is not None and label.doubt.placeless
    if near or placeless:
        return replace(label, affine=image.affine), "the image's affine taken"
    return None


def raise_first(problems: Iterator[Problem]) -> None:
    """Raise the first of `problems` that is an error, if there is one."""
    for problem in problems:
        if problem.severity == "error":
            raise problem.error()
