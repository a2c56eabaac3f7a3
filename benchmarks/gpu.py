"""What `engines.py` measures on a GPU alone: CUDA graphs and a step of training."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from subjects import Run

from transunet.backends.pytorch import FixedNetwork
from transunet.models.transunet2d.optimised import fuse


def fused_network(
    model: Any, device: str, precision: str = "fp32", compiled: bool = False
) -> FixedNetwork:
    """What predicting makes of a bundle's model."""
    return FixedNetwork(fuse(model), model.config.image_size, "", device, precision, compiled)


def with_graphs(model: Any, device: str, precision: str) -> Run:
    """Compiled and replayed as CUDA graphs: no kernel is launched from Python."""
    network = fused_network(model, device, precision)
    compiled = torch.compile(network.module, mode="reduce-overhead", dynamic=False)

    @torch.inference_mode()
    def run(images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(images).to(device, torch.bfloat16 if precision == "bf16" else None)
        return compiled(x.to(memory_format=torch.channels_last)).float()

    return run


def training_step(name: str, model: Any, batch: int, device: str) -> Callable[[], Any]:
    """One step of SGD on random images: forward, loss, backward, update."""
    trained = deepcopy(model).to(device).train()
    optimiser = torch.optim.SGD(trained.parameters(), lr=1e-6, momentum=0.9)
    forward = torch.compile(trained) if "compiled" in name else trained
    size = model.config.image_size
    images = torch.randn(batch, model.config.in_channels, *size, device=device)
    labels = torch.zeros(batch, *size, dtype=torch.long, device=device)

    def once() -> None:
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled="bf16" in name):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimiser.step()
        torch.cuda.synchronize()

    return once
