"""Google's published ViT `.npz` (Dosovitskiy et al. 2021): names and arrays in, state dict out.

Convolution kernels are HWIO, linear kernels (in, out), those of query, key and value
(D, heads, D / heads) and that of the output (heads, D / heads, D). Names use `/` on every system.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from transunet.weights.renaming import (
    BACKBONE,
    EMBEDDINGS,
    ENCODER,
    RenamedState,
    Rule,
    positions,
    rename,
    same,
)

SCHEME = "Google's ViT .npz names"


def recognises(names: Iterable[str]) -> bool:
    """Whether `names` are those of a Google ViT file."""
    return any(name.startswith(("Transformer/", "embedding/")) for name in names)


def renamed(entries: Mapping[str, Tensor]) -> RenamedState:
    """Return the encoder that `entries` hold, under our names; the classifier is unused."""
    rules = (positions(entries, "Transformer/posembed_input/pos_embedding", "cls"), *_RULES)
    queries = (n for n, v in entries.items() if n.endswith("query/kernel") and v.dim() == 3)
    first = next(queries, None)
    heads = entries[first].shape[1] if first else None
    return replace(rename(entries, rules, _UNUSED, SCHEME), heads=heads)


def _hwio(kernel: Tensor) -> Tensor:
    return kernel.permute(3, 2, 0, 1) if kernel.dim() == 4 else kernel


def _transposed(kernel: Tensor) -> Tensor:
    return kernel.T if kernel.dim() == 2 else kernel


def _into_heads(kernel: Tensor) -> Tensor:  # (D, heads, D / heads)
    return kernel.flatten(1).T if kernel.dim() == 3 else kernel


def _out_of_heads(kernel: Tensor) -> Tensor:  # (heads, D / heads, D)
    return kernel.flatten(0, 1).T if kernel.dim() == 3 else kernel


def _flat(value: Tensor) -> Tensor:  # GroupNorm's (1, 1, 1, C), attention biases (heads, D / heads)
    return value.flatten()


_UNIT, _OUR_UNIT = r"block(\d+)/unit(\d+)", rf"{BACKBONE}.body.block\1.unit\2"
_BLOCK, _OUR_BLOCK = r"Transformer/encoderblock_(\d+)", rf"{ENCODER}.layer.\1"
_ATTENTION = rf"{_BLOCK}/MultiHeadDotProductAttention_1"

_RULES: tuple[Rule, ...] = (
    (r"embedding/kernel", f"{EMBEDDINGS}.patch_embeddings.weight", _hwio),
    (r"embedding/bias", f"{EMBEDDINGS}.patch_embeddings.bias", same),
    (r"conv_root/kernel", f"{BACKBONE}.root.conv.weight", _hwio),
    (r"gn_root/scale", f"{BACKBONE}.root.gn.weight", _flat),
    (r"gn_root/bias", f"{BACKBONE}.root.gn.bias", _flat),
    (rf"{_UNIT}/(conv[123])/kernel", rf"{_OUR_UNIT}.\3.weight", _hwio),
    (rf"{_UNIT}/conv_proj/kernel", rf"{_OUR_UNIT}.downsample.weight", _hwio),
    (rf"{_UNIT}/(gn[123]|gn_proj)/scale", rf"{_OUR_UNIT}.\3.weight", _flat),
    (rf"{_UNIT}/(gn[123]|gn_proj)/bias", rf"{_OUR_UNIT}.\3.bias", _flat),
    (rf"{_BLOCK}/LayerNorm_0/scale", rf"{_OUR_BLOCK}.attention_norm.weight", same),
    (rf"{_BLOCK}/LayerNorm_0/bias", rf"{_OUR_BLOCK}.attention_norm.bias", same),
    (rf"{_BLOCK}/LayerNorm_2/scale", rf"{_OUR_BLOCK}.ffn_norm.weight", same),
    (rf"{_BLOCK}/LayerNorm_2/bias", rf"{_OUR_BLOCK}.ffn_norm.bias", same),
    (rf"{_BLOCK}/MlpBlock_3/Dense_0/kernel", rf"{_OUR_BLOCK}.ffn.fc1.weight", _transposed),
    (rf"{_BLOCK}/MlpBlock_3/Dense_0/bias", rf"{_OUR_BLOCK}.ffn.fc1.bias", same),
    (rf"{_BLOCK}/MlpBlock_3/Dense_1/kernel", rf"{_OUR_BLOCK}.ffn.fc2.weight", _transposed),
    (rf"{_BLOCK}/MlpBlock_3/Dense_1/bias", rf"{_OUR_BLOCK}.ffn.fc2.bias", same),
    (rf"{_ATTENTION}/(query|key|value)/kernel", rf"{_OUR_BLOCK}.attn.\2.weight", _into_heads),
    (rf"{_ATTENTION}/(query|key|value)/bias", rf"{_OUR_BLOCK}.attn.\2.bias", _flat),
    (rf"{_ATTENTION}/out/kernel", rf"{_OUR_BLOCK}.attn.out.weight", _out_of_heads),
    (rf"{_ATTENTION}/out/bias", rf"{_OUR_BLOCK}.attn.out.bias", same),
    (r"Transformer/encoder_norm/scale", f"{ENCODER}.encoder_norm.weight", same),
    (r"Transformer/encoder_norm/bias", f"{ENCODER}.encoder_norm.bias", same),
)
_UNUSED = r"cls|pre_logits/.*|head/.*"
