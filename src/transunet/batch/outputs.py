"""Where the files of a case go, and in which format its label map is written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from transunet.colours import levels_of
from transunet.data.cases import Case
from transunet.data.formats import FORMATS, kind_of, suffix_of, write_volume
from transunet.data.preprocessing import Preprocessing
from transunet.data.regions import Region
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.files import atomic_path, write_text, writing

LabelFormat = Literal["same", "nifti", "npz", "dicom-seg", "dicom-labelmap"]
ProbabilityFormat = Literal["npy", "nii"]

_CHOSEN: Mapping[str, str] = MappingProxyType(
    {"nifti": ".nii.gz", "npz": ".npz", "dicom-seg": ".dcm", "dicom-labelmap": ".dcm"}
)
OPENED_BY_VIEWERS = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Suffixes of label maps that 3D Slicer and ITK-SNAP open, and colour with a table beside them."""


def label_name(case: Case, format_: LabelFormat = "same") -> str:
    """Return the file name of a case's label map."""
    suffix = kind_of(case.images[0]) or ".nii.gz"
    return case.name + (_CHOSEN.get(format_) or FORMATS[suffix].label_suffixes.get(suffix, suffix))


def write_labels(
    labels: Volume,
    path: Path,
    names: Mapping[int, str] | None = None,
    regions: Sequence[Region] = (),
    **segmentation: Any,
) -> None:
    """Write a label map; it appears when it is complete.

    `.npz` holds `label` (slices last in the volume come first, as in the authors' files) and
    `affine`; `.dcm` is a DICOM segmentation, whose segments are called by `names` (class index ->
    name) or are its `regions`, with what else `segmentation` tells `write_seg`; every other suffix
    is one of `transunet.data.formats`, of which NIfTI holds `names` too. Beside `.npy` stands
    `NAME.npy.json` with the affine, where that is not the identity.

    Raises:
        ConfigError: for a format that is not known or cannot hold it, or where there is no room.
    """
    labels = replace(labels, label_names=names or labels.label_names)
    suffix = suffix_of(path)
    if suffix and suffix in FORMATS[suffix].two_files:
        raise ConfigError(
            f"{path}: label maps are not written as two files, of which one could be left without "
            "the other. Choose .nii.gz, .mha or .nrrd."
        )
    kind = path.suffix.lower()
    with writing(path), atomic_path(path) as scratch:
        if kind == ".npz":
            slices = np.moveaxis(labels.array[0], -1, 0)
            with scratch.open("wb") as file:  # by its name, numpy would add a suffix
                np.savez_compressed(file, label=slices, affine=labels.affine)
        elif kind == ".dcm" and names is not None:
            from transunet.data.formats.dicom.segmentation import write_seg

            write_seg(labels, labels, names, scratch, regions, **segmentation)
        else:
            write_volume(labels, scratch)
        if kind == ".npy":
            from transunet.data.formats.npy import sidecar_of

            if sidecar_of(scratch).exists():  # first, so that a label map never lacks its place
                sidecar_of(scratch).replace(sidecar_of(path))
            else:
                sidecar_of(path).unlink(missing_ok=True)  # of a label map that is replaced


def write_colour_tables(names: Mapping[int, str], folder: Path) -> None:
    """Write what label values are called and drawn in: `labels.ctbl` for 3D Slicer, `labels.txt`.

    The latter is ITK-SNAP's label description. Slicer ends a name at the first space, ITK-SNAP at
    a quotation mark.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    slicer, snap = ["0 background 0 0 0 0"], ['0 0 0 0 0 0 0 "Clear Label"']
    for value, name in sorted(names.items()):
        if value:
            red, green, blue = levels_of(value - 1)
            slicer.append(f"{value} {'_'.join(name.split())} {red} {green} {blue} 255")
            told = " ".join(name.replace('"', "'").split())
            snap.append(f'{value} {red} {green} {blue} 1 1 1 "{told}"')
    write_text("\n".join(["# Colour table of 3D Slicer", *slicer, ""]), folder / "labels.ctbl")
    head = "# ITK-SnAP Label Description File", "# IDX -R- -G- -B- -A- VIS MSH LABEL"
    write_text("\n".join([*head, *snap, ""]), folder / "labels.txt")


def write_measurements(
    segmentation: Path, image: Volume, structures: Mapping[str, Any], path: Path
) -> None:
    """Write the DICOM measurement report of a segmentation; it appears when it is complete.

    Arguments and errors as `dicom.measurement_report.write_report`.
    """
    from transunet.data.formats.dicom.measurement_report import write_report

    with writing(path), atomic_path(path) as scratch:
        write_report(segmentation, image, structures, scratch)


def write_sheet(
    image: Volume,
    labels: Volume,
    names: Mapping[int, str],
    preprocessing: Preprocessing,
    path: Path,
) -> None:
    """Draw a label map on its image, a CT in the window that the network sees.

    Args:
        image: what was segmented, named by its file.
        labels: its label map.
        names: class index -> name.
        preprocessing: the bundle's.
        path: `.png`, called like the case.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    from transunet.drawing.panels import tells_space
    from transunet.drawing.sheets import SheetOptions, draw_sheet, slices_of

    options = SheetOptions(window=preprocessing.channels[0].window)
    panels = slices_of(image, labels, options, oriented=tells_space(Path(image.name)))
    draw_sheet(panels, names, path, options, title=path.stem)
