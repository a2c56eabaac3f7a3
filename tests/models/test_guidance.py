"""Networks with clicks: without guidance the ordinary ones, to the bit."""

import pytest
import torch

from transunet.errors import ConfigError
from transunet.models.families import architecture_of, build, optimised
from transunet.models.variants import variant

SMALL_3D = {
    "image_size": (16, 16, 16),
    "poolings": ((2, 2, 2), (2, 2, 2), (2, 2, 2)),
    "kernels": ((3, 3, 3),) * 4,
    "num_classes": 3,
}
SMALL_VIT = {"image_size": 32, "hidden_size": 32, "mlp_size": 32, "num_heads": 2, "num_layers": 1}
NETWORKS = {
    "hybrid": ("R26-ViT-Ti_16", {"image_size": 32, "resnet_units": (1, 1, 1), "num_classes": 3}),
    "plain": ("ViT-B_16", {**SMALL_VIT, "num_classes": 3}),
    "3d": ("TransUNet3D-encoder-S", SMALL_3D),
    "queries": ("TransUNet3D-decoder-S", SMALL_3D),
    "regions": ("ViT-B_16", {**SMALL_VIT, "num_classes": 2, "regions": ((1, 2), (2,))}),
}


@pytest.mark.parametrize(("name", "settings"), NETWORKS.values(), ids=NETWORKS)
def test_without_guidance_it_is_the_ordinary_network(name, settings):
    models = []
    for clicks in (False, True):
        torch.manual_seed(0)
        models.append(build(variant(name, **settings, clicks=clicks)).eval())
    plain, clicked = models
    state = clicked.state_dict()
    assert state.pop("clicks.weight").shape[1] == 5  # two structures, two clicks and the removing
    assert list(state) == list(plain.state_dict())
    for entry, value in plain.state_dict().items():
        assert torch.equal(state[entry], value), entry

    sides = (17, 24, 20)[-plain.config.axes :]  # which are padded
    x, guidance = torch.rand(2, 1, *sides), torch.rand(2, 5, *sides)
    with torch.inference_mode():
        ordinary = plain(x)
        assert torch.equal(clicked(x), ordinary)
        assert torch.equal(clicked(x, guidance=guidance), ordinary)  # nothing was learned yet
        torch.nn.init.normal_(clicked.clicks.weight)
        assert torch.equal(clicked(x), ordinary)
        assert torch.equal(clicked(x, guidance=0 * guidance), ordinary)
        told = clicked(x, guidance=guidance)
        assert told.shape == ordinary.shape
        assert not torch.equal(told, ordinary)
        other = guidance.clone()
        other[1] = 0  # which each image has for itself
        torch.testing.assert_close(clicked(x, guidance=other)[1], ordinary[1])
        torch.testing.assert_close(
            optimised(clicked)(x, guidance=guidance), told, rtol=1e-3, atol=1e-3
        )
        with pytest.raises(ConfigError, match="not built for clicks"):
            plain(x, guidance=guidance)
        with pytest.raises(ConfigError, match="guidance of 5 channels for 2 images"):
            clicked(x, guidance=guidance[:, :4])


def test_a_configuration_tells_clicks_only_where_there_are_some():
    ordinary, clicked = variant("testing"), variant("testing", clicks=True)
    assert "clicks" not in ordinary.model_dump_json()
    assert clicked.model_dump()["clicks"] is True
    for config in (ordinary, clicked):
        assert architecture_of(config.model_dump(mode="json")) == config
