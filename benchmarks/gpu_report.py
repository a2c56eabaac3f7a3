"""What a GPU makes of this package, in twelve minutes: tests, speed, trainings, a volume.

    python benchmarks/gpu_report.py ../shared/data -o gpu              # one NVIDIA GPU
    python benchmarks/gpu_report.py ../shared/data -o gpu --sections tests speed
    python benchmarks/gpu_report.py ../shared/data -o gpu --device cpu --small   # tries the script

- tests: `pytest -m cuda`.
- speed: the GPU's own rates, then R50-ViT-B_16 at 224 pixels and TransUNet3D at 128 x 128 x 128
  voxels, predicting and training, in several forms: images a second and what share of the rate of a
  large product of matrices that is.
- trainings: networks trained from random weights for four minutes each, side by side on the one
  GPU, on the data sets and with the tested cases of `neighbours.py`; their test cases predicted and
  measured.
- volume: a CT of 512 x 512 x 300 voxels from file to label file.

What is there already is not done again, so that an interrupted report goes on; what failed is noted
with its last line, and tried again by another call. Everything lies in the folder: `report.md`,
`report.json`, each row's figures and log, runs, label maps.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu import ROWS
from neighbours import EXPERIMENTS, Experiment, split
from real_data import SEED, interval_cells, write_json

from transunet.training.log import read_log

MINUTES = {"tests": 1.5, "speed": 3, "trainings": 6, "volume": 1.5}
"""Of each section at most."""
CUDA_TESTS = Path(__file__).parents[1] / "tests/training/test_cuda.py"
AT_ONCE = 4
"""Rows that build and compile beside each other."""


@dataclass(frozen=True)
class Training:
    """A network and what it is trained on."""

    data: str
    model: str
    small: str
    """The model in its place where the script is tried."""
    dimensions: int
    workers: int = 1

    @property
    def name(self) -> str:
        """Of its row."""
        return f"{self.data}-{self.model}"


TRAININGS = (
    Training("hippocampus", "R50-ViT-B_16", "R26-ViT-Ti_16", 2, workers=2),
    Training("hippocampus", "TransUNet3D", "TransUNet3D-S", 3),
    Training("hippocampus", "UNet3D", "UNet3D-S", 3),
    Training("hippocampus", "R26-ViT-S_16", "R26-ViT-Ti_16", 2, workers=2),
    Training("hippocampus", "TransUNet3D-encoder", "TransUNet3D-encoder-S", 3),
    Training("hippocampus", "TransUNet3D-decoder", "TransUNet3D-decoder-S", 3),
    Training("acdc", "R50-ViT-B_16", "R26-ViT-Ti_16", 2, workers=2),
    Training("acdc", "UNet3D", "UNet3D-S", 3),
    Training("acdc", "TransUNet3D", "TransUNet3D-S", 3),
)


class Report:
    """The folder, and what is done in it within each section's minutes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out.resolve()
        self.deadline = 0.0
        self.where = ["--device", options.device, *(["--small"] if options.small else [])]
        for name in ("rows", "logs"):
            (self.out / name).mkdir(parents=True, exist_ok=True)

    def begin(self, section: str) -> None:
        """Start a section's time."""
        self.deadline = time.monotonic() + 60 * self.options.minutes[section]

    def result(self, name: str) -> dict[str, Any] | None:
        """Return what a row has found, if it was measured."""
        path = self.out / "rows" / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def run(
        self, name: str, command: Sequence[object], threads: int | None = None, until: float = 0
    ) -> dict[str, Any]:
        """Run a command to its end or the section's, and return the result that it wrote.

        Where it writes none, that is how long it took; where it fails, its last line.
        """
        done = self.result(name)
        if done and "failed" not in done:
            return done
        path, log = self.out / "rows" / f"{name}.json", self.out / "logs" / f"{name}.log"
        path.unlink(missing_ok=True)
        start = time.monotonic()
        left = (until or self.deadline) - start
        environment = dict(os.environ)
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads)}
        failed = "the section's time is over"
        if left > 0:
            with log.open("w") as output:
                process = subprocess.Popen(
                    list(map(str, command)),
                    stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    env=environment,
                )  # fmt: skip
                try:
                    process.wait(left)
                    lines = [line for line in log.read_text().splitlines() if line.strip()]
                    failed = lines[-1] if lines else f"exit code {process.returncode}"
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    failed = f"stopped after {left:.0f} s"
                if process.returncode == 0:
                    failed = ""
        seconds = round(time.monotonic() - start, 1)
        if failed:
            write_json(path, {"failed": failed[:300]})
        elif not path.is_file():
            write_json(path, {"wall": seconds})
        print(f"{name}: {failed or 'done'} ({seconds:.0f} s)", flush=True)
        return self.result(name) or {}

    def transunet(
        self, name: str, *words: object, threads: int = 1, until: float = 0
    ) -> dict[str, Any]:
        """Run a command of the package."""
        return self.run(name, [sys.executable, "-m", "transunet", *words], threads, until)


