"""What each engine takes for one image and for a batch, and how near it is to the machine's best.

    python benchmarks/engines.py                    # R50-ViT-B_16 at 224 pixels, ten minutes
    python benchmarks/engines.py --engines eager openvino --batches 1 --repeats 20
    python benchmarks/engines.py --bundle runs/hippocampus/best --images stores/hippocampus
    python benchmarks/engines.py --device cuda      # bf16, compiled, CUDA graphs, training

Engines take turns (A B C A B C ...), so that whatever else the machine does hits all alike. Ratios
are against plain eager fp32 in the same run, image by image: at batch 1 on a CPU, at the same batch
on a GPU. The ceiling is a large matrix product in fp32 (on a GPU in bf16); the share of it is what
an image's floating-point operations (counted by torch) would take at that rate. Label agreement is
with plain eager. With a bundle and images the labels are those of real slices, and with a prepared
store also the Dice of its validation cases; without, weights are random and images noise, on which
int8 is calibrated and tells little of accuracy.
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
from rich.console import Console
from rich.table import Table

from transunet.bundle import from_pretrained, save_pretrained
from transunet.bundle_config import BundleConfig
from transunet.create import create_model
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.resize import nearest, resize
from transunet.data.store import MANIFEST, Store
from transunet.inference.export import export
from transunet.inference.exports.calibration import calibration_images
from transunet.inference.exports.writers import write_onnx_int8, write_openvino_int8
from transunet.inference.logits import as_array
from transunet.inference.networks.onnx_network import OnnxNetwork
from transunet.inference.networks.openvino_network import OpenVinoNetwork
from transunet.inference.networks.torch_network import TorchNetwork, fused_network

Run = Callable[[np.ndarray], Any]
CPU = (
    "eager",
    "fused",
    "compiled",
    "onnxruntime",
    "openvino",
    "openvino bf16",
    "onnxruntime int8",
    "openvino int8",
)
CUDA = (
    "eager",
    "fused",
    "fused bf16",
    "compiled",
    "compiled bf16",
    "graphs bf16",
)
TRAINING = ("train fp32", "train bf16", "train bf16 compiled")


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
    cuda = chosen.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, source, config = subject(chosen, folder)
        real, labels = images_of(chosen, config)
        calibration = calibrating(chosen, config)
        networks = open_engines(chosen, model, source, calibration, folder)
        agreement = agreements(networks, real, labels, model.config.num_classes)
        timed = [
            Timed(engine, batch, task(run, batch, model, cuda))
            for batch in chosen.batches
            for engine, run in networks.items()
        ]
        if cuda:
            timed += [
                Timed(engine, batch, training_step(engine, model, batch, chosen.device))
                for batch in chosen.batches
                for engine in chosen.training
            ]
        ceiling = Timed("matrix product", 1, matrix_product(chosen.device))
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
    parser.add_argument("--engines", nargs="+", help=f"of {', '.join(dict.fromkeys(CPU + CUDA))}")
    parser.add_argument("--training", nargs="*", default=list(TRAINING), help="steps, on a GPU")
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of every engine; all cores if not given")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    cuda = chosen.device.startswith("cuda")
    chosen.engines = chosen.engines or list(CUDA if cuda else CPU)
    chosen.batches = chosen.batches or ([1, 8, 64] if cuda else [1, 8])
    if chosen.engines[0] != "eager":
        chosen.engines = ["eager", *(name for name in chosen.engines if name != "eager")]
    if chosen.threads:
        os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # what the other engines look at
        torch.set_num_threads(chosen.threads)
    return chosen


def subject(chosen: argparse.Namespace, folder: Path) -> tuple[Any, Path, BundleConfig]:
    """The model, and a bundle of it."""
    if chosen.bundle:
        model, config = from_pretrained(chosen.bundle)
        return model, chosen.bundle, config
    torch.manual_seed(0)
    model = create_model(
        chosen.model, num_classes=chosen.classes, image_size=chosen.image_size
    ).eval()
    spread(model)
    config = BundleConfig(
        architecture=model.config,
        preprocessing=Preprocessing(channels=(Channel(name="CT"),)),
        labels={index: f"class {index}" for index in range(chosen.classes)},
    )
    return model, save_pretrained(model, config, folder / "bundle"), config


@torch.no_grad()
def spread(model: Any) -> None:
    """Make random weights behave like trained ones: no norm is the identity, every class wins."""
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    head = model.segmentation_head[0]
    logits = model(torch.randn(2, model.config.in_channels, *model.config.image_size))
    scale = 3 / logits.std(dim=(0, 2, 3))
    head.bias.copy_((head.bias - logits.mean(dim=(0, 2, 3))) * scale)
    head.weight *= scale[:, None, None, None]


def images_of(chosen: Any, config: BundleConfig) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Real slices at the network's size, and their labels where a store has them."""
    if not chosen.images:
        return None, None
    if not (chosen.images / MANIFEST).is_file():
        return calibration_images([chosen.images], config, chosen.slices), None
    store, size = Store.open(chosen.images), config.architecture.image_size
    held_out = store.splits[0].validation or store.splits[0].test
    known = [
        (name, index)
        for name in held_out
        for index in sorted(set().union(*store.case(name).slices_with.values()))
    ]
    step = max(1, len(known) // chosen.slices)
    taken = known[::step][: chosen.slices]
    images = [resize(np.array(store.image(n)[i]), size, order=3, edge="kept") for n, i in taken]
    labels = [nearest(np.array(store.label(n)[i]), size, edge="kept") for n, i in taken]
    return np.stack(images), np.stack(labels)


def calibrating(chosen: Any, config: BundleConfig) -> np.ndarray | None:
    if not any("int8" in name for name in chosen.engines):
        return None
    source = chosen.calibrate or chosen.images
    if source:
        return calibration_images([source], config)
    shape = (8, config.architecture.in_channels, *config.architecture.image_size)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def open_engines(
    chosen: Any, model: Any, source: Path, calibration: np.ndarray | None, folder: Path
) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for name in chosen.engines:
        start = time.perf_counter()
        found[name] = open_engine(name, chosen, model, source, calibration, folder)
        print(f"{name}: ready after {time.perf_counter() - start:.0f} s", flush=True)
    return found


def open_engine(
    name: str, chosen: Any, model: Any, source: Path, calibration: np.ndarray | None, folder: Path
) -> Run:
    kind, *rest = name.split()
    precision = rest[0] if rest else "fp32"
    if kind == "eager":
        return TorchNetwork(model, chosen.device)
    if kind in ("fused", "compiled"):
        return fused_network(model, chosen.device, precision, kind == "compiled")
    if kind == "graphs":
        return with_graphs(model, chosen.device, precision)
    suffix = {"onnxruntime": ".onnx", "openvino": ".xml"}[kind]
    int8 = precision == "int8"
    path = folder / f"{kind}{'-int8' if int8 else ''}{suffix}"
    if not path.exists():
        write(kind, int8, model, source, path, calibration)
    size = model.config.image_size
    return (
        OnnxNetwork(path, size)
        if kind == "onnxruntime"
        else OpenVinoNetwork(path, size, "", precision)
    )


def write(
    kind: str, int8: bool, model: Any, source: Path, path: Path, calibration: np.ndarray | None
) -> None:
    """As `transunet export` does; int8 of random weights, which it would refuse, too."""
    if not int8:
        export(source, path)
        return
    config = from_pretrained(source)[1]
    writers = {"onnxruntime": write_onnx_int8, "openvino": write_openvino_int8}
    writers[kind](model, config, path, calibration)


def with_graphs(model: Any, device: str, precision: str) -> Run:
    """Compiled and replayed as CUDA graphs: no kernel is launched from Python."""
    network = fused_network(model, device, precision)
    compiled = torch.compile(network.module, mode="reduce-overhead", dynamic=False)

    @torch.inference_mode()
    def run(images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(images).to(device, torch.bfloat16 if precision == "bf16" else None)
        return compiled(x.to(memory_format=torch.channels_last)).float()

    return run


def task(run: Run, batch: int, model: Any, cuda: bool) -> Callable[[], Any]:
    shape = (batch, model.config.in_channels, *model.config.image_size)
    images = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)

    def once() -> None:
        run(images)
        if cuda:
            torch.cuda.synchronize()

    return once


def training_step(name: str, model: Any, batch: int, device: str) -> Callable[[], Any]:
    """One step of SGD on random images: forward, loss, backward, update."""
    from copy import deepcopy

    trained = deepcopy(model).to(device).train()
    optimiser = torch.optim.SGD(trained.parameters(), lr=1e-6, momentum=0.9)
    forward = torch.compile(trained) if "compiled" in name else trained
    size = model.config.image_size
    images = torch.randn(batch, model.config.in_channels, *size, device=device)
    labels = torch.zeros(batch, *size, dtype=torch.long, device=device)

    def once() -> None:
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled="bf16" in name):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimiser.step()
        torch.cuda.synchronize()

    return once


