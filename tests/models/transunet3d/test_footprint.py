import pytest
import torch

from transunet.models.families import build
from transunet.models.transunet3d.config import plan_trunk
from transunet.models.transunet3d.footprint import training_bytes, weights_of
from transunet.models.variants import VARIANTS, variant


@pytest.mark.parametrize("name", [name for name in VARIANTS if "3D" in name])
def test_the_weights_are_about_those_of_the_network(name):
    with torch.device("meta"):
        network = build(VARIANTS[name])
    own = sum(weight.numel() for weight in network.parameters())
    assert weights_of(VARIANTS[name]) == pytest.approx(own, rel=0.03)


@pytest.mark.parametrize(
    ("name", "size", "spacing"),
    [
        ("UNet3D", (128, 128, 128), (1, 1, 1)),
        ("UNet3D", (48, 192, 192), (3, 0.76, 0.76)),
        ("TransUNet3D-encoder", (48, 192, 192), (3, 0.76, 0.76)),
        ("TransUNet3D-S", (32, 32, 32), (1, 1, 1)),
    ],
)
def test_the_memory_is_about_what_a_step_keeps(name, size, spacing):
    config = variant(name, num_classes=3, **plan_trunk(size, spacing)._asdict())
    device = "cpu" if config.queries else "meta"
    with torch.device(device):
        network = build(config).train()
        image = torch.zeros(1, 1, *config.image_size)
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other gets its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network.training_outputs(image, network.auxiliary_heads(0))
    weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
    activations = sum(part.nbytes() for number, part in kept.items() if number not in weights)
    expected = 1.25 * activations + 16 * sum(p.numel() for p in network.parameters())
    assert training_bytes(config) == pytest.approx(expected, rel=0.2)
    one_more = training_bytes(config, 2) - training_bytes(config)
    assert one_more == pytest.approx(1.25 * activations, rel=0.25)
