"""A prepared store: a manifest and, per case, a working volume that training maps into memory.

STORE/manifest.json            data set, labels, preprocessing, fingerprint, splits, every case
STORE/cases/NAME/image.npy     (C, D, H, W) float32: channels, planes, rows and columns
STORE/cases/NAME/label.npy     (D, H, W) uint8 (uint16 above 255 classes), class indices; 255 where
                               nobody labelled a voxel, in a store that has such
STORE/cases/NAME/foreground.npy     (N, 4) uint16, of volumes for networks of three axes: class,
                               plane, row and column of voxels, 10,000 of each class at most
STORE/cases/NAME/case.json     the case's entry of the manifest
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from transunet.data.cases import IGNORED
from transunet.data.checks.problems import Problem
from transunet.data.fingerprint import CaseFingerprint, Fingerprint
from transunet.data.preprocessing import Preprocessing
from transunet.data.regions import Region
from transunet.data.splits import Split, Splits
from transunet.errors import ConfigError, TransUNetError
from transunet.settings import Configuration

FORMAT = 2
"""Version of the store's layout; another one is refused, and an older one prepared anew."""

MANIFEST = "manifest.json"
CASE = "case.json"
FOREGROUND = "foreground.npy"
OLDER = "store-older"
"""The kind of problem that is a store of a format of before, which preparing makes anew."""


class StoredCase(Configuration):
    """What the store knows of one case."""

    name: str
    images: tuple[str, ...]
    """The files it was made from, relative to the data set's folder where they lie in it."""
    label: str
    hashes: dict[str, str]
    """SHA-256 of each of those files."""
    stamps: Mapping[str, str] = {}
    """Size and time of change of each when it was hashed: with the same ones it is not again."""
    made_with: str
    """SHA-256 of the settings that it was made with."""
    group: str | None = None
    split: str | None = None
    slices: int
    size: tuple[int, int]
    """Height and width in pixels."""
    spacing_mm: tuple[float, float, float]
    """Distance from slice to slice, row to row, column to column."""
    slices_with: dict[int, tuple[int, ...]]
    """Class (but the background) -> the slices that it occurs in."""
    unlabelled: tuple[int, ...] = ()
    """The slices of which nobody labelled a voxel: there is nothing to learn from them."""
    fingerprint: CaseFingerprint


class Manifest(Configuration):
    """Everything about a store but its voxels."""

    format: int
    dataset: str
    """The data set's name."""
    folder: str
    """Where it was, absolute."""
    layout: str
    labels: dict[int, str]
    regions: dict[str, tuple[int, ...]]
    learned_regions: tuple[Region, ...] = ()
    """What the network tells apart, as it is written; nothing where these are the labels."""
    ignore: int | None = None
    """The value in the label files of voxels that nobody labelled; None where all are."""
    preprocessing: Preprocessing
    fingerprint: Fingerprint
    seed: int
    splits: tuple[Split, ...]
    """One, or one per fold."""
    split_rule: str = "as prepared"
    """What made them, in words."""
    split_drawn: bool = False
    """Whether a seed made them."""
    group_by: str | None = None
    """The pattern that made the cases' groups, where one was given."""
    cases: dict[str, StoredCase]


def is_store(folder: Path) -> bool:
    """Return whether `folder` is a prepared store, and not a data set yet to be prepared."""
    return (folder / MANIFEST).is_file() and (folder / "cases").is_dir()


