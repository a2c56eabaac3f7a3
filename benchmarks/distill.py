"""What small students keep of their teachers (four 3D networks, say), with them and without.

    python benchmarks/six_networks.py ../shared/data -o six_networks     # the teachers, 4 hours
    python benchmarks/distill.py six_networks/hippocampus -o distill     # 1 hour, 1 core
    python benchmarks/distill.py six_networks/hippocampus -o distill30 --labelled 30
    python benchmarks/distill.py six_networks/acdc -o distill_acdc --students R26-ViT-Ti_16 \
        --teachers R26-ViT-S_16
    python benchmarks/distill.py six_networks/hippocampus -o distill --only table

Each student is trained on the same cases in as many steps from the labels alone, and with the
teacher's probabilities beside them; where only some cases keep their labels, with the images of the
others, too. A teacher is any run in the first folder; R26-ViT-S_16 above was trained there by
`transunet train`, as docs/how-to/distill.md tells. Then the test cases, which chose nothing, are
segmented by the teacher, by every student and by its twin without a teacher, as fp32 and int8 with
one engine on one core, each in a process of its own. What is there already is not done again, so
that an interrupted run goes on.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from neighbours import EXPERIMENTS
from real_data import SEED, run
from rich.console import Console
from rich.table import Table

TEACHERS = ("3D, decoder", "3D, encoder", "3D, both", "3D U-Net, the trunk")
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "UNet3D-S, 4 channels": (
        "store-3d",
        {"model": "UNet3D-S", "architecture.width": 4, "batch_size": 2},
    ),
    "UNet3D-S, 8 channels": (
        "store-3d",
        {"model": "UNet3D-S", "architecture.width": 8, "batch_size": 2},
    ),
    "UNet3D-S": ("store-3d", {"model": "UNet3D-S", "batch_size": 2}),
    "R26-ViT-Ti_16": ("store-2d", {"model": "R26-ViT-Ti_16"}),
}
"""Name -> the store that it learns from, and what differs from its recipe."""
HEADINGS = (
    *(
        "student",
        "taught by",
        "Dice [95 %]",
        "teacher's Dice kept [95 %]",
        "taught student minus it, p",
    ),
    *("core s", "times the teacher's", "MiB", "MB"),
)


def main() -> None:
    options = _options()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    if options.only != "table":
        for name in options.students:
            measure(options, name)
    report(options)


def measure(options: argparse.Namespace, name: str) -> None:
    """Train a student alone and by the teacher, and measure what is not measured yet."""
    store, settings = STUDENTS[name]
    recipe = "modern3d" if store == "store-3d" else "modern"
    if store == "store-2d":
        (same,) = (known for known in EXPERIMENTS if known.name == options.source.name)
        settings = settings | {"image_size": same.image_size, "batch_size": same.batch_size}
    told = settings | {"seed": SEED, "precision": "fp32", "iterations": options.steps}
    told |= {"validations": 4, "calibrate": "false"}
    given = ["--recipe", recipe]
    given += [word for item in told.items() for word in ("--set", "{}={}".format(*item))]
    place = ["--device", "cpu", "--workers", 0]
    if options.labelled:
        given += ["--splits", divided(options, options.source / store)]
    alone = options.out / name / "alone"
    if not _has_ended(alone):
        run("train", options.source / store, *given, *place, "--resume", alone)
    teachers = [options.source / teacher / "best" for teacher in options.teachers]
    for taught, more in _kinds(options):
        trained = options.out / name / taught
        if not _has_ended(trained) and (trained / "run.json").is_file():
            run("train", "--resume", trained, *place)
        elif not _has_ended(trained):
            data = ["--data", options.source / store, "-o", trained, "--no-report"]
            run("distill", *teachers, *data, *more, *given, *place)
        if not (trained / "distillation.json").is_file():
            cases = ["--data", options.source / "test", "--compare", alone / "best"]
            run(
                "distill",
                "--report",
                trained,
                *cases,
                "--engine",
                options.engine,
                "--device",
                "cpu",
            )


def _kinds(options: argparse.Namespace) -> list[tuple[str, list[Any]]]:
    """What teaches beside the labels, and the options for it."""
    kinds: list[tuple[str, list[Any]]] = [("labels and teacher", [])]
    if options.labelled:
        images = ["--images", options.out / "unlabelled"]
        kinds.append(("labels, teacher and unlabelled images", images))
    return kinds


def divided(options: argparse.Namespace, store: Path) -> Path:
    """Leave the labels to some of the training cases, and lay out the images of the others."""
    manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
    part, folder = manifest["splits"][0], options.out / "unlabelled"
    path = options.out / "splits.json"
    folder.mkdir(parents=True, exist_ok=True)
    kept, others = part["train"][: options.labelled], part["train"][options.labelled :]
    path.write_text(json.dumps([{"train": kept, "val": part["validation"]}]), encoding="utf-8")
    for name in others:
        (image,) = manifest["cases"][name]["images"]
        link = folder / f"unlabelled_{Path(image).name}"
        if not link.exists():
            link.symlink_to((Path(manifest["folder"]) / image).resolve())
    return path


def _has_ended(trained: Path) -> bool:
    log = trained / "log.jsonl"
    return log.is_file() and '"end"' in log.read_text(encoding="utf-8").splitlines()[-1]


def report(options: argparse.Namespace) -> None:
    """Print the table of all that has been measured."""
    table = Table(*HEADINGS, title=f"{options.source.name}, {options.steps} steps")
    for name in options.students:
        teacher: dict[str, Any] = {}
        for taught, _ in _kinds(options):
            path = options.out / name / taught / "distillation.json"
            if not path.is_file():
                continue
            networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
            teacher = networks[0]
            for figures in networks:
                by = taught
                if figures["name"] == "teacher" or figures["name"].endswith("alone/best"):
                    if taught != "labels and teacher":
                        continue  # told already
                    by = "" if figures["name"] == "teacher" else "labels"
                who = "teacher" if figures["name"] == "teacher" else name
                who += ", int8" if figures["name"].endswith("int8") else ""
                table.add_row(who, by, *_cells(figures, teacher))
        table.add_section()
    Console(width=180).print(table)


def _cells(figures: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    low, high = figures["dice_95"]
    kept = gain = "-"
    if figures["kept"] is not None:
        kept = "{:.1%} [{:.1%}, {:.1%}]".format(figures["kept"], *figures["kept_95"])
    if figures["gain"] is not None:
        gain = f"{figures['gain']:+.3f}, {figures['p_value']:.2g}"
    times = figures["core_seconds"] / teacher["core_seconds"]
    return [
        f"{figures['dice']:.3f} [{low:.3f}, {high:.3f}]",
        *(kept, gain),
        f"{figures['core_seconds']:.3f}",
        f"{times:.3f}",
        f"{figures['memory_mib']:.0f}",
        f"{figures['megabytes']:.1f}",
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="what six_networks.py made of one data set")
    parser.add_argument("-o", "--out", type=Path, default=Path("distill"))
    parser.add_argument("--teachers", nargs="+", default=TEACHERS, help="runs in that folder")
    parser.add_argument("--labelled", type=int, help="training cases that keep their labels")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=[*STUDENTS])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--only", choices=("table",))
    return parser.parse_args()


if __name__ == "__main__":
    main()
