"""What a bundle knows of its own mistakes: each figure by hand, or simulated."""

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

from transunet.backends.pytorch import TorchNetwork
from transunet.batch.run import predict_cases
from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.bundle.io import from_pretrained, save_pretrained
from transunet.bundle.trust_config import ExpectedQuality, Trust
from transunet.cli.main import app
from transunet.data.checks.suitability import SeenChannel, TrainingData
from transunet.data.formats import write_volume
from transunet.data.inputs import find_inputs
from transunet.data.layouts import open_dataset
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.regions import Region, members_of_structures
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.inference.logits import tempered
from transunet.inference.predictor import Predictor
from transunet.inference.tta import Ensemble
from transunet.models.families import build
from transunet.models.network_fingerprint import fingerprint_of
from transunet.models.variants import variant
from transunet.trust.assessment import StructureAssessment, predict_and_assess
from transunet.trust.fitting import HeldOutCase, fit_trust
from transunet.trust.held_out import held_out_cases
from transunet.trust.likeness import (
    feature_unlikeness,
    fit_likeness,
    mean_features,
    tilt_degrees,
    unlikeness,
)
from transunet.trust.measured_prediction import predict_and_measure
from transunet.trust.measures import ProbabilityMeter, StructureMeasures
from transunet.trust.quality import (
    ScoredPrediction,
    expected_dice,
    fit_quality,
    fit_volume_interval,
    needs_members,
    volume_interval,
)
from transunet.trust.temperature import (
    DoubtfulVoxels,
    VoxelSampler,
    brier_score,
    calibration_error,
    fit_calibration,
    reliability,
)
from transunet.trust.worsening import FAULTS, GRADES, worsen

NAMES = {0: "background", 1: "blob"}
LABELS = {0: "background", 1: "one", 2: "two"}


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def test_tempering_flattens_and_keeps_the_order() -> None:
    probabilities = np.array([[0.8, 0.2], [0.1, 0.9]], np.float32)
    root = np.sqrt(0.8) / (np.sqrt(0.8) + np.sqrt(0.2))
    np.testing.assert_allclose(tempered(probabilities, 2)[0, 0], root, rtol=1e-6)
    drawn = softmax(np.random.default_rng(0).normal(0, 3, (500, 4)))
    for temperature in (0.3, 1.7, 8):
        flat = tempered(drawn, temperature)
        np.testing.assert_array_equal(flat.argmax(axis=1), drawn.argmax(axis=1))
        np.testing.assert_allclose(flat.sum(axis=1), 1, atol=1e-6)


def test_the_temperature_that_made_probabilities_overconfident_is_found() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (40_000, 3))
    truth = softmax(logits)
    reference = (truth.cumsum(axis=1) > random.random((len(truth), 1))).argmax(axis=1)
    fitted = fit_calibration(DoubtfulVoxels(softmax(2.5 * logits), reference))
    assert fitted is not None
    assert fitted.temperature == pytest.approx(2.5, rel=0.05)
    assert fitted.ece[0] > 0.1
    assert fitted.ece[1] < 0.01
    assert fitted.brier[1] < fitted.brier[0]
    for bins, error in ((fitted.bins_before, fitted.ece[0]), (fitted.bins, fitted.ece[1])):
        assert sum(share for share, _, _ in bins) == pytest.approx(1)
        off = sum(share * abs(confidence - right) for share, confidence, right in bins)
        assert off == pytest.approx(error)


def test_errors_of_calibration_are_those_of_the_definitions() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.45, 0.55]], np.float32)
    reference = np.array([0, 1, 1, 0])
    # Bins of 1/15: both of 0.9 in one (accuracy 0.5), 0.6 (right) and 0.55 (wrong) in two others.
    bins = reliability(probabilities, reference)
    assert calibration_error(bins) == pytest.approx(0.5 * 0.4 + 0.25 * 0.4 + 0.25 * 0.55)
    squares = (0.1**2 + 0.1**2) + (0.9**2 + 0.9**2) + 2 * 0.4**2 + 2 * 0.55**2
    assert brier_score(probabilities, reference) == pytest.approx(squares / 4)


