"""How far what a bundle says of its own results can be trusted, where nobody has fitted it.

    python benchmarks/trust.py ../shared/data --trained neighbours            # a few cases
    python benchmarks/trust.py ../shared/data --trained neighbours --cases 40 --fit 40 --minutes 60
    python benchmarks/trust.py ../shared/data --only table

Each network learns from its run's validation cases (`--fit` of them), and is tried on others:
hippocampus and ACDC with the runs and test cases of benchmarks/neighbours.py; ACDC trained on the
dilated, infarcted and normal hearts and tried on the hypertrophic ones and on those with an
abnormal right ventricle; three folds of hippocampus together; nuclei; test images worsened by each
fault, in five grades; images of another organ, and a CT given to a network for MRI. The last two
hold no structure that the network knows: whatever it finds has a Dice of 0. What is there already
is not done again.
"""

import argparse
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from neighbours import EXPERIMENTS, Experiment, split
from real_data import SEED, run, write_json
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu, spearmanr

from transunet.bundle.bundle_config import keep_trust, read_config
from transunet.data.formats import read_image
from transunet.data.layouts import open_dataset
from transunet.data.volume import Volume
from transunet.evaluation.metrics import BAD_BELOW, dice_per_class
from transunet.inference.logits import tempered
from transunet.inference.predictor import Predictor
from transunet.training.out_of_fold import validation_cases
from transunet.training.run_trust import fit_folds
from transunet.training.runs import Run
from transunet.trust.assessment import predict_and_assess
from transunet.trust.fitting import HeldOutCase, fit_trust
from transunet.trust.held_out import held_out_cases
from transunet.trust.temperature import BINS, VoxelSampler, calibration_error, reliability
from transunet.trust.worsening import FAULTS, GRADES, worsen

TRIED = ("hypertrophic", range(21, 41)), ("abnormal right ventricle", range(81, 101))
"""Pathologies of ACDC that no network was trained on, and the numbers of their patients."""
FOLDS = 3
HEADINGS = (
    *("network", "tried on", "structures", "below 0.7", "ECE before", "after"),
    *("expected Dice is off by", "rank correlation", "AUC for < 0.7", "Dice inside"),
    *("volume inside", "looked at of bad", "of good", "cases told unlike"),
)


@dataclass(frozen=True)
class Subject:
    """A trained network, and where its test cases lie."""

    name: str
    run: Path
    tests: Path


def main() -> None:
    options = _options()
    if options.only is None:
        subjects = [*_trained_before(options.trained), *_trained_here(options)]
        for subject in (each for each in subjects if each.name in options.networks):
            predictor = taught(subject, options)
            tests = held_out_cases(open_dataset(subject.tests), predictor.labels)
            for setting, cases in settings(subject, tests, options):
                for case in cases:
                    try_case(predictor, case, options.out / subject.name / "tried" / setting)
    report(options.out)


def taught(subject: Subject, options: argparse.Namespace) -> Predictor:
    """Let a copy of the run's best bundle learn from the validation cases; return its predictor.

    Of a cross-validation it is that of all folds together.
    """
    settings = {"device": options.device, "engine": "eager", "force": True}
    if (begun := Run.reopen(subject.run)).has_folds:
        bundles = [begun.fold(number) / "best" for number in range(FOLDS)]
        if read_config(bundles[0]).ensemble_trust is None:
            fit_folds(begun, options.device, partial(_tell, subject.name))
        ensemble: Predictor = Predictor.from_pretrained(bundles, **settings)
        return ensemble
    bundle = options.out / subject.name / "bundle"
    if not bundle.is_dir():
        shutil.copytree(subject.run / "best", bundle)
    predictor: Predictor = Predictor.from_pretrained(bundle, **settings)
    if predictor.fitted is None:
        cases = validation_cases(begun, most=options.fit)
        trust = fit_trust(predictor, cases, progress=partial(_tell, subject.name))
        keep_trust(bundle, trust)
        return predictor.replace(fitted=trust)
    return predictor


def _tell(name: str, done: int, total: int) -> None:
    print(f"\r{name}: {done} of {total} predictions", end="" if done < total else "\n", flush=True)


def settings(
    subject: Subject, tests: Sequence[HeldOutCase], options: argparse.Namespace
) -> Iterator[tuple[str, list[HeldOutCase]]]:
    """Yield what a network is tried on: a name, and cases."""
    drawn = partial(_drawn, count=options.cases)
    if subject.name == "acdc by pathology":
        for name, patients in TRIED:
            yield name, drawn([case for case in tests if int(case.name[7:10]) in patients])
        return
    yield "as they are", drawn(tests)
    for grade in range(1, GRADES + 1):
        yield (
            f"worsened, grade {grade}",
            [_worsened(case, kind, grade) for case in drawn(tests) for kind in FAULTS],
        )
    others = {"hippocampus": "acdc", "acdc": "Task04_Hippocampus"}
    if subject.name in others:
        other = open_dataset(options.data / others[subject.name])
        images = [(case.name, partial(read_image, case.images)) for case in other.cases]
        yield "another organ", drawn([_without_structures(*image) for image in images])
        yield "CT", [_without_structures("chaos", partial(read_image, [_ct(options)]))]


