"""Small DICOM series, written as scanners would, for the tests of the readers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian
except ModuleNotFoundError:  # the tests that need it skip
    pass

STUDY = "1.2.826.0.1.3680043.9.1"
PATIENT_ID = "P-4711"
"""No part of a time, a path or a UID: what is said and written is searched for it."""
AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (0.8, 0.6, 0, 0, 0, -1)

Edit = Callable[[Any, int], None]


def ramp(slices: int = 5, rows: int = 6, columns: int = 7) -> np.ndarray:
    """(slices, rows, columns) int16, every voxel another number."""
    return np.arange(slices * rows * columns, dtype=np.int16).reshape(slices, rows, columns) - 40


def header(uid: str, series: str, modality: str = "CT", sop_class: Any = None) -> Any:
    """What every object has."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class or CTImageStorage
    dataset.SOPInstanceUID = uid
    dataset.StudyInstanceUID = STUDY
    dataset.SeriesInstanceUID = series
    dataset.FrameOfReferenceUID = STUDY + ".9"
    dataset.Modality = modality
    dataset.PatientName, dataset.PatientID = "Test^Case", PATIENT_ID
    dataset.SeriesNumber = 3
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def add_pixels(dataset: Any, pixels: np.ndarray) -> Any:
    """Describe and add `pixels`, (rows, columns) or (frames, rows, columns)."""
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    return dataset


def positions(
    count: int,
    directions: tuple[float, ...] = AXIAL,
    step: float = 2.5,
    origin: tuple[float, ...] = (-10.0, -20.0, 30.0),
) -> np.ndarray:
    """(count, 3): along the normal from `origin`."""
    normal = np.cross(directions[:3], directions[3:])
    return np.asarray(origin) + np.arange(count)[:, None] * step * normal


def series_of(
    pixels: np.ndarray,
    *,
    where: np.ndarray | None = None,
    directions: tuple[float, ...] = AXIAL,
    spacing: tuple[float, float] = (0.5, 0.75),
    uid: str = STUDY + ".1",
    edit: Edit | None = None,
) -> list[Any]:
    """One dataset per slice."""
    where = positions(len(pixels), directions) if where is None else where
    datasets = []
    for index, (plane, position) in enumerate(zip(pixels, where, strict=True)):
        dataset = add_pixels(header(f"{uid}.{index + 1}", uid), plane)
        dataset.ImagePositionPatient = [float(x) for x in position]
        dataset.ImageOrientationPatient = list(directions)
        dataset.PixelSpacing, dataset.SliceThickness = list(spacing), 5.0
        dataset.InstanceNumber = index + 1
        dataset.SeriesDescription = "made"
        if edit:
            edit(dataset, index)
        datasets.append(dataset)
    return datasets


def complete(dataset: Any, index: int) -> None:
    """An `edit` that adds what a CT image must say and no reader here needs, for validators."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20261126", "120000", "1"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientPosition = "", "", "HFS"
    dataset.Laterality = dataset.PositionReferenceIndicator = ""
    dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
    dataset.KVP = dataset.AcquisitionNumber = None


def save(folder: Path, datasets: list[Any], order: Any = None) -> Path:
    """Write datasets to `folder` under names that tell nothing; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    for number, index in enumerate(range(len(datasets)) if order is None else order):
        datasets[index].save_as(folder / f"I{start + number:03}", enforce_file_format=True)
    return folder


def enhanced(pixels: np.ndarray, order: Any, edit: Edit | None = None) -> Any:
    """One multi-frame MR object, its frames in `order`; `edit` changes a frame's groups."""
    order = list(order)
    dataset = header(STUDY + ".7.1", STUDY + ".7", "MR", EnhancedMRImageStorage)
    add_pixels(dataset, np.ascontiguousarray(pixels[order]))
    dataset.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(OBLIQUE))]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[0.5, 0.75], SliceThickness=9)]
    scale = _item(RescaleSlope=2, RescaleIntercept=-3, RescaleType="US")
    shared.PixelValueTransformationSequence = [scale]
    dataset.SharedFunctionalGroupsSequence = [shared]
    where = positions(len(pixels), OBLIQUE)
    groups = []
    for index in order:
        place = _item(ImagePositionPatient=[float(x) for x in where[index]])
        groups.append(_item(PlanePositionSequence=[place]))
        if edit:
            edit(groups[-1], index)
    dataset.PerFrameFunctionalGroupsSequence = groups
    return dataset


def two_echoes() -> Any:
    """One multi-frame MR object: five slices, then the same five with 7 added, as another echo."""
    dataset = enhanced(np.concatenate([ramp(), ramp() + np.int16(7)]), range(10))
    groups = dataset.PerFrameFunctionalGroupsSequence
    for index, item in enumerate(groups):
        item.MREchoSequence = [_item(EffectiveEchoTime=10.0 * (1 + index // 5))]
        item.PlanePositionSequence = groups[index % 5].PlanePositionSequence
    return dataset


def _item(**values: Any) -> Any:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
