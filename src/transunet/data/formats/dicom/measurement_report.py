"""TID 1500 measurement reports (SR): what was measured of each segment, what is expected of it.

A report refers to a segmentation that `write_seg` wrote and to the series it was made from. Its
tracking identifiers are those of the segments. Files are written through highdicom.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transunet.data.formats.dicom.codes import LOCAL
from transunet.data.formats.dicom.headers import read_dataset, unreadable
from transunet.data.formats.dicom.segmentation import (
    ALGORITHM,
    dicom_text,
    equipment,
    series_of,
)
from transunet.data.formats.dicom.series import Series
from transunet.data.volume import Volume
from transunet.errors import first_line
from transunet.files import writing
from transunet.optional import DISTRIBUTION, require

EXPECTED_DICE = ("expected-dice", LOCAL, "Expected Dice coefficient")
EXPECTED_QUALITY = ("expected-quality", LOCAL, "Expected segmentation quality")
AS_HELD_OUT = ("as-held-out", LOCAL, "As for the held-out cases")
LOOK = ("look", LOCAL, "Low: look at this before it is used")
NOT_FOUND = ("not-found", LOCAL, "Not found, though every held-out case had it")
"""Codes of a private scheme, as no standard one has them."""

_SERIES_NUMBER = 901  # of the report's series: after the segmentation's
_PROCEDURES = {
    "CT": "CTUnspecifiedBodyRegion",
    "MR": "MRIUnspecifiedBodyRegion",
    "PT": "PETUnspecifiedBodyRegion",
}
"""Modality -> what was done, of context group 100."""


def write_report(
    segmentation: Path,
    source: Series | Volume,
    structures: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> None:
    """Write the measurement report of a segmentation.

    Not atomic: that is the caller's (`transunet.files.atomic_path`).

    Args:
        segmentation: the file that `write_seg` wrote.
        source: the series that it was made from, or the volume that was read from it.
        structures: name -> `volume_ml` and, where the bundle knows what to expect,
            `volume_interval_ml`, `expected_dice`, `expected_within` and `look`; as in
            `statistics.json`.
        path: the file.

    Raises:
        ConfigError: without highdicom, or for a path that cannot be written.
        DataError: when the segmentation is damaged, or its headers do not allow a report.
    """
    highdicom = require("highdicom", extra="dicom")
    codes = require("pydicom.sr", extra="dicom").codes
    seg, series = read_dataset(segmentation, pixels=False), series_of(source, str(segmentation))
    figures = {dicom_text(name): each for name, each in structures.items()}
    procedure = _PROCEDURES.get(series.modality, "ImagingProcedure")
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(), name=ALGORITHM, manufacturer_name=DISTRIBUTION
    )
    try:
        with warnings.catch_warnings(action="ignore"):
            observer = highdicom.sr.ObserverContext(codes.DCM.Device, device)
            content = highdicom.sr.MeasurementReport(
                observation_context=highdicom.sr.ObservationContext(
                    observer_device_context=observer
                ),
                procedure_reported=getattr(codes.cid100, procedure),
                imaging_measurements=[
                    _measurements(seg, segment, series, figures[str(segment.SegmentLabel)])
                    for segment in seg.SegmentSequence
                    if segment.SegmentNumber  # 0: a label map's background
                ],
            )
            report = highdicom.sr.EnhancedSR(
                evidence=[seg, *series.datasets],
                content=content[0],
                series_instance_uid=highdicom.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                is_complete=True,
                **equipment(),
                series_description="TransUNet measurements",
            )
    except Exception as error:  # what a header lacks for a report shows in any way
        found = f"no report can refer to it ({first_line(error)[:200]})"
        raise unreadable(segmentation, found, "Leave the report out") from None
    with writing(path, "Make room."):
        report.save_as(path)


def _measurements(seg: Any, segment: Any, series: Series, figures: Mapping[str, Any]) -> Any:
    """What is told of one segment."""
    sr = require("highdicom", extra="dicom").sr
    codes = require("pydicom.sr", extra="dicom").codes
    code = require("pydicom.sr", extra="dicom").Code
    volume, measurements, evaluations = figures["volume_ml"], [], []
    low, high = figures.get("volume_interval_ml", (volume, volume))
    ml = code("ml", "UCUM", "milliliter")
    measurements.append(_measured(codes.SCT.Volume, volume, ml, high - volume, volume - low))
    if "expected_dice" in figures:
        dice, within = figures["expected_dice"], figures["expected_within"]
        measurements.append(
            _measured(code(*EXPECTED_DICE), dice, codes.UCUM.NoUnits, within, within)
        )
        value = LOOK if figures["look"] else AS_HELD_OUT
        evaluations.append(sr.QualitativeEvaluation(code(*EXPECTED_QUALITY), code(*value)))
    elif figures.get("look"):
        evaluations.append(sr.QualitativeEvaluation(code(*EXPECTED_QUALITY), code(*NOT_FOUND)))
    (kind,) = segment.SegmentedPropertyTypeCodeSequence
    side = kind.get("SegmentedPropertyTypeModifierCodeSequence")

    def concept(item: Any) -> Any:  # without the modifiers that a segment's item may hold
        return sr.CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)

    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
        referenced_segment=sr.ReferencedSegment(
            seg.SOPClassUID,
            seg.SOPInstanceUID,
            segment.SegmentNumber,
            source_series=sr.SourceSeriesForSegmentation(series.uid),
        ),
        finding_category=concept(segment.SegmentedPropertyCategoryCodeSequence[0]),
        finding_type=concept(kind),
        finding_sites=[sr.FindingSite(concept(kind), concept(side[0]))] if side else None,
        algorithm_id=_algorithm(segment),
        measurements=measurements,
        qualitative_evaluations=evaluations,
    )


def _algorithm(segment: Any) -> Any:
    """What found a segment; None where a person drew it."""
    identified = segment.get("SegmentationAlgorithmIdentificationSequence")
    if not identified:
        return None
    (algorithm,) = identified
    return require("highdicom", extra="dicom").sr.AlgorithmIdentification(
        algorithm.AlgorithmName,
        algorithm.AlgorithmVersion,
        parameters=[algorithm.AlgorithmParameters] if "AlgorithmParameters" in algorithm else None,
    )


def _measured(name: Any, value: float, unit: Any, above: float, below: float) -> Any:
    """A number, with how far above and below it the truth may lie, in the same unit."""
    sr = require("highdicom", extra="dicom").sr
    properties = None
    if above or below:
        properties = sr.MeasurementProperties(
            upper_measurement_uncertainty=_decimal(above),
            lower_measurement_uncertainty=_decimal(below),
        )
        for item in properties:  # highdicom leaves them without a unit
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [
                sr.CodedConcept.from_code(unit)
            ]
    return sr.Measurement(name, _decimal(value), unit, properties=properties)


def _decimal(value: float) -> float:
    """A number with the digits that tell something; DICOM's decimals have 16 characters."""
    return float(f"{value:.6g}")
