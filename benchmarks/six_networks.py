"""2D, 2.5D and 3D at equal minutes: six networks of the family on two data sets, one table each.

    python benchmarks/six_networks.py ../shared/data -o six_networks          # 15 minutes a network
    python benchmarks/six_networks.py ../shared/data -o six_networks --jobs 6 # side by side
    python benchmarks/six_networks.py ../shared/data -o six_networks --only table

Hippocampus with the cases of docs/explanation/results.md, and ACDC, where no patient is on two
sides. Each network trains from random weights in a process of one thread, for as long as the
others: with one job per core the minutes are core-minutes, and the table says how many. The small
sizes are compared, in the patches and batches that `prepare` plans. The bundle that was best on the
validation cases segments the test cases. What is there already is not done again, so that an
interrupted run goes on.
"""

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from neighbours import EXPERIMENTS, Experiment, split
from real_data import SEED, interval_cells, run, write_json
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

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

    def options(self, experiment: Experiment) -> list[object]:
        """What `transunet train` is told."""
        if self.axes == 3:
            return ["--recipe", "modern3d", "--model", self.model]
        sizes = ["--image-size", experiment.image_size, "--batch-size", experiment.batch_size]
        context = ["--set", f"context={self.context}"]
        return ["--recipe", "modern", "--model", self.model, *sizes, *context]


TRUNK = Network("3D U-Net, the trunk", "UNet3D-S", axes=3)
NETWORKS = (
    TRUNK,
    Network("3D, encoder", "TransUNet3D-encoder-S", axes=3),
    Network("3D, decoder", "TransUNet3D-decoder-S", axes=3),
    Network("3D, both", "TransUNet3D-S", axes=3),
    Network("2D", "R26-ViT-Ti_16", axes=2),
    Network("2.5D", "R26-ViT-Ti_16", axes=2, context=1),
)


def main() -> None:
    options = _options()
    chosen = [experiment for experiment in EXPERIMENTS if experiment.name in options.data_sets]
    os.environ |= {"OMP_NUM_THREADS": str(options.threads)}
    if options.only is None:
        for experiment in chosen:
            prepare(experiment, options.data / experiment.source, options.out / experiment.name)
        tasks = [(experiment, network) for experiment in chosen for network in NETWORKS]
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


def measure(options: argparse.Namespace, experiment: Experiment, network: Network) -> None:
    """Train for the given minutes, segment the tested cases and measure the label maps."""
    folder = options.out / experiment.name
    trained, labels = folder / network.name, folder / f"labels {network.name}"
    if not (trained / "spent.json").is_file():
        budget = ["--minutes", options.minutes, "--seed", SEED, "--workers", 0]
        choices = [*network.options(experiment), "--set", f"validations={options.validations}"]
        place = ["--resume", trained, "--device", options.device]
        store = folder / f"store-{network.axes}d"
        write_json(trained / "spent.json", run("train", store, *place, *choices, *budget))
    if not labels.is_dir():
        images = folder / "test" / "imagesTr"
        engine = ["--device", options.device, "--engine", "eager"]
        run("predict", trained / "best", images, "-o", labels, *engine)
    measured = ["--tolerance-mm", 1, "-o", folder / f"report {network.name}"]
    run("evaluate", labels, folder / "test", *measured)


def report(title: str, folder: Path) -> None:
    """Print the table of all that has been measured, and compare each network with the trunk."""
    table = Table(*HEADINGS, title=title)
    for network in NETWORKS:
        if (folder / f"report {network.name}" / "metrics.json").is_file():
            table.add_row(*_row(folder, network))
    Console(width=180).print(table)


def _row(folder: Path, network: Network) -> Iterator[str]:
    metrics = folder / f"report {network.name}" / "metrics.json"
    mean = json.loads(metrics.read_text(encoding="utf-8"))["mean_foreground"]
    yield network.name
    yield from interval_cells(mean)
    low, high = mean["nsd"]["interval_95"]
    yield f"{mean['nsd']['mean']:.3f} [{low:.3f}, {high:.3f}]"
    yield _difference(folder, network)
    with (folder / network.name / "log.jsonl").open(encoding="utf-8") as log:
        yield str(json.loads(log.readlines()[-1])["step"])
    spent = json.loads((folder / network.name / "spent.json").read_text(encoding="utf-8"))
    yield f"{spent['processor'] / 60:.1f}"
    yield f"{spent['memory_mib']:.0f}"
    with safe_open(folder / network.name / "best" / "model.safetensors", "np") as weights:
        sizes = [weights.get_tensor(name).size for name in weights.keys()]  # noqa: SIM118
    yield f"{sum(sizes) / 1e6:.1f}"


def _difference(folder: Path, network: Network) -> str:
    """The paired difference from the trunk, tested case by case."""
    trunk = folder / f"labels {TRUNK.name}"
    if network is TRUNK or not trunk.is_dir():
        return ""
    comparison = folder / f"comparison {network.name}"
    if not comparison.is_dir():
        labels = [folder / f"labels {network.name}", trunk]
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
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--validations", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("table",))
    return parser.parse_args()


if __name__ == "__main__":
    main()
