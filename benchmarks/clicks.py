"""Clicks: what they mend on cases that training never saw, and what learning to follow them costs.

    python benchmarks/clicks.py ../shared/data -o clicks            # 70 minutes, 1 core
    python benchmarks/clicks.py ../shared/data -o clicks --only table

Hippocampus (40 cases tested) and nuclei (30 images), the cases of `real_data.py`; R26-ViT-Ti_16
from random weights, recipe modern, trained twice for as many steps: without clicks and with
`--set clicks=true`. A simulated person then corrects each test case: clicks at the middle of the
largest error, says what is there, and looks again. What is there already is not done again, so that
an interrupted run goes on.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_data import SEED, Experiment, run, split, write_json
from rich.console import Console
from rich.table import Table

from transunet.data.click_maps import largest_error, middle_of
from transunet.data.clicks import Click
from transunet.data.formats import read_labels, read_volume
from transunet.data.layouts import open_dataset
from transunet.data.volume import Volume
from transunet.evaluation.bootstrap import bootstrap_interval
from transunet.evaluation.metrics import dice_per_class
from transunet.inference.predictor import Predictor
from transunet.inference.slice_inference import VolumeSlices

EXPERIMENTS = (
    Experiment("hippocampus", "Task04_Hippocampus", 40, 64, 12, iterations=1800),
    Experiment("nuclei", "nuclei", 30, 128, 8, iterations=400),
)
COUNTS = (0, 1, 3, 5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of Task04_Hippocampus and nuclei")
    parser.add_argument("-o", "--out", type=Path, default=Path("clicks"))
    names = [one.name for one in EXPERIMENTS]
    parser.add_argument("--data-sets", nargs="+", choices=names, default=names)
    parser.add_argument("--only", choices=("train", "table"))
    options = parser.parse_args()
    chosen = [one for one in EXPERIMENTS if one.name in options.data_sets]
    for experiment in chosen if options.only != "table" else []:
        folder = options.out / experiment.name
        split(experiment, options.data / experiment.source, folder)
        train(experiment, folder)
        if options.only is None:
            measure(folder)
    report(options.out)


def train(experiment: Experiment, folder: Path) -> None:
    """Prepare the development cases once, a quarter held out, and train on them twice."""
    store = folder / "store"
    run("prepare", folder / "development", "-o", store, "--fraction", 0.25, "--seed", SEED)
    for name, clicks in {"without": "false", "with": "true"}.items():
        if (folder / name / "seconds.json").is_file():
            continue
        sizes = ["--image-size", experiment.image_size, "--batch-size", experiment.batch_size]
        sizes += ["--iterations", experiment.iterations, "--workers", 0, "--seed", SEED]
        choices = ["--recipe", "modern", "--model", "R26-ViT-Ti_16"]
        choices += ["--set", "validations=5", "--set", "calibrate=false"]
        choices += ["--set", f"clicks={clicks}"]
        seconds = run("train", store, "--resume", folder / name, *choices, *sizes)
        write_json(folder / name / "seconds.json", seconds)


def measure(folder: Path) -> None:
    """Correct every test case by simulated clicks, and note its Dice after each number of them."""
    path = folder / "measured.json"
    measured = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    without, clicked = (
        Predictor.from_pretrained(folder / name / "best", device="cpu", engine="eager")
        for name in ("without", "with")
    )
    for case in open_dataset(folder / "test").cases:
        if case.name in measured or case.label is None:
            continue
        image = read_volume(case.images)
        wanted = read_labels(case.label).array[0]
        if wanted.max() == 255:  # white is the only structure
            wanted = (wanted > 127).astype(np.uint8)
        plain = mean_dice(without(image).array[0], wanted, without)
        measured[case.name] = {"without": plain, **vars(follow(clicked, image, wanted))}
        write_json(path, measured)
        print(case.name, measured[case.name], flush=True)


@dataclass
class Followed:
    """What came of the clicks on one case."""

    dice: list[float]
    """After 0, 1, 2, ... clicks."""
    seconds: list[float] = field(default_factory=list)
    """That each took."""
    planes: list[tuple[float, float]] = field(default_factory=list)
    """The Dice in the clicked plane before each, and after it."""


def follow(predictor: Predictor, image: Volume, wanted: NDArray[Any]) -> Followed:
    """Click at the middle of the largest error, as often as is counted, and measure.

    Where a click changes nothing, the person gives that error up.
    """
    label_map = predictor(image)
    slices = VolumeSlices(image, predictor.preprocessing)
    across = predictor.preprocessing.plane_axis(image)
    clicks: list[Click] = []
    hoped_for = np.ones(wanted.shape, bool)
    result = Followed([mean_dice(label_map.array[0], wanted, predictor)])
    while len(result.dice) <= max(COUNTS):
        if error := largest_error(label_map.array[0], wanted, hoped_for):
            piece, label = error
            voxel = middle_of(piece)
            clicks.append(Click(voxel=voxel, structure=label))
            started = time.perf_counter()
            corrected = predictor.correct(
                image, clicks, label_map, applied=len(clicks) - 1, slices=slices
            )
            result.seconds.append(time.perf_counter() - started)
            planes = (
                each.take(voxel[across], across)
                for each in (label_map.array[0], corrected.array[0], wanted)
            )
            before, after, expected = planes
            result.planes.append(
                tuple(mean_dice(found, expected, predictor) for found in (before, after))
            )
            if (corrected.array == label_map.array).all():
                hoped_for &= ~piece
            label_map = corrected
        result.dice.append(mean_dice(label_map.array[0], wanted, predictor))
    return result


def mean_dice(found: NDArray[Any], wanted: NDArray[Any], predictor: Predictor) -> float:
    return float(np.nanmean(list(dice_per_class(found, wanted, predictor.structures).values())))


def report(out: Path) -> None:
    """Print the table of all that has been measured."""
    table = Table()
    for heading in ("data", "clicks", "Dice [95 %]", "more than without [95 %]", "in their planes"):
        table.add_column(heading)
    for experiment in EXPERIMENTS:
        path = out / experiment.name / "measured.json"
        if not path.is_file():
            continue
        cases = json.loads(path.read_text(encoding="utf-8")).values()
        without = np.array([case["without"] for case in cases])
        table.add_row(experiment.name, "trained without", cell(without), "", "")
        for count in COUNTS:
            dice = np.array([case["dice"][count] for case in cases])
            told = ""
            if planes := [pair for case in cases for pair in case["planes"][:count]]:
                before, after = np.nanmean(planes, axis=0)
                told = f"{before:.3f} -> {after:.3f}"
            table.add_row("", str(count), cell(dice), cell(dice - without, "+"), told)
        seconds = np.concatenate([case["seconds"] for case in cases])
        table.add_row("", f"{np.median(seconds):.3f} s per click, at most {seconds.max():.3f}")
    Console(width=120).print(table)


def cell(values: NDArray[Any], sign: str = "") -> str:
    """The mean over the cases, and its interval by the bootstrap."""
    low, high = bootstrap_interval(values)
    return f"{values.mean():{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
