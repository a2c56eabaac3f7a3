"""The golden figures of the 3D network, and the networks that they were computed with."""

import json
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from golden_figures import GOLDEN, seed_state, uniform
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.transunet3d.network import TransUNet3D


@cache
def facts_3d() -> dict[str, Any]:
    return json.loads((GOLDEN / "golden3d.json").read_text())


@cache
def names_3d() -> dict[str, Any]:
    return json.loads((GOLDEN / "names3d.json").read_text())


@cache
def _arrays() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "golden3d.npz", allow_pickle=False) as file:
        return dict(file)


def arrays_of(case: str) -> set[str]:
    """The arrays of a case, without its name."""
    return {name.split("/")[1] for name in _arrays() if name.split("/")[0] == case}


def stored(name: str, full: NDArray[Any]) -> NDArray[Any]:
    """What of an array is kept."""
    fact = facts_3d()["arrays"][name]
    assert list(full.shape) == fact["shape"]
    return full[tuple(slice(None, None, step) for step in fact["stride"])]


def figure_3d(name: str) -> NDArray[Any]:
    return _arrays()[name]


def error_of(name: str, full: Tensor | NDArray[Any]) -> float:
    """The largest difference from the golden array, of its largest absolute value."""
    values = full.detach().numpy() if isinstance(full, Tensor) else full
    return float(
        np.abs(stored(name, values) - _arrays()[name]).max() / facts_3d()["arrays"][name]["absmax"]
    )


def close_3d(name: str, full: Tensor | NDArray[Any], tolerance: float = 1e-5) -> None:
    error = error_of(name, full)
    assert error < tolerance, f"{name}: largest error is {error:.2e} of the largest value"


def config_3d(case: dict[str, Any], **changes: Any) -> TransUNet3DConfig:
    """The configuration of a case, with the reference's mistakes."""
    model = case["model"]
    vit = queries = None
    if model["is_max_bottleneck_transformer"]:
        vit = {
            "num_layers": model["vit_depth"],
            "hidden_size": model.get("vit_hidden_size", 768),
            "mlp_size": model.get("vit_mlp_dim", 3072),
            "num_heads": model.get("vit_num_heads", 12),
            "layer_scale": "reference" if model.get("vit_layer_scale") else None,
            "positions_of_2d": "reference",
        } | changes.pop("vit", {})
    if model["is_max_hungarian"]:
        queries = {
            "num_queries": model["num_queries"],
            "hidden_size": model["max_hidden_dim"],
            "mlp_size": 8 * model["max_hidden_dim"],
            "num_layers": model["max_dec_layers"],
            "layer_scale": "reference" if model.get("decoder_layer_scale") else None,
            "matching": "reference",
        }
    return TransUNet3DConfig(
        num_classes=case["classes"],
        in_channels=case["in"],
        image_size=case["patch"],
        poolings=case["pool"],
        kernels=case["kernel"],
        width=case["base"],
        deep_supervision=case["ds"],
        vit=vit,
        queries=queries,
        **changes,
    )


def seeded_3d(config: TransUNet3DConfig) -> TransUNet3D:
    """The network filled by state-dict name."""
    with torch.device("meta"):
        model = TransUNet3D(config)
    model.to_empty(device="cpu")
    seed_state(model, keep=False)
    return model.eval()


def volume_of(case: dict[str, Any]) -> Tensor:
    return torch.from_numpy(uniform(case["input"], (case["batch"], case["in"], *case["patch"])))
