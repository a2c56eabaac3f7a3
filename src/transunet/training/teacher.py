"""Who teaches: bundles, or another tool's label maps or probabilities of the same images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.opening import config_of
from transunet.bundle.bundle_config import CONFIG, BundleConfig
from transunet.data.cases import Case, DataSet
from transunet.data.classes import match_classes, plain_name
from transunet.data.formats import channel_of, read_labels, read_volume, stem_of
from transunet.data.regions import Region
from transunet.data.store import Store
from transunet.data.text import some
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.evaluation.pairs import files_in
from transunet.evaluation.structure_names import LabelNames, names_from, names_of
from transunet.files import sha256_of
from transunet.inference.predictor import Predictor
from transunet.training.recipe import Distillation

SMOOTHING = 0.1
"""Share of each voxel's probability that a teacher's label map spreads over all its classes."""

_PROBABILITIES = (".npy", ".nii", ".npz")
"""Suffixes of probabilities; outside a folder of that name only of nnU-Net's."""

Channel = Callable[[int], NDArray[Any]]
"""Returns what a teacher thinks of its class or region of this number, from 0: (X, Y, Z)."""
_log = logging.getLogger("transunet")


@dataclass(frozen=True)
class Taught:
    """What a student shall tell apart: the classes, channels and regions of its data."""

    labels: Mapping[int, str]
    regions: tuple[Region, ...]
    channels: int
    """Of the images."""

    @classmethod
    def of(cls, data: DataSet | Store) -> "Taught":
        """Return what is to be told apart in a data set or a store."""
        if isinstance(data, Store):
            return cls(data.labels, data.regions, len(data.preprocessing.channels))
        return cls(data.labels, data.learned_regions, len(data.channels))


@dataclass(frozen=True)
class BundleTeacher:
    """Bundles or exported files, whose probabilities are averaged."""

    settings: Distillation
    taught: Taught
    device: str | None = None

    @cached_property
    def configs(self) -> list[BundleConfig]:
        """Of each bundle."""
        return [config_of(source) for source in self.settings.teachers]

    @cached_property
    def members(self) -> list[tuple[int, ...]]:
        """For each of the student's classes but the background, or regions, the channels in it.

        Raises:
            ConfigError: when the teacher does not know one, or takes other channels.
        """
        for source, config in zip(self.settings.teachers, self.configs, strict=True):
            names = [channel.name for channel in config.preprocessing.channels]
            if len(names) != self.taught.channels:
                raise ConfigError(
                    f"The teacher {source} takes {len(names)} channels ({', '.join(names)}), the "
                    f"student's images have {self.taught.channels}. Choose a teacher of the same "
                    "images, or prepare the channels that it takes."
                )
        config = self.configs[0]
        return members_of(self.taught, self.settings.teachers[0], config.labels, config.regions)

    @cached_property
    def predictor(self) -> Predictor:
        """What computes the probabilities."""
        return Predictor.from_pretrained(
            self.settings.teachers, device=self.device, mirror=self.settings.mirror
        )

    def check(self, cases: Sequence[Case]) -> None:
        """Find nothing missing: bundles can be asked about any image."""

    def fingerprint(self, cases: Sequence[Case]) -> str:
        """SHA-256 of the bundles and how they look."""
        return sha256(f"{self.predictor.fingerprint} {self.settings.mirror}".encode()).hexdigest()

    def channels(self, case: Case, image: Volume, scratch: Path) -> Channel:
        """Return what the teacher thinks of the image, kept in the folder `scratch` meanwhile."""
        path = scratch / "probabilities.npy"
        self.predictor(image, probabilities=path)
        stored = np.load(path, mmap_mode="r")
        return lambda number: stored[number]


