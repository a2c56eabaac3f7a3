"""What each engine takes for one image and for a batch, and how near it is to the machine's best.

    python benchmarks/engines.py                    # R50-ViT-B_16 at 224 pixels, ten minutes
    python benchmarks/engines.py --engines eager openvino --batches 1 --repeats 20
    python benchmarks/engines.py --bundle runs/hippocampus/best --images stores/hippocampus

Engines take turns (A B C A B C ...), so that whatever else the machine does hits all alike; in its
turn each runs twice, as from slice to slice of a volume, and the second run is timed. Ratios
are against plain eager fp32 in the same run, image by image at batch 1. The ceiling is a large
matrix product in fp32; the share of it is what an image's floating-point operations (counted by
torch) would take at that rate. Label agreement is
with plain eager. With a bundle and images the labels are those of real slices, and with a prepared
store also the Dice of its validation cases; without, weights are random and images noise, on which
int8 is calibrated and tells little of accuracy. For a GPU there is `gpu_report.py`.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limits import matrix_product, operations, products_alone
from rich.console import Console
from rich.table import Table
from subjects import Run, agreements, calibrating, fused_network, images_of, subject

from transunet.backends.engines import ENGINES
from transunet.backends.pytorch import TorchNetwork
from transunet.bundle.io import from_pretrained
from transunet.export.export import export
from transunet.export.quantise import quantise

NAMES = (
    "eager",
    "fused",
    "compiled",
    "onnxruntime",
    "openvino",
    "openvino bf16",
    "onnxruntime int8",
    "openvino int8",
)


@dataclass
class Timed:
    """What one engine took for one size of batch."""

    engine: str
    batch: int
    run: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)

    @property
    def per_image(self) -> float:
        """Seconds at best."""
        return min(self.seconds) / self.batch


def main() -> None:
    chosen = options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, source, config = subject(chosen, folder)
        real, labels = images_of(chosen, config)
        calibration = calibrating(chosen, config)
        networks = open_engines(chosen, model, source, calibration, folder)
        agreement = agreements(networks, real, labels, model.config.num_classes)
        timed = [
            Timed(engine, batch, task(run, batch, model))
            for batch in chosen.batches
            for engine, run in fresh(networks, model).items()
        ]
        timed += [
            Timed("products alone", batch, products_alone(model, batch)) for batch in chosen.batches
        ]
        ceiling = Timed("matrix product", 1, matrix_product())
        take_turns([ceiling, *timed], chosen.repeats)
    report(chosen, model, ceiling, timed, agreement, real is not None)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="R50-ViT-B_16", help="a variant, with random weights")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--bundle", type=Path, help="a trained bundle instead")
    parser.add_argument("--images", type=Path, help="its prepared store, or a folder of images")
    parser.add_argument("--calibrate", type=Path, help="images for int8, if not --images' training")
    parser.add_argument("--slices", type=int, default=64, help="real slices for the agreement")
    parser.add_argument("--engines", nargs="+", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of every engine; all cores if not given")
    chosen = parser.parse_args()
    chosen.engines = chosen.engines or list(NAMES)
    if chosen.engines[0] != "eager":
        chosen.engines = ["eager", *(name for name in chosen.engines if name != "eager")]
    if chosen.threads:
        os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # what the other engines look at
        torch.set_num_threads(chosen.threads)
    return chosen


def open_engines(
    chosen: Any, model: Any, source: Path, calibration: np.ndarray | None, folder: Path
) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for name in chosen.engines:
        start = time.perf_counter()
        found[name] = open_engine(name, chosen, model, source, calibration, folder)
        print(f"{name}: ready after {time.perf_counter() - start:.0f} s", flush=True)
    return found


def fresh(networks: dict[str, Run], model: Any) -> dict[str, Run]:
    """For another size of batch: what is compiled would fill it up to the largest so far."""
    return {
        name: fused_network(model, precision=precision_of(name), compiled=True)
        if name.startswith("compiled")
        else run
        for name, run in networks.items()
    }


def open_engine(
    name: str, chosen: Any, model: Any, source: Path, calibration: np.ndarray | None, folder: Path
) -> Run:
    kind, precision = name.split()[0], precision_of(name)
    if kind == "eager":
        return TorchNetwork(model, "cpu")
    if kind in ("fused", "compiled"):
        return fused_network(model, precision=precision, compiled=kind == "compiled")
    engine, int8 = ENGINES[kind], precision == "int8"
    path = folder / f"{kind}{'-int8' if int8 else ''}{engine.suffix}"
    if not path.exists():
        write(kind, int8, model, source, path, calibration)
    return engine.open(path, model.config.image_size, "", "cpu", precision)


def precision_of(name: str) -> str:
    return (name.split()[1:] or ["fp32"])[0]


def write(
    kind: str, int8: bool, model: Any, source: Path, path: Path, calibration: np.ndarray | None
) -> None:
    """As `transunet export` does; int8 of random weights, which it would refuse, too."""
    if not int8:
        export(source, path)
        return
    config = from_pretrained(source)[1]
    plain, quantised = path.with_name("plain.onnx"), path.with_name("quantised.onnx")
    ENGINES["onnxruntime"].write(model, config, plain, "fp32", None)
    quantise(plain, quantised, calibration)
    ENGINES[kind].write(model, config, path, "int8", quantised)


def task(run: Run, batch: int, model: Any) -> Callable[[], Any]:
    shape = (batch, model.config.in_channels, *model.config.image_size)
    images = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    return lambda: run(images)


def take_turns(timed: Sequence[Timed], repeats: int) -> None:
    for one in timed:  # compiling, allocating
        one.run()
        one.run()
    for _ in range(repeats):
        for one in timed:
            one.run()  # the one before left its threads awake and the caches full of its weights
            start = time.perf_counter()
            one.run()
            one.seconds.append(time.perf_counter() - start)


def report(
    chosen: Any,
    model: Any,
    ceiling: Timed,
    timed: Sequence[Timed],
    agreement: dict[str, tuple[float, float | None]],
    real: bool,
) -> None:
    flops = operations(model)
    peak = ceiling.run.operations / min(ceiling.seconds)  # type: ignore[attr-defined]
    middle = ceiling.run.operations / statistics.median(ceiling.seconds)  # type: ignore[attr-defined]
    table = Table(title=title(chosen, model), caption=caption(flops, peak, middle, real))
    for name in ("engine", "batch", "ms min", "median", "images/s", "x eager", "of ceiling"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    table.add_column("labels equal", justify="right")
    table.add_column("Dice", justify="right")
    base = next(one for one in timed if one.engine == "eager")  # at its first batch
    for one in timed:
        equal, overlap = agreement.get(one.engine, (None, None))
        table.add_row(
            one.engine,
            str(one.batch),
            f"{min(one.seconds) * 1e3:.1f}",
            f"{statistics.median(one.seconds) * 1e3:.1f}",
            f"{1 / one.per_image:.1f}",
            f"{base.per_image / one.per_image:.2f}",
            f"{flops / one.per_image / peak:.0%}",
            "" if equal is None else f"{equal:.3%}",
            "" if overlap is None else f"{overlap:.4f}",
        )
    Console(width=120).print(table)


def title(chosen: Any, model: Any) -> str:
    size = " x ".join(map(str, model.config.image_size))
    name = chosen.bundle or model.config.name
    return (
        f"{name} at {size}, {date.today()}, {os.cpu_count()} cores, {platform.machine()}, torch "
        f"{torch.__version__}, {chosen.repeats} repeats"
    )


def caption(flops: int, peak: float, middle: float, real: bool) -> str:
    on = "real slices" if real else "noise, with random weights"
    return (
        f"One image: {flops / 1e9:.1f} GFLOP. Matrix product: {peak / 1e9:.0f} GFLOP/s at best, "
        f"{middle / 1e9:.0f} median; at best one image takes {flops / peak * 1e3:.0f} ms. "
        f"Labels on {on}."
    )


if __name__ == "__main__":
    main()
