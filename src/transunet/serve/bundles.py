"""The bundles that are served: what the API tells of each, before any weights are read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.data.checks.suitability import ImageFacts, Mismatch, mismatch
from transunet.errors import ConfigError


@dataclass(frozen=True)
class ServedBundle:
    """A bundle that is served."""

    id: str
    name: str
    source: str
    """Folder or hub id."""
    config: BundleConfig

    @property
    def channels(self) -> list[str]:
        """What its channels are called."""
        return [channel.name for channel in self.config.preprocessing.channels]

    def mismatch(self, metadata: Mapping[str, Any]) -> Mismatch:
        """Compare what the bundle was trained on with the image that has this metadata."""
        measured = metadata.get("measured")  # not of images that cannot be segmented
        if measured is None:
            return Mismatch(None, ())
        image = ImageFacts(**measured)
        return mismatch(self.config.preprocessing, self.config.training_data, image)


def read_bundles(sources: Sequence[str]) -> dict[str, ServedBundle]:
    """Read the configurations of bundles, by ids that tell them apart.

    Raises:
        ConfigError: without any, for one that does not exist, or one that is given twice.
        DataError: for a configuration that is not readable.
    """
    if not sources:
        raise ConfigError("No bundle was given; expected at least one.")
    bundles: dict[str, ServedBundle] = {}
    for source in sources:
        if any(served.source == source for served in bundles.values()):
            raise ConfigError(f"The bundle {source} was given twice; give it once.")
        config = read_config(source)
        name, path = source, Path(source).expanduser()
        if path.is_dir():  # else it is a hub id
            path = path.resolve()
            # Every run has a `best`; its parent's name tells which run.
            of_run = path.name in ("best", "last")
            name = f"{path.parent.name} ({path.name})" if of_run else path.name
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "bundle"
        number, id_ = 2, stem
        while id_ in bundles:
            number, id_ = number + 1, f"{stem}-{number}"
        bundles[id_] = ServedBundle(id_, name, source, config)
    return bundles
