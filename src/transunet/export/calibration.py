"""Images to calibrate int8 with: slices or patches of own training images, as predicting reads."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.bundle_config import BundleConfig
from transunet.data.cases import Case
from transunet.data.formats import open_image
from transunet.data.inputs import find_inputs
from transunet.data.sampling.slices import Planes
from transunet.data.store import MANIFEST, Store
from transunet.errors import ConfigError, DataError
from transunet.inference.slice_inference import VolumeSlices
from transunet.inference.typical_samples import evenly_chosen, typical_samples, usual_count

Progress = Callable[[int, int], None]


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
        count: how many; 64 slices or 16 patches if not given.
        progress: called with the cases read and the cases in all.

    Returns:
        (N, C, *spatial) float32 at the network's size.

    Raises:
        ConfigError: without paths, for one that does not exist, or a store made otherwise.
        DataError, GeometryError: for an image that cannot be read or does not fit the bundle.
    """
    sampling = config.sampling
    count = usual_count(sampling) if count is None else count
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
    readers = evenly_chosen(readers, count)
    each = -(-count // len(readers))
    samples: list[NDArray[np.float32]] = []
    for done, read in enumerate(readers, start=1):
        planes, numbers = read()
        samples += [image for _, image in typical_samples(planes, sampling, each, numbers)]
        progress(done, len(readers))
    if not samples:
        raise DataError(
            f"{paths[0]}: every {sampling.kind[:-1]} is empty; expected images to calibrate with."
        )
    return np.stack(evenly_chosen(samples, count))


def _planes_of_image(case: Case, config: BundleConfig) -> tuple[Planes, Sequence[int]]:
    """Return an image's planes, as predicting makes them, and the numbers of all."""
    _, read = open_image(case.images, case.series)
    planes = VolumeSlices(read(), config.preprocessing)
    return planes, range(len(planes))


def _planes_of_store(store: Store, name: str) -> tuple[Planes, Sequence[int]]:
    """Return a case's planes, and the numbers of those with structures, of all if none has any."""
    planes = store.image(name).swapaxes(0, 1)
    return planes, sorted(set().union(*store.case(name).slices_with.values())) or range(len(planes))