def matrix_product(device: str) -> Callable[[], Any]:
    cuda = device.startswith("cuda")
    side, dtype = (8192, torch.bfloat16) if cuda else (2048, torch.float32)
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))

    def once() -> None:
        torch.mm(a, b)
        if cuda:
            torch.cuda.synchronize()

    once.operations = 2 * side**3  # type: ignore[attr-defined]
    return once


def take_turns(timed: Sequence[Timed], repeats: int) -> None:
    for one in timed:  # compiling, allocating
        one.run()
        one.run()
    for _ in range(repeats):
        for one in timed:
            start = time.perf_counter()
            one.run()
            one.seconds.append(time.perf_counter() - start)


def agreements(
    networks: dict[str, Run], real: np.ndarray | None, labels: np.ndarray | None, classes: int
) -> dict[str, tuple[float, float | None]]:
    """Engine -> share of plain eager's labels, and Dice (mean over classes) where labels are."""
    if real is None:
        model = networks["eager"].model  # type: ignore[attr-defined]
        shape = (2, model.config.in_channels, *model.config.image_size)
        real = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    found = {name: labels_by(run, real) for name, run in networks.items()}
    return {
        name: (
            float((mine == found["eager"]).mean()),
            None if labels is None else dice(mine, labels, classes),
        )
        for name, mine in found.items()
    }


