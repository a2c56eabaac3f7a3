"""A store with a teacher: what the teacher thinks of every case that trains, on the working grid.

RUN/teacher/teacher.json     who taught, and at which temperature; written first
RUN/teacher/targets/NAME.npy (1 + planes, D, H, W) uint8: the labels, then in 255ths the teacher's
                             probabilities at the temperature, of each class but the background or
                             of each region
RUN/teacher/labels           its label maps of the images that nobody labelled
RUN/teacher/images           those images, prepared; a store of their own

A case is written whole or not at all, and not again: after an interruption teaching goes on.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.batch.outputs import label_name, write_labels
from transunet.data.cases import IGNORED, Case, DataSet, image_problems, raise_first
from transunet.data.formats import open_image, read_image
from transunet.data.inputs import find_inputs
from transunet.data.prepare import changed_files, prepare, working_region
from transunet.data.processes import Progress
from transunet.data.resize import resize
from transunet.data.splits import Split, Splits
from transunet.data.store import MANIFEST, Manifest, Store
from transunet.data.text import some
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError
from transunet.files import atomic_path, read_json, sha256_of, write_json, writing
from transunet.inference.logits import label_type
from transunet.training.recipe import Distillation
from transunet.training.soft_loss import LEVELS
from transunet.training.teacher import Taught, Teacher, teacher_of

Opinion = Callable[[int], NDArray[np.float32]]
"""Returns the teacher's probability of a plane, from 0, on the image's own grid: (X, Y, Z)."""
RECORD = "teacher.json"
_log = logging.getLogger("transunet")


@dataclass(frozen=True)
class TaughtStore(Store):
    """A store whose cases a teacher has seen, with images besides that nobody labelled."""

    folder: Path
    """RUN/teacher."""
    unlabelled: Store | None
    """Those images, with the teacher's label maps."""

    @classmethod
    def of(cls, store: Store, folder: Path) -> "TaughtStore":
        """Return `store` with what its teacher left in `folder`."""
        images = folder / "images"
        unlabelled = Store.open(images) if images.is_dir() else None
        cases = {**store.cases, **(unlabelled.cases if unlabelled else {})}
        # Of every plane there is something to learn.
        cases = {name: case.replace(unlabelled=()) for name, case in cases.items()}
        manifest: Manifest = store.manifest.model_copy(update={"cases": cases})
        return cls(store.path, manifest, folder, unlabelled)

    @property
    def ignored(self) -> int | None:
        """The number in label slices of pixels that nobody labelled; None where all are."""
        return IGNORED if self.unlabelled else super().ignored

    def target(self, name: str) -> NDArray[Any]:
        """Map what a network is to learn of a case into memory; see the module."""
        path = target_file(self.folder, name)
        try:
            target: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return target
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: what the teacher thinks of {name} is missing or damaged ({error}). "
                f"Delete the file and go on: transunet train --resume {self.folder.parent}"
            ) from None

    def foreground(self, name: str, index: int) -> NDArray[Any] | None:
        """Return voxels of class `index` in a case's working volume; the teacher's, of an image."""
        if self.unlabelled and name in self.unlabelled.cases:
            return self.unlabelled.foreground(name, index)
        return super().foreground(name, index)

    def _array(self, name: str, file: str) -> NDArray[Any]:
        if self.unlabelled and name in self.unlabelled.cases:
            return self.unlabelled._array(name, file)
        return super()._array(name, file)


def target_file(folder: Path, name: str) -> Path:
    """Return where a case's target lies, of what a teacher left in `folder`."""
    return folder / "targets" / f"{name}.npy"


