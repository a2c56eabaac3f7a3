"""Images to calibrate int8 with: slices or patches of own training images, as predicting reads."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.bundle_config import BundleConfig
from transunet.data.cases import Case
from transunet.data.formats import open_image
from transunet.data.inputs import find_inputs
from transunet.data.resize import resize
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Planes, sample_at
from transunet.data.store import MANIFEST, Store
from transunet.errors import ConfigError, DataError
from transunet.inference.slice_inference import VolumeSlices

COUNT = 64
"""Slices that calibrate a network; more change labels no further (docs/how-to/export.md)."""
PATCHES = 16
"""Patches that do, which have more voxels each."""
_CANDIDATES = 4
"""Slices or patches that are looked at for each one that is taken."""

Progress = Callable[[int, int], None]
Value = TypeVar("Value")


def calibration_images(
    paths: Sequence[Path],
    config: BundleConfig,
    count: int | None = None,
    progress: Progress = lambda done, total: None,
) -> NDArray[np.float32]:
    """Return up to `count` slices or patches, spread over the cases, that are not empty.

    One volume is in memory at a time.

    Args:
        paths: image files, folders of them or patterns as `transunet predict` takes them, or one
            prepared store, of which the training cases of the first split are taken.
        config: the bundle's, for its preprocessing and size.
        count: how many; `COUNT` slices or `PATCHES` patches if not given.
        progress: called with the cases read and the cases in all.

    Returns:
        (N, C, *spatial) float32 at the network's size.

    Raises:
        ConfigError: without paths, for one that does not exist, or a store made otherwise.
        DataError, GeometryError: for an image that cannot be read or does not fit the bundle.
    """
    sampling = config.sampling
    if count is None:
        count = PATCHES if isinstance(sampling, Patches) else COUNT
    if not paths:
        raise ConfigError(
            "int8 is calibrated on images; none were given. Add --calibrate with some of the "
            "training images: files, a folder, or a prepared store."
        )
    if len(paths) == 1 and (paths[0] / MANIFEST).is_file():
        store = Store.open(paths[0])
        if store.preprocessing != config.preprocessing:
            raise ConfigError(
                f"{paths[0]}: the store's {sampling.kind} were prepared otherwise than the "
                "bundle's. Give the store that the bundle was trained on, or images."
            )
        readers = [partial(_planes_of_store, store, name) for name in store.splits[0].train]
    else:
        cases = find_inputs(paths, len(config.preprocessing.channels))
        readers = [partial(_planes_of_image, case, config) for case in cases]
    readers = _spread(readers, count)
    each = -(-count // len(readers))
    samples: list[NDArray[np.float32]] = []
    for done, read in enumerate(readers, start=1):
        planes, numbers = read()
        images: list[NDArray[np.float32]]
        if isinstance(sampling, Patches):
            array = planes[0 : len(planes)].swapaxes(0, 1)
            positions = _spread(sampling.positions(array.shape[1:]), _CANDIDATES * each)
            images = [sampling.read(array, place, sampling.padding) for place in positions]
        else:
            candidates = _spread(numbers, _CANDIDATES * each)
            images = [sample_at(planes, number, sampling.context) for number in candidates]
        contrast = [float(image.std()) for image in images]
        # Those whose contrast is far below the others' are empty.
        least = max(float(np.median(contrast)) / 2, float(np.finfo(np.float32).tiny))
        kept = [image for image, one in zip(images, contrast, strict=True) if one >= least]
        size = config.architecture.image_size
        samples += [resize(image, size, order=3, edge="kept") for image in _spread(kept, each)]
        progress(done, len(readers))
    if not samples:
        raise DataError(
            f"{paths[0]}: every {sampling.kind[:-1]} is empty; expected images to calibrate with."
        )
    return np.stack(_spread(samples, count))


def _planes_of_image(case: Case, config: BundleConfig) -> tuple[Planes, Sequence[int]]:
    """Return an image's planes, as predicting makes them, and the numbers of all."""
    _, read = open_image(case.images, case.series)
    planes = VolumeSlices(read(), config.preprocessing)
    return planes, range(len(planes))


def _planes_of_store(store: Store, name: str) -> tuple[Planes, Sequence[int]]:
    """Return a case's planes, and the numbers of those with structures, of all if none has any."""
    planes = store.image(name).swapaxes(0, 1)
    return planes, sorted(set().union(*store.case(name).slices_with.values())) or range(len(planes))


def _spread(values: Sequence[Value], most: int) -> list[Value]:
    """Return up to `most` of `values`, spread evenly: the middle of as many equal parts."""
    count = min(len(values), most)
    return [values[int((i + 0.5) * len(values) / count)] for i in range(count)]
