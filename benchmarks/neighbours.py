"""2.5D against 2D at equal steps: the same network with each slice's neighbours, and without.

    python benchmarks/neighbours.py ../shared/data -o neighbours            # some hours, 1 core
    python benchmarks/neighbours.py ../shared/data -o neighbours --only table

Hippocampus with the cases of docs/explanation/results.md (slices about 1 mm apart), and ACDC, where
no patient is on two sides (slices 5 to 10 mm apart; 20 of 60 patients, four of each pathology, are
tested). R26-ViT-Ti_16 from random weights, recipe modern. What is there already is not done again,
so that an interrupted run goes on.
"""

import argparse
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from real_data import SEED, interval_cells, run, write_json
from rich.console import Console
from rich.table import Table

CONTEXTS = (0, 1)


@dataclass(frozen=True)
class Experiment:
    """A data set, which of its cases are tested, and the size of the training."""

    name: str
    source: str
    tested: Callable[[Sequence[str]], set[str]]
    image_size: int
    batch_size: int
    iterations: int
    group_by: str = r".+"


def tested_cases(names: Sequence[str]) -> set[str]:
    """The 40 hippocampus cases that docs/explanation/results.md lists."""
    files = random.Random(SEED).sample([f"{name}.nii.gz" for name in names], 40)
    return {name.removesuffix(".nii.gz") for name in files}


def tested_patients(names: Sequence[str]) -> set[str]:
    """Both frames of four patients of each pathology: 1-20, 21-40, 41-60, 61-80, 81-100."""
    patients = sorted({int(name[7:10]) for name in names})
    drawn = random.Random(SEED)
    held_out = set()
    for first in range(1, 101, 20):
        held_out |= set(drawn.sample([p for p in patients if first <= p < first + 20], 4))
    return {name for name in names if int(name[7:10]) in held_out}


EXPERIMENTS = (
    Experiment("hippocampus", "Task04_Hippocampus", tested_cases, 64, 12, 1800),
    Experiment("acdc", "acdc", tested_patients, 128, 8, 900, group_by="patient[0-9]+"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of Task04_Hippocampus and acdc")
    parser.add_argument("-o", "--out", type=Path, default=Path("neighbours"))
    parser.add_argument("--only", choices=("table",))
    options = parser.parse_args()
    if options.only is None:
        for experiment in EXPERIMENTS:
            measure(experiment, options.data / experiment.source, options.out / experiment.name)
    report(options.out)


def measure(experiment: Experiment, source: Path, folder: Path) -> None:
    """Divide the cases, train with each context, predict the tested cases and compare."""
    split(experiment, source, folder)
    store = folder / "store"
    options = ["--group-by", experiment.group_by, "--fraction", 0.25, "--seed", SEED]
    run("prepare", folder / "development", "-o", store, *options)
    for context in CONTEXTS:
        trained = folder / f"context-{context}"
        if not (trained / "seconds.json").is_file():
            sizes = ["--image-size", experiment.image_size, "--batch-size", experiment.batch_size]
            sizes += ["--iterations", experiment.iterations, "--workers", 0]
            choices = ["--recipe", "modern", "--model", "R26-ViT-Ti_16", "--seed", SEED]
            choices += ["--set", "validations=5", "--set", f"context={context}"]
            choices += ["--set", "calibrate=false"]
            seconds = run("train", store, "--resume", trained, *choices, *sizes)
            write_json(trained / "seconds.json", seconds)
        if not (labels := folder / f"labels-{context}").is_dir():
            run("predict", trained / "best", folder / "test" / "imagesTr", "-o", labels)
        run("evaluate", labels, folder / "test", "-o", folder / f"report-{context}")
    labels = [folder / f"labels-{context}" for context in reversed(CONTEXTS)]
    run("evaluate", *labels, folder / "test", "-o", folder / "comparison")


def split(experiment: Experiment, source: Path, folder: Path) -> None:
    """Copy the tested cases into one folder and all others into another."""
    if (folder / "split.json").is_file():
        return
    labels = {path.name.removesuffix(".nii.gz"): path for path in (source / "labelsTr").iterdir()}
    held_out = experiment.tested(sorted(labels))
    for part, cases in {"test": held_out, "development": labels.keys() - held_out}.items():
        for kind in ("imagesTr", "labelsTr"):
            (folder / part / kind).mkdir(parents=True)
        for image in (source / "imagesTr").iterdir():
            case = re.sub(r"(_0000)?\.nii\.gz$", "", image.name)
            if case in cases:
                shutil.copyfile(image, folder / part / "imagesTr" / image.name)
                shutil.copyfile(labels[case], folder / part / "labelsTr" / labels[case].name)
        content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
        content["numTraining"] = len(cases)
        if "training" in content:
            content["training"] = [
                entry
                for entry in content["training"]
                if Path(entry["image"]).name.removesuffix(".nii.gz") in cases
            ]
        (folder / part / "dataset.json").write_text(json.dumps(content, indent=1))
    write_json(folder / "split.json", {"test": sorted(held_out)})


def report(out: Path) -> None:
    """Print the table of all that has been measured."""
    table = Table()
    for heading in ("data", "context", "structure", "Dice [95 %]", "HD95 mm [95 %]", "core s"):
        table.add_column(heading)
    for experiment in EXPERIMENTS:
        for row in _rows(out / experiment.name):
            table.add_row(experiment.name, *row)
    Console(width=120).print(table)


def _rows(folder: Path) -> Iterator[tuple[str, ...]]:
    for context in CONTEXTS:
        path = folder / f"report-{context}" / "metrics.json"
        if not path.is_file():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        seconds = json.loads((folder / f"context-{context}" / "seconds.json").read_text())
        cells = interval_cells(content["mean_foreground"])
        yield str(context), "mean", *cells, f"{seconds['processor']:.0f}"
        for structure in content["structures"]:
            yield "", structure["name"], *interval_cells(structure), ""
    comparison = folder / "comparison" / "comparison.json"
    if comparison.is_file():
        mean = json.loads(comparison.read_text(encoding="utf-8"))["mean_of_structures"]
        yield "1 - 0", "mean", *interval_cells(mean, "mean_difference"), ""
        pairs = [(mean[name]["a_better"], mean[name]["compared"]) for name in ("dice", "hd95_mm")]
        yield "", "cases", *(f"{better} of {compared} better" for better, compared in pairs), ""
        tests = (f"p = {mean[name]['p_value']:.2g}" for name in ("dice", "hd95_mm"))
        yield "", "paired test", *tests, ""


if __name__ == "__main__":
    main()