@dataclass(frozen=True)
class Teaching:
    """A teacher, a store of cases, and the images besides that it is asked about.

    Raises:
        ConfigError, DataError: from `of`, for what cannot work, before anything is written.
    """

    settings: Distillation
    teacher: Teacher
    store: Store
    dataset: DataSet
    """The store's cases that train, by their original files."""
    images: tuple[Case, ...]
    """That nobody labelled."""

    @classmethod
    def of(
        cls,
        settings: Distillation,
        store: Store,
        data: DataSet,
        splits: Splits,
        fold: int = 0,
        device: str | None = None,
    ) -> "Teaching":
        """Look whether the teacher can teach.

        Args:
            settings: name it.
            store: of the cases.
            data: the data set that the store was prepared from.
            splits: which of them train.
            fold: in which part of the splits.
            device: where bundles compute; the best one there is if not given.
        """
        teacher = teacher_of(settings, Taught.of(store), device)
        part = splits.parts[fold]
        names = part.train
        there = {case.name: case for case in data.cases if case.label}
        if missing := sorted({*names} - {*there}):
            raise DataError(
                f"{data.folder} no longer has the cases {', '.join(missing[:8])} that "
                f"{store.path} was made of; the teacher has to see their images. Restore them."
            )
        dataset = replace(data, cases=tuple(there[name] for name in names))
        images = _unlabelled(Path(settings.images), store, part) if settings.images else ()
        teacher.check((*dataset.cases, *images))
        return cls(settings, teacher, store, dataset, images)

    def teach(self, folder: Path, progress: Progress | None = None) -> str:
        """Write what is not yet in `folder`, and return the teacher's fingerprint.

        Raises:
            ConfigError: when the teacher is not the one that began, or the disk is too small.
            DataError, GeometryError: for a case that cannot be used.
        """
        cases = (*self.dataset.cases, *self.images)
        told = {
            **self.settings.model_dump(mode="json", exclude={"soft_weight"}),
            "fingerprint": self.teacher.fingerprint(cases),
            "cases": [case.name for case in cases],
        }
        record = folder / RECORD
        if not record.is_file():
            self._check_room(folder)
            write_json(told, record)
        elif _recorded(folder) != told:
            raise ConfigError(
                f"{folder} holds what the teacher said of some cases, and since then the teacher, "
                f"the cases or a setting changed ({record} tells what they were). Restore them, "
                "or begin a new run."
            )
        for done, case in enumerate(cases, start=1):
            if not target_file(folder, case.name).is_file():
                with TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
                    self._teach_case(case, folder, Path(scratch))
            if progress:
                progress(done, len(cases), case.name)
        if self.images:
            names = tuple(sorted(case.name for case in self.images))
            prepare(
                self._images_as_dataset(folder),
                folder / "images",
                preprocessing=self.store.preprocessing,
                splits=Splits((Split(names, ()),), "all, for the teacher alone"),
            )
        return str(told["fingerprint"])

    @property
    def planes(self) -> int:
        """Of a target, beside the labels."""
        return len(self.teacher.members)

    def _check_room(self, folder: Path) -> None:
        """Say how much is about to be written, and refuse where there is no room for it."""
        channels, wide = len(self.store.preprocessing.channels), max(self.store.labels) > LEVELS
        per_voxel = (1 + self.planes) * (2 if wide else 1)
        sizes = [self.store.cases[case.name] for case in self.dataset.cases]
        needed = sum(per_voxel * case.slices * case.size[0] * case.size[1] for case in sizes)
        for case in self.images:
            voxels, _ = open_image(case.images, case.series)
            needed += voxels * (per_voxel + 1 + np.dtype(np.float32).itemsize * channels)
        folder.mkdir(parents=True, exist_ok=True)
        free, mib = shutil.disk_usage(folder).free, 2**20
        count = len(self.dataset.cases) + len(self.images)
        text = f"What the teacher thinks of {count} cases takes about {ceil(needed / mib):,} MiB"
        if needed > free:
            raise ConfigError(
                f"{text} in {folder}, and {free // mib:,} MiB are free. Make room, choose "
                "another disk for the run, or give fewer --images."
            )
        _log.info(f"{text} in {folder}.")

    def _teach_case(self, case: Case, folder: Path, scratch: Path) -> None:
        """Ask the teacher about one case and write its target."""
        preprocessing, labelled = self.store.preprocessing, case not in self.images
        if labelled:
            if changed := changed_files(self.dataset, case, self.store.cases[case.name]):
                raise DataError(
                    f"{', '.join(changed)} in {self.dataset.folder} is not what {self.store.path} "
                    "was made of: it has changed since. Prepare the data anew."
                )
            image, label = self.dataset.read_case(case)
            assert label is not None  # as in every case of a store
            opinion = self._opinion(case, image, scratch)
        else:
            image = read_image(case.images, case.series)
            raise_first(image_problems(self._images_as_dataset(folder), image))
            opinion = self._opinion(case, image, scratch)
            label = image.with_array(self._decided(opinion, image)[None])
            write_labels(label, _label_file(folder, case), self.store.labels)
        labels = preprocessing.labels_to_working(label)
        box = (slice(None),) * 3
        if preprocessing.is_cropped:
            box = working_region(preprocessing, image, labels)
        target = np.empty((1 + self.planes, *labels[box].shape), labels.dtype)
        target[0] = labels[box] if labelled else IGNORED
        for number, soft in enumerate(self._softened(opinion), start=1):
            plane = preprocessing.oriented(image.with_array(soft[None]))[0]
            working = resize(plane, labels.shape, order=1, edge="kept")
            target[number] = np.rint(LEVELS * np.clip(working[box], 0, 1))
        path = target_file(folder, case.name)
        with writing(path), atomic_path(path) as unfinished:
            np.save(unfinished, target)

    def _opinion(self, case: Case, image: Volume, scratch: Path) -> Opinion:
        channel = self.teacher.channels(case, image, scratch)

        def opinion(plane: int) -> NDArray[np.float32]:
            parts = [channel(number) for number in self.teacher.members[plane]]
            return np.clip(np.sum(parts, axis=0, dtype=np.float32), 0, 1)

        return opinion

    def _softened(self, opinion: Opinion) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities (X, Y, Z) of each plane at the temperature."""
        exponent: Any = np.float32(1 / self.settings.temperature)
        if self.store.regions:
            for plane in range(self.planes):
                inside = opinion(plane)
                raised = inside**exponent
                yield raised / (raised + (1 - inside) ** exponent)
            return
        # Of the classes one at a time, of which there may be a hundred.
        planes = range(self.planes)
        rest = np.clip(1 - sum(map(opinion, planes)), 0, 1)
        total = rest**exponent + sum(opinion(plane) ** exponent for plane in planes)
        for plane in planes:
            yield opinion(plane) ** exponent / total

    def _decided(self, opinion: Opinion, image: Volume) -> NDArray[Any]:
        """Return the label map (X, Y, Z) that follows from what the teacher thinks."""
        values = [region.label for region in self.store.regions]
        values = values or [value for value in sorted(self.store.labels) if value]
        labels = np.zeros(image.spatial_shape, label_type(max(self.store.labels)))
        if self.store.regions:
            for plane, value in enumerate(values):
                labels[opinion(plane) > 0.5] = value
            return labels
        best: Any = np.clip(1 - sum(map(opinion, range(self.planes))), 0, 1)
        for plane, value in enumerate(values):
            likelihood = opinion(plane)
            labels[likelihood > best] = value
            best = np.maximum(best, likelihood)
        return labels

    def _images_as_dataset(self, folder: Path) -> DataSet:
        """The images that nobody labelled, with the label maps that the teacher makes of them."""
        cases = [replace(case, label=_label_file(folder, case)) for case in self.images]
        regions = {region.name: region.members for region in self.store.regions}
        return DataSet(
            tuple(cases),
            self.store.labels,
            tuple(channel.name for channel in self.store.preprocessing.channels),
            name="unlabelled",
            folder=folder,
            layout="unlabelled",
            regions=regions,
            learned_regions=self.store.regions,
        )


def taught_by(folder: Path) -> str | None:
    """Return the fingerprint of who taught, or None while something is not in `folder`."""
    if not (folder / RECORD).is_file():
        return None
    told = _recorded(folder)
    whole = all(target_file(folder, name).is_file() for name in told["cases"])
    prepared = (folder / "images" / MANIFEST).is_file() or not told["images"]
    return str(told["fingerprint"]) if whole and prepared else None


def _recorded(folder: Path) -> Any:
    return read_json(folder / RECORD, f"Delete {folder}, and the teacher is asked anew.")


def _label_file(folder: Path, case: Case) -> Path:
    return folder / "labels" / label_name(case, "nifti")


def _unlabelled(images: Path, store: Store, split: Split) -> tuple[Case, ...]:
    """Return the images that are not among those of the split, held-out ones above all.

    Raises:
        ConfigError: when there is none, or one has the name of another case.
        DataError: for what is no image.
    """
    used = (*split.train, *split.validation, *split.test)
    known = {value for name in used for value in store.case(name).hashes.values()}
    cases = [
        replace(case, name=case.name.replace("/", "_"), label=None)
        for case in find_inputs([images], len(store.preprocessing.channels))
    ]
    there = [
        case
        for case in cases
        if {sha256_of(file) for file in case.images if file.is_file()} & known
    ]
    if there:
        _log.info(
            f"{some([case.name for case in there])} of {images} are among the labelled cases "
            "already: they are left out of the unlabelled."
        )
    cases = [case for case in cases if case not in there]
    if clash := [case.name for case in cases if case.name in store.cases]:
        raise ConfigError(
            f"{images}: {some(clash)} are called like cases of {store.path} and hold other images. "
            "Give them other names."
        )
    if not cases:
        raise ConfigError(f"{images} holds no image that is not labelled already.")
    return tuple(cases)
