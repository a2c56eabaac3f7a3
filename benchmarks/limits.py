"""What bounds a network's speed: the machine's rate, and the network's own products."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from transunet.models.transunet2d.optimised import fuse


def matrix_product(
    device: str = "cpu", dtype: torch.dtype = torch.float32, side: int = 2048
) -> Callable[[], Any]:
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))

    def once() -> None:
        torch.mm(a, b)

    once.operations = 2 * side**3  # type: ignore[attr-defined]
    return once


def operations(model: Any) -> int:
    """Floating-point operations of one image, a multiplication and an addition counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    place = next(model.parameters()).device
    image = torch.zeros(1, model.config.in_channels, *model.config.image_size, device=place)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    return int(counter.get_total_flops())


def products_alone(model: Any, batch: int) -> Callable[[], Any]:
    """The network's convolutions and linear layers one after another, and nothing between them.

    In PyTorch on a CPU; what an engine needs beyond it, norms and attention and the rest cost.
    """
    fused = fuse(model).to(memory_format=torch.channels_last)
    calls: list[tuple[nn.Module, Tensor]] = []
    kept = [
        module.register_forward_hook(lambda module, inputs, _: calls.append((module, inputs[0])))
        for module in fused.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    images = torch.randn(batch, model.config.in_channels, *model.config.image_size)
    with torch.inference_mode():
        fused(images.contiguous(memory_format=torch.channels_last))
    for hook in kept:
        hook.remove()

    @torch.inference_mode()
    def once() -> None:
        for module, x in calls:
            module(x)

    return once
