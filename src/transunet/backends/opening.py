"""From a bundle or an exported file to a network: which engine computes it, and where.

The fastest engine that is installed and exact comes first; another precision than fp32 only where
it is asked for, since labels may change with it.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from transunet.backends.conversion import converted
from transunet.backends.engines import ENGINES, best_device, check_name, device_for, is_installed
from transunet.backends.exported import Metadata, unpack
from transunet.backends.protocol import Network, PrecisionError
from transunet.bundle.bundle_config import MODEL, BundleConfig, locate, read_config
from transunet.bundle.integer_ranges import FURTHEST_DICE, LEAST_EQUAL, IntegerRanges
from transunet.errors import ConfigError, DataError
from transunet.files import sha256_of
from transunet.optional import require

_LEAST_BYTES = 8 << 20
"""Of weights: `auto` converts no smaller network, since converting takes longer than it saves."""

_log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A network, and what it came with."""

    network: Network
    config: BundleConfig
    engine: str
    precision: str


def open_network(
    source: Path | str,
    device: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    trust: bool = False,
) -> Opened:
    """Open a bundle or an exported file.

    Args:
        source: a folder, a hub id, or a file that `transunet export` wrote.
        device: "cpu", "cuda", "cuda:1", "mps"; the best one there is if not given.
        engine: one of `ENGINES`; "auto" takes the fastest installed, for a file the usual one.
        precision: "fp32", "bf16", "fp16" or "int8" of a bundle, of a file its own; "auto" is fp32,
            or the file's own. Where int8 changes too many labels or is no faster, fp32 is taken.
        trust: load a file that can run any code that is in it (`.pt2`).

    Raises:
        ConfigError: when there is no such bundle or file, or it is none of ours; for an engine,
            precision or device that cannot be had; for a `.pt2` without trust.
        DataError, WeightsError: when it is damaged.
    """
    check_name("engine", engine)
    check_name("precision", precision)
    with _missing_packages_named(source):
        if is_exported(source):
            return _open_file(Path(source).expanduser(), device, engine, precision, trust)
        return _open_bundle(source, device, engine, precision)


def config_of(source: Path | str, engine: str = "auto") -> BundleConfig:
    """Read the configuration of a bundle or of an exported file that `engine` will compute.

    Raises:
        ConfigError: when there is no such bundle or file, or it is none of ours.
        DataError: when it is damaged.
    """
    if not is_exported(source):
        return read_config(source)
    path = Path(source).expanduser()
    with _missing_packages_named(source):
        return read_metadata(path, engine if engine in _readers(path) else None).config


def is_exported(source: Path | str) -> bool:
    """Whether `source` names an exported file and not a bundle."""
    path = Path(source).expanduser()
    return bool(_readers(path)) and not path.is_dir()


def read_metadata(path: Path, engine: str | None = None) -> Metadata:
    """Return what the exported file at `path` says of itself.

    Args:
        path: the file.
        engine: who reads it; the usual one that is installed if not given.

    Raises:
        ConfigError: when there is no such file, or none that `transunet export` wrote.
        DataError: when it is damaged.
    """
    if not path.is_file():
        raise ConfigError(f"There is no exported network {path}. Check the path.")
    return unpack(ENGINES[engine or _usual_reader(path)].texts(path), path)


def candidates(
    source: Path | str, engine: str, precision: str, device: str | None
) -> tuple[list[str], str]:
    """Return the engines that may compute the bundle `source`, best first, and on which device.

    Raises:
        ConfigError: for what no engine can do, or an engine that is not installed; the message says
            what can be had.
    """
    if engine == "auto":
        device = best_device(device)
        kind = device.partition(":")[0]
        able = {
            n: e.precisions[kind] for n, e in ENGINES.items() if e.auto and kind in e.precisions
        }
        heavy = precision == "int8" or locate(source, MODEL).stat().st_size >= _LEAST_BYTES
        names = [
            name
            for name, precisions in able.items()
            if precision in precisions
            and (not ENGINES[name].converts or (heavy and is_installed(name)))
        ]
        if not names and precision == "int8" and device == "cpu":
            require(ENGINES["openvino"].packages[0], ENGINES["openvino"].extra)
        if not names:
            possible = dict.fromkeys(p for precisions in able.values() for p in precisions)
            raise ConfigError(
                f"Nothing computes in {precision} on {device}; possible there: "
                f"{', '.join(possible)}."
            )
        return names, device
    chosen = ENGINES[engine]
    for package in chosen.packages if chosen.extra else ():
        require(package, chosen.extra)
    device = device_for(engine, device, source)
    kind = device.partition(":")[0]
    if precision not in chosen.precisions[kind]:
        others = [n for n, e in ENGINES.items() if precision in e.precisions.get(kind, ())]
        remedy = f"Engines that do: {', '.join(others)}." if others else "No engine does."
        raise ConfigError(
            f"The engine {engine} does not compute in {precision} on {device}; possible: "
            f"{', '.join(chosen.precisions[kind])}. {remedy}"
        )
    return [engine], device


