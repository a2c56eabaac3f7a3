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
from contextlib import suppress
from functools import cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transunet.backends.engines import ENGINES
from transunet.backends.processor import integer_unit
from transunet.backends.protocol import Network, PrecisionError
from transunet.bundle.bundle_config import MODEL, BundleConfig, locate
from transunet.cache import cache_folder, cache_lock, writable_cache_folder
from transunet.errors import ConfigError, TransUNetError, first_line
from transunet.files import atomic_path, sha256_of
from transunet.optional import version_of

if TYPE_CHECKING:
    from torch import nn

_NOTE = "contents.json"
_KEPT = 8
"""How many converted networks stay in the cache: those used last."""
_DAY = 86400.0  # seconds
_TIMED = 2.0  # seconds, of int8 and fp32 in turn

_log = logging.getLogger(__name__)


class Converted(NamedTuple):
    """A network in the cache."""

    path: Path
    fingerprint: str
    """SHA-256 of the architecture and of every weight of the bundle's network; in int8 of its
    ranges, too."""
    seconds: tuple[float, float] | None = None
    """In int8: what 8 slices or a patch take of the processor's time here, and what they take the
    same engine in fp32."""


def converted(
    source: Path | str, config: BundleConfig, engine: str, precision: str = "fp32"
) -> Converted:
    """Return the network of the bundle `source` as `engine` reads it, converting it if need be.

    Several processes may ask at once: one converts, the others wait for it.

    Raises:
        ConfigError: when it cannot be converted, computes something else then, or no room.
        PrecisionError: for a precision that this processor lacks, or ranges of other weights.
        ConfigError, DataError, WeightsError: for a bundle that cannot be loaded.
    """
    made_by = ("torch", *ENGINES[engine].packages)
    key = [
        engine,
        precision,
        sha256_of(locate(source, MODEL)),
        # What is known of its mistakes changes nothing of what it computes.
        config.model_dump_json(exclude={"trust", "ensemble_trust", "ranges"}),
        [config.ranges and config.ranges.ends, integer_unit()] if precision == "int8" else [],
        {package: version_of(package) or "" for package in made_by},
        _code(),
    ]
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / "converted" / name
    if entry := _look(folder):
        return entry
    writable_cache_folder(folder.parent)
    with cache_lock(folder):
        if not (entry := _look(folder)):  # another process may have made it by now
            _make(source, config, engine, precision, folder)
            entry = _look(folder)
    _forget_oldest(folder.parent)
    if entry is None:
        raise ConfigError(f"{folder}: what was just written there is damaged. Check the disk.")
    return entry


@cache
def _code() -> str:
    """SHA-256 of our own code that converts, which may change within a version while it is made."""
    package = Path(__file__).parents[1]
    files = sorted([*(package / "models").rglob("*.py"), *(package / "backends").rglob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _look(folder: Path) -> Converted | None:
    """Return the file in `folder` and its fingerprint; None unless they are what was written."""
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        files: dict[str, str] = note["files"]
        whole = all(sha256_of(folder / name) == files[name] for name in files)
        seconds = note.get("seconds")
        entry = Converted(
            folder / str(note["opened"]),
            str(note["fingerprint"]),
            (float(seconds[0]), float(seconds[1])) if seconds else None,
        )
        if not whole or entry.path.name not in files:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    with suppress(OSError):  # what lies in a cache that cannot be written to is used all the same
        os.utime(folder / _NOTE)  # says when it was used last
    return entry


def _make(
    source: Path | str, config: BundleConfig, name: str, precision: str, folder: Path
) -> None:
    from transunet.backends.compare import FURTHEST, compare, noise
    from transunet.bundle.io import from_pretrained
    from transunet.models.network_fingerprint import fingerprint_of
    from transunet.models.quantised import quantised

    engine, size, started = ENGINES[name], config.architecture.image_size, time.monotonic()
    title = name if precision == "fp32" else f"{name}-{precision}"
    _log.info("Converting %s for %s; this happens once.", source, title)
    model, _ = from_pretrained(source)
    expected: nn.Module = model
    fingerprint, seconds = fingerprint_of(model), None
    if precision == "int8":
        assert config.ranges is not None  # whoever asks for int8 has looked
        if config.ranges.fingerprint != fingerprint:
            raise PrecisionError(
                f"{source}: its ranges for int8 were measured with other weights. Measure them "
                f"anew: transunet calibrate {quote(str(source))} DATASET"
            )
        expected = quantised(model, config.ranges.ends)
        told = f"{fingerprint}{config.ranges.model_dump_json(include={'layers'})}"
        fingerprint = hashlib.sha256(told.encode()).hexdigest()
    try:
        with atomic_path(folder) as scratch:
            scratch.mkdir()
            path = scratch / f"model{engine.suffix}"
            engine.write(model, config, path, precision)
            network = engine.open(path, size, "", "cpu", precision)
            difference, _ = compare(expected, network, noise(model, 1, size))
            if not difference <= FURTHEST[precision]:  # or NaN
                raise ConfigError(
                    f"its logits differ by {difference:.1e} of their standard deviation"
                )
            if precision == "int8":
                exact = engine.open(converted(source, config, name).path, size, "", "cpu", "fp32")
                at_once = 8 if len(size) == 2 else 1  # as predicting does
                seconds = _seconds(noise(model, at_once, size), network, exact)
            note = {
                "files": {file.name: sha256_of(file) for file in scratch.iterdir()},
                "opened": path.name,
                "fingerprint": fingerprint,
                "seconds": seconds,
                "source": str(source),
            }
            (scratch / _NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    except PrecisionError:
        raise
    except Exception as error:  # whatever the exporters raise
        reason = first_line(error)
        if not isinstance(error, TransUNetError | OSError):
            reason = f"{type(error).__name__}: {reason}"
        raise ConfigError(
            f"{source}: cannot be converted for {title} ({reason}). Take the engine eager "
            "(--engine eager)."
        ) from error
    faster = f"; int8 takes {seconds[0] / seconds[1]:.0%} of fp32's time" if seconds else ""
    _log.info("Converted in %.0f s%s.", time.monotonic() - started, faster)


def _seconds(images: NDArray[np.float32], *networks: Network) -> tuple[float, ...]:
    """Return what each network takes of the processor's time for `images`: the mean of turns.

    By a clock, other work would make now one slower and now the other, and it is remembered.
    """
    for network in networks:
        network(images)  # the first time more is done
    total, turns, until = [0.0] * len(networks), 0, time.monotonic() + _TIMED
    while not turns or time.monotonic() < until:
        turns += 1
        for index, network in enumerate(networks):
            started = time.process_time()
            network(images)
            total[index] += time.process_time() - started
    return tuple(each / turns for each in total)


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
