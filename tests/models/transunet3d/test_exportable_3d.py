import pytest
import torch
from torch import nn

from tiny_3d import tiny_model_3d
from transunet.models.transunet3d.exportable import PlanewiseNorm, exportable


@pytest.mark.parametrize("name", ["UNet3D-S", "TransUNet3D-encoder-S", "TransUNet3D-S"])
def test_logits_are_the_models(name: str) -> None:
    model = tiny_model_3d(name, (8, 32, 16))
    images = torch.randn(2, 1, 8, 32, 16) * 3 + 1
    with torch.inference_mode():
        expected, found = model(images), exportable(model)(images)
    assert (found - expected).abs().max() < 1e-4 * expected.std()


def test_the_model_stays_as_it_is() -> None:
    model = tiny_model_3d("UNet3D-S", (8, 16, 16)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = exportable(model)
    assert any(isinstance(module, PlanewiseNorm) for module in made.modules())
    assert not made.training
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_norm_is_instance_norm(offset: float) -> None:
    norm = nn.InstanceNorm3d(4, affine=True)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    x = torch.randn(2, 4, 3, 5, 7) * 3 + offset
    torch.testing.assert_close(PlanewiseNorm(norm)(x), norm(x), atol=1e-4, rtol=0)
