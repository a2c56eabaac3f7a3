"""A DICOM conformance statement, made of the code: its constants, its decoders, a file it writes.

In the order of PS3.2. What is read and written is told by `data/formats/dicom` itself.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from transunet.data.formats.dicom import read
from transunet.data.formats.dicom.frames import MAX_PIXELS
from transunet.data.formats.dicom.headers import MAX_INFLATED, VOLUME_CLASSES
from transunet.data.formats.dicom.measurement_report import write_report
from transunet.data.formats.dicom.segmentation import write_seg
from transunet.data.formats.dicom.slice_grid import GRID_TOLERANCE, TILT_DEGREES
from transunet.data.volume import Volume
from transunet.document import Block, CardTable, Section
from transunet.errors import ConfigError
from transunet.integrations.dicomweb import PASSWORD, PREFIX, TOKEN, USER
from transunet.optional import own_version, require

SERVICES = (
    "DICOMweb (PS3.18), as a client, only at an address that the user names "
    f"({PREFIX}https://...): QIDO-RS lists series, WADO-RS fetches one, STOW-RS stores what was "
    "written where that is asked for (--store). Credentials come from the environment "
    f"({USER}, {PASSWORD}, {TOKEN}) or from a netrc file.",
    "Files: folders, files and zip archives are read, and files written.",
    "DIMSE: none. No association is opened or accepted (no C-STORE, C-FIND, C-MOVE, C-GET, "
    "worklist, print or storage commitment).",
)
"""What it communicates by."""


def _segmented(image: Volume, path: Path, *, labelmap: bool = False) -> None:
    labels = image.with_array((image.array > 0).astype(np.uint8))
    write_seg(labels, image.header, {1: "liver"}, path, labelmap=labelmap)


def _reported(image: Volume, path: Path) -> None:
    segmentation = path.with_name("segmentation.dcm")
    _segmented(image, segmentation)
    figures = {"volume_ml": 1.2, "volume_interval_ml": [1.1, 1.4]}
    figures |= {"expected_dice": 0.9, "expected_within": 0.05, "look": False}
    write_report(segmentation, image.header, {"liver": figures}, path)


WRITTEN: Mapping[str, Callable[[Volume, Path], None]] = {
    "transunet predict --format dicom-seg": _segmented,
    "transunet predict --format dicom-labelmap": partial(_segmented, labelmap=True),
    "transunet predict --format dicom-seg --report": _reported,
}
"""What writes DICOM objects -> how it writes one for an image, which the statement then tells."""
_LONGEST = 60  # characters of a value that are shown
# What the voxels of a label map need, whatever the image has.
_OWN = {"SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"}


def dicom_sections() -> list[Section]:
    """Return the statement.

    Where pydicom is not installed, that this installation knows no DICOM.
    """
    overview = [
        f"transunet {own_version()} segments series of CT, MR and PET and writes what it finds as "
        "DICOM objects. This statement was made by the software itself, for the packages that are "
        "installed."
    ]
    try:
        pydicom = require("pydicom", "dicom")
        require("highdicom", "dicom")
    except ConfigError as error:
        return [Section("Overview", (*overview, f"It reads and writes none here. {error}"))]
    return [
        Section("Overview", (*overview, SERVICES)),
        Section("Objects that are read", tuple(_read(pydicom))),
        Section("Transfer syntaxes that are read", (_transfer_syntaxes(pydicom),)),
        Section("What is refused or passed over", (_REFUSED,)),
        *_written(pydicom),
        Section("Character sets and security", (_TEXTS_AND_SECRETS,)),
    ]


_TEXTS_AND_SECRETS = (
    "Any character set of the standard's is read. What is written names its own, above: UTF-8 for "
    "segmentations.",
    "No attribute confidentiality profile: what the image says of patient and study stands in what "
    "is written, as above. Files are neither encrypted nor signed; DICOMweb uses TLS where its "
    "address says https.",
)
_REFUSED = (
    "Passed over: DICOMDIR, localizers, mosaics, colour images, images without a position, "
    "reports, structure sets, dose, registrations, presentation states, identical copies.",
    f"Refused: slices further than {GRID_TOLERANCE:g} voxel off a regular grid, missing or doubled "
    f"slices, gantry tilt above {TILT_DEGREES:g} degrees, a modality lookup table, frames of more "
    f"than {MAX_PIXELS:,} pixels, deflated files of more than {MAX_INFLATED / 2**30:g} GiB.",
)


def _read(pydicom: Any) -> Iterator[Block]:
    rows = [(pydicom.uid.UID(uid).name, uid) for uid in VOLUME_CLASSES]
    yield CardTable(("SOP class", "UID"), tuple(sorted(rows)))
    yield (
        "Objects of other classes count as images where they have one sample per pixel and a "
        "position, orientation and pixel spacing (secondary captures, for example)."
    )
    yield (
        "Segmentations (SEG; binary, fractional, label map) are read as label maps where one is "
        "expected."
    )


def _transfer_syntaxes(pydicom: Any) -> CardTable:
    get_decoder = require("pydicom.pixels", "dicom").get_decoder
    rows = []
    for uid in pydicom.uid.AllTransferSyntaxes:
        try:
            decoder = get_decoder(uid)
        except NotImplementedError:
            continue
        decoded = ", ".join(decoder.available_plugins) or "pydicom"
        missing = "; ".join(text.partition("requires ")[2] for text in decoder.missing_dependencies)
        here = f"yes, by {decoded}" if decoder.is_available else f"no; it needs {missing}"
        rows.append((uid.name, str(uid), here))
    return CardTable(("transfer syntax", "UID", "read here"), tuple(rows))


def _written(pydicom: Any) -> Iterator[Section]:
    with TemporaryDirectory(prefix="transunet-") as folder:
        source = Path(folder) / "series"
        headers = _small_series(pydicom, source)
        image = read(source)
        for command, write in WRITTEN.items():
            path = Path(folder) / "written.dcm"
            write(image, path)
            dataset = pydicom.dcmread(path)
            syntax = dataset.file_meta.TransferSyntaxUID
            yield Section(
                f"Objects that are written: {command}",
                (
                    f"{dataset.SOPClassUID.name} ({dataset.SOPClassUID}), in {syntax.name} "
                    f"({syntax}). These attributes are filled, for an axial CT of two slices:",
                    CardTable(
                        ("attribute", "tag", "VR or value type", "value or relationship"),
                        tuple(_attributes(dataset, headers)),
                    ),
                ),
            )


def _attributes(dataset: Any, source: Any, path: str = "") -> Iterator[tuple[str, ...]]:
    """Attribute, tag, VR and value, of sequences the first item's below them."""
    uids = {element.value for element in source if element.VR == "UI"}
    for element in dataset:
        keyword, kind = element.keyword, element.VR
        same = keyword in source and source.get(keyword) == element.value
        if kind == "SQ":
            value = f"items: {len(element.value)}"
        elif keyword == "PixelData":
            value = "the voxels"
        elif (same and keyword not in _OWN) or (kind == "UI" and element.value in uids):
            value = "the image's"
        elif kind in ("DA", "TM", "DT"):
            value = "when it is written"
        elif kind == "UI" and keyword != "SOPClassUID" and element.value.name == element.value:
            value = "made for each file"
        else:
            value = str(element.value)[:_LONGEST]
        yield f"{path}{keyword}", str(element.tag), kind, value
        for item in element.value if keyword == "ContentSequence" else ():
            yield from _content(item)
        for item in element.value[:1] if kind == "SQ" and keyword != "ContentSequence" else ():
            yield from _attributes(item, source, f"{path}{keyword} > ")


