"""The modules that training wraps around the network."""

import pytest
import torch
from torch import nn

from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant
from transunet.training.distributed import SharedBatchNorm
from transunet.training.trainer import DeeplySupervised, MovingAverage


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TransUNet(variant("testing", num_classes=3, image_size=32, dropout=0.0))


def test_deep_supervision_gives_logits_at_every_depth_and_leaves_the_network_alone(model):
    images = torch.rand(2, 1, 32, 32)
    names = set(model.state_dict())
    supervised = DeeplySupervised(model, 3).train()
    outputs = supervised(images)
    assert [tuple(o.shape) for o in outputs] == [(2, 3, s, s) for s in (32, 16, 8, 4)]
    sum(o.sum() for o in outputs).backward()
    assert all(p.grad is not None for p in supervised.parameters())
    assert set(model.state_dict()) == names
    assert torch.equal(model(images), outputs[0])


@pytest.mark.runtime
def test_deep_supervision_compiles_without_a_break(model):
    supervised = DeeplySupervised(model, 2).train()
    compiled = torch.compile(supervised, backend="eager", fullgraph=True)
    images = torch.rand(2, 1, 32, 32)
    for found, expected in zip(compiled(images), supervised(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_average_is_by_hand(model):
    average = MovingAverage(model, decay=0.9)
    name, parameter = next(iter(model.named_parameters()))
    start = parameter.detach().clone()
    with torch.no_grad():
        for step in range(3):
            parameter.add_(1.0)
            average.update(model, step)
    expected = start
    for step, decay in enumerate((1 / 10, 2 / 11, 3 / 12)):
        expected = decay * expected + (1 - decay) * (start + step + 1)
    found = dict(average.model.named_parameters())[name]
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    counter = next(n for n in model.state_dict() if n.endswith("num_batches_tracked"))
    model.state_dict()[counter].fill_(42)
    average.update(model, 3)
    assert average.model.state_dict()[counter] == 42


def test_shared_batch_norm_takes_half_precision():
    x = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    found = SharedBatchNorm(3)(x)
    assert found.dtype == torch.bfloat16
    expected = nn.BatchNorm2d(3)(x.float())
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("training", [True, False])
def test_shared_batch_norm_alone_is_batch_norm(training):
    torch.manual_seed(0)
    usual, shared = nn.BatchNorm2d(5).train(training), SharedBatchNorm(5).train(training)
    with torch.no_grad():
        for p, q in zip(usual.parameters(), shared.parameters(), strict=True):
            q.copy_(p.uniform_(0.5, 2))
    x = (3 + 2 * torch.randn(4, 5, 6, 7)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    first, second = usual(x), shared(y)
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(first)
    (first * weight).sum().backward()
    (second * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value, rtol=1e-5, atol=1e-6)
