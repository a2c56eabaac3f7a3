"""A bundle as a file for another runtime: written, compared, and only then put in its place."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transunet.backends.onnxruntime import OnnxNetwork
from transunet.backends.openvino import OpenVinoNetwork
from transunet.backends.protocol import Network
from transunet.backends.pytorch import TorchNetwork, program_network
from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.io import from_pretrained
from transunet.errors import ConfigError, DataError, TransUNetError, first_line
from transunet.export.writers import (
    OPSET,
    write_onnx,
    write_onnx_int8,
    write_openvino,
    write_openvino_int8,
    write_torch_export,
)
from transunet.files import atomic_path
from transunet.inference.logits import as_array
from transunet.integrations.monai.monai_bundle import write_monai_bundle
from transunet.optional import require

if TYPE_CHECKING:
    from transunet.models.transunet2d.network import TransUNet

FURTHEST = 1e-3
"""Largest difference of fp32 logits from the model's, as a share of their standard deviation.
Rounding alone comes to 1e-5 with trained weights, to some 1e-4 with random ones."""
LEAST_EQUAL = 0.95
"""Share of pixels whose label int8 must leave as it is on the calibration images."""
_BATCH = 8

Images = NDArray[np.float32]
Write = Callable[["TransUNet", BundleConfig, Path], object]
WriteInt8 = Callable[["TransUNet", BundleConfig, Path, Images], None]
Read = Callable[[Path, tuple[int, int]], Network]
Progress = Callable[[str], None]
"""Called with what is done next."""


@dataclass(frozen=True)
class Format:
    """One format of files, and what it takes."""

    suffix: str
    """Of the file; empty for a folder."""
    write: Write
    read: Read | None = None
    """What computes the file, to compare it; None for formats that hold the weights as they are."""
    write_int8: WriteInt8 | None = None
    packages: tuple[str, ...] = ()
    """Beyond torch, for fp32."""
    extra: str = ""
    opset: int | None = None
    free: tuple[str, ...] = ("batch",)
    """Axes of the input that may have any length."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            ".onnx",
            write_onnx,
            lambda path, size: OnnxNetwork(path, size),
            write_onnx_int8,
            ("onnx", "onnxscript", "onnxruntime"),
            "onnx",
            OPSET,
            ("batch", "height", "width"),
        ),
        "openvino": Format(
            ".xml",
            write_openvino,
            lambda path, size: OpenVinoNetwork(path, size),
            write_openvino_int8,
            ("openvino",),
            "openvino",
        ),
        "torch-export": Format(
            ".pt2", write_torch_export, lambda path, size: program_network(path, size, "", "cpu")
        ),
        "monai": Format("", write_monai_bundle),
    }
)


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
    overwrite: bool = False,
    progress: Progress = lambda step: None,
) -> Exported:
    """Write the bundle `source` to `path` in another format, and compare the two.

    Args:
        source: a bundle's folder or its hub id.
        path: the file; for OpenVINO the `.xml`, with its `.bin` beside it. Appears when it is
            complete and compared.
        format: one of `FORMATS`; by the suffix of `path` if not given.
        int8_images: slices (N, C, H, W) of training images (`calibration.calibration_images`), to
            write int8 weights and compute in int8; fp32 if not given.
        overwrite: replace what stands at `path`.
        progress: called with what is done next.

    Raises:
        ConfigError: for an unknown format, a suffix that does not fit, a path that is taken or
            cannot be written to, a format without int8, or a package that is missing.
        DataError: when it cannot be written, or computes something else than the model; nothing is
            left behind.
        ConfigError, DataError, WeightsError: as `transunet.bundle.io.from_pretrained`.
    """
    path = Path(path)
    name = check_target(path, format, int8=int8_images is not None, overwrite=overwrite)
    progress("Loading")
    model, config = from_pretrained(source)
    kind = FORMATS[name]
    if kind.read is None:
        progress("Writing")
        kind.write(model, config, path)
        return _told(path, name, "fp32", model, _size_of(path), (None, None), "not computed")
    if int8_images is not None:
        _check_images(int8_images, model)
    with _in_words(path), atomic_path(path) as scratch:
        progress("Writing" if int8_images is None else "Calibrating and writing")
        if int8_images is not None and kind.write_int8 is not None:
            kind.write_int8(model, config, scratch, int8_images)
        else:
            kind.write(model, config, scratch)
        progress("Comparing")
        compared = _compared(kind, model, scratch, int8_images)
        size = sum(file.stat().st_size for file in scratch.parent.iterdir())
        _place_others(scratch, path)
    on = "noise" if int8_images is None else f"{len(int8_images)} calibration images"
    precision = "fp32" if int8_images is None else "int8"
    return _told(path, name, precision, model, size, compared, on)