def test_voxels_are_sampled_where_the_prediction_doubts_and_somebody_labelled() -> None:
    background = np.array([[[[0.9999, 0.5], [0.2, 0.3]]]], np.float32)
    probabilities = np.concatenate([background, 1 - background], axis=1)
    sampler = VoxelSampler(np.array([[[1, 1], [0, 255]]]), ignored=255)
    sampler(slice(0, 1), probabilities)
    kept = sampler.sample()
    np.testing.assert_allclose(kept.probabilities[:, 0], [0.5, 0.2])
    np.testing.assert_array_equal(kept.reference, [1, 0])


def test_measures_are_those_of_the_definitions_however_planes_come() -> None:
    random = np.random.default_rng(2)
    probabilities = softmax(random.normal(0, 2, (6, 3, 9, 8)))
    labels = probabilities.argmax(axis=1)
    whole, parts = ProbabilityMeter(LABELS), ProbabilityMeter(LABELS)
    whole(slice(0, 6), probabilities)
    for start in (0, 2, 4):
        parts(slice(start, start + 2), probabilities[start : start + 2])
    usual = {1: (0.0, 0.5), 2: None}
    measured = whole.structures(0.01, usual, mirrored=np.where(labels == 1, 1, 0))
    np.testing.assert_array_equal(whole.labels, labels)
    for index, own in measured.items():
        inside = labels == index
        p = probabilities[:, index]
        other = parts.structures(0.01, usual, mirrored=np.where(labels == 1, 1, 0))[index]
        np.testing.assert_allclose(own, other, rtol=1e-6)
        assert own.volume_ml == pytest.approx(0.01 * inside.sum())
        soft = 2 * p[inside].sum() / (inside.sum() + p.sum())
        assert own.soft_dice == pytest.approx(soft, rel=1e-5)
        assert own.confidence == pytest.approx(p[inside].mean(), rel=1e-5)
        edge = inside[:, [0, -1]].sum() + inside[:, 1:-1][:, :, [0, -1]].sum()
        assert own.edge == pytest.approx(edge / inside.sum())
        assert own.agreement == (1 if index == 1 else 0)
    assert measured[1].surprise == pytest.approx(abs(np.log(measured[1].volume_ml)) / 0.5)
    assert measured[2].surprise == 0


def test_a_piece_apart_and_a_border_are_measured() -> None:
    probabilities = np.zeros((1, 2, 5, 9), np.float32)
    probabilities[:, 1, 1:4, 1:4] = 0.9
    probabilities[:, 1, 2, 2] = 1.0
    probabilities[:, 1, 2, 7] = 0.6
    probabilities[:, 0] = 1 - probabilities[:, 1]
    meter = ProbabilityMeter(NAMES)
    meter(slice(0, 1), probabilities)
    own = meter.structures(1.0, {1: None})[1]
    assert own.pieces == pytest.approx(1 / 10)
    assert own.border == pytest.approx((8 * 0.9 + 0.6) / 9)  # all but the middle


@pytest.mark.parametrize("kind", FAULTS)
def test_images_get_worse_with_every_grade(kind: str) -> None:
    volume = blob(0)[0]
    distances = []
    for grade in range(1, GRADES + 1):
        bad = worsen(volume, kind, grade, np.random.default_rng(5))
        assert bad.array.shape == volume.array.shape
        assert bad.array.dtype == np.float32
        off = np.abs(np.log(np.diag(bad.affine)[:3] / np.diag(volume.affine)[:3])).sum()
        distances.append(float(np.abs(bad.array - volume.array).mean() + off))
    assert all(low < high for low, high in itertools.pairwise(distances))


def simulated(count: int, seed: int) -> list[ScoredPrediction]:
    """Predictions whose Dice is what their probabilities let expect, but for noise that grows with
    their doubt, and whose volumes are off likewise."""
    random = np.random.default_rng(seed)
    predictions = []
    for number in range(count):
        soft = random.uniform(0.4, 0.98)
        noise = random.normal(0, 0.2) * (1 - soft)
        volume = 10 * np.exp(random.normal(0, 0.3) * (1 - soft))
        measures = StructureMeasures(volume, soft, soft, 0.6, 0.5, 0.0, 0.0, 1.0)
        dice = float(np.clip(soft - 0.05 + noise, 0, 1))
        predictions.append(ScoredPrediction(str(number), measures, dice, 10.0))
    return predictions


