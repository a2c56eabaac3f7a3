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
    rules = (positions(entries, "pos_embed", "cls_token"), *_RULES)
    return rename(_from_one(_apart(entries)), rules, _UNUSED, SCHEME)


def _apart(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split each fused (3 D, ...) array into one for query, key and value each."""
    result: dict[str, Tensor] = {}
    for name, value in entries.items():
        if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.(weight|bias)", name) and value.dim():
            parts = value.tensor_split(3)
            result.update({f"{name}[{part}]": one for part, one in zip(_QKV, parts, strict=True)})
        else:
            result[name] = value
    return result


def _from_one(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Count stages and units of the backbone from one, as the reference's names do."""

    def plus_one(match: re.Match[str]) -> str:
        return (
            f"{match.group(1)}{int(match.group(2)) + 1}{match.group(3)}{int(match.group(4)) + 1}."
        )

    return {
        re.sub(r"(backbone\.stages\.)(\d+)(\.blocks\.)(\d+)\.", plus_one, name): value
        for name, value in entries.items()
    }


_NETWORK = r"patch_embed\.|blocks\.\d+\.attn\.qkv\."
_QKV = ("query", "key", "value")
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
