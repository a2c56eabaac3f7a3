"""What is written as DICOM, before the validators and readers of others; and what reports tell."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dicom_made import OBLIQUE, complete, ramp, save, series_of
from transunet.data.formats import dicom, read_labels
from transunet.data.formats.dicom.measurement_report import (
    AS_HELD_OUT,
    EXPECTED_DICE,
    EXPECTED_QUALITY,
    LOOK,
    NOT_FOUND,
    write_report,
)
from transunet.data.formats.dicom.segmentation import write_seg
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
highdicom = pytest.importorskip("highdicom", reason="needs the extra [dicom]")

pytestmark = [pytest.mark.slow, pytest.mark.process]

NAMES = {0: "background", 1: "liver", 2: "left kidney", 3: "spleen"}
FIGURES = {
    "liver": {
        "volume_ml": 1.697,
        "volume_interval_ml": [1.452, 1.984],
        "expected_dice": 0.88,
        "expected_within": 0.05,
        "look": False,
    },
    "left kidney": {
        "volume_ml": 2 / 3,
        "expected_dice": 0.61,
        "expected_within": 0.1,
        "look": True,
    },
    "spleen": {"volume_ml": 0.0, "look": True},
}
PRIVATE = "Unrecognized defined term = <99TRANSUNET>"  # as private schemes are to be called


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A series, a segmentation and a label map of it, and their reports."""
    folder = tmp_path_factory.mktemp("written")
    save(folder / "series", series_of(ramp(), directions=OBLIQUE, edit=complete))
    image = dicom.read(folder / "series")
    array = np.random.default_rng(7).integers(0, 3, image.array.shape).astype(np.uint8)
    array[..., 1] = 0
    labels = image.with_array(array)
    for name, labelmap in (("seg", False), ("labelmap", True)):
        about = {"labelmap": labelmap, "fingerprint": "0b" * 32}
        write_seg(labels, image, NAMES, folder / f"{name}.dcm", **about)
        write_report(folder / f"{name}.dcm", image, FIGURES, folder / f"{name}.report.dcm")
    return folder, image, labels


def run(name, *arguments):
    """What a validator or reader of the development packages says, in lines."""
    program = Path(sys.executable).parent / name
    program = str(program) if program.exists() else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: it comes with the development packages")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("name", ["seg", "labelmap", "seg.report"])
def test_dciodvfy_finds_no_fault(written, name):
    code, lines = run("dciodvfy", "-new", written[0] / f"{name}.dcm")
    assert code == 0
    faults = [line for line in lines if line.startswith(("Error", "Warning"))]
    assert [line for line in faults if PRIVATE not in line] == []


def test_dciodvfy_takes_a_label_map_for_no_segmentation_in_a_report(written):
    """Its rule on references is older than label maps; it complains of nothing else."""
    _, lines = run("dciodvfy", "-new", written[0] / "labelmap.report.dcm")
    faults = [line for line in lines if line.startswith("Error")]
    assert len(faults) == 3
    assert all("Referenced SOP Class that is not segmentation" in line for line in faults)


def test_dcentvfy_finds_that_all_belong_together(written):
    files = [*written[0].glob("*.dcm"), *(written[0] / "series").iterdir()]
    code, lines = run("dcentvfy", *files)
    # Whether it is of the study or of the series, the validator's own tables do not agree.
    own = "Different information entities for attribute - Element=<AccessionNumber>"
    assert (code, [line for line in lines if own not in line]) == (0, [])


@pytest.mark.parametrize("name", ["seg", "labelmap"])
def test_dcmqi_reads_the_same_voxels(written, tmp_path, name):
    folder, _, labels = written
    told = ("--inputDICOM", folder / f"{name}.dcm", "--outputDirectory", tmp_path)
    code, lines = run("segimage2itkimage", *told, "--mergeSegments", "-t", "nii")
    assert code == 0, lines
    theirs = read_labels(next(tmp_path.glob("*.nii.gz"))).on_grid(labels)
    np.testing.assert_array_equal(theirs.array, labels.array)


@pytest.mark.parametrize("name", ["seg", "labelmap"])
def test_dcmqi_reads_what_the_report_tells(written, tmp_path, name):
    folder, image, _ = written
    told = ("--inputDICOM", folder / f"{name}.report.dcm", "--outputMetadata", tmp_path / "r.json")
    code, lines = run("tid1500reader", *told)
    assert code == 0, lines
    report = json.loads((tmp_path / "r.json").read_text())
    seg = pydicom.dcmread(folder / f"{name}.dcm")
    segments = [item for item in seg.SegmentSequence if item.SegmentNumber]
    groups = report["Measurements"]
    assert [group["TrackingUniqueIdentifier"] for group in groups] == [
        item.TrackingUID for item in segments
    ]
    assert [group["TrackingIdentifier"] for group in groups] == list(FIGURES)
    assert {group["segmentationSOPInstanceUID"] for group in groups} == {seg.SOPInstanceUID}
    assert {g["SourceSeriesForImageSegmentation"] for g in groups} == {image.header.uid}
    assert [group["ReferencedSegment"] for group in groups] == [1, 2, 3]
    assert report["procedureReported"]["CodeMeaning"] == "CT unspecified body region"

    def numbers(items):
        return [(item["quantity"]["CodeValue"], item["value"]) for item in items]

    liver, kidney, spleen = (group["measurementItems"] for group in groups)
    volume, dice = "118565006", EXPECTED_DICE[0]
    assert numbers(liver) == [(volume, "1.697"), (dice, "0.88")]
    assert numbers(kidney) == [(volume, "0.666667"), (dice, "0.61")]
    assert numbers(spleen) == [(volume, "0.0")]
    within = [
        (p["numPropertyValue"], p["numPropertyUnits"]["CodeValue"])
        for p in liver[0]["measurementNumProperties"]
    ]
    assert within == [("0.287", "ml"), ("0.245", "ml")]  # 1.697 [1.452, 1.984]
    assert [
        each["conceptValue"]["CodeValue"]
        for group in groups
        for each in group["qualitativeEvaluations"]
        if each["conceptCode"]["CodeValue"] == EXPECTED_QUALITY[0]
    ] == [AS_HELD_OUT[0], LOOK[0], NOT_FOUND[0]]
    assert groups[1]["Laterality"]["CodeMeaning"] == "Left"


def test_without_trust_a_report_has_volumes_only(written, tmp_path):
    folder, image, _ = written
    bare = {name: {"volume_ml": 1.5, "voxels": 3} for name in FIGURES}
    write_report(folder / "seg.dcm", image, bare, tmp_path / "r.dcm")
    report = highdicom.sr.srread(tmp_path / "r.dcm")
    for group in report.content.get_volumetric_roi_measurement_groups():
        (volume,) = group.get_measurements()
        assert (volume.value, volume.unit.value) == (1.5, "ml")
        assert volume.name.meaning == "Volume"
        kinds = {each.name.value for each in group.get_qualitative_evaluations()}
        assert EXPECTED_QUALITY[0] not in kinds


def test_a_report_of_what_is_no_series_or_no_segmentation_is_refused(written, tmp_path):
    folder, image, labels = written
    with pytest.raises(ConfigError, match="not read from a DICOM series"):
        write_report(
            folder / "seg.dcm", Volume(labels.array, labels.affine), FIGURES, tmp_path / "r.dcm"
        )
    with pytest.raises(DataError, match="no report can refer to it"):
        write_report(folder / "series" / "I000", image, FIGURES, tmp_path / "r.dcm")
    assert not (tmp_path / "r.dcm").exists()
