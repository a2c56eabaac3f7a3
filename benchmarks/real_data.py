"""Both recipes on two real data sets with a test set that training never sees: one table.

    python benchmarks/real_data.py ../shared/data -o real_data                # 25 minutes, 1 core
    python benchmarks/real_data.py ../shared/data -o real_data --only split   # divide the cases
    python benchmarks/real_data.py ../shared/data -o real_data --only table   # what is there

Task04_Hippocampus (200 cases: 120 train, 40 validate, 40 test; 64 pixels) and nuclei (150 images:
90, 30, 30; 128 pixels), with R26-ViT-Ti_16 from random weights. The test cases are drawn with a
fixed seed and lie in a folder of their own; `transunet prepare` divides the others. Everything else
is the command line, whose commands are printed. What is there already is not done again, so that
an interrupted run goes on. The table shows the test cases' Dice and HD95 with 95 % intervals, and
the paired comparison.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SEED = 1234
RECIPES = ("paper", "modern")


@dataclass(frozen=True)
class Experiment:
    """One data set and what is done with it."""

    name: str
    source: str
    test: int
    image_size: int
    batch_size: int
    iterations: int


EXPERIMENTS = (
    Experiment(
        "hippocampus", "Task04_Hippocampus", test=40, image_size=64, batch_size=12, iterations=600
    ),
    Experiment("nuclei", "nuclei", test=30, image_size=128, batch_size=8, iterations=250),
)
HEADINGS = ("data", "recipe", "structure", "Dice [95 %]", "HD95 mm [95 %]", "trained s (core s)")
STAGES = ("split", "train", "predict", "evaluate")


def main() -> None:
    options = _options()
    chosen = [one for one in EXPERIMENTS if one.name in options.data_sets]
    for experiment in chosen:
        folder = options.out / experiment.name
        split(experiment, options.data / experiment.source, folder)
        for name, stage in {"train": train, "predict": predict, "evaluate": evaluate}.items():
            if options.only in (None, name):
                stage(experiment, folder, options.recipes)
    if options.only in (None, "table"):
        report(options.out, chosen)


def split(experiment: Experiment, source: Path, folder: Path) -> None:
    """Copy the test cases into one folder and all others into another, and note which are which."""
    if (folder / "split.json").is_file():
        return
    names = sorted(path.name for path in (source / _images(source)).iterdir())
    held_out = set(random.Random(SEED).sample(names, experiment.test))
    parts = {
        "development": [name for name in names if name not in held_out],
        "test": [name for name in names if name in held_out],
    }
    for part, chosen in parts.items():
        _copy(source, folder / part, chosen)
    (folder / "split.json").write_text(json.dumps(parts, indent=1), encoding="utf-8")


def train(experiment: Experiment, folder: Path, recipes: Sequence[str]) -> None:
    """Prepare the development cases once, a quarter held out, and train each recipe on them."""
    store = folder / "store"
    run("prepare", folder / "development", "-o", store, "--fraction", 0.25, "--seed", SEED)
    for recipe in recipes:
        if not (folder / recipe / "seconds.json").is_file():
            options = ["--recipe", recipe, "--model", "R26-ViT-Ti_16", "--workers", 0]
            options += ["--image-size", experiment.image_size, "--batch-size"]
            options += [experiment.batch_size, "--iterations", experiment.iterations]
            options += ["--set", "validations=5", "--set", "calibrate=false"]
            seconds = run("train", store, "--resume", folder / recipe, *options)
            write_json(folder / recipe / "seconds.json", seconds)


def predict(experiment: Experiment, folder: Path, recipes: Sequence[str]) -> None:
    """Segment the test images with the bundle that was best on the validation cases."""
    images = folder / "test" / _images(folder / "test")
    for recipe in recipes:
        if not (labels := folder / f"labels-{recipe}").is_dir():
            run("predict", folder / recipe / "best", images, "-o", labels)


def evaluate(experiment: Experiment, folder: Path, recipes: Sequence[str]) -> None:
    """Measure each recipe's label maps, and compare the two case by case."""
    labels = [folder / f"labels-{recipe}" for recipe in recipes]
    for recipe, predicted in zip(recipes, labels, strict=True):
        run("evaluate", predicted, folder / "test", "-o", folder / f"report-{recipe}")
    if len(recipes) > 1:
        run("evaluate", *reversed(labels), folder / "test", "-o", folder / "comparison")


def run(command: str, *arguments: object) -> dict[str, float]:
    """Run a command of the package, show it, and return its seconds and its peak memory."""
    words = ["transunet", command, *map(str, arguments)]
    print("$ " + " ".join(words), flush=True)
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", *words])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, words)
    return {
        "wall": round(time.monotonic() - started, 1),
        "processor": round(used.ru_utime + used.ru_stime, 1),
        "memory_mib": round(used.ru_maxrss / 1024, 1),
    }


def report(out: Path, experiments: Sequence[Experiment]) -> None:
    """Print the table of all that has been measured."""
    table = Table(title=f"{date.today()}, {platform.processor() or platform.machine()}")
    for heading in HEADINGS:
        table.add_column(heading)
    for row in (row for one in experiments for row in _rows(out / one.name)):
        table.add_row(*row)
    Console(width=120).print(table)


def _rows(folder: Path) -> Iterator[tuple[str, ...]]:
    for recipe in RECIPES:
        path = folder / f"report-{recipe}" / "metrics.json"
        if not path.is_file():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        used = json.loads((folder / recipe / "seconds.json").read_text(encoding="utf-8"))
        seconds = f"{used['wall']:.0f} ({used['processor']:.0f})"
        yield folder.name, recipe, "mean", *interval_cells(content["mean_foreground"]), seconds
        for structure in content["structures"]:
            yield "", "", structure["name"], *interval_cells(structure), ""
    comparison = folder / "comparison" / "comparison.json"
    if comparison.is_file():
        mean = json.loads(comparison.read_text(encoding="utf-8"))["mean_of_structures"]
        yield "", "modern - paper", "mean", *interval_cells(mean, "mean_difference"), ""
        wins = (f"{one['a_better']} of {one['compared']} better" for one in _both(mean))
        yield "", "", "cases", *wins, ""
        yield "", "", "paired test", *(f"p = {one['p_value']:.2g}" for one in _both(mean)), ""


def _both(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return metrics["dice"], metrics["hd95_mm"]


def interval_cells(metrics: dict[str, Any], key: str = "mean") -> Iterator[str]:
    for metric, digits in zip(_both(metrics), (3, 2), strict=True):
        low, high = metric["interval_95"]
        yield f"{metric[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _images(source: Path) -> str:
    return "imagesTr" if (source / "imagesTr").is_dir() else "images"


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    images = _images(source)
    for kind in (images, "labelsTr" if images == "imagesTr" else "masks"):
        (target / kind).mkdir(parents=True)
        for name in names:
            shutil.copyfile(source / kind / name, target / kind / name)
    if (source / "dataset.json").is_file():
        content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
        kept = [one for one in content["training"] if Path(one["image"]).name in names]
        content |= {"training": kept, "numTraining": len(kept)}
        (target / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of Task04_Hippocampus and nuclei")
    parser.add_argument("-o", "--out", type=Path, default=Path("real_data"))
    parser.add_argument("--only", choices=(*STAGES, "table"), help="one stage instead of all")
    names = [one.name for one in EXPERIMENTS]
    parser.add_argument("--data-sets", nargs="+", choices=names, default=names)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    return parser.parse_args()


if __name__ == "__main__":
    main()
