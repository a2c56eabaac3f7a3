"""A bundle as a file for another runtime: written, compared, and only then put in its place."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transunet.backends.compare import FURTHEST, compare, noise
from transunet.backends.engines import ENGINES, Engine
from transunet.backends.exported import AXES
from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.integer_ranges import IntegerRanges
from transunet.bundle.io import from_pretrained
from transunet.errors import ConfigError, DataError, TransUNetError, first_line
from transunet.files import atomic_path
from transunet.integrations.monai.monai_bundle import write_monai_bundle
from transunet.optional import require

if TYPE_CHECKING:
    from torch import nn

    from transunet.models.segmentation_network import SegmentationNetwork

LEAST_EQUAL = 0.95
"""Share of pixels whose label int8 must leave as it is on the calibration images."""
MONAI = "monai"
"""The format that is a folder, and holds the weights as they are."""
FORMATS: Mapping[str, Engine] = MappingProxyType(
    {engine.format: engine for engine in ENGINES.values() if engine.format}
)
"""Name of each format that is a file -> the engine that writes and computes it."""

Images = NDArray[np.float32]
Progress = Callable[[str], None]
"""Called with what is done next."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how its logits compare with the model's."""

    path: Path
    format: str
    precision: str
    """"fp32" or "int8"."""
    opset: int | None
    """Of an ONNX file."""
    shape: str
    """Of the input, axes of any length by name."""
    size_bytes: int
    """Of all that was written."""
    difference: float | None
    """Largest difference of the logits as a share of their standard deviation; None where the
    format holds the weights as they are."""
    equal: float | None
    """Share of pixels with the same label."""
    compared: str
    """On which images."""


