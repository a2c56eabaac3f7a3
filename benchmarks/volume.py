"""From a CT's file to label file and metrics: this package, and a plain rendering of the paper's.

    python benchmarks/volume.py                      # 512 x 512 x 12, eight structures: 3 minutes
    python benchmarks/volume.py --full               # 512 x 512 x 300: half an hour
    python benchmarks/volume.py --model R26-ViT-S_16 --engines openvino

Same volume, same weights, same run; each row is a process of its own, and is told when it is
measured. The plain row is what the reference does: one axial slice at a time is resized with
scipy's cubic zoom, goes through the plain network alone, its labels are enlarged with nearest
neighbour; Dice and HD95 take every structure's surface and distance transform over the whole
volume. Loading the model is not counted (a service does it once).

The volume is made: a body in air on a table, eight wavy ellipsoids of different Hounsfield units,
noise. The weights are random, and the end of the decoder is then trained on twelve slices, so that
the label maps look like label maps: the time of surface distances depends on them.

Below each row stands where its time went; reading ahead, resizing, enlarging and writing go on
beside the network, so that the parts are more than the whole.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib import import_module
from pathlib import Path

import numpy as np

STRUCTURES = 8
SPACING_MM = (0.75, 0.75, 2.5)
WINDOW_HU = (-125.0, 275.0)
NETWORK_SIZE = 224
Seconds = dict[str, float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=512, help="in-plane size (default 512)")
    options.add_argument("--slices", type=int, default=12, help="slices (default 12)")
    options.add_argument("--full", action="store_true", help="300 slices, a longer training")
    options.add_argument("--model", default="R50-ViT-B_16", help="configuration of the network")
    options.add_argument("--engines", nargs="+", default=["eager", "openvino"])
    options.add_argument("--batch-size", type=int, default=8, help="slices at once (default 8)")
    options.add_argument("--row", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.row:
        row = json.loads(chosen.row)
        print(json.dumps(plain(chosen.folder) if not row else packaged(chosen.folder, **row)))
        return
    slices = 300 if chosen.full else chosen.slices
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, labels = write_ct(folder, chosen.size, slices)
        save_bundle(folder / "bundle", chosen.model, image, labels, 160 if chosen.full else 80)
        print(
            f"{chosen.size} x {chosen.size} x {slices}, {STRUCTURES} structures, {chosen.model}, "
        )
        print(f"{date.today()}, {machine()}\n")
        print("|", " | ".join(COLUMNS), "|\n|", "---|" * len(COLUMNS), sep="", flush=True)
        first = None
        for row, settings in rows(chosen).items():
            if "int8" in row and not (folder / "int8.xml").exists() and not quantised(folder):
                break
            found = own_process(folder, **settings)
            first = first or found
            tell(row, found, first)


def rows(chosen: argparse.Namespace) -> dict[str, dict]:
    """What is measured: row -> the settings of the predictor; none for the plain rendering."""
    shared = {"batch_size": chosen.batch_size}
    found: dict[str, dict] = {"plain": {}}
    for engine in chosen.engines:
        found[f"paper, {engine}"] = {"procedure": "paper", "engine": engine, **shared}
    found[f"native, {chosen.engines[-1]}"] = {"engine": chosen.engines[-1], **shared}
    if "openvino" in chosen.engines:
        found["paper, openvino, int8"] = {"procedure": "paper", "source": "int8.xml", **shared}
        found["native, openvino, int8"] = {"source": "int8.xml", **shared}
    return found


def quantised(folder: Path) -> bool:
    """Whether the bundle could be written in int8; one that was hardly trained may not."""
    command = [sys.executable, "-m", "transunet", "export", folder / "bundle", "--int8"]
    command += ["-o", folder / "int8.xml", "--calibrate", folder / "ct.nii.gz"]
    done = subprocess.run([*command, "--calibrate-count", "12"], check=False, capture_output=True)
    if done.returncode:
        print(done.stderr.decode(), file=sys.stderr)
    return not done.returncode


def own_process(folder: Path, **row: object) -> dict:
    command = [sys.executable, __file__, "--row", json.dumps(row), "--folder", str(folder)]
    as_the_command = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=as_the_command
    )
    return json.loads(done.stdout.splitlines()[-1])


# What both read


def write_ct(folder: Path, size: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a CT and its label map to `folder`, and return both."""
    from transunet.data.formats import write_volume
    from transunet.data.volume import Volume

    labels = ellipsoids((size, size, slices))
    levels = np.concatenate([[-120], np.linspace(-20, 260, STRUCTURES)])
    x, y = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    empty = np.where((x / 0.9) ** 2 + (y / 0.85) ** 2 <= 1, levels[0], -1000)
    empty[(abs(x) < 0.8) & (abs(y + 0.9) < 0.02)] = -60  # the table
    image, rng = np.empty(labels.shape, np.int16), np.random.default_rng(0)
    for z in range(slices):
        clean = np.where(labels[..., z] > 0, levels[labels[..., z]], empty)
        image[..., z] = clean + rng.normal(0, 5, clean.shape)
    affine = np.diag([*SPACING_MM, 1.0])
    write_volume(Volume(image[None], affine), folder / "ct.nii.gz")
    write_volume(Volume(labels[None], affine), folder / "reference.nii.gz")
    return image, labels


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