@dataclass(frozen=True)
class FolderTeacher:
    """A folder of label maps or probabilities, called like the cases."""

    settings: Distillation
    taught: Taught

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return Path(self.settings.teachers[0])

    @cached_property
    def label_maps(self) -> dict[str, Path]:
        """Name -> file; of a folder with probabilities alone, none."""
        try:
            return files_in(self.folder, "label map")
        except DataError:
            if self._probabilities("*") or list(self.folder.glob("*.npz")):
                return {}
            raise

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """Value -> name of the teacher's classes; the student's where nobody names them."""
        told = [names_of(file, self.folder) for file in [*self.label_maps.values()][:1]]
        for place in (self.folder, self.folder.parent):
            for file in ("manifest.json", "dataset.json"):
                told += [names_from(place / file)] if (place / file).is_file() else []
        names: LabelNames | None = next((names for names in told if names), None)
        return names.labels if names and names.named else self.taught.labels

    @cached_property
    def members(self) -> list[tuple[int, ...]]:
        """As of a `BundleTeacher`."""
        return members_of(self.taught, str(self.folder), self.labels)

    def check(self, cases: Sequence[Case]) -> None:
        """Make sure that there is a file for each case.

        Raises:
            DataError: naming those that have none.
        """
        if missing := [case.name for case in cases if self._file(case) is None]:
            raise DataError(
                f"The teacher {self.folder} has neither a label map nor probabilities of "
                f"{len(missing)} of {len(cases)} cases: {some(missing, 8)}. Expected a file called "
                "like each case, such as CASE.nii.gz, CASE.npz of nnU-Net or probabilities/"
                "CASE.npy. Let the tool predict these too, or leave the cases out (--splits)."
            )

    def fingerprint(self, cases: Sequence[Case]) -> str:
        """SHA-256 of the files."""
        files = sorted((case.name, self._file(case)) for case in cases)
        lines = [f"{name} {sha256_of(file)}" for name, file in files if file]
        return sha256("\n".join(lines).encode()).hexdigest()

    def channels(self, case: Case, image: Volume, scratch: Path) -> Channel:
        """Return what the teacher thinks of the image.

        Raises:
            DataError: when the file is damaged or holds something else.
            GeometryError: when it lies on another grid.
        """
        path = self._file(case)
        assert path is not None  # checked
        values = sorted(self.labels)
        if path.suffix not in _PROBABILITIES or path not in self._probabilities(stem_of(path)):
            labels = read_labels(path)
            labels = _on_grid(labels, image, path)
            if strange := sorted({*np.unique(labels.array).tolist()} - {*values}):
                raise DataError(
                    f"{path}: it holds the labels {some(list(map(str, strange)), 8)}, which have "
                    f"no name; expected {', '.join(f'{v} {self.labels[v]}' for v in values)}."
                )
            least = SMOOTHING / len(values)
            return lambda number: np.where(
                labels.array[0] == values[number], np.float32(1 - SMOOTHING + least), least
            )
        array = _probabilities_in(path, image)
        if array.shape != (len(values), *image.spatial_shape):
            raise GeometryError(
                f"{path}: probabilities of shape {array.shape} do not fit; expected "
                f"{(len(values), *image.spatial_shape)}, one for each of "
                f"{', '.join(self.labels[value] for value in values)} on the image's own grid."
            )
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1.001):
            raise DataError(f"{path}: values from {low:.4g} to {high:.4g} are no probabilities.")
        return lambda number: array[number]

    def _file(self, case: Case) -> Path | None:
        stem = stem_of(case.images[0])
        channel = channel_of(stem)
        for name in dict.fromkeys([case.name, stem, *(channel[:1] if channel else ())]):
            if files := self._probabilities(name):
                return files[0]
            if name in self.label_maps:
                return self.label_maps[name]
        return None

    def _probabilities(self, name: str) -> list[Path]:
        own = self.folder if self.folder.name == "probabilities" else self.folder / "probabilities"
        files = [file for suffix in _PROBABILITIES for file in own.glob(f"{name}{suffix}")]
        return files + [file for file in self.folder.glob(f"{name}.npz") if _is_of_nnunet(file)]


Teacher = BundleTeacher | FolderTeacher


