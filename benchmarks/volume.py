"""From a CT's file to label file and metrics: this package, and a plain rendering of the paper's.

    python benchmarks/volume.py                      # 512 x 512 x 100, eight structures: minutes
    python benchmarks/volume.py --slices 10          # a quick look
    python benchmarks/volume.py --engines eager onnxruntime openvino

Same volume, same weights, same run; each row is a process of its own. The plain row is what the
reference does: one axial slice at a time is resized with scipy's cubic zoom, goes through the plain
network alone, its labels are enlarged with nearest neighbour; Dice and HD95 take every structure's
surface and distance transform over the whole volume. Loading the model is not counted (a service
does it once) but told.

The volume is made: smooth background, eight wavy ellipsoids of different Hounsfield units, noise.
The weights are random, and the end of the decoder is then trained on twelve slices for minutes,
so that the label maps look like label maps: the time of surface distances depends on them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np

STRUCTURES = 8
SPACING_MM = (0.75, 0.75, 2.5)
WINDOW_HU = (-125.0, 275.0)
NETWORK_SIZE = 224
FIT_STEPS = 160
Seconds = dict[str, float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=512, help="in-plane size (default 512)")
    options.add_argument("--slices", type=int, default=100, help="slices (default 100)")
    options.add_argument("--model", default="R50-ViT-B_16", help="configuration of the network")
    options.add_argument("--engines", nargs="+", default=["eager", "onnxruntime", "openvino"])
    options.add_argument("--precision", default="fp32", help="the engines' (default fp32)")
    options.add_argument("--batch-size", type=int, default=8, help="slices at once (default 8)")
    options.add_argument("--row", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.row:
        row = json.loads(chosen.row)
        print(json.dumps(plain(chosen.folder) if not row else packaged(chosen.folder, **row)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, chosen.size, chosen.slices, chosen.model)
        report(
            chosen, folder, {row: own_process(folder, **rows(chosen)[row]) for row in rows(chosen)}
        )


def rows(chosen: argparse.Namespace) -> dict[str, dict]:
    """What is measured: row -> the settings of the predictor; none for the plain rendering."""
    shared = {"batch_size": chosen.batch_size, "precision": chosen.precision}
    found: dict[str, dict] = {"plain": {}}
    for engine in chosen.engines:
        found[f"paper, {engine}"] = {"procedure": "paper", "engine": engine, **shared}
    found[f"native, {chosen.engines[-1]}"] = {"engine": chosen.engines[-1], **shared}
    return found


def own_process(folder: Path, **row: object) -> dict:
    command = [sys.executable, __file__, "--row", json.dumps(row), "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(f"{row.get('engine', 'plain')}: {done.stdout.splitlines()[-1]}", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


# What both read


def make_inputs(folder: Path, size: int, slices: int, model: str) -> None:
    from transunet.data.formats import write_volume
    from transunet.data.volume import Volume

    labels = ellipsoids((size, size, slices))
    levels = np.concatenate([[-120], np.linspace(-20, 260, STRUCTURES)])
    noise = np.random.default_rng(0).normal(0, 5, labels.shape).astype(np.float32)
    image = (levels[labels] + noise).astype(np.int16)
    affine = np.diag([*SPACING_MM, 1.0])
    write_volume(Volume(image[None], affine), folder / "ct.nii.gz")
    write_volume(Volume(labels[None], affine), folder / "reference.nii.gz")
    save_bundle(folder / "bundle", model, image, labels)


def ellipsoids(shape: tuple[int, int, int]) -> np.ndarray:
    """Eight wavy ellipsoids beside each other, (X, Y, Z) uint8."""
    labels = np.zeros(shape, np.uint8)
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    for index in range(STRUCTURES):
        angle, far = 2 * np.pi * index / STRUCTURES, 0.55
        bumps = np.sin(11 * x + index) + np.sin(9 * y + 2 * index) + np.sin(7 * z)
        at = (x - far * np.cos(angle)) / 0.22, (y - far * np.sin(angle)) / 0.2, z / 0.95
        labels[sum(axis**2 for axis in at) + 0.1 * bumps <= 1] = index + 1
    return labels


def save_bundle(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    import torch

    import transunet
    from transunet.data.preprocessing import Channel
    from transunet.data.resize import nearest

    torch.manual_seed(0)
    model = transunet.create_model(name, num_classes=STRUCTURES + 1, image_size=NETWORK_SIZE).eval()
    low, high = WINDOW_HU
    preprocessing = transunet.Preprocessing(
        channels=(Channel(name="CT", normalisation="clip", low=low, high=high),)
    )
    chosen = np.linspace(0.02, 0.98, 12) * image.shape[2]
    size = (NETWORK_SIZE, NETWORK_SIZE)
    images = [resized(windowed(image[:, :, int(z)]), size) for z in chosen]
    wanted = [nearest(labels[:, :, int(z)], size, edge="kept") for z in chosen]
    fit(model, np.stack(images)[:, None].astype(np.float32), np.stack(wanted))
    names = {0: "background"} | {i + 1: f"organ {i + 1}" for i in range(STRUCTURES)}
    config = transunet.BundleConfig(
        architecture=model.config, preprocessing=preprocessing, labels=names
    )
    transunet.save_pretrained(model, config, folder)


def fit(model, images: np.ndarray, wanted: np.ndarray) -> None:
    """Train the last two decoder blocks and the head, on features that are computed once."""
    import torch
    import torch.nn.functional as F

    decoder = model.decoder
    with torch.no_grad():
        tokens, grid, skips = model.transformer(torch.from_numpy(images).repeat(1, 3, 1, 1))
        coarse, labels = decoder.features(tokens, grid, skips)[1], torch.from_numpy(wanted).long()
    fitted = torch.nn.ModuleList([*decoder.blocks[2:], model.segmentation_head]).train()
    optimiser = torch.optim.AdamW(fitted.parameters(), lr=5e-3)
    for step in range(FIT_STEPS):
        part = torch.arange(step % 3, len(images), 3)
        fine = decoder.blocks[3](decoder.blocks[2](coarse[part], skips[2][part]))
        loss = F.cross_entropy(model.segmentation_head(fine), labels[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


# The plain rendering


def plain(folder: Path) -> dict:
    import nibabel as nib
    import torch
    from scipy.ndimage import zoom

    import transunet

    seconds: Seconds = {}
    with timed(seconds, "load"):
        model, _ = transunet.from_pretrained(folder / "bundle")
    with timed(seconds, "read"):
        file = nib.load(folder / "ct.nii.gz")
        image = windowed(file.get_fdata(dtype=np.float32))
    labels = np.zeros(image.shape, np.uint8)
    back = image.shape[0] / NETWORK_SIZE, image.shape[1] / NETWORK_SIZE
    for z in range(image.shape[2]):
        with timed(seconds, "resize"):
            small = resized(image[:, :, z], (NETWORK_SIZE, NETWORK_SIZE))
        with timed(seconds, "network"), torch.no_grad():
            logits = model(torch.from_numpy(small)[None, None].float())
            found = torch.argmax(torch.softmax(logits, dim=1), dim=1)[0].numpy()
        with timed(seconds, "enlarge"):
            labels[:, :, z] = zoom(found, back, order=0)
    with timed(seconds, "write"):
        nib.save(nib.Nifti1Image(labels, file.affine), folder / "plain.nii.gz")
    with timed(seconds, "metrics"):
        reference = np.asarray(nib.load(folder / "reference.nii.gz").dataobj)
        scores = [full_volume(labels == i, reference == i) for i in range(1, STRUCTURES + 1)]
    return told(seconds, labels, folder, scores)


def full_volume(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Dice and HD95 in mm, surfaces and distance transforms taken over the whole volume."""
    from hd95 import straightforward

    both = prediction.sum() + reference.sum()
    if not (prediction.any() and reference.any()):
        return 0.0, float("nan")
    dice = 2 * (prediction & reference).sum() / both
    return dice, straightforward(prediction, reference, SPACING_MM)


