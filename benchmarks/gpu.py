"""What `gpu_report.py` measures on a GPU, each row in a process of its own.

    python benchmarks/gpu.py "2D predict, fused bf16" -o FOLDER      # writes FOLDER/NAME.json

Rows run beside each other while they build and compile, and one at a time while they are timed.
Times are medians over chunks of calls that the device works through without waiting for Python.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from limits import matrix_product, operations
from subjects import fused_network, spread
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from volume import SPACING_MM, STRUCTURES, WINDOW_HU, Watched, ellipsoids, timed

import transunet
from transunet.data.formats import write_volume
from transunet.data.preprocessing import Channel
from transunet.inference.predictor import Predictor, as_volume
from transunet.inference.slice_inference import VolumeSlices
from transunet.models.families import build, optimised
from transunet.models.transunet3d.config import plan_trunk
from transunet.models.variants import variant
from transunet.training.losses import SegmentationLoss
from transunet.training.losses3d import TransUNet3DLoss
from transunet.training.step import Arithmetic, train_step
from transunet.training.trainer import DeeplySupervised

CLASSES = 9
COMPARED = 8
"""Images whose labels are compared with fp32's."""


@dataclass(frozen=True)
class Bench:
    """Where is measured, and how much."""

    device: str
    small: bool
    """Tiny networks and inputs, nothing compiled: to try the script where no GPU is."""
    folder: Path

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU of NVIDIA's."""
        return self.device.startswith("cuda")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the device while other rows wait."""
        with FileLock(self.folder / "device.lock"):
            yield

    def wait(self) -> None:
        """Return when the device has computed all that it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], at_least: float = 1.5) -> float:
        """Of a call, once what it needs is compiled and allocated."""
        if self.small:
            at_least = 0
        run()
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        calls = max(1, min(20, int(0.2 / (time.perf_counter() - start))))
        chunks: list[float] = []
        begun = time.perf_counter()
        while len(chunks) < 3 or time.perf_counter() - begun < at_least:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            self.wait()
            chunks.append((time.perf_counter() - start) / calls)
        return statistics.median(chunks)

    def memory(self) -> float | None:
        """GiB that the allocator gave at most since it was asked last."""
        if not self.cuda:
            return None
        most = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return round(most, 2)

    def network(self, axes: int) -> Any:
        """R50-ViT-B_16 at 224 pixels, or TransUNet3D with the authors' widths at 128 voxels.

        Its gradients are not wanted, at first: torch counts no operations without them else.
        """
        torch.manual_seed(0)
        if axes == 2:
            name, side = ("testing", 32) if self.small else ("R50-ViT-B_16", 224)
            model = build(variant(name, num_classes=CLASSES, image_size=(side, side))).eval()
            spread(model)
            return model.to(self.device).requires_grad_(False)
        name, side = ("TransUNet3D-S", 32) if self.small else ("TransUNet3D", 128)
        plan: dict[str, Any] = plan_trunk((side,) * 3)._asdict()
        if self.small:
            plan["width"] = 4
        with torch.device(self.device):
            model = build(variant(name, num_classes=CLASSES, **plan))
        return model.eval().requires_grad_(False)

    def images(self, model: Any, batch: int) -> Tensor:
        """Noise, the same whenever it is asked for."""
        drawn = torch.Generator(self.device).manual_seed(1)
        shape = (batch, model.config.in_channels, *model.config.image_size)
        return torch.randn(shape, generator=drawn, device=self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True  # sizes are the same in every call
    bench = Bench(options.device, options.small, options.out)
    found = ROWS[options.row](bench)
    (options.out / f"{options.row}.json").write_text(json.dumps(found))


def tf32(enabled: bool) -> None:
    """Let products and convolutions of fp32 numbers be computed with 10 bits of mantissa."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled


def ceilings(bench: Bench) -> dict[str, Any]:
    """Floating-point operations a second of large products, and bytes a second of copies."""
    side = 64 if bench.small else 8192
    found: dict[str, Any] = {}
    with bench.alone():
        for name, dtype in (("bf16", torch.bfloat16), ("tf32", None), ("fp32", torch.float32)):
            tf32(name == "tf32")
            product = matrix_product(bench.device, dtype or torch.float32, side)
            found[name] = product.operations / bench.seconds(product, 1)  # type: ignore[attr-defined]
        source = torch.empty((1 << (20 if bench.small else 31)) // 4, device=bench.device)
        target = torch.empty_like(source)
        found["copy"] = 2 * source.nbytes / bench.seconds(lambda: target.copy_(source), 1)
    return found


# Prediction


@torch.no_grad()
def prediction(
    bench: Bench, axes: int, form: str, precision: str, batches: tuple[int, ...]
) -> dict[str, Any]:
    """Images a second of a network in one form, the images on the device already."""
    model = bench.network(axes)
    compared = bench.images(model, COMPARED if axes == 2 else 1)
    tf32(False)
    with bench.alone():
        flops = operations(model)
        expected = model(compared).argmax(1)
    tf32(precision == "tf32")
    run, dtype, layout = runner(model, form, precision, axes, bench.small)
    found: dict[str, Any] = {"flops": flops, "precision": precision, "batches": {}}
    bench.memory()
    for batch in (1, 2) if bench.small else batches:
        images = bench.images(model, batch)
        images[: len(compared)] = compared[:batch]
        images = images.to(dtype, memory_format=layout)
        if form.startswith("compiled"):
            run(images)  # beside other rows
        with bench.alone():
            call = graphed(run, images) if form == "fused graph" else partial(run, images)
            labels = call()[: len(compared)].argmax(1)
            equal = (labels == expected[: len(labels)]).float().mean().item()
            seconds = bench.seconds(call)
        found["batches"][batch] = {
            "seconds": seconds, "labels_equal": equal, "gib": bench.memory(),
        }  # fmt: skip
    return found


def runner(
    model: Any, form: str, precision: str, axes: int, small: bool
) -> tuple[Callable[[Tensor], Tensor], torch.dtype, torch.memory_format]:
    """The network in one form, and what it takes."""
    plain = torch.contiguous_format
    if form == "eager":
        if precision != "bf16":
            return model, torch.float32, plain

        def autocast(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, torch.bfloat16):
                return model(images)

        return autocast, torch.float32, plain
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    last = torch.channels_last if axes == 2 else torch.channels_last_3d
    layout = last if "channels-last" in form or axes == 2 else plain
    module = optimised(model).to(dtype).to(memory_format=layout)
    if form == "compiled fp8":
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, quantize_

        quantize_(module, Float8DynamicActivationFloat8WeightConfig())
    modes = {"compiled graphs": "reduce-overhead", "compiled autotuned": "max-autotune"}
    if form.startswith("compiled") and not small:
        module = torch.compile(module, dynamic=False, mode=modes.get(form))
    return module, dtype, layout


def graphed(module: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    """The kernels of one call, launched by the device itself."""
    if not images.is_cuda:
        return partial(module, images)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = module(images)

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def from_numpy(bench: Bench, precision: str, batches: tuple[int, ...]) -> dict[str, Any]:
    """What `predict --precision` has: images come from main memory and logits stay."""
    tf32(True)
    model = bench.network(2)
    found: dict[str, Any] = {"flops": operations(model), "precision": precision, "batches": {}}
    network = fused_network(model, bench.device, precision)
    for batch in (1, 2) if bench.small else batches:
        images = bench.images(model, batch).cpu().numpy()
        with bench.alone():
            seconds = bench.seconds(lambda images=images: network(images))
        found["batches"][batch] = {"seconds": seconds, "gib": bench.memory()}
    return found


def tensorrt(bench: Bench) -> dict[str, Any]:
    """Prediction through ONNX Runtime's TensorRT."""
    import onnxruntime

    provider = "TensorrtExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return {"skipped": "ONNX Runtime here has no TensorRT"}
    from transunet.models.families import exportable

    model, batch = bench.network(2), 64
    path, images = bench.folder / "tensorrt.onnx", bench.images(model, batch)
    torch.onnx.export(exportable(model), (images,), path, dynamo=True)
    options = {"trt_fp16_enable": True}
    session = onnxruntime.InferenceSession(path, providers=[(provider, options)])
    (name,) = (one.name for one in session.get_inputs())
    with bench.alone():
        seconds = bench.seconds(lambda: session.run(None, {name: images.cpu().numpy()}))
    row = {"seconds": seconds, "gib": None}
    return {"flops": operations(model), "precision": "bf16", "batches": {batch: row}}


# Training


def training(
    bench: Bench,
    axes: int,
    precision: str,
    batches: tuple[int, ...],
    last: bool = False,
    compiled: bool = False,
    fused: bool = False,
    tried: bool = True,
) -> dict[str, Any]:
    """Images a second of `train_step`, AdamW, on images that lie on the device.

    Args:
        bench: where.
        axes: of the network.
        precision: "fp32", "tf32" or "bf16" (autocast; what stays fp32 as tf32).
        batches: each is measured.
        last: channels last in memory.
        compiled: by torch.compile.
        fused: the optimiser's update as one kernel.
        tried: cuDNN tries its algorithms and takes the fastest; else it guesses which that is.
    """
    torch.backends.cudnn.benchmark = tried
    tf32(precision != "fp32")
    model = bench.network(axes).train().requires_grad_()
    if last:
        model.to(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    network = model if axes == 2 else DeeplySupervised(model, 0)
    loss = SegmentationLoss() if axes == 2 else TransUNet3DLoss(model.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=fused or None)
    arithmetic = Arithmetic("bf16" if precision == "bf16" else "fp32", clip_norm=1.0)

    def step(images: Tensor) -> float:
        labels = images[:, 0].mul(2).long().clamp(0, CLASSES - 1)
        return train_step(network, loss, optimizer, images, labels, arithmetic)

    counted = 2 if axes == 2 else 1
    with bench.alone(), FlopCounterMode(display=False) as counter:
        step(bench.images(model, counted))
    flops = counter.get_total_flops() / counted
    optimizer.zero_grad()
    if compiled and not bench.small:
        network.compile(dynamic=False)
    found: dict[str, Any] = {"flops": flops, "precision": precision, "batches": {}}
    for batch in (2,) if bench.small else batches:
        images = bench.images(model, batch)
        if last and axes == 2:
            images = images.to(memory_format=torch.channels_last)
        elif last:
            images = images.to(memory_format=torch.channels_last_3d)
        if compiled:
            step(images)  # beside other rows
        try:
            with bench.alone():
                bench.memory()
                seconds = bench.seconds(partial(step, images), 3)
            found["batches"][batch] = {"seconds": seconds, "gib": bench.memory()}
        except torch.OutOfMemoryError:
            found["batches"][batch] = {"failed": "out of memory"}
            optimizer.zero_grad()
        if bench.cuda:
            torch.cuda.empty_cache()
    return found


# A volume, file to file


def volume(bench: Bench, name: str, precision: str, mirror: bool = False) -> dict[str, Any]:
    """Seconds from a CT's file to its label file, by part; the network's weights are random.

    What goes on beside each other is measured by itself, too: normalising, the one part of making
    samples that is the CPU's, and the network, in a second prediction that waits for each batch.
    """
    tf32(True)
    shape = (40, 40, 10) if bench.small else (512, 512, 300)
    path = bench.folder / "ct.nii.gz"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            write_ct(path, shape)
    torch.manual_seed(0)
    changes: dict[str, Any] = {"num_classes": STRUCTURES + 1}
    if bench.small:
        axes = variant(name).axes
        changes["image_size"] = (32, 32, 32)[:axes]
        name = "testing" if axes == 2 else "TransUNet3D-S"
    with torch.device(bench.device):
        model = build(variant(name, **changes)).eval()
    low, high = WINDOW_HU
    channel = Channel(name="CT", normalisation="clip", low=low, high=high)
    labels = {index: f"organ {index}" for index in range(STRUCTURES + 1)}
    predictor = Predictor(
        fused_network(model, bench.device, precision),
        transunet.Preprocessing(channels=(channel,)),
        labels,
        mirror=mirror,
    )
    with bench.alone():
        zeros = torch.zeros(
            predictor.batch_size, model.config.in_channels, *model.config.image_size
        )
        predictor.network(zeros.numpy())  # allocates, and chooses algorithms
        bench.wait()
        bench.memory()
        seconds: dict[str, float] = {}
        with timed(seconds, "read"):
            image = as_volume(path)
        with timed(seconds, "predict"):
            found = predictor(image)
        with timed(seconds, "write"):
            write_volume(found, bench.folder / f"{name}.nii.gz")
        gib = bench.memory()
        slices = VolumeSlices(image, predictor.preprocessing)
        with timed(seconds, "normalise"):
            for start in range(0, len(slices), predictor.batch_size):
                slices[start : start + predictor.batch_size]
        predictor.network = Watched(Waited(predictor.network, bench), seconds)
        predictor(image)
    return {"seconds": seconds, "gib": gib, "voxels": list(shape)}


class Waited:
    """A network that has computed when it returns, so that its time is its own."""

    def __init__(self, network: Any, bench: Bench) -> None:
        self.network, self.bench = network, bench

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, images: Any) -> Any:
        """Compute as the network does."""
        logits = self.network(images)
        self.bench.wait()
        return logits


def write_ct(path: Path, shape: tuple[int, int, int]) -> None:
    import numpy as np

    labels = ellipsoids(shape)
    levels = np.concatenate([[-120], np.linspace(-20, 260, STRUCTURES)]).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32) * 5
    image = (levels[labels] + noise).astype(np.int16)
    write_volume(transunet.Volume(image[None], np.diag([*SPACING_MM, 1.0])), path)