def _content(item: Any, path: str = "") -> Iterator[tuple[str, ...]]:
    """The items of a structured report's tree: its concept, its relationship and value type."""
    names = item.get("ConceptNameCodeSequence")
    name = f"{path}{names[0].CodeMeaning if names else item.ValueType}"
    yield f"content: {name}", "", item.ValueType, item.RelationshipType
    for below in item.get("ContentSequence") or ():
        yield from _content(below, f"{name} > ")


def _small_series(pydicom: Any, folder: Path) -> Any:
    """Write two axial slices of a CT, and return the first one's header."""
    folder.mkdir()
    study, series, frame_of_reference = (pydicom.uid.generate_uid() for _ in range(3))
    datasets = []
    for number in range(2):
        dataset = pydicom.Dataset()
        dataset.SOPClassUID = pydicom.uid.CTImageStorage
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", "Name^First", "ID"
        dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
        dataset.StudyDate, dataset.StudyTime = "20260101", "120000"
        dataset.StudyID, dataset.AccessionNumber = "STUDY", "ACCESSION"
        dataset.ImagePositionPatient = [0, 0, 2.5 * number]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 2.5
        dataset.SeriesNumber, dataset.InstanceNumber = 41, number + 41
        dataset.Rows = dataset.Columns = 8
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 0
        dataset.PixelData = np.tri(8, dtype=np.uint16).tobytes()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        datasets.append(dataset)
    return datasets[0]