def export(
    source: Path | str,
    path: Path | str,
    format: str | None = None,
    int8_images: Images | None = None,
    *,
    int8: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda step: None,
) -> Exported:
    """Write the bundle `source` to `path` in another format, and compare the two.

    Args:
        source: a bundle's folder or its hub id.
        path: the file; for OpenVINO the `.xml`, with its `.bin` beside it. Appears when it is
            complete and compared.
        format: one of `FORMATS`, or "monai"; by the suffix of `path` if not given.
        int8_images: slices or patches (N, C, *spatial) of training images
            (`calibration.calibration_images`), to write int8 weights and compute in int8 with the
            ranges that they give.
        int8: without images, the same with the bundle's own ranges.
        overwrite: replace what stands at `path`.
        progress: called with what is done next.

    Raises:
        ConfigError: for an unknown format, a suffix that does not fit, a path that is taken or
            cannot be written to, a format without int8, or a package that is missing; or when there
            is no such bundle.
        DataError: when it cannot be written, or computes something else than the model; nothing is
            left behind.
        DataError, WeightsError: when the bundle is damaged.
    """
    path = Path(path)
    int8 = int8 or int8_images is not None
    precision = "int8" if int8 else "fp32"
    name = check_target(path, format, int8=int8, overwrite=overwrite)
    progress("Loading")
    model, config = from_pretrained(source)
    expected = (model.config.in_channels, *model.config.image_size)
    if name == MONAI:
        progress("Writing")
        write_monai_bundle(model, config, path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        shape = f"(batch, {', '.join(map(str, expected))})"
        return Exported(path, name, "fp32", None, shape, size, None, None, "not computed")
    engine = FORMATS[name]
    if int8_images is not None and int8_images.shape[1:] != expected:
        raise ConfigError(
            f"Calibration images of shape {int8_images.shape} do not fit; expected (N, "
            f"{', '.join(map(str, expected))}) with at least one."
        )
    with _errors_that_name(path), atomic_path(path) as scratch:
        if int8:
            progress("Calibrating")
            config = config.replace(ranges=_ranges(source, model, config, int8_images))
        progress("Writing")
        engine.write(model, config, scratch, precision)
        progress("Comparing")
        difference, equal = _compared(engine, model, config, scratch, precision, int8_images)
        size = sum(file.stat().st_size for file in scratch.parent.iterdir())
        for file in scratch.parent.iterdir():  # weights beside the file
            if file != scratch:
                file.replace(path.parent / file.name)
    lengths = dict(zip(("channels", *AXES[-model.config.axes :]), expected, strict=True))
    free = _free_axes(engine, model)
    axes = [axis if axis in free else str(lengths[axis]) for axis in ("batch", *lengths)]
    return Exported(
        path=path,
        format=name,
        precision=precision,
        opset=engine.opset,
        shape=f"({', '.join(axes)})",
        size_bytes=size,
        difference=difference,
        equal=equal,
        compared="noise" if int8_images is None else f"{len(int8_images)} calibration images",
    )


def check_target(
    path: Path,
    format: str | None = None,
    *,
    int8: bool = False,
    overwrite: bool = False,
) -> str:
    """Return the name of the format that `path` will have, having refused what cannot work.

    Raises:
        ConfigError: for an unknown format, a suffix that does not fit, a path that is taken, a
            format without int8, or a package that is missing.
    """
    names = ", ".join((*FORMATS, MONAI))
    name = format or next((n for n, e in FORMATS.items() if e.suffix == path.suffix), None)
    if name is None:
        known = ", ".join(f"{engine.suffix} ({n})" for n, engine in FORMATS.items())
        raise ConfigError(
            f"{path}: its suffix is of no format. Expected {known}; or say --format, one of: "
            f"{names}."
        )
    if name != MONAI and name not in FORMATS:
        raise ConfigError(f"There is no format {name!r}; known: {names}.")
    if int8 and (name == MONAI or not FORMATS[name].int8):
        able = ", ".join(n for n, engine in FORMATS.items() if engine.int8)
        raise ConfigError(f"The format {name} has no int8; possible: {able}.")
    if name == MONAI:
        return name
    if path.suffix != FORMATS[name].suffix:
        raise ConfigError(f"{path}: files in the format {name} end in {FORMATS[name].suffix}.")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise ConfigError(f"{path} exists already. Choose another name, or add --overwrite.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; expected the name of a file. Choose another name.")
    for package in FORMATS[name].packages:
        require(package, FORMATS[name].extra)
    return name


@contextmanager
def _errors_that_name(path: Path) -> Iterator[None]:
    """Turn whatever writers and runtimes raise into an error that names the file."""
    try:
        yield
    except TransUNetError:
        raise
    except OSError as error:
        raise DataError(
            f"{path}: could not be written ({error.strerror or error}). Check the disk; nothing "
            "was left behind."
        ) from error
    except Exception as error:  # exporters share no base class but this
        raise DataError(
            f"{path}: could not be written ({type(error).__name__}: {first_line(error)}). Is the "
            "disk full? Nothing was left behind."
        ) from error


def _free_axes(engine: Engine, model: "SegmentationNetwork") -> tuple[str, ...]:
    """Return the axes of the input that may have any length; patches have one size."""
    return engine.free_axes if model.config.axes == 2 else ("batch",)


def _ranges(
    source: Path | str,
    model: "SegmentationNetwork",
    config: BundleConfig,
    images: Images | None,
) -> IntegerRanges:
    """Return the ranges that `images` give, or those that the bundle has."""
    import torch

    from transunet.models.network_fingerprint import fingerprint_of
    from transunet.models.quantised import measured_ranges

    fingerprint = fingerprint_of(model)
    if images is not None:
        ends = measured_ranges(model, (torch.from_numpy(image[None]) for image in images))
        return IntegerRanges.of(fingerprint, len(images), ends)
    if config.ranges is None or config.ranges.fingerprint != fingerprint:
        raise ConfigError(
            f"{source}: int8 is calibrated on images; none were given, and the bundle kept no "
            "ranges of these weights. Add --calibrate with some of the training images: files, a "
            "folder, or a prepared store."
        )
    return config.ranges


def _compared(
    engine: Engine,
    model: "SegmentationNetwork",
    config: BundleConfig,
    path: Path,
    precision: str,
    int8_images: Images | None,
) -> tuple[float, float]:
    """Return the largest difference and the share of equal labels; refuse what is too far off."""
    size = model.config.image_size
    expected: nn.Module = model
    if int8_images is not None:
        network = engine.open(path, size, "", "cpu", "int8")
        difference, equal = compare(model, network, int8_images)
        if not equal >= LEAST_EQUAL:
            raise DataError(
                f"{path.name}: in int8 only {equal:.1%} of labels stay as they are; at least "
                f"{LEAST_EQUAL:.0%} should. Calibrate with more and typical training images, or "
                "leave out --int8. Nothing was left behind."
            )
        return difference, equal
    if config.ranges is not None and precision == "int8":
        from transunet.models.quantised import quantised

        expected = quantised(model, config.ranges.ends)
    sizes = [size]
    if precision == "fp32" and "width" in _free_axes(engine, model):
        sizes.append((size[0] - 1, *size[1:-1], size[-1] + model.config.stride[-1]))
    difference, equal = 0.0, 1.0
    for size in sizes:
        network = engine.open(path, size, "", "cpu", precision)
        # Three images, so that another batch than that of the export is computed.
        furthest, same = compare(expected, network, noise(model, 3, size))
        difference, equal = float(np.maximum(difference, furthest)), min(equal, same)
    if not difference <= FURTHEST[precision]:  # NaN included
        raise DataError(
            f"{path.name}: its logits differ by {difference:.1e} of their standard deviation from "
            f"the bundle's; at most {FURTHEST[precision]:.0e} is rounding. Update the packages "
            "that export. Nothing was left behind."
        )
    return difference, equal
