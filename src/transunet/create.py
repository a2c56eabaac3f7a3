"""A model by its published name, with weights if wanted: `transunet.create_model`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transunet.models.architecture import Architecture
from transunet.models.families import build
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.variants import variant
from transunet.weights.load import Source, load_weights
from transunet.weights.origin import local_origin

_LOGGER = logging.getLogger(__name__)
_NAME = "R50-ViT-B_16"


def create_model(
    name: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    n_skip: int | None = None,
    weights: Source | None = None,
    class_names: Sequence[str] | None = None,
    **settings: Any,
) -> SegmentationNetwork:
    """Build a network.

    With the weights of a bundle or run, what is not given is taken from there, and what is given
    may differ from it in classes, channels and image size: the model is then one to fine-tune, and
    a warning is logged that says which part of the head starts fresh.

    Args:
        name: One of `transunet.VARIANTS`; the paper's "R50-ViT-B_16" if not given.
        num_classes: Classes of the logits, background included; 2 if not given.
        in_channels: Channels of the image; 1 if not given. One is repeated to three, as in the
            reference.
        image_size: Height and width in pixels (of volumes three sides), or one for all of them, for
            which position embeddings are made; 224 of slices if not given. The model runs other
            sizes too.
        n_skip: Skip connections, 0 to 3 (0 without a ResNet); the variant's own if not given.
        weights: None for fresh weights, "imagenet21k" for the published ones, or the path of a
            `.npz`, `.pth` or `.safetensors` file, of a bundle or of a run.
        class_names: What the classes are called, background first: classes keep the weights of the
            bundle's classes of their names.
        settings: Any other field of the configuration of the name's family. Of a 3D network,
            `vit={"num_layers": 3}` changes that of the variant's transformer, and `vit=None` and
            `queries=None` leave the transformers out.

    Raises:
        ConfigError: for an unknown name or impossible settings.
        WeightsError: when the weights cannot be had or do not fit.
    """
    if class_names is not None and num_classes is None:
        num_classes = len(class_names)
    bundle = _bundle_config(weights)
    if bundle is None or name not in (None, bundle.name):
        bundle, usual = None, variant(name or _NAME)
    else:
        usual = bundle
    given = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "image_size": image_size,
        "n_skip": n_skip,
    }
    given = {name: value for name, value in given.items() if value is not None}
    model = build(usual.replace(**given, **settings))
    if weights is not None:
        partial = bundle is not None or num_classes is not None
        loaded = load_weights(model, weights, partial=partial, labels=class_names)
        if loaded.anew:
            _LOGGER.warning("%s", loaded)
    return model


def _bundle_config(weights: Source | None) -> Architecture | None:
    """Return the architecture of the bundle that `weights` is, None for anything else."""
    origin = local_origin(weights) if isinstance(weights, str | Path) else None
    return origin.config if origin else None
