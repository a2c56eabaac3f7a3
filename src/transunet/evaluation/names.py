"""Label names from a file: a data set's `dataset.json` or a bundle's `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transunet.errors import ConfigError, DataError
from transunet.evaluation.records import Structure

_FILES = ("config.json", "dataset.json")


def structures_from(path: Path) -> tuple[Structure, ...]:
    """Read what the labels mean.

    Known are number -> name (a bundle, Decathlon) and name -> number or numbers (nnU-Net; several
    numbers make a region). The background, 0, is left out.

    Args:
        path: a JSON file with the key 'labels', or the folder of a bundle or data set.

    Raises:
        ConfigError: when there is no such file.
        DataError: when it holds no usable labels.
    """
    file = _file_of(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}). Give the file of labels.") from None
    labels = content.get("labels") if isinstance(content, dict) else None
    structures = _structures(labels) if isinstance(labels, dict) else None
    if not structures:
        raise DataError(
            f"{file}: expected 'labels' as numbers and names, such as "
            f'{{"0": "background", "1": "liver"}}, found {labels!r:.200}.'
        )
    return structures


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise ConfigError(f"There are no labels at {path}. Check the path.")
        return path
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    raise ConfigError(f"{path} holds neither {' nor '.join(_FILES)}; give the file of labels.")


def _structures(labels: Mapping[str, Any]) -> tuple[Structure, ...] | None:
    if all(key.isascii() and key.isdigit() for key in labels):
        named = {str(name): int(key) for key, name in labels.items()}
    else:
        named = dict(labels)
    found = []
    for name, value in named.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(type(one) is int and one >= 0 for one in values):
            return None
        if values != [0]:
            found.append(Structure(tuple(sorted(set(values))), name))
    return tuple(sorted(found))