def windowed(image: np.ndarray) -> np.ndarray:
    low, high = WINDOW_HU
    return (np.clip(image, low, high) - low) / (high - low)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from scipy.ndimage import zoom

    return zoom(image, [wanted / n for wanted, n in zip(size, image.shape, strict=True)], order=3)


# This package


def packaged(folder: Path, **settings: object) -> dict:
    import transunet
    from transunet.data.formats import read_labels
    from transunet.evaluation.metrics import case_metrics

    seconds: Seconds = {}
    output = folder / "ours.nii.gz"
    with timed(seconds, "load"):
        predictor = transunet.Predictor.from_pretrained(folder / "bundle", device="cpu", **settings)
        predictor.label_slices(np.zeros((1, 1, 8, 8), np.float32))  # what is compiled on first use
    compute = predictor.network
    predictor.network = Watched(compute, seconds)
    with timed(seconds, "predict"):
        transunet.predict_file(predictor, folder / "ct.nii.gz", output)
    with timed(seconds, "metrics"):
        prediction = read_labels(output).array[0]
        reference = read_labels(folder / "reference.nii.gz").array[0]
        classes = list(range(1, STRUCTURES + 1))
        found = case_metrics(prediction, reference, SPACING_MM, classes)
    return told(seconds, prediction, folder, [(found[i].dice, found[i].hd95) for i in classes])


