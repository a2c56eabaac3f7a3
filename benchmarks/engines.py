"""How fast each engine computes the network, and how close it stays to the plain one.

    python benchmarks/engines.py                           # R50-ViT-B_16 at 224 pixels: minutes
    python benchmarks/engines.py --bundle RUN/best         # a bundle of your own
    python benchmarks/engines.py --files model_int8.onnx   # exported files too

Same weights, same images, same run; each row is a process of its own. The ceiling is what a large
fp32 matrix product reaches, times the network's operations. Times are the least of several calls:
other work on the machine only ever adds. Noise and random weights make labels that change at a
touch: for the share of equal labels give a trained bundle.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

ROWS = {
    "plain, eager": {},
    "eager": {"engine": "eager"},
    "compiled": {"engine": "compiled"},
    "onnxruntime": {"engine": "onnxruntime"},
    "openvino": {"engine": "openvino"},
    "eager, bf16": {"engine": "eager", "precision": "bf16"},
    "openvino, bf16": {"engine": "openvino", "precision": "bf16"},
}
BATCHES = (1, 8)
_SECONDS = 6.0  # of calls for each batch


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="R50-ViT-B_16", help="a configuration, if no bundle")
    options.add_argument("--size", type=int, default=224, help="its image size (default 224)")
    options.add_argument("--bundle", type=Path, help="a bundle (default: random weights)")
    options.add_argument("--files", type=Path, nargs="*", default=[], help="exported files")
    options.add_argument("--rows", nargs="+", default=list(ROWS), help="which of the rows")
    options.add_argument("--device", default="cpu", help="default cpu")
    options.add_argument("--row", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.row:
        print(json.dumps(measure(chosen.folder, **json.loads(chosen.row))))
        return
    with tempfile.TemporaryDirectory() as name:
        bundle = chosen.bundle or random_bundle(Path(name) / "bundle", chosen.model, chosen.size)
        rows = {row: {"source": str(bundle), **ROWS[row]} for row in chosen.rows}
        rows |= {path.name: {"source": str(path), "engine": "auto"} for path in chosen.files}
        found = {
            row: in_own_process(Path(name), device=chosen.device, **settings)
            for row, settings in rows.items()
        }
        report(found)


def random_bundle(folder: Path, model: str, size: int) -> Path:
    import torch

    from transunet import BundleConfig, Preprocessing, create_model, save_pretrained

    torch.manual_seed(0)
    network = create_model(model, num_classes=9, image_size=size)
    labels = {index: f"class {index}" for index in range(9)}
    config = BundleConfig(architecture=network.config, preprocessing=Preprocessing(), labels=labels)
    return save_pretrained(network, config, folder)


def measure(folder, source, device, engine=None, precision="auto"):
    """One row: milliseconds per image for each batch, and the distance from the plain network."""
    from transunet.inference.loading import load_networks
    from transunet.inference.logits import as_array

    begin = time.perf_counter()
    if engine is None:
        from transunet.bundle import from_pretrained
        from transunet.inference.torch_network import TorchNetwork

        model, config = from_pretrained(source)
        network = TorchNetwork(model, device)
    else:
        network, config, engine, precision = load_networks([source], device, engine, precision)
    loading = time.perf_counter() - begin
    channels, size = config.architecture.in_channels, config.architecture.image_size
    images = np.random.default_rng(0).random((max(BATCHES), channels, *size), dtype=np.float32)
    logits = np.array(as_array(network(images)))
    row = {"loading": loading, **{str(b): least_ms(network, images[:b]) / b for b in BATCHES}}
    plain = folder / "plain.npy"
    if engine is None:
        np.save(plain, logits)
        row |= {"ceiling": ceiling_ms(model, images[:1])}
    expected = np.load(plain) if plain.exists() else logits
    if expected.shape == logits.shape:  # else it is a file of another bundle
        row["difference"] = float(np.abs(logits - expected).max() / expected.std())
        row["equal"] = float((logits.argmax(1) == expected.argmax(1)).mean())
    return row


def least_ms(network, images) -> float:
    from transunet.inference.logits import as_array

    times, until = [], time.perf_counter() + _SECONDS
    as_array(network(images))
    while len(times) < 3 or time.perf_counter() < until:
        begin = time.perf_counter()
        as_array(network(images))  # waits for a GPU
        times.append(time.perf_counter() - begin)
    return min(times) * 1e3


def ceiling_ms(model, images) -> float:
    """Milliseconds for one image at the rate of a large fp32 matrix product."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    place = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.from_numpy(images).to(place))
    matrix = torch.rand(3072, 3072, device=place)
    rate = 2 * 3072**3 / (least_ms(lambda _: (matrix @ matrix)[:1], None) / 1e3)
    return counter.get_total_flops() / rate * 1e3


def in_own_process(folder: Path, **row):
    command = [sys.executable, __file__, "--row", json.dumps(row), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"problem": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def report(found) -> None:
    first = next(iter(found.values()))
    heads = ("engine", "ms an image, batch 1", "batch 8", "times plain (batch 1)")
    heads += ("share of the ceiling", "labels equal", "largest difference", "loading, s")
    print("|", " | ".join(heads), "|\n" + "|---" * len(heads) + "|")
    for name, row in found.items():
        if "problem" in row:
            print(f"| {name} | {row['problem']} | | | | | | |")
            continue
        one, eight = row["1"], row["8"]
        ratio = f"{first['1'] / one:.2f}" if "1" in first else ""
        share = f"{first['ceiling'] / one:.0%}" if "ceiling" in first else ""
        print(f"| {name} | {one:.0f} | {eight:.0f} | {ratio} | {share} ", end="")
        print(f"| {row.get('equal', np.nan):.3%} | {row.get('difference', np.nan):.1e} ", end="")
        print(f"| {row['loading']:.1f} |")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"\n({date.today()}, {cores} cores, {platform.machine()}, Python "
        f"{platform.python_version()})"
    )


if __name__ == "__main__":
    main()