def save_bundle(folder: Path, name: str, image: np.ndarray, labels: np.ndarray, steps: int) -> None:
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
    fit(model, np.stack(images)[:, None].astype(np.float32), np.stack(wanted), steps)
    names = {0: "background"} | {i + 1: f"organ {i + 1}" for i in range(STRUCTURES)}
    config = transunet.BundleConfig(
        architecture=model.config, preprocessing=preprocessing, labels=names
    )
    transunet.save_pretrained(model, config, folder)


def fit(model, images: np.ndarray, wanted: np.ndarray, steps: int) -> None:
    """Train the last two decoder blocks and the head, on features that are computed once."""
    import torch
    import torch.nn.functional as F

    decoder = model.decoder
    with torch.no_grad():
        tokens, grid, skips = model.transformer(torch.from_numpy(images).repeat(1, 3, 1, 1))
        coarse, labels = decoder.features(tokens, grid, skips)[1], torch.from_numpy(wanted).long()
    fitted = torch.nn.ModuleList([*decoder.blocks[2:], model.segmentation_head]).train()
    optimiser = torch.optim.AdamW(fitted.parameters(), lr=5e-3)
    for step in range(steps):
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


def packaged(folder: Path, source: str = "bundle", **settings: object) -> dict:
    import transunet
    from transunet.data.formats import read_labels
    from transunet.evaluation.metrics import case_metrics

    seconds: Seconds = {}
    output = folder / "ours.nii.gz"
    predictor = transunet.Predictor.from_pretrained(folder / source, device="cpu", **settings)
    predictor.label_slices(np.zeros((1, 1, 8, 8), np.float32))  # what is compiled on first use
    predictor.network = Watched(predictor.network, seconds)
    for module, function, part in PARTS:
        time_calls(f"transunet.{module}", function, seconds, part)
    with timed(seconds, "predict"):
        transunet.predict_file(predictor, folder / "ct.nii.gz", output)
    with timed(seconds, "metrics"):
        prediction = read_labels(output).array[0]
        reference = read_labels(folder / "reference.nii.gz").array[0]
        classes = list(range(1, STRUCTURES + 1))
        found = case_metrics(prediction, reference, SPACING_MM, classes)
    return told(seconds, prediction, folder, [(found[i].dice, found[i].hd95) for i in classes])


PARTS = (
    ("batch.run", "read_image", "read"),
    ("inference.slice_inference", "resize", "resize"),
    ("inference.slice_inference", "enlarge", "enlarge"),
    ("inference.slice_inference", "argmax", "argmax"),
    ("batch.run", "write_labels", "write"),
)
"""What of the package is timed: module, function, and what it is called here."""


def time_calls(module: str, name: str, seconds: Seconds, part: str) -> None:
    """Have a module's calls of a function timed."""
    loaded = import_module(module)
    function = getattr(loaded, name)

    def call(*arguments: object, **named: object) -> object:
        with timed(seconds, part):
            return function(*arguments, **named)

    setattr(loaded, name, call)


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
    metrics = seconds.pop("metrics")
    to_file = seconds.pop("predict") if "predict" in seconds else sum(seconds.values())
    return {
        "seconds": seconds,
        "labels": to_file,
        "metrics": metrics,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "equal": equal,
        "dice": float(dice),
        "hd95_mm": float(hd95),
    }


COLUMNS = (
    "",
    "to label file (s)",
    "times faster",
    "metrics (s)",
    "total (s)",
    "times faster",
    "labels equal",
    "Dice",
    "HD95 (mm)",
    "most memory (GiB)",
)


def tell(name: str, row: dict, plain: dict) -> None:
    """Print a row of a Markdown table, and on the error output where its time went."""
    total, of_plain = (each["labels"] + each["metrics"] for each in (row, plain))
    cells = [
        name,
        f"{row['labels']:.1f}",
        f"{plain['labels'] / row['labels']:.2f}",
        f"{row['metrics']:.1f}",
        f"{total:.1f}",
        f"{of_plain / total:.2f}",
        f"{row['equal']:.4%}",
        f"{row['dice']:.4f}",
        f"{row['hd95_mm']:.2f}",
        f"{row['gib']:.2f}",
    ]
    print("|", " | ".join(cells), "|", flush=True)
    parts = (f"{part} {seconds:.2f} s" for part, seconds in row["seconds"].items())
    print(f"{name}: {', '.join(parts)}", file=sys.stderr)


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