class Watched:
    """A network whose computing time is added up."""

    def __init__(self, network, seconds: Seconds) -> None:
        self.network, self.seconds = network, seconds

    def __getattr__(self, name: str):
        return getattr(self.network, name)

    def __call__(self, images: np.ndarray):
        """Compute as the network does."""
        with timed(self.seconds, "network"):
            return self.network(images)


# What is told


@contextmanager
def timed(seconds: Seconds, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def told(seconds: Seconds, labels: np.ndarray, folder: Path, scores: list) -> dict:
    if not (folder / "plain.npy").exists():
        np.save(folder / "plain.npy", labels)  # the first row: the others are compared with it
    equal = float((np.load(folder / "plain.npy", mmap_mode="r") == labels).mean())
    dice, hd95 = np.nanmean(np.array(scores, dtype=float), axis=0)
    parts = (
        ("predict",) if "predict" in seconds else ("read", "resize", "network", "enlarge", "write")
    )
    to_file = sum(seconds[part] for part in parts)
    return {
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "labels": to_file,
        "total": to_file + seconds["metrics"],
        "equal": equal,
        "dice": float(dice),
        "hd95_mm": float(hd95),
    }


def report(chosen: argparse.Namespace, folder: Path, found: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    shape = f"{chosen.size} x {chosen.size} x {chosen.slices}"
    what = f"{STRUCTURES} structures, {chosen.model} {chosen.precision}"
    title = f"{shape}, {what}, {date.today()}, {machine()}"
    table = Table(title=title)
    first = found["plain"]
    for column in (
        "row",
        "load (s)",
        "to label file (s)",
        "of it network",
        "metrics (s)",
        "total (s)",
        "times faster",
        "labels equal",
        "Dice",
        "HD95 (mm)",
    ):
        table.add_column(column, justify="left" if column == "row" else "right")
    for name, row in found.items():
        seconds = row["seconds"]
        table.add_row(
            name,
            f"{seconds['load']:.1f}",
            f"{row['labels']:.1f}",
            f"{seconds['network']:.1f}",
            f"{seconds['metrics']:.1f}",
            f"{row['total']:.1f}",
            f"{first['total'] / row['total']:.2f}",
            f"{row['equal']:.5%}",
            f"{row['dice']:.4f}",
            f"{row['hd95_mm']:.2f}",
        )
    Console(width=max(150, len(title) + 4) if not sys.stdout.isatty() else None).print(table)
    parts = {
        part: first["seconds"][part] for part in ("read", "resize", "network", "enlarge", "write")
    }
    print("plain:", ", ".join(f"{part} {value:.1f} s" for part, value in parts.items()))


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