def teacher_of(settings: Distillation, taught: Taught, device: str | None = None) -> Teacher:
    """Return the teacher that `settings` names, having looked whether it can teach.

    Raises:
        ConfigError: when there is no such bundle or folder, when it does not know what the student
            is to tell apart, or takes other channels.
        DataError: when a bundle's configuration, or a folder's description, is damaged.
    """
    first = Path(settings.teachers[0]).expanduser()
    for bundle in map(Path, settings.teachers):
        if (bundle / "run.json").is_file() and not (bundle / CONFIG).is_file():
            raise ConfigError(f"{bundle} is a run, not a bundle: give {bundle / 'best'}.")
    teacher: Teacher
    if len(settings.teachers) == 1 and first.is_dir() and not (first / CONFIG).is_file():
        if settings.mirror:
            raise ConfigError(
                f"mirror is for bundles, which look at images; {first} holds what was predicted "
                "already. Leave it out."
            )
        teacher = FolderTeacher(settings, taught)
    else:
        teacher = BundleTeacher(settings, taught, device)
    assert teacher.members  # or what is wrong with them
    return teacher


def members_of(
    taught: Taught,
    teacher: str,
    labels: Mapping[int, str],
    regions: Sequence[Region] = (),
) -> list[tuple[int, ...]]:
    """Return the numbers of the teacher's channels that make up what the student tells apart.

    One entry for each of the student's classes but the background, or for each of its regions; all
    are matched by name. Further classes of the teacher are the student's background.

    Raises:
        ConfigError: for one that the teacher does not know.
    """
    asked: dict[str, tuple[int, ...]]
    others: list[str] = []
    if regions:
        if not taught.regions:
            raise ConfigError(
                f"The teacher {teacher} tells regions apart that overlap "
                f"({', '.join(region.name for region in regions)}), the student's data have "
                "classes. Choose a teacher of classes, or data with these regions."
            )
        by_name = {plain_name(region.name): number for number, region in enumerate(regions)}
        own = {region.name: by_name.get(plain_name(region.name)) for region in taught.regions}
        asked = {name: () if number is None else (number,) for name, number in own.items()}
        known = [region.name for region in regions]
    else:
        matched = match_classes(labels, taught.labels)
        order = {value: number for number, value in enumerate(sorted(labels))}
        channel = {ours: order[theirs] for theirs, ours in matched.numbers.items()}
        groups = {region.name: region.members for region in taught.regions}
        groups = groups or {name: (value,) for value, name in taught.labels.items() if value}
        asked = {
            name: tuple(channel[value] for value in values) if {*values} <= {*channel} else ()
            for name, values in groups.items()
        }
        known = [name for value, name in labels.items() if value]
        others = [*matched.first_only.values()]
    if missing := [name for name, channels in asked.items() if not channels]:
        raise ConfigError(
            f"The teacher {teacher} does not know {', '.join(missing)}, which the student is to "
            f"learn; it knows {', '.join(known)}. Classes are matched by name: choose a teacher "
            "of these classes, or name them alike."
        )
    if others:
        _log.info(
            f"The teacher's {some(others, 8)}: background to the student, whose data have no such "
            "class."
        )
    return list(asked.values())


def _probabilities_in(path: Path, image: Volume) -> NDArray[Any]:
    """Return probabilities (K, X, Y, Z) on the image's grid; of what shape is not checked."""
    if path.suffix == ".nii":
        return _on_grid(read_volume(path), image, path).array
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npy":
            return np.asarray(loaded)
        with loaded:  # nnU-Net's axes run the other way
            return np.asarray(np.moveaxis(loaded["probabilities"].T, -1, 0))
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path}: no probabilities can be read ({error}).") from None


def _is_of_nnunet(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return "probabilities" in loaded.files
    except (OSError, ValueError, EOFError):
        return True  # damaged, which reading tells


def _on_grid(volume: Volume, image: Volume, path: Path) -> Volume:
    same = volume.on_grid(image)
    if same is None:
        raise GeometryError(
            f"{path} lies on another grid than {image.name}: {volume.spatial_shape} voxels of "
            f"{np.round(volume.grid.spacing_mm, 4).tolist()} mm, and {image.spatial_shape} of "
            f"{np.round(image.grid.spacing_mm, 4).tolist()} mm. Write it on the image's own grid."
        )
    return same
