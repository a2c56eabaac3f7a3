"""The small network of a large bundle: a bundle in its folder `fast`, for who is in a hurry."""

import shutil
from pathlib import Path

from transunet.bundle.bundle_config import CONFIG, BundleConfig, read_config
from transunet.errors import ConfigError
from transunet.files import atomic_path

FAST = "fast"


def fast_bundle(source: Path | str) -> Path | str:
    """Return the small network's folder in the bundle `source`; of others, `source`.

    The hub is not asked, only folders are looked into.
    """
    folder = Path(source).expanduser() / FAST
    return folder if (folder / CONFIG).is_file() else source


def place_for_fast(large: Path) -> Path:
    """Return the folder of the bundle `large` that a small network may be copied to.

    Raises:
        ConfigError: when `large` is no bundle, or has a small network already.
        DataError: when it is damaged.
    """
    read_config(large)
    target = large / FAST
    if target.exists():
        raise ConfigError(
            f"{target} exists already. Remove that folder to attach another small network."
        )
    return target


def attach(small: Path, large: Path) -> Path:
    """Copy the bundle `small` into the bundle `large` as its small network; return where it lies.

    Raises:
        ConfigError: when one of them is none, when they are the same one, find different structures
            or take different channels, when `large` has a small network already or cannot be
            written to.
        DataError: when one of them is damaged.
    """
    target = place_for_fast(large)
    if small.resolve() == large.resolve():
        raise ConfigError(f"{large} cannot be its own small network. Give another bundle.")
    ours, theirs = read_config(large), read_config(small)
    for what, expected, found in (
        ("structures", ours.labels, theirs.labels),
        ("regions", ours.regions, theirs.regions),
        ("channels", _channels(ours), _channels(theirs)),
    ):
        if found != expected:
            raise ConfigError(
                f"{small} has other {what} than {large}: {found}, expected {expected}. Attach a "
                "network that learned the same."
            )
    with atomic_path(target) as scratch:
        shutil.copytree(small, scratch, ignore=shutil.ignore_patterns(FAST))
    return target


def _channels(config: BundleConfig) -> list[str]:
    return [channel.name for channel in config.preprocessing.channels]
