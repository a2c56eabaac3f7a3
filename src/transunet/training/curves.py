"""A run's log as a picture: loss and learning rate by step, Dice by validation."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from transunet.files import atomic_path
from transunet.training.log import read_log

_POINTS = 500  # of the loss: means over so many stretches, so that the trend is seen


def draw_curves(folder: Path) -> Path | None:
    """Draw `folder/curves.png` from `folder/log.jsonl`; without matplotlib, return None."""
    if find_spec("matplotlib") is None:
        return None
    figure = import_module("matplotlib.figure").Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_loss(left, read_log(folder, "train"))
    _draw_dice(right, read_log(folder, "validation"))
    path = folder / "curves.png"
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def _draw_loss(axes: Any, entries: list[dict[str, Any]]) -> None:
    steps = [entry["step"] for entry in entries]
    axes.plot(_thinned(steps), _thinned([entry["loss"] for entry in entries]), color="tab:blue")
    axes.set(xlabel="step", ylabel="loss", title="Training")
    rates = axes.twinx()
    rates.plot(steps, [entry["lr"] for entry in entries], color="tab:gray", linewidth=0.8)
    rates.set_ylabel("learning rate")


def _draw_dice(axes: Any, entries: list[dict[str, Any]]) -> None:
    steps = [entry["step"] for entry in entries]
    for name in entries[-1]["dice"] if entries else ():
        values = [entry["dice"][name] for entry in entries]
        axes.plot(steps, [np.nan if v is None else v for v in values], linewidth=0.8, label=name)
    means = [entry["mean_dice"] for entry in entries]
    axes.plot(steps, [np.nan if v is None else v for v in means], color="black", label="mean")
    axes.set(xlabel="step", ylabel="Dice", title="Held-out cases", ylim=(0, 1))
    if entries:
        axes.legend(fontsize="small")


def _thinned(values: list[float]) -> list[float]:
    parts = np.array_split(np.asarray(values, float), min(len(values), _POINTS) or 1)
    return [float(part.mean()) for part in parts if len(part)]