def labels_by(run: Run, images: np.ndarray) -> np.ndarray:
    parts = [images[i : i + 8] for i in range(0, len(images), 8)]
    return np.concatenate([as_array(run(part)).argmax(1) for part in parts])


def dice(found: np.ndarray, expected: np.ndarray, classes: int) -> float:
    """Over all slices at the network's size; for a comparison of engines, not of methods."""
    pairs = [(found == k, expected == k) for k in range(1, classes)]
    both = [2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in pairs]
    return float(np.mean(both))


def operations(model: Any) -> int:
    """Floating-point operations of one image, a multiplication and an addition counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    place = next(model.parameters()).device
    image = torch.zeros(1, model.config.in_channels, *model.config.image_size, device=place)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    return int(counter.get_total_flops())


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
    cuda = chosen.device.startswith("cuda")
    table = Table(title=title(chosen, model), caption=caption(flops, peak, middle, real))
    for name in ("engine", "batch", "ms min", "median", "images/s", "x eager", "of ceiling"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    table.add_column("labels equal", justify="right")
    table.add_column("Dice", justify="right")
    for one in timed:
        steps = 3 if one.engine.startswith("train") else 1  # backward: twice the forward
        base = baseline(timed, one, cuda)
        equal, overlap = agreement.get(one.engine, (None, None))
        table.add_row(
            one.engine,
            str(one.batch),
            f"{min(one.seconds) * 1e3:.1f}",
            f"{statistics.median(one.seconds) * 1e3:.1f}",
            f"{1 / one.per_image:.1f}",
            f"{base.per_image / one.per_image:.2f}",
            f"{steps * flops / one.per_image / peak:.0%}",
            "" if equal is None else f"{equal:.3%}",
            "" if overlap is None else f"{overlap:.4f}",
        )
    Console(width=120).print(table)


def baseline(timed: Sequence[Timed], one: Timed, cuda: bool) -> Timed:
    """Plain fp32 eager: its first batch on a CPU, the same batch on a GPU."""
    name = "train fp32" if one.engine.startswith("train") else "eager"
    found = [other for other in timed if other.engine == name]
    same = [other for other in found if other.batch == one.batch]
    return (same if cuda and same else found or [one])[0]


def title(chosen: Any, model: Any) -> str:
    size = " x ".join(map(str, model.config.image_size))
    where = (
        torch.cuda.get_device_name()
        if chosen.device.startswith("cuda")
        else f"{os.cpu_count()} cores"
    )
    name = chosen.bundle or model.config.name
    return (
        f"{name} at {size}, {date.today()}, {where}, {platform.machine()}, torch "
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
