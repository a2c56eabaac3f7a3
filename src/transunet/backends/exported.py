"""What an exported network carries along, whatever its file format: a few named texts.

With them the file is enough to predict. ONNX keeps them as `metadata_props`, OpenVINO as `rt_info`
below "transunet" (the part of the name after the dot), torch.export as `extra_files`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from transunet.bundle.bundle_config import BundleConfig
from transunet.errors import ConfigError, DataError

PREFIX = "transunet"
CONFIG = f"{PREFIX}.config"
"""The bundle's configuration as JSON."""
FINGERPRINT = f"{PREFIX}.fingerprint"
"""SHA-256 of the architecture and of every weight of the network that was exported."""
PRECISION = f"{PREFIX}.precision"
"""The arithmetic that the file was written for: fp32 or int8."""
VERSIONS = f"{PREFIX}.versions"
"""Packages that wrote the bundle, as JSON."""
FORMAT = f"{PREFIX}.format"
KEYS = (CONFIG, FINGERPRINT, PRECISION, VERSIONS, FORMAT)

FORMAT_VERSION = "1"
FILE_PRECISIONS = ("fp32", "int8")
INPUT, OUTPUT = "images", "logits"
"""Names of the network's tensors: (B, C, *spatial) and (B, classes, *spatial), both float32."""
AXES = ("depth", "height", "width")
"""What the axes of a sample are called; of slices the last two."""


def check_tensors(names: Sequence[str], path: Path) -> None:
    """Refuse a network whose inputs and outputs have other names than ours.

    Raises:
        DataError: saying so.
    """
    if list(names) != [INPUT, OUTPUT]:
        raise DataError(
            f"{path}: its inputs and outputs are called {', '.join(names)}; expected {INPUT} and "
            f"{OUTPUT}. Export the bundle anew."
        )


class Metadata(NamedTuple):
    """What an exported file says of itself."""

    config: BundleConfig
    fingerprint: str
    precision: str


def pack(config: BundleConfig, fingerprint: str, precision: str = "fp32") -> dict[str, str]:
    """Return the texts to store in a file, by their keys."""
    return {
        CONFIG: config.model_dump_json(),
        FINGERPRINT: fingerprint,
        PRECISION: precision,
        VERSIONS: json.dumps(dict(config.versions)),
        FORMAT: FORMAT_VERSION,
    }


def unpack(texts: Mapping[str, str], path: Path) -> Metadata:
    """Return what the texts of the file `path` say; others than ours are passed over.

    Raises:
        ConfigError: when the file was not exported by this project, or by a newer version of it.
        DataError: when the texts are damaged.
    """
    if CONFIG not in texts:
        raise ConfigError(
            f"{path}: this network was not written by `transunet export`, so nothing says how "
            "images are prepared for it or what its labels are called. Export the bundle anew."
        )
    version = texts.get(FORMAT, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: is of format {version}, and this version of transunet reads "
            f"{FORMAT_VERSION}. Install a newer transunet, or export the bundle anew."
        )
    precision = texts.get(PRECISION, "")
    if precision not in FILE_PRECISIONS or not texts.get(FINGERPRINT):
        raise DataError(f"{path}: its metadata are damaged. Export the bundle anew.")
    try:
        values = json.loads(texts[CONFIG])
    except ValueError as error:
        raise DataError(
            f"{path}: the configuration in its metadata is damaged ({error}). Export the bundle "
            "anew."
        ) from None
    return Metadata(BundleConfig.from_json(values, str(path)), texts[FINGERPRINT], precision)
