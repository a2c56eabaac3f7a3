"""The bundles that are served: what the API tells of each, before any weights are read."""

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.data.checks.suitability import ImageFacts, Mismatch, mismatch
from transunet.drawing.colours import colour_of
from transunet.errors import ConfigError

_DISTINCT = 10  # colours that `colour_of` has before it repeats them
_GOLDEN = 0.618034  # of a turn between one hue and the next: no two of them come close early
_RUN_PARTS = ("best", "last")


@dataclass(frozen=True)
class Served:
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

    def mismatch(self, facts: Mapping[str, Any]) -> Mismatch:
        """Compare what the bundle was trained on with the image that has these facts."""
        measured = facts.get("measured")  # not of images that cannot be segmented
        if measured is None:
            return Mismatch(None, ())
        image = ImageFacts(**measured)
        return mismatch(self.config.preprocessing, self.config.training_data, image)


def read_bundles(sources: Sequence[str]) -> dict[str, Served]:
    """Read the configurations of bundles, by ids that tell them apart.

    Raises:
        ConfigError: without any, for one that does not exist, or one that is given twice.
        DataError: for a configuration that is not readable.
    """
    if not sources:
        raise ConfigError("No bundle was given; expected at least one.")
    found: dict[str, Served] = {}
    for source in sources:
        if any(served.source == source for served in found.values()):
            raise ConfigError(f"The bundle {source} was given twice; give it once.")
        config = read_config(source)
        name = _name(source)
        id_ = _free_id(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "bundle", found)
        found[id_] = Served(id_, name, source, config)
    return found


def colour(index: int) -> str:
    """Return the colour of the class `index` (1 for the first structure) as #rrggbb."""
    if index <= _DISTINCT:
        return colour_of(index - 1)
    red, green, blue = colorsys.hls_to_rgb(index * _GOLDEN % 1, 0.62, 0.75)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _name(source: str) -> str:
    path = Path(source).expanduser()
    if not path.is_dir():
        return source  # a hub id
    path = path.resolve()
    # Every run has a `best`; its parent's name tells which run.
    return f"{path.parent.name} ({path.name})" if path.name in _RUN_PARTS else path.name


def _free_id(wanted: str, taken: dict[str, Served]) -> str:
    number, id_ = 2, wanted
    while id_ in taken:
        number, id_ = number + 1, f"{wanted}-{number}"
    return id_
