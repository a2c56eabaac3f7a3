"""Clicks: what they mend on cases that training never saw, and what learning to follow them costs.

    python benchmarks/clicks.py ../shared/data -o clicks            # 70 minutes, 1 core
    python benchmarks/clicks.py ../shared/data -o clicks --only table

Hippocampus (40 cases tested) and nuclei (30 images), the cases of `real_data.py`; R26-ViT-Ti_16 from
random weights, recipe modern, trained twice for as many steps: without clicks and with
`--set clicks=true`. A simulated person then corrects each test case: clicks at the middle of the
largest error, says what is there, and looks again. What is there already is not done again, so that
an interrupted run goes on.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from real_data import SEED, Experiment, run, split, write_json
from rich.console import Console
from rich.table import Table

from transunet.data.click_maps import largest_error, middle_of
from transunet.data.formats import read_volume
from transunet.evaluation.bootstrap import mean_interval
from transunet.evaluation.metrics import dice_per_class
from transunet.inference.predictor import Predictor

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


if __name__ == "__main__":
    main()
