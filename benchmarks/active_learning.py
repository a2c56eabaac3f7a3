"""Ten more images to label: in the order of doubt, or at random? Nuclei, few images, CPU.

    python benchmarks/active_learning.py ../shared/data/nuclei -o active       # an hour, 1 core
    python benchmarks/active_learning.py ../shared/data/nuclei -o active --only table

Of 150 images 30 are held out, those of docs/explanation/results.md. Each start draws 20 of the
other 120 and trains on them. Then come 10 of the 100 that are left, the most doubtful ones by
`transunet queue` or others drawn at random; each time the network is fine-tuned for equally many
steps on the 30, and once on the 20 alone, which shows what more steps give. Who corrects is
simulated by the true masks. What is there already is not done again, so that an interrupted run
goes on.
"""

import argparse
import csv
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from real_data import SEED, run
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from transunet.batch.worklist import WORKLIST, read_worklist
from transunet.data.additions import Classes, add_case
from transunet.data.formats import read_labels, read_volume

NUCLEI = Classes(("red", "green", "blue"), {0: "background", 1: "nucleus"})
FIRST, ADDED, TESTED = 20, 10, 30
TRAINED = ("--model", "R26-ViT-Ti_16", "--image-size", 96, "--batch-size", 8, "--workers", 0)
SETTINGS = ("--set", "calibrate=false", "--set", "validations=4")
BEGUN = ("--iterations", 150, "--weights", "none")
TUNED = ("--iterations", 60, "--lr", 0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nuclei", type=Path, help="folder with images and masks")
    parser.add_argument("-o", "--out", type=Path, default=Path("active"))
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2, help="random tens of each start")
    parser.add_argument("--only", choices=("table",))
    options = parser.parse_args()
    if options.only is None:
        names = sorted(path.name for path in (options.nuclei / "images").iterdir())
        tested = random.Random(SEED).sample(names, TESTED)
        _label(options.nuclei, tested, options.out / "test")
        pool = [name for name in names if name not in tested]
        for start in range(options.starts):
            measure(options, pool, start)
    report(options.out, options.nuclei)


def measure(options: argparse.Namespace, pool: list[str], start: int) -> None:
    """Train on the first images, choose more in each way, fine-tune and evaluate."""
    folder = options.out / f"start-{start}"
    drawn = random.Random(f"{SEED} {start}")
    first = drawn.sample(pool, FIRST)
    left = [name for name in pool if name not in first]
    _label(options.nuclei, first, folder / "first")
    _train(folder / "first", folder / "begun", SEED + start, *BEGUN)
    _evaluate(folder / "begun", options.out / "test")
    if not (folder / "queue" / WORKLIST).is_file():
        unlabelled = folder / "unlabelled"
        shutil.rmtree(unlabelled, ignore_errors=True)
        unlabelled.mkdir()
        for name in left:
            shutil.copyfile(options.nuclei / "images" / name, unlabelled / name)
        run("queue", folder / "begun" / "best", unlabelled, "-o", folder / "queue")
    doubtful = read_worklist(folder / "queue" / WORKLIST).cases[:ADDED]
    ways = {"doubt": [case.images[0].name for case in doubtful]}
    ways |= {f"random-{draw}": drawn.sample(left, ADDED) for draw in range(options.draws)}
    for way, added in {**ways, "none": []}.items():
        grown = folder / f"data-{way}"
        if not grown.is_dir():
            shutil.copytree(folder / "first", grown)
        _label(options.nuclei, first + added, grown)
        weights = ("--weights", folder / "begun" / "best")
        _train(grown, folder / way, SEED + start, *weights, *TUNED)
        _evaluate(folder / way, options.out / "test")


def _label(nuclei: Path, names: Iterable[str], folder: Path) -> None:
    """Add images with their true masks, as somebody who corrects would, but for those there."""
    for name in names:
        if not (folder / "labelsTr" / name).is_file():
            image = read_volume(nuclei / "images" / name)
            mask = (read_labels(nuclei / "masks" / name).array > 127).astype(np.uint8)
            add_case(folder, Path(name).stem, image, mask, NUCLEI)


def _train(data: Path, trained: Path, seed: int, *options: object) -> None:
    if not (trained / "done").is_file():
        run("train", data, "--resume", trained, "--seed", seed, *TRAINED, *SETTINGS, *options)
        (trained / "done").touch()


def _evaluate(trained: Path, test: Path) -> None:
    if not (trained / "report").is_dir():
        run("predict", trained / "best", test / "imagesTr", "-o", trained / "labels")
        run("evaluate", trained / "labels", test, "-o", trained / "report")


def report(out: Path, nuclei: Path) -> None:
    """Print the Dice of each start and way, what choosing gave, and whether doubt found the bad."""
    starts = sorted(path.parent for path in out.glob("start-*/doubt"))
    table = Table("", *(start.name for start in starts), "mean")
    ways = {"20 images": "begun", "60 more steps": "none"}
    ways |= {"+ 10 by doubt": "doubt", "+ 10 at random": "random-*"}
    dice: dict[str, dict[Path, np.ndarray]] = {}  # way -> start -> of each image
    for title, way in ways.items():
        found = {start: [*_dice(start, way)] for start in starts}
        dice[way] = {start: np.mean(runs, axis=0) for start, runs in found.items() if runs}
        means = {start: each.mean() for start, each in dice[way].items()}
        cells = [f"{means[start]:.3f}" if start in means else "" for start in starts]
        table.add_row(title, *cells, f"{np.mean([*means.values()]):.3f}" if means else "")
    Console(width=120).print(table)
    for title, one, other in (
        ("doubt - random", "doubt", "random-*"),
        ("random - none", "random-*", "none"),
    ):
        both = [start for start in starts if start in dice[one] and start in dice[other]]
        if both:
            differences = np.array([dice[one][start] - dice[other][start] for start in both])
            print(f"{title}: {_interval(differences)}")
    for start in starts:
        print(_order(start, nuclei))


def _dice(start: Path, way: str) -> Iterator[np.ndarray]:
    """Yield the Dice of the held-out images by each run of a way."""
    for path in sorted(start.glob(f"{way}/report/metrics.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = {row["case"]: float(row["dice"]) for row in csv.DictReader(file)}
        yield np.array([rows[case] for case in sorted(rows)])


def _interval(differences: np.ndarray) -> str:
    """Mean of (starts, images) and its 95 % interval over both, by bootstrap."""
    generator = np.random.default_rng(SEED)
    rows, columns = differences.shape
    resampled = [
        differences[generator.integers(rows, size=rows)][
            :, generator.integers(columns, size=columns)
        ]
        for _ in range(10_000)
    ]
    low, high = np.percentile([each.mean() for each in resampled], [2.5, 97.5])
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _order(start: Path, nuclei: Path) -> str:
    """How bad the first network's results on the unlabelled images are, by their place."""
    dice = []
    for case in read_worklist(start / "queue" / WORKLIST).cases:
        found = read_labels(start / "queue" / f"{case.case}.png").array > 0
        mask = read_labels(nuclei / "masks" / f"{case.case}.png").array > 127
        dice.append(2 * (found & mask).sum() / (found.sum() + mask.sum()))
    correlation = spearmanr(np.arange(len(dice)), dice).statistic
    return (
        f"{start.name}: Dice of the first network on the {ADDED} most doubtful images "
        f"{np.mean(dice[:ADDED]):.3f}, on all {len(dice)} {np.mean(dice):.3f}; rank correlation "
        f"of order and Dice {correlation:.2f}"
    )


if __name__ == "__main__":
    main()
