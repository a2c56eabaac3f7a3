"""A model by its published name, with weights if wanted: `transunet.create_model`."""

from transunet.models.config import variant
from transunet.models.transunet import TransUNet
from transunet.weights.load import Source, load_weights


def create_model(
    name: str = "R50-ViT-B_16",
    *,
    num_classes: int = 2,
    in_channels: int = 1,
    image_size: int | tuple[int, int] | None = None,
    n_skip: int | None = None,
    weights: Source | None = None,
) -> TransUNet:
    """Build a TransUNet.

    Args:
        name: One of `transunet.VARIANTS`; "R50-ViT-B_16" is the paper's.
        num_classes: Classes of the logits, background included.
        in_channels: Channels of the image; one is repeated to three, as in the reference.
        image_size: Height and width in pixels, or one side, for which position embeddings are made;
            224 if not given. The model runs other sizes too.
        n_skip: Skip connections, 0 to 3 (0 without a ResNet); the variant's own if not given.
        weights: None for fresh weights, "imagenet21k" for the published ones, or the path of a
            `.npz`, `.pth` or `.safetensors` file.

    Raises:
        ConfigError: for an unknown name or impossible settings.
        WeightsError: when the weights cannot be had or do not fit.
    """
    config = variant(
        name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        n_skip=n_skip,
    )
    model = TransUNet(config)
    if weights is not None:
        load_weights(model, weights)
    return model
