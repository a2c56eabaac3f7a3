"""What each engine takes for one image and for a batch, and how near it is to the machine's best.

    python benchmarks/engines.py                    # R50-ViT-B_16 at 224 pixels, 3 minutes
    python benchmarks/engines.py --full             # all, eight at once too, twice as often
    python benchmarks/engines.py --engines openvino --batches 1 --repeats 20
    python benchmarks/engines.py --bundle runs/hippocampus/best --images stores/hippocampus

Each row is told when it is measured. An engine takes turns with plain eager fp32, image by image,
and with a large matrix product (A B C A B C ...), so that whatever else the machine does hits all
three alike; in its turn each runs twice, as from slice to slice of a volume, and the second run is
timed. Ratios are of the shortest times of the same turns. The share of the ceiling is what an
image's floating-point operations (counted by torch) would take at the product's best rate in them.
"Products alone" are the network's convolutions and linear layers one after another in PyTorch, with
nothing between them. Label agreement is with plain eager. With a bundle and images the labels are
those of real slices, and with a prepared store also the Dice of its validation cases; without,
weights are random and images noise, on which int8 is calibrated and tells little of accuracy. For a
GPU there is `gpu_report.py`.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from limits import matrix_product, operations, products_alone
from subjects import Run, calibrating, compared_images, dice, fused_network, labels_by, subject

from transunet.backends.engines import ENGINES
from transunet.backends.pytorch import TorchNetwork
from transunet.bundle.integer_ranges import IntegerRanges
from transunet.bundle.io import from_pretrained
from transunet.export.export import export
from transunet.models.network_fingerprint import fingerprint_of
from transunet.models.quantised import measured_ranges

NAMES = (
    "eager",
    "fused",
    "onnxruntime",
    "openvino",
    "openvino bf16",
    "onnxruntime int8",
    "openvino int8",
    "compiled",
)
QUICK = tuple(name for name in NAMES if name not in ("onnxruntime int8", "compiled"))
"""Without those that take a minute before they compute."""
PRODUCTS = "products alone"
HEADINGS = (
    *("engine", "batch", "ms an image", "median", "times eager", "of the ceiling"),
    *("labels equal", "Dice", "ready after"),
)


def main() -> None:
    chosen = options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, source, config = subject(chosen, folder)
        images, labels = compared_images(chosen, config)
        calibration = calibrating(chosen, config)
        eager, product = TorchNetwork(model, "cpu"), matrix_product()
        expected, flops = labels_by(eager, images, 1), operations(model)
        print(f"{title(chosen, model)}, {flops / 1e9:.1f} GFLOP an image\n", flush=True)
        tell(HEADINGS)
        tell("-" * len(heading) for heading in HEADINGS)
        for name in [*chosen.engines, PRODUCTS]:
            for batch in chosen.batches:
                told = ["", "", ""]
                if name == PRODUCTS:
                    run = products_alone(model, batch)
                else:  # anew: what is compiled would fill a batch up to the largest so far
                    start = time.perf_counter()
                    network = open_engine(name, model, source, calibration, folder)
                    found = labels_by(network, images, batch)
                    told[0] = f"{(found == expected).mean():.3%}"
                    if labels is not None:
                        told[1] = f"{dice(found, labels, model.config.num_classes):.4f}"
                    told[2] = f"{time.perf_counter() - start:.0f} s"
                    run = partial(network, noise(model, batch))
                turns = (run, partial(eager, noise(model, 1)), product)
                mine, base, best = take_turns(turns, chosen.repeats)
                image, rate = min(mine) / batch, product.operations / min(best)  # type: ignore[attr-defined]
                figures = (
                    *(f"{1e3 * image:.1f}", f"{1e3 * median(mine) / batch:.1f}"),
                    *(f"{min(base) / image:.2f}", f"{flops / image / rate:.0%}"),
                )
                tell((name, batch, *figures, *told))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="R50-ViT-B_16", help="a variant, with random weights")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--bundle", type=Path, help="a trained bundle instead")
    parser.add_argument("--images", type=Path, help="its prepared store, or a folder of images")
    parser.add_argument("--calibrate", type=Path, help="images for int8, if not --images' training")
    parser.add_argument("--slices", type=int, default=64, help="real slices for the agreement")
    parser.add_argument("--engines", nargs="+", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--full", action="store_true", help="all, 1 and 8 at once, ten times")
    parser.add_argument("--batches", nargs="+", type=int, help="1 if not given")
    parser.add_argument("--repeats", type=int, help="5 if not given")
    parser.add_argument("--threads", type=int, help="of every engine; all cores if not given")
    chosen = parser.parse_args()
    chosen.engines = chosen.engines or (NAMES if chosen.full else QUICK)
    chosen.batches = chosen.batches or ([1, 8] if chosen.full else [1])
    chosen.repeats = chosen.repeats or (10 if chosen.full else 5)
    if unknown := set(chosen.engines) - set(NAMES):
        parser.error(f"no such engine: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if chosen.threads:
        os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # what the other engines look at
        torch.set_num_threads(chosen.threads)
    return chosen


def open_engine(
    name: str, model: Any, source: Path, calibration: np.ndarray | None, folder: Path
) -> Run:
    kind, precision, *_ = *name.split(), "fp32"
    if kind == "eager":
        return TorchNetwork(model, "cpu")
    if kind in ("fused", "compiled"):
        return fused_network(model, precision=precision, compiled=kind == "compiled")
    engine, int8 = ENGINES[kind], precision == "int8"
    path = folder / f"{kind}{'-int8' if int8 else ''}{engine.suffix}"
    if not path.exists():
        write(kind, int8, model, source, path, calibration)
    return engine.open(path, model.config.image_size, "", "cpu", precision)


def write(
    kind: str, int8: bool, model: Any, source: Path, path: Path, calibration: np.ndarray | None
) -> None:
    """As `transunet export` does; int8 of random weights, which it would refuse, too."""
    if not int8:
        export(source, path)
        return
    config = from_pretrained(source)[1]
    ends = measured_ranges(model, (torch.from_numpy(image[None]) for image in calibration))
    ranges = IntegerRanges.of(fingerprint_of(model), len(calibration), ends)
    ENGINES[kind].write(model, config.replace(ranges=ranges), path, "int8")


def noise(model: Any, batch: int) -> np.ndarray:
    shape = (batch, model.config.in_channels, *model.config.image_size)
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def take_turns(runs: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Seconds of each run's second call in each of its turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    for run in runs:  # compiling, allocating
        run()
        run()
    for _ in range(repeats):
        for run, taken in zip(runs, seconds, strict=True):
            run()  # the one before left its threads awake and the caches full of its weights
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return seconds


def title(chosen: Any, model: Any) -> str:
    size = " x ".join(map(str, model.config.image_size))
    on = "real slices" if chosen.images else "noise, with random weights"
    return (
        f"{chosen.bundle or model.config.name} at {size}, {date.today()}, {os.cpu_count()} cores, "
        f"{platform.machine()}, torch {torch.__version__}, {chosen.repeats} repeats, labels on {on}"
    )


def tell(cells: Iterable[object]) -> None:
    widths = (
        max(16, len(heading)) if heading == "engine" else len(heading) for heading in HEADINGS
    )
    columns = (f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True))
    print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