def test_expected_dice_and_its_interval_hold_on_cases_that_the_fit_has_not_seen() -> None:
    quality = fit_quality(simulated(200, 3), with_look=False)
    assert quality is not None
    assert 0.87 <= quality.coverage <= 0.93
    inside, errors = [], []
    for prediction in simulated(400, 4):
        expected, within = expected_dice(quality, prediction.measures)
        errors.append(abs(expected - prediction.dice))
        inside.append(errors[-1] <= within)
    assert np.mean(errors) == pytest.approx(quality.error, rel=0.25)
    assert np.mean(errors) < 0.07
    assert 0.85 <= np.mean(inside) <= 0.95


def test_the_volume_interval_covers_nine_of_ten_unseen_cases() -> None:
    fitted = fit_volume_interval(simulated(200, 5))
    assert fitted is not None
    unseen = simulated(400, 6)
    inside = []
    for prediction in unseen:
        low, high = volume_interval(fitted, prediction.measures)
        inside.append(low <= prediction.reference_ml <= high)
    assert 0.85 <= np.mean(inside) <= 0.95
    assert 0.85 <= fitted.coverage <= 0.95


def test_with_few_cases_nothing_is_claimed() -> None:
    assert fit_quality(simulated(9, 0), with_look=True) is None
    assert fit_volume_interval(simulated(9, 0)) is None


def test_another_scale_of_intensities_lies_far_from_training() -> None:
    random = np.random.default_rng(7)
    usual = [np.sort(random.normal(0, 1, (1, 33))) for _ in range(20)]
    likeness = fit_likeness(usual)
    assert unlikeness(likeness, np.sort(random.normal(0, 1, (1, 33))))[0] < 1.5
    times, nearer = unlikeness(likeness, np.sort(random.normal(3, 2, (1, 33))))
    assert times > 4
    assert nearer == 1
    middle = np.sort(likeness.distances)[10]
    assert unlikeness(likeness, np.array(likeness.quantiles) + middle)[1] == pytest.approx(0.55)


def test_features_of_another_kind_lie_far_from_training() -> None:
    random = np.random.default_rng(8)
    deviations = random.uniform(0.5, 3, 64)
    usual = [random.normal(5, deviations) for _ in range(30)]
    known = fit_likeness([np.zeros((1, 33))] * 30, features=usual).features
    assert known is not None
    assert np.mean(known.distances) == pytest.approx(1, abs=0.15)  # a typical case lies 1 away
    fresh = [feature_unlikeness(known, random.normal(5, deviations)) for _ in range(20)]
    assert max(times for times, _ in fresh) < 1.5
    assert 0.2 < np.mean([nearer for _, nearer in fresh]) < 0.8
    assert feature_unlikeness(known, random.normal(5, deviations) + 4 * deviations)[0] > 2


@pytest.mark.parametrize("model", ["testing", "UNet3D-S"])
def test_features_are_the_mean_of_what_the_encoder_ends_in(model: str) -> None:
    network = build(variant(model))
    axes = network.config.axes
    images = np.random.default_rng(0).normal(size=(2, 1, *[32] * axes)).astype(np.float32)
    kept: list[torch.Tensor] = []
    network.deepest.register_forward_hook(lambda _module, _inputs, values: kept.append(values))
    wrapped = TorchNetwork(network, "cpu")
    with mean_features(wrapped) as features:
        wrapped(images)
    (values,) = kept
    expected = values.mean((0, 1)) if axes == 2 else values.mean((0, 2, 3, 4))
    np.testing.assert_allclose(features(), expected.numpy(), rtol=1e-4, atol=1e-6)
    wrapped(images)
    np.testing.assert_allclose(features(), expected.numpy(), rtol=1e-4, atol=1e-6)
    with mean_features(Threshold()) as none:
        assert none() is None


def test_axes_are_tilted_by_the_angle_with_the_nearest_axis_of_the_body() -> None:
    angle = np.radians(20)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    voxels = np.zeros((1, 4, 4, 4), np.float32)
    assert tilt_degrees(Volume(voxels, turned @ np.diag([2.0, 3, 1, 1]))) == pytest.approx(20)
    assert tilt_degrees(Volume(voxels, np.eye(4)[[1, 2, 0, 3]])) == pytest.approx(0, abs=1e-5)


