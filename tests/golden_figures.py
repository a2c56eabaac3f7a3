"""The golden figures of the reference, and the seeded tensors they were computed with."""

import json
import os
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

from seeded import normal, npz_entry, state_dict_entry, uniform  # noqa: E402

__all__ = [
    "close",
    "facts",
    "figure",
    "image",
    "names",
    "normal",
    "npz_entry",
    "seed_state",
    "uniform",
]

FRACTION_OF_STD = 1e-4

# Some figures are themselves further than that from the same network computed in float64 (1.9e-4 of
# their standard deviation for the first two, 1.3e-3 for attention): rounding grows through sixteen
# residual units of random weights, and differs with the processor's instructions. The root mean
# square of the error is held to 1e-4 for every figure all the same.
ROUNDING = {
    "encoded": 2e-4,
    "pth_r50b16_224_skip0": 2e-4,
    "attention_layer0": 2e-3,
    "attention_layer11": 2e-3,
}


@cache
def facts() -> dict[str, Any]:
    return json.loads((GOLDEN / "golden.json").read_text())


@cache
def names() -> dict[str, dict[str, list[int]]]:
    return json.loads((GOLDEN / "names.json").read_text())


@cache
def _arrays() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "golden.npz", allow_pickle=False) as file:
        return dict(file)


def figure(name: str) -> NDArray[Any]:
    return _arrays()[name]


def seed_state(model: torch.nn.Module, prefix: str = "", keep: bool = True) -> None:
    """Fill a model by state-dict name, as tests/golden/README.md defines.

    Drawing a hundred million normal values takes seconds, so that they are kept in files, which
    every test of this run and every worker of pytest-xdist reads.
    """
    entry = _kept_entry if keep else state_dict_entry
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            values = np.asarray(entry(prefix + name, tuple(tensor.shape)))
            tensor.copy_(torch.from_numpy(values))


def _kept_entry(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    folder = Path(os.environ["TRANSUNET_TESTS"]) / "seeded"
    path = folder / f"{zlib.crc32(f'{name} {shape}'.encode())}.npy"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, state_dict_entry(name, shape))
        partial.replace(path)
    return np.load(path)


def image(fact: dict[str, Any]) -> torch.Tensor:
    """Return the input image of a golden array."""
    shape = (fact["batch"], fact["in_channels"], fact["image_size"], fact["image_size"])
    return torch.from_numpy(uniform("input/" + "x".join(map(str, shape)), shape))


def close(name: str, found: torch.Tensor | NDArray[Any]) -> None:
    """Assert that a full array agrees with the golden `name`, everywhere and at large."""
    fact = facts()[name]
    full = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    assert list(full.shape) == fact["shape"]
    kept = full[tuple(slice(None, None, step) for step in fact["stride"])]
    error = np.abs(kept - figure(name)) / fact["std"]
    allowed = ROUNDING.get(name, FRACTION_OF_STD)
    assert error.max() < allowed, f"{name}: largest error is {error.max():.2e} standard deviations"
    assert np.sqrt((error**2).mean()) < FRACTION_OF_STD
    # What the stride leaves out is held by the full array's mean and deviation.
    assert abs(full.mean(dtype=np.float64) - fact["mean"]) < FRACTION_OF_STD * fact["std"]
    assert abs(full.std(dtype=np.float64) - fact["std"]) < FRACTION_OF_STD * fact["std"]
