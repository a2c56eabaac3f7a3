"""A bundle of a 3D network tells all of it."""

from pathlib import Path

import torch

from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.io import from_pretrained, save_pretrained
from transunet.create import create_model
from transunet.data.preprocessing import Preprocessing
from transunet.data.sampling.patches import Patches
from transunet.models.families import build
from transunet.models.transunet3d.config import TRANSUNET3D_VARIANTS, plan_trunk


def test_a_network_of_volumes_comes_back_and_begins_another(tmp_path: Path) -> None:
    usual = TRANSUNET3D_VARIANTS["TransUNet3D-S"]
    assert usual.vit
    assert usual.queries
    config = usual.replace(
        num_classes=3,
        width=4,
        vit=usual.vit.replace(num_layers=1, hidden_size=24, mlp_size=32),
        queries=usual.queries.replace(num_queries=5, mlp_size=32),
        **plan_trunk((32, 32, 32), (3, 1, 1))._asdict(),
    )
    model = build(config).eval()
    described = BundleConfig(
        architecture=config,
        preprocessing=Preprocessing(channels=[{"name": "CT"}]),
        sampling=Patches(size=config.image_size),
        labels={0: "background", 1: "liver", 2: "tumour"},
    )
    save_pretrained(model, described, tmp_path / "bundle")
    again, told = from_pretrained(tmp_path / "bundle")
    assert told.architecture == again.config == config
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model(x))

    # The next one knows the liver, has another patch, and keeps what it can.
    names = ["background", "spleen", "liver"]
    begun = create_model(
        weights=tmp_path / "bundle", class_names=names, image_size=(32, 64, 32)
    ).eval()
    assert begun.config.grid == (8, 8, 4)
    assert begun.config.poolings == config.poolings
    head, known = (m.predictor.class_embed.weight for m in (begun, model))
    assert torch.equal(head[2], known[1])
    assert torch.equal(head[3], known[3])  # no object
    assert not torch.equal(head[1], known[2])
    positions = begun.transformer.embeddings.position_embeddings
    assert positions.shape == (1, 8 * 8 * 4, 24)
