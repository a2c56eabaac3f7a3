"""Seeded weights of small models, written as each publisher writes them, without the code."""

import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from transunet.bundle.io import BundleConfig, save_pretrained
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.network import TransUNet

E = "transformer.embeddings"
ROWS = 4  # of the position grid in the files: what 64 pixels give


def small(hybrid: bool = True, **changes) -> TransUNetConfig:
    settings = {
        "image_size": 64,
        "num_classes": 3,
        "hidden_size": 24,
        "mlp_size": 40,
        "num_heads": 3,
        "num_layers": 2,
        "bridge_channels": 16,
        "decoder_channels": (8, 8, 8, 4),
    }
    if hybrid:
        settings |= {"resnet_units": (1, 2, 1), "resnet_width": 0.5, "n_skip": 3}
    return TransUNetConfig(**{**settings, **changes})


def seeded_model(config: TransUNetConfig) -> TransUNet:
    model = TransUNet(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                rng = np.random.RandomState(zlib.crc32(name.encode()))
                noise = torch.from_numpy(rng.standard_normal(value.shape).astype(np.float32))
                value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else 0.2 * noise)
    return model


def encoder(state) -> dict[str, np.ndarray]:
    return {n: v.numpy() for n, v in state.items() if n.startswith("transformer.")}


def class_token(positions: np.ndarray) -> np.ndarray:
    rng = np.random.RandomState(7)
    first = rng.standard_normal((1, 1, positions.shape[2])).astype(np.float32)
    return np.concatenate([first, positions], axis=1)


def write_npz(path: Path, state, heads: int, **changes) -> Path:
    """Google's way: HWIO, (in, out), heads apart, GroupNorm as (1, 1, 1, C), a classifier."""
    arrays = {}
    for name, value in encoder(state).items():
        arrays.update(_google(name.split("."), value, heads))
    size = arrays["embedding/bias"].shape[0]
    arrays |= {
        "cls": np.zeros((1, 1, size), np.float32),
        "pre_logits/kernel": np.zeros((size, size), np.float32),
        "pre_logits/bias": np.zeros(size, np.float32),
        "head/kernel": np.zeros((size, 10), np.float32),
        "head/bias": np.zeros(10, np.float32),
    }
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def _google(name, value, heads):
    leaf = {"weight": "kernel" if value.ndim > 1 else "scale", "bias": "bias"}.get(name[-1])
    if name[2] == "position_embeddings":
        return {"Transformer/posembed_input/pos_embedding": class_token(value)}
    if name[2] == "patch_embeddings":
        return {f"embedding/{leaf}": _kernel(value)}
    if name[2] == "encoder_norm":
        return {f"Transformer/encoder_norm/{leaf}": value}
    if name[2] == "hybrid_model":
        return {_google_backbone(name[3:], leaf): _kernel(value, groups=True)}
    block, part, size = f"Transformer/encoderblock_{name[3]}", name[-2], value.shape[-1]
    if part in ("query", "key", "value"):
        apart = (size, heads, -1) if value.ndim == 2 else (heads, -1)
        key = f"{block}/MultiHeadDotProductAttention_1/{part}/{leaf}"
        return {key: value.T.reshape(apart)}
    if part == "out":
        out = value.T.reshape(heads, -1, size) if value.ndim == 2 else value
        return {f"{block}/MultiHeadDotProductAttention_1/out/{leaf}": out}
    places = {
        "attention_norm": "LayerNorm_0",
        "ffn_norm": "LayerNorm_2",
        "fc1": "MlpBlock_3/Dense_0",
        "fc2": "MlpBlock_3/Dense_1",
    }
    return {f"{block}/{places[part]}/{leaf}": value.T}


def _google_backbone(name, leaf):
    if name[0] == "root":
        return f"conv_root/{leaf}" if name[1] == "conv" else f"gn_root/{leaf}"
    part = "conv_proj" if name[3] == "downsample" else name[3]
    return f"{name[1]}/{name[2]}/{part}/{leaf}"


def _kernel(value, groups=False):
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.reshape(1, 1, 1, -1) if groups else value


def write_timm(path: Path, state, **changes) -> Path:
    """timm's way: fused qkv, stages and blocks from zero, a class token."""
    tensors, theirs = {}, encoder(state)
    for name, value in theirs.items():
        if not any(part in name for part in (".key.", ".value.")):
            key, array = _timm(name, value, theirs)
            tensors[key] = torch.from_numpy(np.ascontiguousarray(array))
    tensors["cls_token"] = torch.zeros(1, 1, tensors["norm.weight"].shape[0])
    tensors |= changes
    save_file({k: v for k, v in tensors.items() if v is not None}, path)
    return path


def _timm(name, value, everything):
    part = name.split(".")
    leaf = part[-1]
    if part[2] == "position_embeddings":
        return "pos_embed", class_token(value)
    if part[2] == "patch_embeddings":
        return f"patch_embed.proj.{leaf}", value
    if part[2] == "encoder_norm":
        return f"norm.{leaf}", value
    if part[2] == "hybrid_model":
        return _timm_backbone(part[3:], leaf), value
    block = f"blocks.{part[3]}"
    if part[-2] == "query":
        qkv = [everything[name.replace("query", one)] for one in ("query", "key", "value")]
        return f"{block}.attn.qkv.{leaf}", np.concatenate(qkv)
    places = {
        "attention_norm": "norm1",
        "ffn_norm": "norm2",
        "out": "attn.proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    }
    return f"{block}.{places[part[-2]]}.{leaf}", value


def _timm_backbone(part, leaf):
    if part[0] == "root":
        kind = {"conv": "conv", "gn": "norm"}[part[1]]
        return f"patch_embed.backbone.stem.{kind}.{leaf}"
    stage, block = int(part[1][-1]) - 1, int(part[2].removeprefix("unit")) - 1
    place = {"downsample": "downsample.conv", "gn_proj": "downsample.norm"}.get(part[3])
    place = place or part[3].replace("gn", "norm")
    return f"patch_embed.backbone.stages.{stage}.blocks.{block}.{place}.{leaf}"


def write_pth(path: Path, state, prefix: str = "", under: str | None = None) -> Path:
    """The reference's way."""
    plain = {prefix + name: value for name, value in state.items()}
    torch.save({under: plain, "epoch": 3} if under else plain, path)
    return path


def write_bundle(folder: Path, config: TransUNetConfig, labels=None, channels=None):
    """A bundle of seeded weights, as `save_pretrained` writes it; and its state."""
    model = seeded_model(config)
    names = labels or ["background", *(f"organ{index}" for index in range(1, config.num_classes))]
    kinds = channels or [f"channel{index}" for index in range(config.in_channels)]
    preprocessing = Preprocessing(channels=tuple(Channel(name=name) for name in kinds))
    description = BundleConfig(
        architecture=config, preprocessing=preprocessing, labels=dict(enumerate(names))
    )
    save_pretrained(model, description, folder)
    return folder, model.state_dict()