def _open_bundle(source: Path | str, device: str | None, engine: str, precision: str) -> Opened:
    config = read_config(source)
    precision = "fp32" if precision == "auto" else precision
    names, device = candidates(source, engine, precision, device)
    if precision == "int8":
        precision = _faithful_precision(source, config.ranges)
    for name in names:
        path, fingerprint = source, ""
        try:
            if ENGINES[name].converts:
                path, fingerprint, seconds = converted(source, config, name, precision)
                if seconds and seconds[0] >= seconds[1]:
                    _log.warning(
                        "int8 is no faster than fp32 on this processor (%.3g ms of its time, and "
                        "%.3g), so fp32 is taken.",
                        *(1000 * each for each in seconds),
                    )
                    precision = "fp32"
                    path, fingerprint, _ = converted(source, config, name, precision)
            size = config.architecture.image_size
            network = ENGINES[name].open(path, size, fingerprint, device, precision)
            return Opened(network, config, name, precision)
        except (ConfigError, DataError, ImportError) as error:
            # Without the precision the next engine would compute in it all the same, very slowly.
            if isinstance(error, PrecisionError) or name == names[-1]:
                raise
            _log.warning("%s is passed over: %s", name, error)
    raise AssertionError("there is at least one engine, and the last one returns or raises")


def _faithful_precision(source: Path | str, ranges: IntegerRanges | None) -> str:
    """Return int8, or fp32 where int8 was seen to change too much."""
    if ranges is None:
        raise ConfigError(
            f"{source}: int8 needs to know how large the network's activations get, and the bundle "
            "does not. Let it measure that on labelled cases that it was not trained on: "
            f"transunet calibrate {quote(str(source))} DATASET"
        )
    if ranges.fidelity is None or ranges.fidelity.is_enough:
        return "int8"
    _log.warning(
        "%s: int8 changes too much of this network (%s; at least %.1f%% and a Dice within %g are "
        "wanted), so fp32 is taken.",
        source,
        ranges.fidelity,
        100 * LEAST_EQUAL,
        FURTHEST_DICE,
    )
    return "fp32"


def can_be_int8(source: Path | str, device: str | None, engine: str = "auto") -> bool:
    """Whether the bundle `source` knows its ranges, and an engine for them is installed here.

    Raises:
        ConfigError, DataError: when there is no such bundle, or it is damaged.
    """
    if is_exported(source) or read_config(source).ranges is None:
        return False
    try:
        candidates(source, engine, "int8", device)
    except ConfigError:
        return False
    return True


def _open_file(path: Path, device: str | None, engine: str, precision: str, trust: bool) -> Opened:
    readers = _readers(path)
    writer = ENGINES[readers[0]]
    if writer.runs_code and not trust:
        raise ConfigError(
            f"{path}: loading a {path.suffix} runs whatever code is in it (PyTorch unpickles parts "
            "of it). If you made it yourself or trust who did, add --trust (in Python: "
            "trust=True); a .onnx or .xml file needs no trust."
        )
    engine = _usual_reader(path) if engine == "auto" else engine
    if engine not in readers:
        raise ConfigError(
            f"{path}: the engine {engine} does not read {path.suffix} files; possible: "
            f"{', '.join(readers)}."
        )
    metadata = read_metadata(path, engine)
    if precision not in ("auto", metadata.precision):
        raise ConfigError(
            f"{path}: holds a network for {metadata.precision}, not for {precision}. Leave the "
            "precision out, or give the bundle itself."
        )
    fingerprint = metadata.fingerprint
    if metadata.precision != "fp32":  # what int8 makes of the weights is in the file only
        weights = path.with_suffix(writer.weights_suffix)
        files = [path, weights] if writer.weights_suffix and weights.is_file() else [path]
        parts = [fingerprint, *(sha256_of(file) for file in files)]
        fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    size = metadata.config.architecture.image_size
    device = device_for(engine, device, path)
    network = ENGINES[engine].open(path, size, fingerprint, device, metadata.precision)
    return Opened(network, metadata.config, engine, metadata.precision)


def _readers(path: Path) -> list[str]:
    """Return the engines that read such a file, the one that writes it first."""
    names = [name for name, engine in ENGINES.items() if path.suffix in engine.reads]
    return sorted(names, key=lambda name: ENGINES[name].suffix != path.suffix)


def _usual_reader(path: Path) -> str:
    readers = _readers(path)
    return next((name for name in readers if is_installed(name, to_convert=False)), readers[0])


@contextmanager
def _missing_packages_named(source: Path | str) -> Iterator[None]:
    """Turn a package that is missing, torch above all, into an error that names the source."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{source}: needs the package {error.name!r}, which is not installed. Install it, or "
            "make a .onnx file with `transunet export` where it is and give that instead."
        ) from error
