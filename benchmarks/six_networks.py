"""2D, 2.5D and 3D at equal core-minutes: six networks of the family on two data sets.

    python benchmarks/six_networks.py ../shared/data -o six_networks               # 4 hours, 1 core
    python benchmarks/six_networks.py ../shared/data -o six_networks --only pace
    python benchmarks/six_networks.py ../shared/data -o six_networks --device cuda --jobs 6
    python benchmarks/six_networks.py ../shared/data -o six_networks --only table

Hippocampus with the cases of docs/explanation/results.md, and ACDC, where no patient is on two
sides. The small networks are compared, from random weights, on the patches that `prepare` plans.
Each takes as many steps as one core computes in the given minutes: a short rehearsal on the
processor tells its pace, in seconds of work, so that a busy machine changes no budget; the few
validations come on top. Where a GPU
is at hand the same steps are computed there, in fp32, and the rest of an afternoon is left. The
bundle that was best on the validation cases segments the test cases. What is there already is not
done again, so that an interrupted run goes on.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch
from neighbours import EXPERIMENTS, Experiment, split
from real_data import SEED, interval_cells, run, write_json
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from transunet.training.loop import train
from transunet.training.recipe import load_recipe
from transunet.training.runs import start

HEADINGS = (
    "network",
    "Dice [95 %]",
    "HD95 mm [95 %]",
    "NSD 1 mm [95 %]",
    "Dice - trunk's [95 %], p",
    "steps",
    "core min",
    "MiB",
    "M parameters",
)


@dataclass(frozen=True)
class Network:
    """One row of the table: a variant, and with how many neighbouring slices where it is 2D."""

    name: str
    model: str
    axes: int
    context: int = 0

    @property
    def recipe(self) -> str:
        """By whose settings it trains."""
        return "modern3d" if self.axes == 3 else "modern"

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """What differs from the recipe."""
        chosen: dict[str, Any] = {"model": self.model, "seed": SEED, "precision": "fp32"}
        if self.axes == 3:
            return chosen | {"batch_size": 2}
        sizes = {"image_size": experiment.image_size, "batch_size": experiment.batch_size}
        return chosen | sizes | {"context": self.context}


TRUNK = Network("3D U-Net, the trunk", "UNet3D-S", axes=3)
NETWORKS = (
    TRUNK,
    Network("3D, encoder", "TransUNet3D-encoder-S", axes=3),
    Network("3D, decoder", "TransUNet3D-decoder-S", axes=3),
    Network("3D, both", "TransUNet3D-S", axes=3),
    Network("2D", "R26-ViT-Ti_16", axes=2),
    Network("2.5D", "R26-ViT-Ti_16", axes=2, context=1),
)
REHEARSED = 16
"""Steps whose work is measured."""
NNUNETS = ("nnU-Net 2d", "nnU-Net 3d_fullres")
"""What `nnunet.py` leaves beside the networks."""


def main() -> None:
    options = _options()
    chosen = [experiment for experiment in EXPERIMENTS if experiment.name in options.data_sets]
    tasks = [(experiment, network) for experiment in chosen for network in NETWORKS]
    os.environ |= {"OMP_NUM_THREADS": "1"}
    if options.only != "table":
        for experiment in chosen:
            prepare(experiment, options.data / experiment.source, options.out / experiment.name)
        for experiment, network in tasks:
            rehearse(options, experiment, network)
    if options.only is None:
        with ThreadPoolExecutor(options.jobs) as jobs:
            list(jobs.map(partial(measure, options), *zip(*tasks, strict=True)))
    for experiment in chosen:
        report(experiment.name, options.out / experiment.name)


def prepare(experiment: Experiment, source: Path, folder: Path) -> None:
    """Divide the cases, and prepare slices and volumes of those that are not tested."""
    split(experiment, source, folder)
    options = ["--group-by", experiment.group_by, "--fraction", 0.25, "--seed", SEED]
    for axes in (2, 3):
        store = folder / f"store-{axes}d"
        run("prepare", folder / "development", "-o", store, "--dimensions", axes, *options)


def rehearse(options: argparse.Namespace, experiment: Experiment, network: Network) -> None:
    """Note a step's seconds of work on one core, and the memory that training takes."""
    folder = options.out / experiment.name
    path = folder / f"pace {network.name}.json"
    if not path.is_file():
        with ProcessPoolExecutor(1, get_context("spawn")) as process:  # one that did nothing else
            write_json(path, process.submit(pace, folder, experiment, network).result())