@dataclass(frozen=True)
class Store:
    """A store that can be read.

    Raises:
        ConfigError: from `open`, when there is no store.
        DataError: from `open`, when it was made by another version or is damaged.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the store in the folder `path`."""
        file = path / MANIFEST
        if not file.is_file():
            raise ConfigError(
                f"There is no prepared store in {path}. Make one with: transunet prepare DATASET "
                f"-o {path}"
            )
        remedy = f"Prepare it into a new folder: transunet prepare DATASET -o {path}-new"
        try:
            content = json.loads(file.read_text("utf-8"))
            version = content["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            found = f"the store's manifest cannot be read ({type(error).__name__}: {error})"
            raise Problem("store", str(file), found, remedy).error() from None
        if version != FORMAT:
            found = f"the store has format {version!r}, this version reads and writes {FORMAT}"
            kind = OLDER if isinstance(version, int) and version < FORMAT else "store-version"
            raise Problem(kind, str(file), found, remedy).error()
        try:
            return cls(path, Manifest.from_json(content, str(file)))
        except ConfigError as error:
            found = f"the manifest is damaged ({error})"
            raise Problem("store", str(file), found, remedy).error() from None

    @property
    def labels(self) -> Mapping[int, str]:
        """Class index -> name."""
        return self.manifest.labels

    @property
    def regions(self) -> tuple[Region, ...]:
        """What the network tells apart, as it is written; () where these are the labels."""
        return self.manifest.learned_regions

    @property
    def ignored(self) -> int | None:
        """The number in label slices of pixels that nobody labelled; None where all are."""
        return None if self.manifest.ignore is None else IGNORED

    @property
    def preprocessing(self) -> Preprocessing:
        """What made slices of the volumes."""
        return self.manifest.preprocessing

    @property
    def fingerprint(self) -> Fingerprint:
        """What the data set is like."""
        return self.manifest.fingerprint

    @property
    def splits(self) -> tuple[Split, ...]:
        """One split, or one per fold."""
        return self.manifest.splits

    @property
    def prepared(self) -> Splits:
        """The splits, and the rule that made them."""
        manifest = self.manifest
        return Splits(manifest.splits, manifest.split_rule, manifest.split_drawn)

    @property
    def cases(self) -> Mapping[str, StoredCase]:
        """Name -> case."""
        return self.manifest.cases

    def image(self, name: str) -> NDArray[np.float32]:
        """Map the working volume of a case into memory, (C, D, H, W) float32, read-only."""
        return self._array(name, "image.npy")

    def label(self, name: str) -> NDArray[Any]:
        """Map the labels of a case's working volume into memory, (D, H, W) unsigned, read-only."""
        return self._array(name, "label.npy")

    def target(self, name: str) -> NDArray[Any]:
        """Return what a network is to learn of a case: the labels, (D, H, W) unsigned.

        A store with a teacher gives (1 + planes, D, H, W): the labels first, then the teacher's
        probabilities in 255ths.
        """
        return self.label(name)

    def case(self, name: str) -> StoredCase:
        """Return a case by its name.

        Raises:
            ConfigError: when the store has no such case.
        """
        if name not in self.cases:
            raise ConfigError(
                f"The store {self.path} has no case {name!r}. It has: "
                f"{', '.join([*self.cases][:8])}, ..."
            )
        return self.cases[name]

    def foreground(self, name: str, index: int) -> NDArray[Any] | None:
        """Return voxels of class `index` in a case's working volume, (N, 3): plane, row, column.

        None for a store that was made before they were kept.
        """
        if not (case_folder(self.path, self.case(name).name) / FOREGROUND).is_file():
            return None
        rows = self._array(name, FOREGROUND)
        first, end = np.searchsorted(rows[:, 0], [index, index + 1])
        return rows[first:end, 1:]

    def _array(self, name: str, file: str) -> NDArray[Any]:
        path = case_folder(self.path, self.case(name).name) / file
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        except (OSError, ValueError, EOFError) as error:
            found = f"these slices are missing or damaged ({error})"
            remedy = f"Run again: transunet prepare {self.manifest.folder} -o {self.path}"
            raise Problem("store", str(path), found, remedy).error() from None


def case_folder(store: Path, name: str) -> Path:
    """Return the folder that holds one case's slices."""
    return store / "cases" / name


def case_on_disk(store: Path, name: str) -> StoredCase | None:
    """Return what the store holds of a case, or None where it holds nothing whole."""
    folder = case_folder(store, name)
    try:
        case = StoredCase.from_json(json.loads((folder / CASE).read_text("utf-8")), CASE)
        image = np.load(folder / "image.npy", mmap_mode="r", allow_pickle=False)
        label = np.load(folder / "label.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TransUNetError):
        return None
    whole = (case.slices, *case.size)
    return case if label.shape == whole == image.shape[1:] else None
