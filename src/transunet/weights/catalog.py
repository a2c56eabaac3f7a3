"""The published weight files: where each is, whose it is, and which variants it is for.

Imports no torch, so that listing the catalogue is instant. No checksum is guessed: where the
publisher states none in a place that we could read, `sha256` is None and the download checks what
the server itself declares for the file, then remembers it (see `cache`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from transunet.errors import ConfigError

_HUB = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One published file of ImageNet-21k weights (Dosovitskiy et al. 2021, table 5)."""

    key: str
    """Name in the cache and in messages, unique in the catalogue."""
    repo: str
    """Repository on the hub."""
    filename: str
    address: str
    """Where a browser can fetch it."""
    parameters: int
    """Float32 numbers that it should hold; four bytes each, and a small header, make its size."""
    licence: str = "Apache-2.0"
    sha256: str | None = None
    """Checksum known in advance, or None: then what the server declares counts."""

    @property
    def about_bytes(self) -> int:
        """Size to expect, from `parameters`; the exact one is what the server declares."""
        return 4 * self.parameters


def _hub(model: str, parameters: int) -> WeightFile:
    repo = f"timm/{model}.orig_in21k"
    return WeightFile(
        key=f"{model}.orig_in21k",
        repo=repo,
        filename="model.safetensors",
        address=f"{_HUB}/{repo}/resolve/main/model.safetensors",
        parameters=parameters,
    )


_HUB_FILES = {
    "R50+ViT-B_16": _hub("vit_base_r50_s16_224", 97_890_112),
    "ViT-B_16": _hub("vit_base_patch16_224", 85_798_656),
    "ViT-B_32": _hub("vit_base_patch32_224", 87_455_232),
    "ViT-L_16": _hub("vit_large_patch16_224", 303_301_632),
    "ViT-L_32": _hub("vit_large_patch32_224", 305_510_400),
    "ViT-H_14": _hub("vit_huge_patch14_224", 630_764_800),
}

FILES: tuple[WeightFile, ...] = tuple(_HUB_FILES.values())

SOURCES: Mapping[str, Mapping[str, WeightFile]] = MappingProxyType({"imagenet21k": _HUB_FILES})
"""Names that `weights=` knows."""

PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "R50-ViT-B_16": ("R50+ViT-B_16",),
        # No file of this hybrid was published: the backbone of one, the blocks of another.
        "R50-ViT-L_16": ("R50+ViT-B_16", "ViT-L_16"),
        # Of it, 3D networks take the transformer's blocks and positions.
        **dict.fromkeys(("TransUNet3D-encoder", "TransUNet3D"), ("R50+ViT-B_16",)),
        **{name: (name,) for name in ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "ViT-H_14")},
    }
)
"""Variant -> the published files that it is made of, the backbone's first."""


def files_for(variant: str, source: str = "imagenet21k") -> tuple[WeightFile, ...]:
    """Return the files that `variant` needs from `source`.

    Raises:
        ConfigError: when nothing was published for that variant, or no source has that name.
    """
    if source not in SOURCES:
        raise ConfigError(f"No weights are called {source!r}. Known: {', '.join(SOURCES)}.")
    if variant not in PARTS:
        raise ConfigError(
            f"No {source} weights were published for {variant!r}. There are some for: "
            f"{', '.join(PARTS)}. Use one of these, or no pretrained weights."
        )
    return tuple(SOURCES[source][part] for part in PARTS[variant])
