"""What parts of the networks compute in another way while training on a CPU is the same."""

import pytest
import torch
from torch import nn

from transunet.models.transformer import Dropout
from transunet.models.transunet2d.resnet import GroupNorm, StdConv2d


def test_dropout_leaves_out_its_share_of_the_numbers_and_keeps_the_mean():
    x = torch.ones(1000, 1001, requires_grad=True)
    dropout = Dropout(0.1)
    torch.manual_seed(0)
    y = dropout(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=0.0015)  # five deviations
    assert torch.equal(y[y != 0].unique(), torch.tensor([1 / 0.9]))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert dropout.eval()(x) is x


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (StdConv2d(6, 8, 3, bias=False), (2, 6, 9, 7)),
        (GroupNorm(4, 8), (2, 8, 9, 7)),
        (GroupNorm(8, 8), (2, 8, 9, 7)),
    ],
    ids=["standardised weights", "groups", "a group for each channel"],
)
def test_values_and_gradients_are_those_of_the_plain_form(part, shape):
    generator = torch.Generator().manual_seed(0)
    for parameter in part.parameters():
        nn.init.normal_(parameter, 1.0, generator=generator)
    images = torch.randn(shape, generator=generator)
    images = images.to(memory_format=torch.channels_last)

    def found(training, type_=torch.float32):
        part.train(training).zero_grad()
        x = images.to(type_).detach().requires_grad_()
        y = part(x)
        (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        return [y.detach(), x.grad, *(p.grad.clone() for p in part.parameters())]

    for ours, plain in zip(found(True), found(False), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    if isinstance(part, GroupNorm):
        ours = found(True, torch.bfloat16)
        assert ours[0].dtype == torch.bfloat16
        for half, plain in zip(ours, found(False), strict=True):
            torch.testing.assert_close(half.float(), plain, rtol=0.02, atol=0.2)
