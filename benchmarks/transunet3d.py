"""What 3D TransUNet's queries cost, computed as the paper writes them and as this package does.

    python benchmarks/transunet3d.py                          # TransUNet3D, 48 x 192 x 192: minutes
    python benchmarks/transunet3d.py --variant TransUNet3D-S --size 64 64 64
    python benchmarks/transunet3d.py --device cuda --runs 10

Same weights, same patch. Each row is a process of its own that predicts the patch `--runs` times,
after once to warm up where they are several, and tells the median time (also the processor's,
which others do not disturb) and the most memory that it ever held (`ru_maxrss`; on CUDA what the
allocator gave), model included. The plain form is that of `tests/plain_3d.py`: mask features as
wide as the queries at full resolution, every layer's masks at full resolution and resized from
there, and heads whose maps nobody wants. The last row has OpenVINO compute the package's, which a
process of its own has converted.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from plain_3d import plain_logits
from transunet.models.families import build
from transunet.models.variants import VARIANTS, variant

CONVERTED = "network.xml"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name, config in VARIANTS.items() if config.num_queries]
    options.add_argument("--variant", choices=names, default="TransUNet3D")
    options.add_argument("--size", type=int, nargs=3, help="patch (default: the variant's)")
    options.add_argument("--classes", type=int, default=9)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", default="cpu")
    options.add_argument("--runs", type=int, default=1)
    options.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.row:
        form, path = chosen.row[0], Path(chosen.row[1])
        if form == "convert":
            convert(made(chosen), path.with_name(CONVERTED))
        else:
            print(json.dumps(measure(chosen, form, path)))
        return
    size = chosen.size or list(variant(chosen.variant).image_size)
    rows, logits = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        engines = ["convert", "openvino"] if chosen.device == "cpu" else []
        for form in ("plain", "package", *engines):
            path = Path(folder) / f"{form}.npy"
            command = [sys.executable, __file__, *sys.argv[1:], "--row", form, str(path)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            if form != "convert":
                rows[form], logits[form] = json.loads(done.stdout), np.load(path)
    print(f"{chosen.variant}, {' x '.join(map(str, size))}, {chosen.classes} classes, ", end="")
    print(f"{chosen.device}, {chosen.threads} threads, torch {torch.__version__}")
    for form, row in rows.items():
        same = (logits["plain"].argmax(1) == logits[form].argmax(1)).mean()
        difference = np.abs(logits["plain"] - logits[form]).max()
        print(
            f"{form:8s} {row['seconds']:8.2f} s  {row['cpu_seconds']:8.2f} s of the processor  "
            f"{row['gib']:6.2f} GiB, logits differ by at most {difference:.1e}, {same:.4%} of the "
            f"labels are the same, {rows['plain']['seconds'] / row['seconds']:.2f} times as fast"
        )


@torch.inference_mode()
def measure(chosen: argparse.Namespace, form: str, path: Path) -> dict[str, float]:
    torch.set_num_threads(chosen.threads)
    config = configured(chosen)
    torch.manual_seed(1)
    images = torch.rand(1, config.in_channels, *config.image_size).to(chosen.device)
    if form == "openvino":
        forward = by_openvino(path.with_name(CONVERTED), config.image_size, chosen.threads)
    else:
        model = made(chosen)
        forward = partial(plain_logits, model) if form == "plain" else model

    def predict() -> tuple[Tensor, float, float]:
        begun, begun_cpu = time.perf_counter(), time.process_time()
        logits = forward(images).cpu()
        return logits, time.perf_counter() - begun, time.process_time() - begun_cpu

    if chosen.runs > 1:
        predict()
    logits, times, cpu_times = zip(*(predict() for _ in range(chosen.runs)), strict=True)
    np.save(path, logits[0].numpy())
    if chosen.device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": statistics.median(times),
        "cpu_seconds": statistics.median(cpu_times),
        "gib": memory / 2**30,
    }


def configured(chosen: argparse.Namespace) -> Any:
    return variant(chosen.variant, num_classes=chosen.classes, image_size=chosen.size)


def made(chosen: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    return build(configured(chosen)).eval().to(chosen.device)


def convert(model: Any, path: Path) -> None:
    from transunet.backends.openvino import write
    from transunet.bundle.bundle_config import BundleConfig
    from transunet.data.preprocessing import Preprocessing

    labels = {index: str(index) for index in range(model.config.num_classes)}
    config = BundleConfig(architecture=model.config, preprocessing=Preprocessing(), labels=labels)
    write(model, config, path)


def by_openvino(path: Path, size: tuple[int, ...], threads: int) -> Callable[[Tensor], Tensor]:
    from transunet.backends.openvino import OpenVinoNetwork

    os.environ["OMP_NUM_THREADS"] = str(threads)
    network = OpenVinoNetwork(path, size)
    return lambda images: torch.from_numpy(network(images.numpy()))


if __name__ == "__main__":
    main()
