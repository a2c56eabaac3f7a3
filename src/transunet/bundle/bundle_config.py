"""What a bundle says of itself, and where its files lie; for those who need no torch."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import SerializeAsAny, model_validator

from transunet.bundle.hub import download_file
from transunet.bundle.integer_ranges import IntegerRanges
from transunet.bundle.readme import facts_of, write_readme
from transunet.bundle.trust_config import EnsembleTrust, Trust
from transunet.data.checks.suitability import TrainingData
from transunet.data.preprocessing import Preprocessing
from transunet.data.regions import Region, check_regions, structures_in
from transunet.data.sampling import Sampling
from transunet.errors import ConfigError
from transunet.files import read_json, write_text
from transunet.models.architecture import Architecture
from transunet.models.families import architecture_of
from transunet.settings import Configuration

CONFIG = "config.json"
MODEL = "model.safetensors"


class BundleConfig(Configuration):
    """Everything but the weights: architecture, preprocessing, labels, what training saw.

    Raises:
        ConfigError: when the parts contradict each other.
    """

    format_version: Literal[2] = 2
    architecture: SerializeAsAny[Architecture]
    preprocessing: Preprocessing
    """Volume -> working volume, and label maps back."""
    sampling: Sampling
    """Working volume -> what the network takes; of the architecture's size if not given."""
    labels: Mapping[int, str]
    """Class index -> name; 0 is the background. With `regions` label value -> name."""
    regions: tuple[Region, ...] = ()
    """Where the network tells regions apart: each, in the order in which they are written."""
    training_data: TrainingData | None = None
    """What training saw, so that an image of another kind is noticed; older bundles lack it."""
    trust: Trust | None = None
    """What was fitted on held-out cases; bundles without it go on without."""
    ensemble_trust: EnsembleTrust | None = None
    """The same of the ensemble that it is a member of."""
    ranges: IntegerRanges | None = None
    """How large its activations get, which int8 needs to know; older bundles lack it."""
    versions: Mapping[str, str] = {}
    """Packages that wrote the bundle."""

    def __repr__(self) -> str:
        return "\n".join(
            [
                "BundleConfig",
                *(f"  {what}: {told}" for what, told in facts_of(self)),
            ]
        )

    __str__ = __repr__

    @property
    def structures(self) -> dict[int, str]:
        """Number -> name of what is found: classes, or regions by the label that is written."""
        return structures_in(self.labels, self.regions)

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Read format 1, which names a slice axis and no sampling."""
        values = dict(values)
        if values.get("format_version") == 1:
            values["format_version"] = 2
            if isinstance(values.get("preprocessing"), Mapping):
                values["preprocessing"] = Preprocessing.of_format_1(values["preprocessing"])
        architecture = values.get("architecture")
        if isinstance(architecture, Mapping):
            values["architecture"] = architecture = architecture_of(architecture)
        if "sampling" not in values and isinstance(architecture, Architecture):
            values["sampling"] = {
                "kind": "slices" if architecture.axes == 2 else "patches",
                "size": architecture.image_size,
            }
        return values

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        classes, channels = self.architecture.num_classes, self.architecture.in_channels
        check_regions(self.regions)
        if tuple(region.members for region in self.regions) != self.architecture.regions:
            raise ValueError(
                f"regions {[region.members for region in self.regions]} are not those of the "
                f"model, {list(self.architecture.regions)}"
            )
        if unnamed := {0, *chain(*self.architecture.regions)} - set(self.labels):
            raise ValueError(f"labels do not name {sorted(unnamed)}, which regions are made of")
        if not self.regions and sorted(self.labels) != list(range(classes)):
            found = ", ".join(map(str, sorted(self.labels)))
            raise ValueError(f"labels {found} do not number the model's {classes} classes from 0")
        if self.sampling.input_channels(len(self.preprocessing.channels)) != channels:
            planes = self.sampling.input_channels(1)
            neighbours = f" in {planes} planes" if planes > 1 else ""
            raise ValueError(
                f"preprocessing describes {len(self.preprocessing.channels)} channels{neighbours}, "
                f"the model takes {channels}"
            )
        if self.sampling.size != self.architecture.image_size:
            raise ValueError(
                f"sampling gives {self.sampling.kind} of {self.sampling.size} pixels, the model "
                f"takes {self.architecture.image_size}"
            )
        spacing_mm = self.preprocessing.spacing_mm
        if self.sampling.kind == "slices" and spacing_mm and spacing_mm[0] is not None:
            raise ValueError(
                f"spacing_mm={spacing_mm} resamples from plane to plane; slices keep the volume's "
                "own planes: (null, rows, columns)"
            )
        return self


def read_config(source: Path | str) -> BundleConfig:
    """Read the configuration of the bundle `source`, a folder or a hub id, without its weights.

    Raises:
        ConfigError: when there is no such bundle, or its configuration cannot work.
        DataError: when its configuration is not readable.
    """
    path = locate(source, CONFIG)
    status = path.stat()
    return _read(path, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, _inode: int, _changed: int) -> BundleConfig:
    """Read a file once for all that a command asks of its bundle, and anew when it changes."""
    values = read_json(path, "Restore the bundle's configuration.")
    return BundleConfig.from_json(values, str(path))


def keep_trust(folder: Path, trust: Trust) -> None:
    """Write what was fitted on held-out cases into the bundle in `folder`.

    Raises:
        ConfigError: when there is no such bundle, or its configuration cannot be written.
    """
    write_config(read_config(folder).replace(trust=trust), folder)


def keep_ranges(folder: Path, ranges: IntegerRanges) -> None:
    """Write how large its activations get into the bundle in `folder`.

    Raises:
        ConfigError: when there is no such bundle, or its configuration cannot be written.
    """
    write_config(read_config(folder).replace(ranges=ranges), folder)


def keep_ensemble_trust(folders: Sequence[Path], trust: Trust) -> None:
    """Write what was fitted for an ensemble into each of its members, the bundles in `folders`.

    Raises:
        ConfigError: when there is no such bundle, or its configuration cannot be written.
    """
    for number, folder in enumerate(folders):
        known = EnsembleTrust(member=number, members=len(folders), trust=trust)
        write_config(read_config(folder).replace(ensemble_trust=known), folder)


def trust_of(configs: Sequence[BundleConfig]) -> Trust | None:
    """Return what a bundle knows of its mistakes, or an ensemble that was fitted as such.

    What is known of members by themselves is not known of their ensemble, nor of other members.
    """
    if len(configs) == 1:
        return configs[0].trust
    known = [config.ensemble_trust for config in configs]
    first = known[0]
    if first is None or any(other is None or other.trust != first.trust for other in known):
        return None
    whole = sorted(other.member for other in known if other) == list(range(first.members))
    return first.trust if whole else None


def write_config(config: BundleConfig, folder: Path) -> None:
    """Write a bundle's configuration, and the README that tells it; each when it is complete.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    write_text(config.model_dump_json(indent=2) + "\n", folder / CONFIG)
    write_readme(config, folder)


def locate(source: Path | str, name: str) -> Path:
    """Return the path of the file `name` of the bundle `source`, a folder or a hub id.

    Raises:
        ConfigError: when there is no such bundle, or it lacks the file.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        remedy = f"Expected a folder with {MODEL} and {CONFIG}, such as RUN/best after a training."
        if (best := folder / "best" / name).is_file():
            remedy = f"Give {best.parent}"
        raise ConfigError(f"{folder} is not a bundle: it has no {name}. {remedy}")
    if (
        isinstance(source, str)
        and source.count("/") == 1
        and not source.startswith((".", "~", "/"))
    ):
        return download_file(source, name)
    raise ConfigError(
        f"There is no bundle {source}. Expected a folder with {MODEL} and {CONFIG}, or a hub id "
        "such as user/name."
    )