def main() -> None:
    options = parsed()
    report = Report(options)
    with ThreadPoolExecutor(1) as beside:
        prepared = beside.submit(prepare, report)
        sections: dict[str, Callable[[], object]] = {
            "tests": lambda: tests(report),
            "speed": lambda: speed(report),
            "trainings": lambda: trainings(report, prepared),
            "volume": lambda: volume(report),
        }
        for section in options.sections:
            report.begin(section)
            sections[section]()
            write(report)
    print((report.out / "report.md").read_text())


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Task04_Hippocampus and acdc")
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu"))
    parser.add_argument("--sections", nargs="+", choices=MINUTES, default=list(MINUTES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="networks and inputs, for a trial")
    names = [training.name for training in TRAININGS]
    parser.add_argument("--trainings", nargs="+", choices=names, default=names)
    parser.add_argument("--training-minutes", type=float, default=4, help="of each network")
    for section, minutes in MINUTES.items():
        help_text = "minutes of this section at most"
        parser.add_argument(f"--{section}-limit", type=float, default=minutes, help=help_text)
    options = parser.parse_args()
    options.minutes = {section: getattr(options, f"{section}_limit") for section in MINUTES}
    return options


def tests(report: Report) -> None:
    """The tests that need a GPU; warnings, which other versions of packages give, are no errors."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-n0", "-W", "default", "-q"]
    report.run("tests", [*command, "--durations=5", CUDA_TESTS])


def speed(report: Report) -> None:
    rows = [name for name in ROWS if not name.startswith("volume")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: measure(report, name), rows))


def volume(report: Report) -> None:
    for name in ROWS:
        if name.startswith("volume"):
            measure(report, name)


def measure(report: Report, name: str) -> None:
    script = Path(__file__).with_name("gpu.py")
    command = [sys.executable, script, name, "-o", report.out / "rows", *report.where]
    report.run(name, command, threads=4)


# Trainings


def prepare(report: Report) -> None:
    """Divide each data set's cases and prepare its stores, beside the sections before."""
    until = time.monotonic() + 300
    for experiment in EXPERIMENTS:
        folder = report.out / experiment.name
        try:
            split(experiment, report.options.data / experiment.source, folder)
        except OSError as error:
            write_json(
                report.out / "rows" / f"{experiment.name}-split.json", {"failed": str(error)}
            )
            continue
        for dimensions in (2, 3):
            options = ["--group-by", experiment.group_by, "--fraction", 0.25, "--seed", SEED]
            options += ["--dimensions", dimensions, "--workers", max(1, (os.cpu_count() or 1) // 2)]
            report.transunet(
                f"{experiment.name}-prepare-{dimensions}d",
                *("prepare", folder / "development", "-o", folder / f"store-{dimensions}d"),
                *options,
                until=until,
            )


def trainings(report: Report, prepared: Future[None]) -> None:
    prepared.result()
    experiments = {experiment.name: experiment for experiment in EXPERIMENTS}
    with ThreadPoolExecutor(len(TRAININGS)) as pool:
        chosen = [one for one in TRAININGS if one.name in report.options.trainings]
        jobs = [pool.submit(train, report, one, experiments[one.data]) for one in chosen]
        for job in jobs:
            job.result()


def train(report: Report, training: Training, experiment: Experiment) -> None:
    """Train for some minutes, predict the tested cases and measure them."""
    options, folder = report.options, report.out / experiment.name
    model = training.small if options.small else training.model
    trained, labels = folder / "runs" / model, folder / "labels" / model
    recipe = "modern" if training.dimensions == 2 else "modern3d"
    choices = ["--recipe", recipe, "--model", model, "--weights", "none", "--seed", SEED]
    choices += ["--minutes", options.training_minutes, "--iterations", 1_000_000]
    choices += ["--workers", training.workers, "--device", options.device]
    choices += ["--set", "validations=2", "--set", "calibrate=false"]
    if options.device.startswith("cuda"):
        choices += ["--set", "precision=bf16"]
    store = folder / f"store-{training.dimensions}d"
    done = report.transunet(f"{training.name}-train", "train", store, "--resume", trained, *choices)
    if "failed" in done:
        return
    images = folder / "test" / "imagesTr"
    device = ["--device", options.device]
    done = report.transunet(
        f"{training.name}-predict", "predict", trained / "best", images, "-o", labels, *device
    )
    if "failed" in done:
        return
    evaluation = report.out / experiment.name / "reports" / model
    done = report.transunet(
        f"{training.name}-evaluate", "evaluate", labels, folder / "test", "-o", evaluation
    )
    if "failed" not in done:
        steps = read_log(trained, "train")
        metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
        row = {
            "data": training.data,
            "model": model,
            "steps": len(steps),
            "seconds": steps[-1]["seconds"],
            "mean_foreground": metrics["mean_foreground"],
            "structures": metrics["structures"],
            "recipe": json.loads((trained / "recipe.json").read_text(encoding="utf-8")),
        }
        write_json(report.out / "rows" / f"{training.name}.json", row)


# What is told


def write(report: Report) -> None:
    rows = {
        path.stem: json.loads(path.read_text()) for path in (report.out / "rows").glob("*.json")
    }
    machine = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "small": report.options.small,
    }
    write_json(report.out / "report.json", {"machine": machine, "rows": rows})
    lines = ["# " + ", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    for part in (tests_told, ceilings_told, speed_told, trainings_told, volumes_told):
        lines += [*part(rows, report), ""]
    failed = [f"- {name}: {row['failed']}" for name, row in sorted(rows.items()) if "failed" in row]
    skipped = [f"- {name}: {row['skipped']}" for name, row in rows.items() if "skipped" in row]
    lines += ["## Not measured", "", *failed, *skipped]
    (report.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


Told = Iterator[str]


def tests_told(rows: dict[str, Any], report: Report) -> Told:
    log = report.out / "logs" / "tests.log"
    yield "## Tests"
    yield ""
    yield log.read_text().rstrip().rpartition("\n")[2] if log.is_file() else "not run"


def ceilings_told(rows: dict[str, Any], report: Report) -> Told:
    found = rows.get("ceilings", {})
    if "copy" in found:
        rates = (f"{name} {found[name] / 1e12:.0f} TFLOP/s" for name in ("bf16", "tf32", "fp32"))
        yield f"Products of large matrices: {', '.join(rates)}. Copies: {found['copy'] / 1e12:.2f}"
        yield "TB/s, read and written."


def speed_told(rows: dict[str, Any], report: Report) -> Told:
    yield "| row | batch | a second | ms | TFLOP/s | of the product's rate | labels equal | GiB |"
    yield "|---|---|---|---|---|---|---|---|"
    peaks = rows.get("ceilings", {})
    for name in ROWS:
        row = rows.get(name, {})
        for batch, cell in row.get("batches", {}).items():
            if "failed" in cell:
                yield f"| {name} | {batch} | {cell['failed']} | | | | | |"
                continue
            seconds = cell["seconds"]
            rate = row["flops"] * int(batch) / seconds
            peak = peaks.get(row["precision"])
            equal = f"{cell['labels_equal']:.3%}" if "labels_equal" in cell else ""
            yield (
                f"| {name} | {batch} | {int(batch) / seconds:,.1f} | {1e3 * seconds:.1f} "
                f"| {rate / 1e12:.1f} | {f'{rate / peak:.0%}' if peak else ''} | {equal} "
                f"| {cell['gib'] or ''} |"
            )


def trainings_told(rows: dict[str, Any], report: Report) -> Told:
    yield (
        f"Trained for {report.options.training_minutes:g} minutes from random weights, all side by "
        "side on the one device, then the test cases:"
    )
    yield ""
    yield "| data | network | samples | batch | steps | Dice [95 %] | HD95 mm [95 %] |"
    yield "|---|---|---|---|---|---|---|"
    for training in TRAININGS:
        row = rows.get(training.name)
        if row:
            size = " x ".join(map(str, row["recipe"]["image_size"]))
            cells = [row["data"], row["model"], size, row["recipe"]["batch_size"], row["steps"]]
            yield f"| {' | '.join(map(str, [*cells, *interval_cells(row['mean_foreground'])]))} |"


def volumes_told(rows: dict[str, Any], report: Report) -> Told:
    yield "Beside the seconds of predicting those of two of its parts, each by itself."
    yield ""
    yield "| row | voxels | read (s) | predict | network | normalise | write | in all | GiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in ROWS:
        row = rows.get(name, {})
        if "voxels" in row:
            parts = row["seconds"]
            parts["in all"] = sum(parts[part] for part in ("read", "predict", "write"))
            told = ("read", "predict", "network", "normalise", "write", "in all")
            times = [parts.get(part, float("nan")) for part in told]  # an older row tells fewer
            cells = " | ".join(f"{value:.1f}" for value in times)
            voxels = " x ".join(map(str, row["voxels"]))
            yield f"| {name} | {voxels} | {cells} | {row['gib'] or ''} |"


if __name__ == "__main__":
    main()
