"""What the rest of the package knows of a network, whatever its family."""

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.errors import ConfigError
from transunet.models.architecture import Architecture


class SegmentationNetwork(nn.Module):
    """Base of the networks: an image (B, C, *spatial) in, logits (B, num_classes, *spatial) out.

    A network takes samples of any size; along each axis `spatial` has as many as `config.axes`. Its
    `forward(images, return_attention=True)` returns the logits and the attention probabilities of
    each of `config.layers` layers, (B, config.heads, N, N), N being the tokens row by row.

    Where `config.clicks`, `forward(images, guidance=...)` takes guidance (B,
    `config.guidance_channels`, *spatial), too: a convolution of it, `clicks`, is added to what the
    first one makes of the image. It has no bias, so that guidance of zeros is none, and is 0 at
    first, so that published weights compute what they did.

    Args:
        config: what it is made of.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.config = config

    def _added(self, guidance: Tensor | None, images: Tensor) -> Tensor | None:
        """Return what guidance adds to the stem's output for padded `images`; None without any.

        Raises:
            ConfigError: for a network without clicks, or guidance of another shape.
        """
        if guidance is None:
            return None
        if not self.config.clicks:
            raise ConfigError(
                f"This {self.config.name} was not built for clicks: build it with clicks=True."
            )
        wanted = (len(images), self.config.guidance_channels)
        if guidance.shape[:2] != wanted or guidance.ndim != images.ndim:
            raise ConfigError(
                f"Expected guidance of {wanted[1]} channels for {wanted[0]} images, found shape "
                f"{tuple(guidance.shape)}."
            )
        missing = [
            pad
            for has, wants in zip(guidance.shape[:1:-1], images.shape[:1:-1], strict=True)
            for pad in (0, wants - has)
        ]
        return self.clicks(F.pad(guidance, missing))  # type: ignore[no-any-return,operator]

    @property
    def head_names(self) -> tuple[str, ...]:
        """Entries of the state dict with a row for each class, which others need anew.

        One with more rows has the classes' first.
        """
        return ()

    @property
    def position_name(self) -> str | None:
        """The entry with position embeddings (1, N, D) of the tokens of `config.grid`."""
        return None

    @property
    def deepest(self) -> nn.Module | None:
        """The end of the encoder: it returns features (B, C, *spatial) or tokens (B, N, C).

        None where a family does not say.
        """
        return None

    @property
    def stem_name(self) -> str | None:
        """The entry of the first convolution, (channels out, channels in, *kernel)."""
        return None

    def auxiliary_heads(self, depths: int) -> nn.ModuleList:
        """Return fresh heads for `depths` coarser outputs, which training adds and throws away.

        Empty where the network has heads of its own for them.

        Raises:
            ConfigError: when it has no outputs as coarse.
        """
        if depths:
            raise ConfigError(f"{self.config.name} has no coarser outputs (deep_supervision).")
        return nn.ModuleList()

    def training_outputs(
        self, images: Tensor, heads: nn.ModuleList, guidance: Tensor | None = None
    ) -> Any:
        """Return what the family's loss takes, for `images` (B, C, *spatial) and their guidance.

        A list of logits (B, num_classes, *spatial): the network's own, then coarser ones, the
        finest first. Of a network with queries their predictions too.
        """
        return [self(images, guidance=guidance)]

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute parts of the network in the backward pass, to save memory.

        Raises:
            ConfigError: where the network has no parts to recompute.
        """
        if enabled:
            raise ConfigError(f"{self.config.name} has nothing to recompute: leave it out.")


@torch.no_grad()
def evaluation_copy(model: SegmentationNetwork) -> SegmentationNetwork:
    """Return a copy of `model` in evaluation mode, whose weights ask for no gradients."""
    return deepcopy(model).eval().requires_grad_(False)