EAGER, LARGE, STEPS, PATCHES = (32, 256), (256,), (24, 64), (2,)
ROWS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "ceilings": ceilings,
    "2D predict, compiled bf16": partial(
        prediction, axes=2, form="compiled", precision="bf16", batches=LARGE
    ),
    "2D train, bf16 compiled channels-last, fused update": partial(
        training, axes=2, precision="bf16", batches=(64,), last=True, compiled=True, fused=True
    ),
    "3D train, bf16 compiled": partial(
        training, axes=3, precision="bf16", batches=PATCHES, compiled=True
    ),
    "2D predict, eager fp32": partial(
        prediction, axes=2, form="eager", precision="fp32", batches=EAGER
    ),
    "2D predict, fused bf16": partial(
        prediction, axes=2, form="fused", precision="bf16", batches=EAGER
    ),
    "2D predict, fused bf16 CUDA graph": partial(
        prediction, axes=2, form="fused graph", precision="bf16", batches=EAGER
    ),
    "2D train, bf16": partial(training, axes=2, precision="bf16", batches=STEPS),
    "2D train, fp32": partial(training, axes=2, precision="fp32", batches=(24,)),
    "3D train, bf16": partial(training, axes=3, precision="bf16", batches=PATCHES),
    "3D train, tf32": partial(training, axes=3, precision="tf32", batches=PATCHES),
    "3D predict, eager tf32": partial(
        prediction, axes=3, form="eager", precision="tf32", batches=PATCHES
    ),
    "3D predict, fused bf16": partial(
        prediction, axes=3, form="fused", precision="bf16", batches=PATCHES
    ),
    "2D predict, compiled bf16 CUDA graphs": partial(
        prediction, axes=2, form="compiled graphs", precision="bf16", batches=LARGE
    ),
    "2D train, bf16 channels-last": partial(
        training, axes=2, precision="bf16", batches=STEPS, last=True
    ),
    "3D train, bf16 channels-last": partial(
        training, axes=3, precision="bf16", batches=PATCHES, last=True
    ),
    "3D predict, fused bf16 channels-last": partial(
        prediction, axes=3, form="fused channels-last", precision="bf16", batches=PATCHES
    ),
    "2D predict, eager tf32": partial(
        prediction, axes=2, form="eager", precision="tf32", batches=EAGER
    ),
    "2D predict, eager bf16 autocast": partial(
        prediction, axes=2, form="eager", precision="bf16", batches=EAGER
    ),
    "2D predict, fused bf16 from main memory": partial(
        from_numpy, precision="bf16", batches=(8, 256)
    ),
    "2D train, tf32": partial(training, axes=2, precision="tf32", batches=STEPS),
    "2D train, bf16 compiled": partial(
        training, axes=2, precision="bf16", batches=(64,), compiled=True
    ),
    "3D predict, compiled bf16": partial(
        prediction, axes=3, form="compiled", precision="bf16", batches=PATCHES
    ),
    "3D predict, eager fp32": partial(
        prediction, axes=3, form="eager", precision="fp32", batches=PATCHES
    ),
    "3D train, bf16, algorithms guessed": partial(
        training, axes=3, precision="bf16", batches=PATCHES, tried=False
    ),
    "2D train, bf16, algorithms guessed": partial(
        training, axes=2, precision="bf16", batches=(24,), tried=False
    ),
    "3D train, fp32": partial(training, axes=3, precision="fp32", batches=PATCHES),
    "2D predict, compiled fp8 linear layers": partial(
        prediction, axes=2, form="compiled fp8", precision="bf16", batches=LARGE
    ),
    "2D predict, TensorRT fp16": tensorrt,
    "2D predict, compiled bf16 autotuned": partial(
        prediction, axes=2, form="compiled autotuned", precision="bf16", batches=LARGE
    ),
    "volume, R50-ViT-B_16 bf16": partial(volume, name="R50-ViT-B_16", precision="bf16"),
    "volume, R50-ViT-B_16 bf16, mirrored": partial(
        volume, name="R50-ViT-B_16", precision="bf16", mirror=True
    ),
    "volume, TransUNet3D bf16": partial(volume, name="TransUNet3D", precision="bf16"),
    "volume, R50-ViT-B_16 fp32": partial(volume, name="R50-ViT-B_16", precision="fp32"),
}
"""What is measured, the most worth knowing first."""

if __name__ == "__main__":
    main()