def pace(folder: Path, experiment: Experiment, network: Network) -> dict[str, float]:
    torch.set_num_threads(1)
    recipe = load_recipe(network.recipe, network.settings(experiment) | {"iterations": 1000})
    with TemporaryDirectory() as run:
        trainer = start(Path(run), folder / f"store-{network.axes}d", recipe, device="cpu")
        with closing(train(trainer)) as steps:
            ends = [time.process_time() for _ in islice(steps, REHEARSED)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps_took = [after - before for before, after in pairwise(ends[1:])]  # the first allocates
    # The lower quartile: what shares the processor's caches makes steps longer, never shorter.
    return {"seconds": quantiles(steps_took, n=4)[0], "memory_mib": memory}


def measure(options: argparse.Namespace, experiment: Experiment, network: Network) -> None:
    """Train for the minutes' steps, segment the tested cases and measure the label maps."""
    folder = options.out / experiment.name
    trained, labels = folder / network.name, folder / f"labels {network.name}"
    pace = json.loads((folder / f"pace {network.name}.json").read_text(encoding="utf-8"))
    if not (trained / "spent.json").is_file():
        steps = round(60 * options.minutes / pace["seconds"])
        told = network.settings(experiment) | {"iterations": steps}
        told |= {"validations": options.validations, "calibrate": "false"}
        settings = [word for item in told.items() for word in ("--set", "{}={}".format(*item))]
        store = folder / f"store-{network.axes}d"
        place = ["--device", options.device, "--workers", 0, "--resume", trained]
        run("train", store, "--recipe", network.recipe, *settings, *place)
        minutes = {"minutes": steps * pace["seconds"] / 60}
        write_json(trained / "spent.json", pace | minutes | size_of_training(trained))
    if not labels.is_dir():
        images = folder / "test" / "imagesTr"
        engine = ["--device", options.device, "--engine", "eager"]
        run("predict", trained / "best", images, "-o", labels, *engine)
    measured = ["--tolerance-mm", 1, "-o", folder / f"report {network.name}"]
    run("evaluate", labels, folder / "test", *measured)


def size_of_training(trained: Path) -> dict[str, float]:
    """How many steps a run took, and how many parameters its network has."""
    with (trained / "log.jsonl").open(encoding="utf-8") as log:
        steps = json.loads(log.readlines()[-1])["step"]
    with safe_open(trained / "best" / "model.safetensors", "np") as weights:
        sizes = [weights.get_tensor(name).size for name in weights.keys()]  # noqa: SIM118
    return {"steps": steps, "parameters": sum(sizes)}


def report(title: str, folder: Path) -> None:
    """Print the table of all that has been measured, and compare each network with the trunk."""
    table = Table(*HEADINGS, title=title)
    for name in (*(network.name for network in NETWORKS), *NNUNETS):
        if (folder / f"report {name}" / "metrics.json").is_file():
            table.add_row(*_row(folder, name))
    Console(width=180).print(table)


def _row(folder: Path, name: str) -> Iterator[str]:
    metrics = folder / f"report {name}" / "metrics.json"
    mean = json.loads(metrics.read_text(encoding="utf-8"))["mean_foreground"]
    yield name
    yield from interval_cells(mean)
    low, high = mean["nsd"]["interval_95"]
    yield f"{mean['nsd']['mean']:.3f} [{low:.3f}, {high:.3f}]"
    yield _difference(folder, name)
    spent = json.loads((folder / name / "spent.json").read_text(encoding="utf-8"))
    yield f"{spent['steps']}"
    yield f"{spent['minutes']:.1f}"
    yield f"{spent['memory_mib']:.0f}"
    yield f"{spent['parameters'] / 1e6:.1f}"


def _difference(folder: Path, name: str) -> str:
    """The paired difference from the trunk, tested case by case."""
    trunk = folder / f"labels {TRUNK.name}"
    if name == TRUNK.name or not trunk.is_dir():
        return ""
    comparison = folder / f"comparison {name}"
    if not comparison.is_dir():
        labels = [folder / f"labels {name}", trunk]
        run("evaluate", *labels, folder / "test", "-o", comparison)
    content = json.loads((comparison / "comparison.json").read_text(encoding="utf-8"))
    dice = content["mean_of_structures"]["dice"]
    low, high = dice["interval_95"]
    return f"{dice['mean_difference']:+.3f} [{low:.3f}, {high:.3f}], {dice['p_value']:.2g}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of Task04_Hippocampus and acdc")
    parser.add_argument("-o", "--out", type=Path, default=Path("six_networks"))
    names = [experiment.name for experiment in EXPERIMENTS]
    parser.add_argument("--data-sets", nargs="+", choices=names, default=names)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--jobs", type=int, default=1, help="networks that train side by side")
    parser.add_argument("--validations", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("pace", "table"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