def try_case(predictor: Predictor, case: HeldOutCase, folder: Path) -> None:
    """Predict a case and note what was told of each structure, and what is true."""
    path = folder / f"{case.name}.json"
    if path.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    image, label = case.read()
    # Slices that are resampled show their probabilities at the working resolution.
    seen = predictor.preprocessing.labels_to_working(label)
    if predictor.sampling and predictor.sampling.kind == "patches":
        seen = predictor.preprocessing.oriented(label)[0]
    sampler = VoxelSampler(np.asarray(seen), case.ignored)
    labels, assessment = predict_and_assess(
        predictor, image, observers=[sampler], warn=lambda _: None
    )
    names = predictor.structures
    dice = dice_per_class(labels.array, label.array, names)
    structures = []
    for number, name in names.items():
        true_ml = float(np.count_nonzero(label.array == number) * label.voxel_ml)
        told = assessment.structures[name]
        structures.append(
            {
                "structure": name,
                "dice": None if np.isnan(dice[number]) else dice[number],
                "true_ml": true_ml,
                "expected": told.expected_dice,
                "within": told.within,
                "volume_ml": told.volume_ml,
                "look": told.needs_a_look,
            }
        )
    probabilities, reference = sampler.sample()
    assert predictor.fitted is not None
    assert predictor.fitted.calibration is not None
    after = tempered(probabilities, predictor.fitted.calibration.temperature)
    bins = [reliability(each, reference).tolist() for each in (probabilities, after)]
    unlike, voxels = list(assessment.unlike), len(reference)
    write_json(path, {"structures": structures, "unlike": unlike, "voxels": voxels, "bins": bins})


def report(out: Path) -> None:
    """Print a row for each network and what it was tried on."""
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading)
    for folder in sorted(out.glob("*/tried/*")):
        cases = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        table.add_row(folder.parents[1].name, folder.name, *_figures(cases))
    Console(width=200).print(table)


