"""A bundle's network as another engine reads it: converted once, then taken from the user's cache.

What lies in the cache is found by the contents of the bundle's weights and by the versions of what
converted it, and is read only while its files are what was written.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transunet.backends.protocol import Network
from transunet.bundle.bundle_config import MODEL, BundleConfig, locate
from transunet.cache import cache_folder, cache_lock, writable_cache_folder
from transunet.errors import ConfigError, TransUNetError, first_line
from transunet.files import atomic_path, sha256_of
from transunet.optional import version_of

if TYPE_CHECKING:
    from transunet.models.transunet2d.network import TransUNet

_FORM = 1
"""Of what lies in the cache; another number makes everything anew."""
_NOTE = "contents.json"
_KEPT = 8
"""How many converted networks stay in the cache: those used last."""
_DAY = 86400.0  # seconds

_log = logging.getLogger(__name__)


class ConversionError(ConfigError):
    """An engine that cannot be had for this bundle, through no fault of the bundle."""


class Converted(NamedTuple):
    """A converted network in the cache."""

    path: Path
    fingerprint: str
    """SHA-256 of the architecture and of every weight of the bundle's network."""


class _Kind(NamedTuple):
    file: str
    packages: tuple[str, ...]
    """Whose versions decide what comes out."""


KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "onnxruntime": _Kind("model.onnx", ("torch", "onnx", "onnxscript")),
        "openvino": _Kind("model.xml", ("torch", "openvino")),
        "openvino-bf16": _Kind("model.xml", ("torch", "openvino")),
        "openvino-fp16": _Kind("model.xml", ("torch", "openvino")),
    }
)
"""Engine, with the precision if it is not fp32 -> what is made for it."""
_FURTHEST_HALF = 0.5
"""In half precision, as a share of the logits' standard deviation: 1e-2 is usual."""


def converted(source: Path | str, config: BundleConfig, engine: str) -> Converted:
    """Return the network of the bundle `source` as `engine` reads it, converting it if need be.

    Several processes may ask at once: one converts, the others wait for it.

    Raises:
        ConversionError: when it cannot be converted, computes something else then, or no room.
        ConfigError, DataError, WeightsError: as `transunet.bundle.io.from_pretrained`.
    """
    folder = cache_folder() / "converted" / _key(source, config, engine)
    found = _look(folder, engine)
    if found is None:
        _make_folder(folder.parent)
        with cache_lock(folder):
            found = _look(folder, engine)  # another process may have made it by now
            if found is None:
                _make(source, config, engine, folder)
                found = _look(folder, engine)
        _forget_oldest(folder.parent)
    if found is None:
        raise ConversionError(f"{folder}: what was just written there is damaged. Check the disk.")
    return found


def _key(source: Path | str, config: BundleConfig, engine: str) -> str:
    weights = sha256_of(locate(source, MODEL))
    versions = {package: version_of(package) or "" for package in KINDS[engine].packages}
    parts = [_FORM, engine, weights, config.model_dump_json(), versions, _code()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """SHA-256 of our own code that converts, which may change within a version while it is made."""
    package = Path(__file__).parents[1]
    files = [*sorted((package / "models").rglob("*.py")), package / "export" / "writers.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _look(folder: Path, engine: str) -> Converted | None:
    """Return what lies in `folder`; None unless it is what was written there."""
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        files: dict[str, str] = note["files"]
        whole = all(sha256_of(folder / name) == files[name] for name in files)
        found = Converted(folder / KINDS[engine].file, str(note["fingerprint"]))
        if not whole or found.path.name not in files:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    with suppress(OSError):  # what lies in a cache that cannot be written to is used all the same
        os.utime(folder / _NOTE)  # says when it was used last
    return found


def _make(source: Path | str, config: BundleConfig, engine: str, folder: Path) -> None:
    from transunet.backends.pytorch import fingerprint_of
    from transunet.bundle.io import from_pretrained

    _log.info("Converting %s for %s; this happens once and takes a minute.", source, engine)
    model, _ = from_pretrained(source)
    try:
        with atomic_path(folder) as scratch:
            scratch.mkdir()
            path = scratch / KINDS[engine].file
            _writer(engine)(model, config, path)
            _check_equal(model, _opened(engine, path, config), engine)
            files = {file.name: sha256_of(file) for file in scratch.iterdir()}
            note = {"files": files, "fingerprint": fingerprint_of(model), "source": str(source)}
            (scratch / _NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    except Exception as error:  # whatever the exporters raise
        raise _unusable(source, engine, error) from error


def _writer(kind: str) -> "Callable[[TransUNet, BundleConfig, Path], None]":
    from transunet.export import writers

    exact = {"onnxruntime": writers.write_onnx, "openvino": writers.write_openvino}
    return exact.get(kind, writers.write_openvino_half)


def _opened(kind: str, path: Path, config: BundleConfig) -> Network:
    from transunet.backends.onnxruntime import OnnxNetwork
    from transunet.backends.openvino import OpenVinoNetwork

    size = config.architecture.image_size
    if kind == "onnxruntime":
        return OnnxNetwork(path, size)
    return OpenVinoNetwork(path, size, precision=kind.partition("-")[2] or "fp32")


def _check_equal(model: "TransUNet", network: Network, kind: str) -> None:
    """Compare the converted network with the plain one on an image that is noise."""
    from transunet.export.export import FURTHEST, compare

    shape = (1, model.config.in_channels, *model.config.image_size)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    furthest, _ = compare(model, network, image)
    if not furthest <= (_FURTHEST_HALF if "-" in kind else FURTHEST):  # NaN included
        raise ConversionError(f"its logits differ by {furthest:.1e} of their standard deviation")


def _unusable(source: Path | str, engine: str, error: Exception) -> ConversionError:
    reason = first_line(error)
    if not isinstance(error, TransUNetError | OSError):
        reason = f"{type(error).__name__}: {reason}"
    return ConversionError(
        f"{source}: cannot be converted for {engine} ({reason}). Take the engine "
        "eager (--engine eager)."
    )


def _make_folder(folder: Path) -> None:
    try:
        writable_cache_folder(folder)
    except ConfigError as error:
        raise ConversionError(str(error)) from None


def _forget_oldest(folder: Path) -> None:
    """Remove what was not used for longest, and what killed processes left half-written."""
    notes = sorted(folder.glob(f"*/{_NOTE}"), key=_when_used, reverse=True)
    for note in notes[_KEPT:]:
        shutil.rmtree(note.parent, ignore_errors=True)  # who has it open keeps it
    for scratch in folder.glob(".partial-*"):
        if _when_used(scratch) < time.time() - _DAY:
            shutil.rmtree(scratch, ignore_errors=True)


def _when_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0
