"""Memory that predicting a large CT takes, beyond the model and the volume itself.

    python benchmarks/memory.py                 # 512 x 512 x 1000, five to ten minutes on 2 cores
    python benchmarks/memory.py --slices 100    # a quick look

Each row is a process of its own that makes a CT in memory, loads a tiny TransUNet with nine
classes (224 pixels, as the paper's; in the rows of patches a 3D network of 128 x 128 x 128 voxels),
notes how much memory it holds, predicts, and notes the most that it ever held (`ru_maxrss`; pages
of mapped files count). The network is tiny because its activations are not the question: they
depend on the batch, not on the volume. The claim is less than 3 GiB, of patches less than 4 GiB.
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

LIMIT_GIB, LIMIT_OF_PATCHES_GIB = 3.0, 4.0
CLASSES = 9
ROWS = {
    "labels": {},
    "labels, z-score": {"normalisation": "zscore"},
    "labels, largest component of each": {"largest_component": ["all"]},
    "labels, probabilities, uncertainty": {"maps": True},
    "labels, from file to file": {"files": True},
    "labels, mean of four mirror images": {"mirror": True},
    "patches: labels": {"patch": 128},
    "patches: labels, probabilities, uncertainty": {"patch": 128, "maps": True},
    "patches: labels, from 2 x 1.5 x 1.5 mm": {"patch": 128, "spacing_mm": [2.0, 1.5, 1.5]},
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=512, help="in-plane size (default 512)")
    options.add_argument("--slices", type=int, default=1000, help="slices (default 1000)")
    options.add_argument("--rows", nargs="*", metavar="WORD", help="only rows with such words")
    options.add_argument("--row", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    shape = (chosen.size, chosen.size, chosen.slices)
    if chosen.row:
        print(json.dumps(measure(shape, **json.loads(chosen.row))))
        return
    words = chosen.rows or [""]
    rows = {name: row for name, row in ROWS.items() if any(word in name for word in words)}
    found = {}
    for name, settings in rows.items():
        found[name] = in_own_process(shape, settings)
        print(f"{name}: {found[name]}", file=sys.stderr)
    report(shape, found)
    for name, row in found.items():
        limit = LIMIT_OF_PATCHES_GIB if "patch" in rows[name] else LIMIT_GIB
        if row["beyond_gib"] > limit:
            sys.exit(f"{name}: {row['beyond_gib']:.2f} GiB is more than {limit}")


def in_own_process(shape: tuple[int, ...], settings: dict) -> dict:
    command = [sys.executable, __file__, "--row", json.dumps(settings)]
    command += ["--size", str(shape[0]), "--slices", str(shape[2])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    shape: tuple[int, ...],
    normalisation: str = "clip",
    maps: bool = False,
    files: bool = False,
    patch: int = 0,
    spacing_mm: tuple[float, ...] | None = None,
    **settings: object,
) -> dict:
    import numpy as np

    from transunet.batch.run import predict_file
    from transunet.data.preprocessing import Channel, Preprocessing
    from transunet.data.sampling.patches import Patches
    from transunet.data.volume import Volume
    from transunet.inference.predictor import Predictor

    channel = Channel(name="CT", normalisation=normalisation, low=-125, high=275)
    labels = {index: f"organ {index}" for index in range(CLASSES)}
    preprocessing = Preprocessing(channels=(channel,), spacing_mm=spacing_mm)
    model = tiny_3d(patch) if patch else tiny()
    if patch:  # with half the overlap of the default, which takes a third of its time
        settings["sampling"] = Patches(size=(patch,) * 3, overlap=0.25)
    predictor = Predictor(model, preprocessing, labels, device="cpu", **settings)
    volume = Volume(ct(shape)[None], np.diag([0.7, 0.7, 1.0, 1.0]))
    size = volume.array.nbytes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if files:  # the volume is not in memory before, but counts as if it were
            volume = stored(volume, folder / "ct.nii")
        held, start = resident() + (size if files else 0), time.perf_counter()
        if files:
            predict_file(predictor, folder / "ct.nii", folder / "labels.nii.gz")
        else:
            paths = {"probabilities": folder / "p.npy", "uncertainty": folder / "u.npy"}
            predictor(volume, **(paths if maps else {}))
        seconds = time.perf_counter() - start
    return {
        "volume_gib": size / 2**30,
        "before_gib": held / 2**30,
        "beyond_gib": (peak() - held) / 2**30,
        "seconds": seconds,
    }


def stored(volume, path: Path) -> None:
    """Write it as 16-bit integers, as scanners do, in another process: this one's peak counts."""
    pid = os.fork()
    if pid == 0:
        import numpy as np

        from transunet.data.formats import write_volume

        write_volume(volume.with_array(volume.array.astype(np.int16)), path)
        os._exit(0)
    os.waitpid(pid, 0)


def ct(shape: tuple[int, ...]):
    """Smooth Hounsfield units in the layout that NIfTI files have (first axis fastest)."""
    import numpy as np

    array = np.empty(shape, np.float32, order="F")
    x, y = np.ogrid[: shape[0], : shape[1]]
    for z in range(shape[2]):
        array[:, :, z] = 300 * np.sin(x / 40 + z / 90) * np.cos(y / 55)
    return array


def tiny():
    import torch

    from transunet.models.transunet2d.config import TransUNetConfig
    from transunet.models.transunet2d.network import TransUNet

    torch.manual_seed(0)
    config = TransUNetConfig(
        num_classes=CLASSES,
        image_size=224,
        hidden_size=8,
        mlp_size=8,
        num_heads=1,
        num_layers=1,
        bridge_channels=8,
        decoder_channels=(8, 8, 8, 8),
    )
    model = TransUNet(config).eval()
    head = model.segmentation_head[0]
    with torch.no_grad():  # every class wins somewhere
        logits = model(torch.rand(2, 1, 224, 224))
        scale = 3 / logits.std(dim=(0, 2, 3))
        head.bias.copy_((head.bias - logits.mean(dim=(0, 2, 3))) * scale)
        head.weight *= scale[:, None, None, None]
    return model


def tiny_3d(side: int):
    import torch

    import transunet

    torch.manual_seed(0)
    return transunet.create_model(
        "UNet3D",
        num_classes=CLASSES,
        image_size=side,
        poolings=((4, 4, 4),),
        kernels=((1, 1, 1), (3, 3, 3)),
        width=2,
        deep_supervision=False,
    )


def resident() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def peak() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def report(shape: tuple[int, ...], found: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    size = " x ".join(map(str, shape))
    title = f"Memory for a {size} CT, {CLASSES} classes, {date.today()}, {machine()}"
    table = Table(title=title)
    for column in ("what is asked for", "volume (GiB)", "held before", "beyond that", "seconds"):
        table.add_column(column, justify="left" if column.startswith("what") else "right")
    for name, row in found.items():
        numbers = (row["volume_gib"], row["before_gib"], row["beyond_gib"], row["seconds"])
        table.add_row(name, *(f"{number:.2f}" for number in numbers[:3]), f"{numbers[3]:.0f}")
    Console(width=max(100, len(title) + 4) if not sys.stdout.isatty() else None).print(table)


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
