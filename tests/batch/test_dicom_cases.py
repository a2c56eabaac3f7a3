"""A DICOM series goes in like any image, and a segmentation of it may come out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_made import ramp, save, series_of
from transunet.batch.outputs import LabelFormat
from transunet.batch.run import OutputOptions, predict_cases, predict_file
from transunet.cli.view import view
from transunet.data.formats import read_volume
from transunet.data.formats.dicom.segmentation import write_seg
from transunet.data.inputs import find_inputs
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.errors import ConfigError, TransUNetError
from transunet.evaluation.evaluate import EvaluationRequest, evaluate
from transunet.inference.predictor import Predictor
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

pytest.importorskip("highdicom", reason="needs the extra [dicom]")
NAMES = {0: "background", 1: "liver"}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    model = TransUNet(variant("R26-ViT-Ti_16", image_size=32))
    return Predictor(model, Preprocessing(channels=(Channel(name="CT"),)), NAMES, device="cpu")


def patients(folder: Path) -> Path:
    for name in ("anna", "ben"):
        save(folder / name, series_of(ramp()))
    return folder


def test_each_patients_folder_is_a_case(tmp_path: Path) -> None:
    found = find_inputs([patients(tmp_path)], channels=1)
    assert [case.name for case in found] == ["anna", "ben"]
    assert [case.name for case in find_inputs([tmp_path / "ben"], channels=1)] == ["ben"]


def test_a_file_to_file_prediction_chooses_a_series_too(
    predictor: Predictor, tmp_path: Path
) -> None:
    save(tmp_path / "in", series_of(ramp()))
    save(tmp_path / "in", series_of(ramp(3), uid="1.2.3"))
    with pytest.raises(TransUNetError, match=r"(?s)2 series.*--series"):
        predict_file(predictor, tmp_path / "in", tmp_path / "a.nii.gz")
    for series in ("1.2.3", 1):
        written = predict_file(predictor, tmp_path / "in", tmp_path / "a.nii.gz", series=series)
        assert read_volume(written).spatial_shape == (7, 6, 3)


def test_labels_of_a_series_are_nifti_on_its_grid(predictor: Predictor, tmp_path: Path) -> None:
    cases = find_inputs([patients(tmp_path / "in")], channels=1)
    outcomes = predict_cases(predictor, cases, tmp_path / "out")
    assert [outcome.error for outcome in outcomes] == [None, None]
    image, labels = read_volume(tmp_path / "in/anna"), read_volume(tmp_path / "out/anna.nii.gz")
    np.testing.assert_allclose(labels.affine, image.affine, atol=1e-5)
    assert labels.spatial_shape == image.spatial_shape


def test_a_segmentation_reads_back_as_the_labels(predictor: Predictor, tmp_path: Path) -> None:
    from transunet.data.formats.dicom.segmentation import read_seg, segment_names

    cases = find_inputs([patients(tmp_path / "in")], channels=1)
    predict_cases(predictor, cases, tmp_path / "out", OutputOptions(format="dicom-seg"))
    image = read_volume(tmp_path / "in/ben")
    expected = predictor(image)
    assert expected.array.any()
    found = read_seg(tmp_path / "out/ben.dcm", like=image)
    np.testing.assert_array_equal(found.array, expected.array)
    assert "liver" in str(segment_names(tmp_path / "out/ben.dcm")).lower()


def test_a_label_map_and_its_report_are_of_the_bundle(predictor: Predictor, tmp_path: Path) -> None:
    import highdicom

    from transunet.data.formats.dicom.segmentation import read_seg

    (case, _) = find_inputs([patients(tmp_path / "in")], channels=1)
    options = OutputOptions(format="dicom-labelmap", report=True)
    (outcome,) = predict_cases(predictor, [case], tmp_path / "out", options)
    image = read_volume(tmp_path / "in/anna")
    found = read_seg(tmp_path / "out/anna.dcm", like=image)
    np.testing.assert_array_equal(found.array, predictor(image).array)
    seg = highdicom.seg.segread(tmp_path / "out/anna.dcm")
    assert seg.segmentation_type.value == "LABELMAP"
    (method,) = seg.get_segment_description(1).SegmentationAlgorithmIdentificationSequence
    assert method.AlgorithmParameters == f"bundle_sha256={predictor.fingerprint}"
    report = highdicom.sr.srread(tmp_path / "out/reports/anna.dcm")
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    assert group.tracking_uid == seg.get_segment_description(1).tracking_uid
    (volume,) = group.get_measurements()
    assert volume.value == pytest.approx(found.array.sum() * found.voxel_ml, rel=1e-5)
    assert outcome.structures["liver"]["volume_ml"] == pytest.approx(volume.value, rel=1e-5)
    (again,) = predict_cases(predictor, [case], tmp_path / "out", options)
    assert again.status == "kept"
    (tmp_path / "out/reports/anna.dcm").unlink()
    (again,) = predict_cases(predictor, [case], tmp_path / "out", options)
    assert (again.status, (tmp_path / "out/reports/anna.dcm").exists()) == ("done", True)


@pytest.mark.parametrize("format_", ["same", "nifti", "npz"])
def test_a_report_without_a_segmentation_is_refused(
    predictor: Predictor, tmp_path: Path, format_: LabelFormat
) -> None:
    (case, _) = find_inputs([patients(tmp_path / "in")], channels=1)
    with pytest.raises(ConfigError, match=r"--format dicom-seg or dicom-labelmap"):
        predict_cases(predictor, [case], tmp_path / "out", OutputOptions(format_, report=True))


def test_a_segmentation_needs_a_series(predictor: Predictor, tmp_path: Path) -> None:
    from transunet.data.formats import write_volume
    from transunet.data.volume import Volume

    image = tmp_path / "scan.nii.gz"
    write_volume(Volume(np.random.default_rng(0).random((1, 8, 8, 3)), np.eye(4)), image)
    with pytest.raises(TransUNetError, match="DICOM"):
        predict_file(predictor, image, tmp_path / "scan.dcm")
    assert not (tmp_path / "scan.dcm").exists()


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_what_a_segmentation_needs_is_missed_before_computing(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyword: str
) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Predictor, "__call__", computed)
    save(tmp_path / "in", series_of(ramp(), edit=lambda dataset, _: delattr(dataset, keyword)))
    cases = find_inputs([tmp_path / "in"], channels=1)
    (outcome,) = predict_cases(
        predictor, cases, tmp_path / "out", OutputOptions(format="dicom-seg")
    )
    assert f"{keyword}, which 5 of its 5 files lack" in str(outcome.error)
    with pytest.raises(TransUNetError, match=f"{keyword}.*NIfTI"):
        predict_file(predictor, tmp_path / "in", tmp_path / "l.dcm")


def test_segmentations_are_measured_and_drawn(predictor: Predictor, tmp_path: Path) -> None:
    images, segs, maps = (tmp_path / name for name in ("in", "segs", "maps"))
    cases = find_inputs([patients(images)], channels=1)
    predict_cases(predictor, cases, segs, OutputOptions(format="dicom-seg"))
    predict_cases(predictor, cases, maps)
    theirs = tmp_path / "theirs"  # that count otherwise: the liver is their second segment
    theirs.mkdir()
    for name in ("anna", "ben"):
        image = read_volume(images / name)
        labels = predictor(image)
        write_seg(
            labels.with_array(labels.array * 2),
            image,
            {1: "spleen", 2: "liver"},
            theirs / f"{name}.dcm",
        )
    for prediction, reference in ((segs, segs), (segs, maps), (maps, segs), (segs, theirs)):
        for shown in (None, images):
            request = EvaluationRequest(reference, images=shown, subset=True)
            evaluation = evaluate(prediction, request).evaluation
            (liver,) = (one for one in evaluation.structures if one.name == "liver")
            dice = [case.metrics[liver.key].dice for case in evaluation.cases]
            assert dice == [1.0, 1.0]
            assert not evaluation.pixels_as_mm
    pytest.importorskip("matplotlib", reason="pictures are drawn with the extra [train]")
    view(images / "anna", segs / "anna.dcm", tmp_path / "sheet.png")
    view(images, segs, tmp_path / "sheets")
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {"anna.png", "ben.png"}