def _figures(cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    each = [one for case in cases for one in case["structures"] if one["dice"] is not None]
    known = [one for one in each if one["expected"] is not None]
    dice, expected, within = (
        np.array([one[key] for one in known], float) for key in ("dice", "expected", "within")
    )
    bad = dice < BAD_BELOW
    sized = [one for one in each if one["volume_ml"] and one["true_ml"]]
    inside = [one["volume_ml"][0] <= one["true_ml"] <= one["volume_ml"][1] for one in sized]
    flagged = [one["look"] or bool(case["unlike"]) for case in cases for one in case["structures"]]
    wrong = [(one["dice"] or 0) < BAD_BELOW for case in cases for one in case["structures"]]
    flags, wrongs = np.array(flagged, bool), np.array(wrong, bool)
    yield str(len(each))
    yield str(int(wrongs.sum()))
    yield from (f"{_pooled_error(cases, which):.3f}" for which in (0, 1))
    yield f"{np.abs(dice - expected).mean():.3f}" if len(dice) else "-"
    varied = len(dice) > 2 and np.ptp(dice) > 0 and np.ptp(expected) > 0
    yield f"{spearmanr(dice, expected).statistic:.2f}" if varied else "-"
    yield f"{_area(expected[bad], expected[~bad]):.2f}" if bad.any() and not bad.all() else "-"
    yield f"{np.mean(np.abs(dice - expected) <= within):.0%}" if len(dice) else "-"
    yield f"{np.mean(inside):.0%}" if inside else "-"
    yield f"{flags[wrongs].mean():.0%}" if wrongs.any() else "-"
    yield f"{flags[~wrongs].mean():.0%}" if not wrongs.all() else "-"
    yield f"{sum(bool(case['unlike']) for case in cases)} of {len(cases)}"


def _area(bad: np.ndarray, good: np.ndarray) -> float:
    """How often a bad one is expected to be worse than a good one."""
    return float(mannwhitneyu(good, bad).statistic / (len(bad) * len(good)))


def _pooled_error(cases: Sequence[dict[str, Any]], which: int) -> float:
    """Expected calibration error of all cases' voxels, before (0) or after (1)."""
    sums = np.zeros((BINS, 3))
    for case in cases:
        for share, confidence, accuracy in case["bins"][which]:
            count = share * case["voxels"]
            row = min(int(confidence * BINS + 1e-9), BINS - 1)
            sums[row] += count, count * confidence, count * accuracy
    full = sums[sums[:, 0] > 0]
    if not len(full):
        return float("nan")
    count = full[:, :1]
    return calibration_error(np.hstack([count / count.sum(), full[:, 1:] / count]))


def _trained_before(trained: Path | None) -> Iterator[Subject]:
    """Runs and test cases of benchmarks/neighbours.py."""
    for experiment in EXPERIMENTS if trained else ():
        folder = trained / experiment.name
        yield Subject(experiment.name, folder / "context-0", folder / "test")


def _trained_here(options: argparse.Namespace) -> Iterator[Subject]:
    """Train, for so many minutes, on some pathologies of ACDC; and on nuclei."""
    unseen = {patient for _, patients in TRIED for patient in patients}

    def of_unseen(names: Sequence[str]) -> set[str]:
        return {name for name in names if int(name[7:10]) in unseen}

    by_pathology = Experiment("acdc by pathology", "acdc", of_unseen, 128, 8, 0)
    if by_pathology.name in options.networks:
        folder = options.out / by_pathology.name
        split(by_pathology, options.data / "acdc", folder)
        groups = ["--group-by", "patient[0-9]+", "--fraction", 0.34]  # twelve of 36 patients
        run("prepare", folder / "development", "-o", folder / "store", "--seed", SEED, *groups)
        _train(folder, options, 128)
        yield Subject(by_pathology.name, folder / "run", folder / "test")
    if "hippocampus, three folds" in options.networks and options.trained:
        folder, before = options.out / "hippocampus, three folds", options.trained / "hippocampus"
        run("prepare", before / "development", "-o", folder / "store", "--folds", FOLDS)
        _train(folder, options, 64, ["--folds", FOLDS])
        yield Subject(folder.name, folder / "run", before / "test")
    if "nuclei" in options.networks:
        folder, source = options.out / "nuclei", options.data / "nuclei"
        names = sorted(path.name for path in (source / "images").iterdir())
        tested = set(random.Random(SEED).sample(names, 40))
        for part, kind in ((p, k) for p in ("test", "development") for k in ("images", "masks")):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            for name in names:
                if (name in tested) == (part == "test"):
                    shutil.copyfile(source / kind / name, folder / part / kind / name)
        store = ["-o", folder / "store", "--seed", SEED, "--fraction", 0.25]
        run("prepare", folder / "development", *store)
        _train(folder, options, 256)
        yield Subject("nuclei", folder / "run", folder / "test")


def _train(
    folder: Path, options: argparse.Namespace, image_size: int, folds: Sequence[object] = ()
) -> None:
    if (folder / "run/seconds.json").is_file():
        return
    chosen = ["--recipe", "modern", "--model", "R26-ViT-Ti_16", "--weights", "none"]
    sizes = ["--image-size", image_size, "--batch-size", 8, "--minutes", options.minutes]
    more = ["--set", "validations=5", "--set", "calibrate=false", "--seed", SEED]
    device = ["--device", options.device] if options.device else []
    words = [folder / "store", "--resume", folder / "run", *chosen, *sizes, *more, *device, *folds]
    write_json(folder / "run/seconds.json", run("train", *words))


def _worsened(case: HeldOutCase, kind: str, grade: int) -> HeldOutCase:
    def read() -> tuple[Volume, Volume]:
        image, label = case.read()
        worse = worsen(image, kind, grade, np.random.default_rng([SEED, grade]))
        return worse, Volume(label.array, worse.affine, label.name)  # its voxels may be larger now

    return HeldOutCase(f"{case.name} {kind}", read, case.group, case.ignored)


def _without_structures(name: str, read: Callable[[], Volume]) -> HeldOutCase:
    def image_and_nothing() -> tuple[Volume, Volume]:
        image = read()
        return image, image.with_array(np.zeros((1, *image.spatial_shape), np.uint8))

    return HeldOutCase(name, image_and_nothing)


def _ct(options: argparse.Namespace) -> Path:
    """The folder of CHAOS's DICOM series."""
    folder: Path = options.out / "chaos_ct"
    if not folder.is_dir():
        with tarfile.open(options.data / "chaos_ct.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return next(path.parent for path in sorted(folder.rglob("*.dcm")))


def _drawn(cases: Sequence[HeldOutCase], count: int) -> list[HeldOutCase]:
    return random.Random(SEED).sample(list(cases), min(count, len(cases)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of Task04_Hippocampus, acdc and nuclei")
    parser.add_argument("-o", "--out", type=Path, default=Path("trust"))
    parser.add_argument("--trained", type=Path, help="output folder of benchmarks/neighbours.py")
    parser.add_argument("--cases", type=int, default=4, help="tried in each setting")
    parser.add_argument("--fit", type=int, default=12, help="validation cases to learn from")
    parser.add_argument("--minutes", type=float, default=5, help="of each training")
    parser.add_argument("--device")
    names = [*(one.name for one in EXPERIMENTS), "acdc by pathology"]
    names += ["hippocampus, three folds", "nuclei"]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--only", choices=("table",))
    return parser.parse_args()


if __name__ == "__main__":
    main()
