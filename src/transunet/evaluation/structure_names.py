"""What labels are called: by a bundle, a description of a data set, or a label map's own files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from transunet.data.classes import is_named
from transunet.data.formats import FORMATS, dicom, suffix_of
from transunet.data.layouts.description import named_by_regions
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.evaluation.records import Structure, structures_of

_FILES = ("config.json", "dataset.json")
_LABEL_FOLDERS = frozenset({"labelsTr", "labelsTs", "labelsVal"})
"""Folders whose labels the `dataset.json` beside them describes."""


@dataclass(frozen=True)
class LabelNames:
    """Names of label values, and who tells them."""

    source: Path
    labels: Mapping[int, str]
    """Label value -> name; 0 is the background."""
    structures: tuple[Structure, ...]
    """What to measure: the labels, or the regions that they make up."""
    ignore: int | None = None
    """The value of voxels that nobody labelled."""
    whole: bool = True
    """Whether classes are listed that no voxel has; a file's header may list what it holds."""
    beside: bool = False
    """Whether a file beside the label map tells them, rather than itself or its data set."""

    @property
    def named(self) -> bool:
        """Whether there is a name that tells more than a number."""
        return any(is_named(name) for value, name in self.labels.items() if value)


def names_from(path: Path) -> LabelNames:
    """Read what the labels mean.

    Known are number -> name (a bundle, Decathlon) and name -> number or numbers (nnU-Net; several
    numbers make a region, and `ignore` is what nobody labelled). The background is 0.

    Args:
        path: a JSON file with the key 'labels', or the folder of a bundle or data set.

    Raises:
        ConfigError: when there is no such file.
        DataError: when it holds no usable labels.
    """
    if path.is_dir():
        files = [path / name for name in _FILES if (path / name).is_file()]
        if not files:
            listed = " nor ".join(_FILES)
            raise ConfigError(f"{path} holds neither {listed}; give the file of labels.")
        path = files[0]
    elif not path.is_file():
        raise ConfigError(f"There are no labels at {path}. Check the path.")
    content = _json_in(path, path.stat().st_mtime_ns)
    labels = content.get("labels") if isinstance(content, dict) else None
    values = _label_values(labels) if isinstance(labels, dict) else []
    ignored = [numbers for name, numbers in values if name == "ignore"]
    regions = [(name, numbers) for name, numbers in values if numbers != (0,) and name != "ignore"]
    if not regions or any(len(numbers) > 1 for numbers in ignored):
        raise DataError(
            f"{path}: expected 'labels' as numbers and names, such as "
            f'{{"0": "background", "1": "liver"}}, found {labels!r:.200}.'
        )
    if all(len(numbers) == 1 for _, numbers in regions):
        names = {numbers[0]: name for name, numbers in regions}
    else:
        names = named_by_regions(dict(regions))
    return LabelNames(
        path,
        {0: "background", **names},
        tuple(sorted(Structure(numbers, name) for name, numbers in regions)),
        ignored[0][0] if ignored else None,
    )


def names_of(label_map: Path, folder: Path | None = None) -> LabelNames | None:
    """Return what a label map's own files call its labels; None where they tell nothing.

    They are told by its header (3D Slicer's `.seg.nrrd`, a DICOM SEG, TotalSegmentator's NIfTI),
    by the `manifest.json` of `transunet predict`, or by a `dataset.json` that nnU-Net put beside
    predictions or a data set has beside its `labelsTr`.

    Args:
        label_map: a file.
        folder: where it was found, if deeper; `predict` keeps folders in its output.
    """
    try:
        known = FORMATS.get(suffix_of(label_map) or "", dicom.FORMAT)
        if own := known.label_names(label_map):
            own = {**own, 0: "background"}
            return LabelNames(label_map, own, structures_of(own), whole=False)
        file = _description_of(label_map, (folder or label_map.parent).parent)
        return replace(names_from(file), beside=True) if file else None
    except TransUNetError:
        return None  # damaged, which reading tells, or somebody else's


def _description_of(label_map: Path, top: Path) -> Path | None:
    """The file that names a label map's labels, not above `top`."""
    here = label_map.parent
    for folder in (here, *(above for above in here.parents if above.is_relative_to(top))):
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            continue
        content = _json_in(manifest, manifest.stat().st_mtime_ns)
        cases = content.get("cases", {}).values() if isinstance(content, dict) else ()
        name = label_map.relative_to(folder).as_posix()
        # Above the label map's folder it is `predict`'s own only where it lists the label map.
        if folder == here or any(name in case.get("outputs", ()) for case in cases):
            return manifest
    folders = [here, here.parent] if here.name in _LABEL_FOLDERS else [here]
    files = (folder / "dataset.json" for folder in folders)
    return next((file for file in files if file.is_file()), None)


@lru_cache(maxsize=16)
def _json_in(file: Path, changed: int) -> Any:
    """The JSON in a file that was `changed` at that time; each label map beside it asks again."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}). Give the file of labels.") from None


def _label_values(labels: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and their label values; empty where they are no such thing."""
    if all(key.isascii() and key.isdigit() for key in labels):
        return [(str(name), (int(key),)) for key, name in labels.items()]
    lists = [(name, v if isinstance(v, list) else [v]) for name, v in labels.items()]
    values = [value for _, members in lists for value in (members or [None])]
    if not all(type(value) is int and value >= 0 for value in values):
        return []
    return [(name, tuple(sorted(set(members)))) for name, members in lists]
