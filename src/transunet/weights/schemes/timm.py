"""timm's names for the same Google weights: names and arrays in, state dict out. Needs no timm.

Its stages and units count from zero, query, key and value are one fused array, position embeddings
start with the class token's where the model has one.
"""

import re
from collections.abc import Iterable, Mapping

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
    without_prefix,
)

SCHEME = "timm's ViT names"


def recognises(names: Iterable[str]) -> bool:
    """Whether `names` are those of a timm vision transformer."""
    return any(re.match(rf"(?:.*\.)?(?:{_NETWORK})", name) for name in names)


def renamed(entries: Mapping[str, Tensor]) -> RenamedState:
    """Return the encoder that `entries` hold, under our names; the classifier is unused."""
    entries = without_prefix(entries, _NETWORK)
    apart: dict[str, Tensor] = {}
    for name, value in entries.items():
        if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.(weight|bias)", name) and value.dim():
            # One fused (3 D, ...) array for query, key and value.
            parts = zip(("query", "key", "value"), value.tensor_split(3), strict=True)
            apart |= {f"{name}[{part}]": values for part, values in parts}
        elif unit := re.match(r"(.*backbone\.stages)\.(\d+)\.blocks\.(\d+)\.", name):
            # The reference's names count stages and units of the backbone from one.
            ours = f"{unit[1]}.{int(unit[2]) + 1}.blocks.{int(unit[3]) + 1}."
            apart[ours + name[unit.end() :]] = value
        else:
            apart[name] = value
    rules = (positions(entries, "pos_embed", "cls_token"), *_RULES)
    return rename(apart, rules, _UNUSED, SCHEME)


_NETWORK = r"patch_embed\.|blocks\.\d+\.attn\.qkv\."
_STEM = r"patch_embed\.backbone\.stem"
_UNIT = r"patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)"
_OUR_UNIT = rf"{BACKBONE}.body.block\1.unit\2"
_BLOCK, _OUR_BLOCK = r"blocks\.(\d+)", rf"{ENCODER}.layer.\1"
_WB = "(weight|bias)"

_RULES: tuple[Rule, ...] = (
    (rf"patch_embed\.proj\.{_WB}", rf"{EMBEDDINGS}.patch_embeddings.\1", same),
    (rf"{_STEM}\.conv\.weight", f"{BACKBONE}.root.conv.weight", same),
    (rf"{_STEM}\.norm\.{_WB}", rf"{BACKBONE}.root.gn.\1", same),
    (rf"{_UNIT}\.(conv[123])\.weight", rf"{_OUR_UNIT}.\3.weight", same),
    (rf"{_UNIT}\.norm([123])\.{_WB}", rf"{_OUR_UNIT}.gn\3.\4", same),
    (rf"{_UNIT}\.downsample\.conv\.weight", rf"{_OUR_UNIT}.downsample.weight", same),
    (rf"{_UNIT}\.downsample\.norm\.{_WB}", rf"{_OUR_UNIT}.gn_proj.\3", same),
    (rf"{_BLOCK}\.norm1\.{_WB}", rf"{_OUR_BLOCK}.attention_norm.\2", same),
    (rf"{_BLOCK}\.norm2\.{_WB}", rf"{_OUR_BLOCK}.ffn_norm.\2", same),
    (rf"{_BLOCK}\.mlp\.(fc[12])\.{_WB}", rf"{_OUR_BLOCK}.ffn.\2.\3", same),
    (rf"{_BLOCK}\.attn\.proj\.{_WB}", rf"{_OUR_BLOCK}.attn.out.\2", same),
    (rf"{_BLOCK}\.attn\.qkv\.{_WB}\[(query|key|value)\]", rf"{_OUR_BLOCK}.attn.\3.\2", same),
    (rf"norm\.{_WB}", rf"{ENCODER}.encoder_norm.\1", same),
)
_UNUSED = r"cls_token|head\..*|pre_logits\..*"
