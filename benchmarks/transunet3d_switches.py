"""What the authors' mistakes in 3D TransUNet do to a short training: each switch alone.

    python benchmarks/transunet3d_switches.py ../data/Task04_Hippocampus
    python benchmarks/transunet3d_switches.py ../data/Task04_Hippocampus --steps 20   # a quick look

The same small network (both transformers), the same batches of the same real volumes (at half their
resolution, so that a step takes a fifth of a second) in the same order: once right, once with each
mistake. Told is the Dice of the two structures, averaged over 40 test cases. `positions_of_2d` is
not among them: it matters to pretrained weights alone.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor, nn

from transunet.models.families import build
from transunet.models.transunet3d.config import TransUNet3DConfig, plan_trunk
from transunet.training.losses3d import TransUNet3DLoss

PATCH = (16, 24, 16)
CLASSES = 3
ROWS = {
    "right": {},
    "matching": {"matching": "reference"},
    "layer scale of the ViT": {"vit": "reference"},
    "layer scale of the queries": {"queries": "reference"},
    "no layer scale": {"vit": None, "queries": None},
    "all of the reference": {"matching": "reference", "vit": "reference", "queries": "reference"},
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data", type=Path, help="Task04_Hippocampus")
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    cases = json.loads((chosen.data / "dataset.json").read_text())["training"]
    cases = sorted(case["image"] for case in cases)
    volumes = [read(chosen.data, name) for name in cases[:140]]
    train, test = volumes[:100], volumes[100:]
    print(f"{chosen.steps} steps, torch {torch.__version__}, {chosen.threads} threads", flush=True)
    for seed in range(chosen.seeds):
        for name in chosen.rows:
            begun = time.process_time()
            scores = run(ROWS[name], train, test, chosen.steps, seed)
            dice = " ".join(f"{score:.3f}" for score in scores)
            spent = time.process_time() - begun
            print(f"seed {seed}  {name:28s} Dice {dice}  {spent:.0f} s", flush=True)


def read(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """A case's image (1, D, H, W), mean 0 and deviation 1, and its labels (D, H, W)."""
    image = nibabel.load(folder / name).get_fdata(dtype=np.float32)
    label = nibabel.load(folder / name.replace("images", "labels")).get_fdata(dtype=np.float32)
    image = (image - image.mean()) / image.std()
    halved = nn.functional.avg_pool3d(torch.from_numpy(image)[None], 2, ceil_mode=True)
    return halved, torch.from_numpy(label[::2, ::2, ::2].copy()).long()


def network(
    matching: str = "hungarian", vit: str | None = "branch", queries: str | None = "branch"
):
    config = TransUNet3DConfig(
        num_classes=CLASSES,
        width=8,
        vit={
            "num_layers": 4,
            "hidden_size": 96,
            "mlp_size": 192,
            "num_heads": 3,
            "layer_scale": vit,
        },
        queries={
            "num_queries": 10,
            "hidden_size": 96,
            "mlp_size": 192,
            "layer_scale": queries,
            "matching": matching,
        },
        **plan_trunk(PATCH, smallest=2)._asdict(),
    )
    return build(config)


def batches(volumes: list, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        pieces = []
        for index in rng.integers(len(volumes), size=2):
            image, label = volumes[index]
            # Padded or cut to the patch, at a random place.
            starts = [
                int(rng.integers(min(n - side, 0), max(n - side, 0) + 1))
                for n, side in zip(label.shape, PATCH, strict=True)
            ]
            pads = [
                pad
                for start, n, side in reversed(list(zip(starts, label.shape, PATCH, strict=True)))
                for pad in (-start, start + side - n)
            ]
            pieces.append((nn.functional.pad(image, pads), nn.functional.pad(label, pads)))
        yield tuple(torch.stack(part) for part in zip(*pieces, strict=True))


def run(settings: dict, train: list, test: list, steps: int, seed: int) -> list[float]:
    torch.manual_seed(seed)
    model = network(**settings).train()
    criterion = TransUNet3DLoss(model.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=3e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for images, labels in batches(train, steps, seed):
        optimizer.zero_grad()
        criterion(model.training_outputs(images, nn.ModuleList()), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 12)
        optimizer.step()
        schedule.step()
    model.eval()
    both, either = np.zeros((len(test), CLASSES)), np.zeros((len(test), CLASSES))
    with torch.inference_mode():
        for i, (image, label) in enumerate(test):
            found = model(image[None])[0].argmax(0)
            for k in range(CLASSES):
                both[i, k] = ((found == k) & (label == k)).sum()
                either[i, k] = (found == k).sum() + (label == k).sum()
    return (2 * both / either.clip(1)).mean(0)[1:].tolist()


if __name__ == "__main__":
    main()
