"""Images to calibrate int8 with: a few slices of own training images, read as predicting reads."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.bundle_config import BundleConfig
from transunet.data.cases import Case
from transunet.data.inputs import find_inputs
from transunet.data.resize import resize
from transunet.data.store import MANIFEST, Store
from transunet.errors import ConfigError, DataError
from transunet.inference.read_input import open_image
from transunet.inference.volume_slices import Slabs

COUNT = 64
"""Slices that calibrate a network; more change labels no further (docs/how-to/export.md)."""
_CANDIDATES = 4
"""Slices that are looked at for each one that is taken."""

Progress = Callable[[int, int], None]


def calibration_images(
    paths: Sequence[Path],
    config: BundleConfig,
    count: int = COUNT,
    progress: Progress = lambda done, total: None,
) -> NDArray[np.float32]:
    """Return up to `count` slices, spread over the cases, that are not empty.

    One volume is in memory at a time.

    Args:
        paths: image files, folders of them or patterns as `transunet predict` takes them, or one
            prepared store, of which the training cases of the first split are taken.
        config: the bundle's, for its preprocessing and size.
        count: how many.
        progress: called with the cases read and the cases in all.

    Returns:
        (N, C, H, W) float32 at the network's size.

    Raises:
        ConfigError: without paths, for one that does not exist, or a store made otherwise.
        DataError, GeometryError: for an image that cannot be read or does not fit the bundle.
    """
    if not paths:
        raise ConfigError(
            "int8 is calibrated on images; none were given. Add --calibrate with some of the "
            "training images: files, a folder, or a prepared store."
        )
    store = len(paths) == 1 and (paths[0] / MANIFEST).is_file()
    cases = _stored(paths[0], config) if store else _read(paths, config)
    chosen = [cases[i] for i in _spread(len(cases), min(count, len(cases)))]
    each = -(-count // len(chosen))
    found: list[NDArray[np.float32]] = []
    for index, case in enumerate(chosen):
        found.extend(case(each))
        progress(index + 1, len(chosen))
    if not found:
        raise DataError(f"{paths[0]}: every slice is empty; expected images to calibrate with.")
    return np.stack([found[i] for i in _spread(len(found), min(count, len(found)))])


_Case = Callable[[int], Iterator[NDArray[np.float32]]]
"""Yields some slices (C, H, W) of a case at the network's size."""


def _read(paths: Sequence[Path], config: BundleConfig) -> list[_Case]:
    cases = find_inputs(paths, config.architecture.in_channels)

    def reader(case: Case) -> _Case:
        def slices(each: int) -> Iterator[NDArray[np.float32]]:
            _, read = open_image(case)
            slabs = Slabs(read(), config.preprocessing)
            candidates = _spread(len(slabs), min(len(slabs), _CANDIDATES * each))
            yield from _not_empty([slabs[i : i + 1][0] for i in candidates], each, config)

        return slices

    return [reader(case) for case in cases]


def _stored(path: Path, config: BundleConfig) -> list[_Case]:
    store = Store.open(path)
    if store.preprocessing != config.preprocessing:
        raise ConfigError(
            f"{path}: the store's slices were prepared otherwise than the bundle's. Give the store "
            "that the bundle was trained on, or images."
        )

    def reader(name: str) -> _Case:
        def slices(each: int) -> Iterator[NDArray[np.float32]]:
            with_structures = sorted(set().union(*store.case(name).slices_with.values()))
            image = store.image(name)
            chosen = with_structures or range(len(image))
            candidates = _spread(len(chosen), min(len(chosen), _CANDIDATES * each))
            images = [np.array(image[chosen[i]]) for i in candidates]
            yield from _not_empty(images, each, config)

        return slices

    return [reader(name) for name in store.splits[0].train]


def _not_empty(
    images: Sequence[NDArray[np.float32]], count: int, config: BundleConfig
) -> Iterator[NDArray[np.float32]]:
    """Yield up to `count` of the images whose contrast is not far below the others'."""
    contrast = [float(image.std()) for image in images]
    kept = [
        image
        for image, one in zip(images, contrast, strict=True)
        if one > 0 and one >= np.median(contrast) / 2
    ]
    for i in _spread(len(kept), min(count, len(kept))):
        yield resize(kept[i], config.architecture.image_size, order=3, edge="kept")


def _spread(length: int, count: int) -> list[int]:
    """Return `count` indices spread evenly over `length`, the middle of as many equal parts."""
    return [int((i + 0.5) * length / count) for i in range(count)]
