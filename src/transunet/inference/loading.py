"""From bundles and exported files to one network, whatever computes it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transunet.backends.engines import ENGINES, Choice, candidates
from transunet.backends.exported import is_exported, open_exported
from transunet.backends.exported_texts import read_metadata
from transunet.backends.openvino import PrecisionError
from transunet.backends.protocol import Network
from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.errors import ConfigError, DataError
from transunet.inference.tta import Ensemble

Source = Path | str

_log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A network, and what it came with."""

    network: Network
    config: BundleConfig
    engine: str
    precision: str


def load_networks(
    sources: Sequence[Source],
    device: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    trust: bool = False,
) -> Loaded:
    """Load bundles or exported files as one network, the mean of them where there are several.

    Args:
        sources: folders, hub ids, `.onnx`, `.xml` or `.pt2` files.
        device: where they compute; the best one there is if not given.
        engine: one of `engines.ENGINES`; "auto" takes the fastest at hand.
        precision: "auto" is fp32, or what an exported file was written for.
        trust: load `.pt2` files, which can run any code that is in them.

    Raises:
        ConfigError, DataError, WeightsError: as `transunet.bundle.io.from_pretrained`.
        ConfigError: without sources, when they differ in labels, preprocessing or image size, or
            for an engine, precision or device that cannot be had.
    """
    if not sources:
        raise ConfigError("No bundle was given; expected at least one.")
    loaded = [_load(source, device, engine, precision, trust) for source in sources]
    config = loaded[0].config
    for source, other in zip(sources[1:], loaded[1:], strict=True):
        _check_equal(sources[0], config, source, other.config)
    if len(loaded) == 1:
        return loaded[0]
    return Loaded(
        Ensemble([one.network for one in loaded]),
        config,
        ", ".join(dict.fromkeys(one.engine for one in loaded)),
        ", ".join(dict.fromkeys(one.precision for one in loaded)),
    )


def config_of(source: Source) -> BundleConfig:
    """Read the configuration of a bundle or an exported file, without its network.

    Raises:
        ConfigError, DataError: as `load_networks`.
    """
    if is_exported(source):
        return read_metadata(Path(source).expanduser()).config
    return read_config(source)


def _load(source: Source, device: str | None, engine: str, precision: str, trust: bool) -> Loaded:
    try:
        if is_exported(source):
            opened = open_exported(Path(source), engine, precision, device, trust)
            network, config, choice = opened
            return Loaded(network, config, choice.engine, choice.precision)
        return _load_bundle(source, device, engine, precision)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{source}: needs the package {error.name!r}, which is not installed. Install it, or "
            "make a .onnx file with `transunet export` where it is and give that instead."
        ) from error


def _load_bundle(source: Source, device: str | None, engine: str, precision: str) -> Loaded:
    config = read_config(source)
    *first, last = candidates(source, engine, precision, device)
    for choice in first:
        try:
            return _opened(source, config, choice)
        except PrecisionError:
            raise  # the next engine would compute in it, and very slowly
        except (ConfigError, DataError, ImportError) as error:
            _log.warning("%s is passed over: %s", choice.engine, error)
    return _opened(source, config, last)


def _opened(source: Source, config: BundleConfig, choice: Choice) -> Loaded:
    network = ENGINES[choice.engine].open(source, config, choice.device, choice.precision)
    return Loaded(network, config, choice.engine, choice.precision)


def _check_equal(first: Source, config: BundleConfig, source: Source, other: BundleConfig) -> None:
    pairs = {
        "labels": (config.labels, other.labels),
        "preprocessing": (config.preprocessing, other.preprocessing),
        "image_size": (config.architecture.image_size, other.architecture.image_size),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise ConfigError(
                f"The bundles of an ensemble must agree, but their {what} differ: "
                f"{first} has {expected}, {source} has {found}. Leave one of them out."
            )