def test_an_unusual_grid_is_told_in_words(fitted: tuple[Predictor, Trust]) -> None:
    predictor, _ = fitted
    seen = ((2.0, 1.0, 1.0), (2.0, 1.0, 1.0))
    view = ((20.0, 20.0), (20.0, 20.0))
    channel = SeenChannel(
        percentiles=((0, 0, 0), (400, 400, 400)), standardised=((-9,) * 3, (9,) * 3)
    )
    data = TrainingData(cases=14, channels=(channel,), spacing_mm=seen, view_mm=view)
    knowing = predictor.replace(training_data=data)
    image, _ = blob(5)
    assert predict_and_assess(knowing, image)[1].unlike == ()
    thick = replace(image, affine=np.diag([1.0, 1.0, 3.2, 1.0]))
    (told,) = predict_and_assess(knowing, thick)[1].unlike
    assert told == "slices, rows and columns lie 3.2 x 1 x 1 mm apart; in training 2 x 1 x 1 mm"


class Threshold:
    """A network that takes what is bright for the blob, the more certain the brighter."""

    image_size, device, fingerprint = None, "cpu", "threshold"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        logit = 6 * (images[:, :1] - 1.2)
        return np.concatenate([-logit, logit], axis=1).astype(np.float32)


def blob(seed: int) -> tuple[Volume, Volume]:
    random = np.random.default_rng(seed)
    radius = random.uniform(4, 7)
    grid = np.stack(np.meshgrid(*(np.arange(20) - 10,) * 3, indexing="ij"))
    inside = np.sqrt((grid**2).sum(axis=0)) < radius
    image = 100 * inside + random.normal(0, 12, inside.shape) + 200
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    name = f"blob_{seed}"
    return (
        Volume(image[None].astype(np.float32), affine, name),
        Volume(inside[None].astype(np.uint8), affine, name),
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[Predictor, Trust]:
    predictor = Predictor(Threshold(), Preprocessing(), NAMES)
    cases = [HeldOutCase(f"blob_{seed}", lambda seed=seed: blob(seed)) for seed in range(14)]
    seen: list[tuple[int, int]] = []
    trust = fit_trust(predictor, cases, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (56, 56)
    return predictor.replace(fitted=trust), trust


def test_what_was_fitted_survives_its_json(fitted: tuple[Predictor, Trust]) -> None:
    _, trust = fitted
    assert Trust.model_validate_json(trust.model_dump_json()) == trust
    assert trust.cases == 14
    assert trust.structures["blob"].present == 1


def test_a_clean_image_is_trusted_and_a_noisy_one_is_to_be_looked_at(
    fitted: tuple[Predictor, Trust],
) -> None:
    predictor, _ = fitted
    image, label = blob(99)
    labels, assessment = predict_and_assess(predictor, image)
    np.testing.assert_array_equal(labels.array, predictor(image).array)
    clean = assessment.structures["blob"]
    assert clean.expected_dice is not None
    assert clean.within is not None
    assert clean.volume_ml is not None
    dice = 2 * (labels.array & label.array).sum() / (labels.array.sum() + label.array.sum())
    assert abs(clean.expected_dice - dice) <= clean.within
    assert clean.volume_ml[0] < label.array.sum() * 0.002 < clean.volume_ml[1]
    bad = worsen(image, "noise", 5, np.random.default_rng(0))
    _, doubted = predict_and_assess(predictor, bad)
    noisy = doubted.structures["blob"]
    assert noisy.expected_dice is not None
    assert noisy.expected_dice < clean.expected_dice - 0.1


def test_probabilities_are_tempered_and_labels_stay(
    fitted: tuple[Predictor, Trust], tmp_path: Path
) -> None:
    predictor, trust = fitted
    assert trust.calibration is not None
    image, _ = blob(98)
    plain = predictor.replace(fitted=None)
    files = tmp_path / "plain.npy", tmp_path / "tempered.npy"
    labels = [
        each(image, probabilities=file).array
        for each, file in zip((plain, predictor), files, strict=True)
    ]
    np.testing.assert_array_equal(*labels)
    raw, told = (np.load(file).astype(np.float32) for file in files)
    expected = tempered(raw, trust.calibration.temperature, axis=0)
    np.testing.assert_allclose(told, expected, atol=2e-3)  # half precision on disk
    assert np.abs(told - raw).max() > 0.01


def test_a_structure_that_all_cases_had_is_missed(fitted: tuple[Predictor, Trust]) -> None:
    predictor, _ = fitted
    empty = Volume(np.zeros((1, 8, 8, 8), np.float32), np.eye(4), "empty")
    _, assessment = predict_and_assess(predictor, empty)
    assert assessment.structures["blob"].missing
    assert assessment.structures["blob"].needs_a_look
    assert assessment.unlike


def test_a_batch_tells_what_is_expected_and_does_without(
    fitted: tuple[Predictor, Trust], tmp_path: Path
) -> None:
    predictor, _ = fitted
    (tmp_path / "images").mkdir()
    for seed in (90, 91):
        image, _ = blob(seed)
        write_volume(image, tmp_path / "images" / f"blob_{seed}.nii.gz")
    chessboard = np.indices((8, 8, 8)).sum(axis=0, keepdims=True) % 2  # in it nothing is bright
    empty = Volume(chessboard.astype(np.float32), np.eye(4))
    write_volume(empty, tmp_path / "images" / "empty.nii.gz")
    cases = find_inputs([tmp_path / "images"], channels=1)
    outcomes = predict_cases(predictor, cases, tmp_path / "told")
    statistics = json.loads((tmp_path / "told/statistics.json").read_text())
    assert {outcome.case: outcome.structures for outcome in outcomes} == statistics
    for case in ("blob_90", "blob_91"):
        figures = statistics[case]["blob"]
        low, high = figures["volume_interval_ml"]
        assert low < figures["volume_ml"] < high
        assert 0 <= figures["expected_dice"] <= 1
        assert figures["look"] == (figures["expected_dice"] < 0.7)
    missing = "not found, though every held-out case had it"
    assert statistics["empty"]["blob"]["reason"] == missing
    manifest = json.loads((tmp_path / "told/manifest.json").read_text())
    assert manifest["look"] == {"cases": 1, "structures": 1}
    assert manifest["cases"]["empty"]["look"] == ["blob"]
    assert "look" not in manifest["cases"]["blob_90"]
    head, first, _, last = csv.reader((tmp_path / "told/statistics.csv").read_text().splitlines())
    row = dict(zip(head, first, strict=True))
    figures = statistics["blob_90"]["blob"]
    assert [float(row["volume_low_ml"]), float(row["volume_high_ml"])] == figures[
        "volume_interval_ml"
    ]
    assert float(row["expected_dice"]) == figures["expected_dice"]
    row = dict(zip(head, last, strict=True))
    assert (row["case"], row["look"], row["reason"]) == ("empty", "True", missing)
    assert row["expected_dice"] == row["volume_low_ml"] == ""
    again = predict_cases(predictor, cases, tmp_path / "told")  # what is kept is told as well
    assert {outcome.case: outcome.structures for outcome in again} == statistics

    predict_cases(predictor.replace(fitted=None), cases, tmp_path / "plain")
    assert "look" not in json.loads((tmp_path / "plain/manifest.json").read_text())
    plain = json.loads((tmp_path / "plain/statistics.json").read_text())
    for case, structures in plain.items():
        told = statistics[case]["blob"]
        assert structures["blob"] == {key: told[key] for key in structures["blob"]}
        assert not {"look", "expected_dice", "volume_interval_ml"} & structures["blob"].keys()


class OverlappingThresholds:
    """A network that finds a bright region, and what is brighter still in it."""

    image_size, device, fingerprint = None, "cpu", "thresholds"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([6 * (images - 0.5), 6 * (images - 1.5)], axis=1).astype(np.float32)


def test_regions_are_measured_tempered_and_assessed_each_by_itself() -> None:
    regions = (
        Region(name="whole", members=(1, 2), label=1),
        Region(name="core", members=(2,), label=2),
    )
    channel = Channel(normalisation="range", high=100)
    predictor = Predictor(
        OverlappingThresholds(),
        Preprocessing(channels=(channel,)),
        {0: "background", 1: "rim", 2: "core"},
        regions=regions,
    )

    def case(seed: int) -> tuple[Volume, Volume]:
        image, label = blob(seed)
        core = ndimage.binary_erosion(label.array[0], iterations=2)[None]
        brightness = 100 * label.array + 100 * core
        noise = np.random.default_rng(seed).normal(0, 20, brightness.shape)
        values = (brightness + noise).astype(np.float32)
        return image.with_array(values), label.with_array((label.array + core).astype(np.uint8))

    image, label = case(0)
    volumes: list[np.ndarray] = []
    labels, measured, _ = predict_and_measure(
        predictor, image, {}, observers=[lambda part, values: volumes.append(values)]
    )
    probabilities = np.concatenate(volumes)  # (S, regions, H, W), each a sigmoid
    for channel_index, region in enumerate(regions):
        inside = region.mask(np.moveaxis(labels.array[0], 2, 0))
        own = probabilities[:, channel_index]
        soft = 2 * own[inside].sum() / (inside.sum() + own.sum())
        assert measured[region.label].soft_dice == pytest.approx(soft, rel=1e-4)
        assert measured[region.label].volume_ml == pytest.approx(inside.sum() * label.voxel_ml)

    cases = [HeldOutCase(f"c{seed}", lambda seed=seed: case(seed)) for seed in range(11)]
    trust = fit_trust(predictor, cases)
    assert set(trust.structures) == {"whole", "core"}
    assert trust.calibration is not None
    knowing = predictor.replace(fitted=trust)
    told_labels, assessment = predict_and_assess(knowing, image)
    np.testing.assert_array_equal(told_labels.array, labels.array)
    for region in regions:
        known = assessment.structures[region.name]
        ours, theirs = region.mask(labels.array), region.mask(label.array)
        dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert abs(known.expected_dice - dice) <= 2 * known.within
        low, high = known.volume_ml
        assert low < ours.sum() * label.voxel_ml < high
    odds = probabilities / (1 - probabilities)
    expected = odds ** (1 / trust.calibration.temperature)
    told = knowing._tempered(probabilities)
    np.testing.assert_allclose(told, expected / (1 + expected), atol=1e-5)


class Level:
    """A network that finds what is brighter than its level, or than its level and that plus one."""

    image_size, device = None, "cpu"

    def __init__(self, level: float, regions: bool = False) -> None:
        self.level, self.regions, self.fingerprint = level, regions, f"level {level}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        logit = 6 * (images[:, :1] - self.level)
        logits = [logit, logit - 6] if self.regions else [-logit, logit]
        return np.concatenate(logits, axis=1).astype(np.float32)


REGIONS = (
    Region(name="bright", members=(1, 2), label=1),
    Region(name="brightest", members=(2,), label=2),
)


@pytest.mark.parametrize("kind", ["alike", "unlike", "regions"])
def test_how_far_members_agree_is_the_dice_of_their_label_maps_with_the_ensembles(
    kind: str,
) -> None:
    of_regions = kind == "regions"
    networks = [Level(level, of_regions) for level in (0.2, 0.9, 1.1)]
    seen = [Preprocessing(orientation=axes) for axes in ("SRA", "RSA", "ASR")]
    if kind != "unlike":
        seen = [seen[0]] * 3
    labels = {0: "background", 1: "blob", 2: "core"} if of_regions else NAMES
    regions = REGIONS if of_regions else ()
    alone = [
        Predictor(network, preprocessing, labels, regions=regions)
        for network, preprocessing in zip(networks, seen, strict=True)
    ]
    if kind == "unlike":
        together = alone[0].replace(others=alone[1:])
    else:
        together = Predictor(Ensemble(networks, of_regions), seen[0], labels, regions=regions)
    image, _ = blob(0)
    _, measured, _ = predict_and_measure(together, image, {}, watch_members=True)
    shared = together(image).array
    maps = [predictor(image).array for predictor in alone]
    for number, members in members_of_structures(labels, regions).items():
        own = np.isin(shared, members)
        both = sum((np.isin(each, members) & own).sum() for each in maps)
        sizes = sum(np.isin(each, members).sum() + own.sum() for each in maps)
        assert measured[number].members == pytest.approx(2 * both / sizes)
        assert 0.3 < measured[number].members < 1
    _, unwatched, _ = predict_and_measure(together, image, {})
    assert {measures.members for measures in unwatched.values()} == {1.0}
    _, single, _ = predict_and_measure(alone[0], image, {}, watch_members=True)
    assert {measures.members for measures in single.values()} == {1.0}


def test_what_members_agree_on_is_expected_to_be_better() -> None:
    random = np.random.default_rng(11)

    def scored(number: int) -> ScoredPrediction:
        members = random.uniform(0.3, 0.99)
        measures = StructureMeasures(10, 0.9, 0.9, 0.6, 0.5, 0.0, 0.0, 1.0, members)
        dice = float(np.clip(members - 0.05 + random.normal(0, 0.02), 0, 1))
        return ScoredPrediction(str(number), measures, dice, 10.0)

    quality = fit_quality([scored(number) for number in range(60)], with_look=False)
    assert quality is not None
    assert needs_members(quality)
    unseen = [scored(number) for number in range(60)]
    expected = [expected_dice(quality, each.measures)[0] for each in unseen]
    assert np.corrcoef(expected, [each.dice for each in unseen])[0, 1] > 0.9
    single = fit_quality(simulated(60, 3), with_look=False)
    assert single is not None
    assert not needs_members(single)
    earlier = ExpectedQuality(
        **{
            **single.model_dump(),
            **{name: getattr(single, name)[:-1] for name in ("means", "deviations", "weights")},
        }
    )
    one = simulated(1, 9)[0].measures
    assert expected_dice(earlier, one) == pytest.approx(expected_dice(single, one))


def test_cases_of_one_patient_count_as_one() -> None:
    each = simulated(40, 3)
    pairs = [replace(one, group=str(number // 5)) for number, one in enumerate(each)]
    assert fit_quality(each, with_look=False) is not None
    assert fit_quality(pairs, with_look=False) is None  # eight patients


@pytest.fixture
def toy_bundle(tmp_path: Path) -> Path:
    architecture = variant("testing", num_classes=2, image_size=(32, 32))
    config = BundleConfig(architecture=architecture, preprocessing=Preprocessing(), labels=NAMES)
    return save_pretrained(build(architecture), config, tmp_path / "bundle")


def held_out(folder: Path, structure: str, cases: int = 3) -> Path:
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for seed in range(cases):
        image, label = blob(seed)
        write_volume(image, folder / "imagesTr" / f"blob_{seed}_0000.nii.gz")
        write_volume(label, folder / "labelsTr" / f"blob_{seed}.nii.gz")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, structure: 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_calibrate_writes_into_the_bundle_and_claims_little_with_few_cases(
    toy_bundle: Path, tmp_path: Path
) -> None:
    data = held_out(tmp_path / "data", "blob")
    words = ["calibrate", str(toy_bundle), str(data), "--engine", "eager", "--device", "cpu"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "3 held-out cases it cannot be known" in " ".join(said.output.split())
    assert "expected Dice is off by" not in said.output  # no table of what is not known
    trust = read_config(toy_bundle).trust
    assert trust is not None
    assert trust.cases == 3
    assert trust.calibration is not None
    assert (toy_bundle / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert trust.structures["blob"].quality is None
    ranges = read_config(toy_bundle).ranges
    assert ranges is not None
    assert ranges.fingerprint == fingerprint_of(from_pretrained(toy_bundle)[0])
    assert f"In int8: {ranges.fidelity}" in " ".join(said.output.split())
    assert Predictor.from_pretrained(toy_bundle, engine="eager").fitted == trust


def test_cases_of_other_structures_are_refused(toy_bundle: Path, tmp_path: Path) -> None:
    config = read_config(toy_bundle)
    data = open_dataset(held_out(tmp_path / "data", "spleen", cases=1))
    with pytest.raises(ConfigError, match=r"structures are.*spleen.*differ in blob, spleen"):
        held_out_cases(data, config.labels)
    data = open_dataset(held_out(tmp_path / "right", "blob", cases=1))
    with pytest.raises(ConfigError, match="no labelled case of the split 'test'"):
        held_out_cases(data, config.labels, split="test")


@pytest.mark.parametrize(
    ("expected", "look", "reason"),
    [
        (0.69, True, "less than Dice 0.7 is expected"),
        (0.72, False, "it may be below Dice 0.7, where results are bad"),
        (0.9, False, None),
    ],
)
def test_one_threshold_decides_what_is_bad_and_what_may_be(
    expected: float, look: bool, reason: str | None
) -> None:
    told = StructureAssessment(expected_dice=expected, within=0.05).figures()
    assert (told["look"], told.get("reason")) == (look, reason)
