"""Augmenting a batch on the training device: the package's plain torch, and kornia.

    pip install kornia --no-deps kornia_rs     # optional; without it only the package is measured
    python benchmarks/augmentation.py          # on the CPU, about a minute
    python benchmarks/augmentation.py --device cuda

A batch of 24 slices of 224 x 224 pixels with labels is changed as the recipe `modern` says. Kornia
gets the same changes with the same probabilities, but for low resolution, which it does not have.
The table shows milliseconds per batch, of one core or of the GPU: all changes together, and each
applied to every slice.
"""

import argparse
import importlib.util
import platform
import time
from collections.abc import Callable
from datetime import date

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from transunet.training.augmentation import BatchAugmentation
from transunet.training.recipe import Augmentation, load_recipe

BATCH, SIZE, REPEATS = 24, 224, 5
NAMES = ("affine", "elastic", "noise", "blur", "brightness", "contrast", "gamma", "low_resolution")

Change = Callable[[Tensor, Tensor], object]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu")
    device = torch.device(options.parse_args().device)
    torch.set_num_threads(1)
    images = torch.rand(BATCH, 1, SIZE, SIZE, device=device)
    labels = torch.randint(0, 9, (BATCH, SIZE, SIZE), device=device)
    both = [("plain torch", ours())]
    if importlib.util.find_spec("kornia"):
        both.append(("kornia", theirs()))
    report(
        device,
        [name for name, _ in both],
        {
            row: [
                milliseconds(changes[row], images, labels) for _, changes in both if row in changes
            ]
            for row in both[0][1]
        },
    )


def ours() -> dict[str, Change]:
    """The package's changes: all as in `modern`, then one at a time on every slice."""
    recipes = {"all, as in modern": load_recipe("modern")} | {
        name: load_recipe("paper", {f"augmentation.p_{name}": 1.0}) for name in NAMES
    }
    return {name: _ours(recipe.augmentation) for name, recipe in recipes.items()}


def _ours(settings: Augmentation) -> Change:
    augment, draws = BatchAugmentation(settings, 1), [(i, i) for i in range(BATCH)]
    return lambda images, labels: augment(images, labels, draws)


def theirs() -> dict[str, Change]:
    """The same in kornia's words."""
    import kornia.augmentation as K

    def changes(p: dict[str, float]) -> dict[str, torch.nn.Module]:
        sides = (33, 33)  # smooths over about the distance between our points
        return {
            "affine": K.RandomAffine(30, (0.1, 0.1), (0.7, 1.4), p=p["affine"]),
            "elastic": K.RandomElasticTransform(
                sides, (8.0, 8.0), (0.04, 0.04), align_corners=False, p=p["elastic"]
            ),
            "noise": K.RandomGaussianNoise(0.0, 0.05, p=p["noise"]),
            "blur": K.RandomGaussianBlur((7, 7), (0.5, 1.0), p=p["blur"]),
            "brightness": K.RandomBrightness((0.75, 1.25), p=p["brightness"]),
            "contrast": K.RandomContrast((0.75, 1.25), p=p["contrast"]),
            "gamma": K.RandomGamma((0.7, 1.5), p=p["gamma"]),
        }

    def applied(modules: list[torch.nn.Module]) -> Change:
        sequence = K.AugmentationSequential(*modules, data_keys=["input", "mask"])
        return lambda images, labels: sequence(images, labels[:, None].float())

    settings = load_recipe("modern").augmentation
    usual = {name: getattr(settings, f"p_{name}") for name in NAMES}
    always = changes(dict.fromkeys(NAMES, 1.0))
    return {"all, as in modern": applied(list(changes(usual).values()))} | {
        name: applied([module]) for name, module in always.items()
    }


def milliseconds(change: Change, images: Tensor, labels: Tensor) -> float:
    """The shortest of some repetitions, after one that warms up."""
    on_cpu = images.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter  # deaf to what else is running
    times = []
    for _ in range(1 + REPEATS):
        start = clock()
        change(images, labels)
        if not on_cpu:
            torch.cuda.synchronize()
        times.append(clock() - start)
    return 1000 * min(times[1:])


def report(device: torch.device, columns: list[str], rows: dict[str, list[float]]) -> None:
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    title = f"ms per batch of {BATCH} x {SIZE} x {SIZE}, {where}, torch {torch.__version__}"
    table = Table(title=f"{title}, {date.today()}")
    table.add_column("change")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        cells = [f"{value:.1f}" for value in values] + ["-"] * (len(columns) - len(values))
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