def check_target(
    path: Path,
    format: str | None = None,
    *,
    int8: bool = False,
    overwrite: bool = False,
) -> str:
    """Return the name of the format that `path` will have, having refused what cannot work.

    Raises:
        ConfigError: as `export`.
    """
    name = format or _by_suffix(path)
    if name not in FORMATS:
        raise ConfigError(f"There is no format {name!r}; known: {', '.join(FORMATS)}.")
    kind = FORMATS[name]
    if kind.suffix and path.suffix != kind.suffix:
        raise ConfigError(f"{path}: files in the format {name} end in {kind.suffix}.")
    if int8 and kind.write_int8 is None:
        able = [other for other, one in FORMATS.items() if one.write_int8 is not None]
        raise ConfigError(f"The format {name} has no int8; possible: {', '.join(able)}.")
    if kind.suffix and not overwrite and (path.exists() or path.is_symlink()):
        raise ConfigError(f"{path} exists already. Choose another name, or add --overwrite.")
    if kind.suffix and path.is_dir():
        raise ConfigError(f"{path} is a folder; expected the name of a file. Choose another name.")
    for package in kind.packages:
        require(package, kind.extra)
    for package in FORMATS["onnx"].packages if int8 else ():
        require(package, "onnx")
    return name


def _by_suffix(path: Path) -> str:
    for name, kind in FORMATS.items():
        if kind.suffix and kind.suffix == path.suffix:
            return name
    known = ", ".join(f"{one.suffix} ({name})" for name, one in FORMATS.items() if one.suffix)
    raise ConfigError(
        f"{path}: its suffix is of no format. Expected {known}; or say --format, one of: "
        f"{', '.join(FORMATS)}."
    )


def _check_images(images: Images, model: "TransUNet") -> None:
    expected = (model.config.in_channels, *model.config.image_size)
    if not len(images) or images.shape[1:] != expected:
        raise ConfigError(
            f"Calibration images of shape {images.shape} do not fit; expected (N, "
            f"{', '.join(map(str, expected))}) with at least one."
        )


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
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


def _compared(
    kind: Format, model: "TransUNet", path: Path, int8_images: Images | None
) -> tuple[float, float]:
    """Return the largest difference and the share of equal labels; refuse what is too far off."""
    assert kind.read is not None
    size = model.config.image_size
    if int8_images is not None:
        network = kind.read(path, size)
        difference, equal = compare(model, network, int8_images)
        if not equal >= LEAST_EQUAL:
            raise DataError(
                f"{path.name}: in int8 only {equal:.1%} of labels stay as they are; at least "
                f"{LEAST_EQUAL:.0%} should. Calibrate with more and typical training images, or "
                "leave out --int8. Nothing was left behind."
            )
        return difference, equal
    found = [
        compare(model, kind.read(path, one), _noise(model, one)) for one in _sizes(kind, model)
    ]
    difference, equal = max(one[0] for one in found), min(one[1] for one in found)
    if not difference <= FURTHEST:  # NaN included
        raise DataError(
            f"{path.name}: its logits differ by {difference:.1e} of their standard deviation from "
            f"the bundle's; at most {FURTHEST:.0e} is rounding. Update the packages that export. "
            "Nothing was left behind."
        )
    return difference, equal


def compare(model: "TransUNet", network: Network, images: Images) -> tuple[float, float]:
    """Return how far `network` is from `model` on `images` (N, C, H, W), which may be real ones.

    Returns:
        The largest difference of the logits as a share of their standard deviation, and the share
        of pixels with the same label.
    """
    plain = TorchNetwork(model, next(model.parameters()).device)
    furthest, deviations, equal = 0.0, [], []
    for start in range(0, len(images), _BATCH):
        batch = np.ascontiguousarray(images[start : start + _BATCH], dtype=np.float32)
        expected, found = as_array(plain(batch)), as_array(network(batch))
        # max() would pass over NaN.
        furthest = float(np.maximum(furthest, np.abs(found - expected).max()))
        deviations.append(float(expected.std()))
        equal.append((found.argmax(1) == expected.argmax(1)).mean(axis=(1, 2)))
    scale = max(float(np.mean(deviations)), float(np.finfo(np.float32).tiny))
    return furthest / scale, float(np.concatenate(equal).mean())


def _noise(model: "TransUNet", size: tuple[int, int]) -> Images:
    """Three images, so that another batch than that of the export is computed."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, model.config.in_channels, *size), dtype=np.float32)


def _sizes(kind: Format, model: "TransUNet") -> list[tuple[int, int]]:
    """The bundle's size, and another one where any will do."""
    height, width = model.config.image_size
    patch = model.config.patch_size
    sizes = [(height, width)]
    return [*sizes, (height - 1, width + patch)] if "width" in kind.free else sizes


def _place_others(scratch: Path, path: Path) -> None:
    """Put what lies beside the written file (OpenVINO's weights, say) beside its place."""
    for file in scratch.parent.iterdir():
        if file != scratch:
            file.replace(path.parent / file.name)


def _told(
    path: Path,
    name: str,
    precision: str,
    model: "TransUNet",
    size: int,
    compared: tuple[float | None, float | None],
    on: str,
) -> Exported:
    kind, config = FORMATS[name], model.config
    lengths = (
        ("channels", config.in_channels),
        *zip(("height", "width"), config.image_size, strict=True),
    )
    axes = ["batch", *(axis if axis in kind.free else str(length) for axis, length in lengths)]
    shape = f"({', '.join(axes)})"
    return Exported(path, name, precision, kind.opset, shape, size, *compared, on)


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
