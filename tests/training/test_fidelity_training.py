"""Ten steps of the paper's recipe: losses, rates and gradients are the reference's."""

import numpy as np
import pytest
import torch

from golden_figures import facts, seed_state, uniform
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant
from transunet.training.losses import SegmentationLoss
from transunet.training.schedule import Budget, rate_at
from transunet.training.step import train_step

pytestmark = pytest.mark.slow  # trains the published network


@pytest.fixture(scope="module")
def ten_steps() -> dict:
    fact = facts()["train"]
    keys = ("num_classes", "image_size", "n_skip", "dropout")
    model = TransUNet(variant(fact["config"], **{key: fact[key] for key in keys}))
    seed_state(model)
    model.train()
    coarse = (4 * uniform("train/labels", (4, 8, 8))).astype(np.int64)
    labels = torch.from_numpy(coarse.repeat(8, axis=1).repeat(8, axis=2))
    images = torch.from_numpy(uniform("train/images", (4, 1, 64, 64)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    losses, rates, norms = [], [], {}
    budget = Budget(fact["max_iterations"])
    for step in range(fact["max_iterations"]):
        rates.append(rate_at("poly", budget, step, 0.0, 0.01, 0.0))
        optimizer.param_groups[0]["lr"] = rates[-1]
        losses.append(train_step(model, SegmentationLoss(), optimizer, images, labels))
        if step == 0:
            norms = {k: float(p.grad.norm()) for k, p in model.named_parameters()}
    return {"losses": losses, "rates": rates, "norms": norms}


# Training amplifies rounding: the seeded gradients are large, so that the same ten steps in
# float64, on one thread or with other vector instructions differ from each other by up to 8e-3 in
# loss, and a single unit on the edge of a ReLU moves a gradient's norm by 3e-3. Where rounding has
# not grown yet, the tolerance is tight.


def test_losses_are_the_references(ten_steps: dict) -> None:
    expected = facts()["train"]["losses"]
    assert ten_steps["losses"][0] == pytest.approx(expected[0], rel=1e-6)
    assert ten_steps["losses"][1] == pytest.approx(expected[1], rel=1e-3)
    assert ten_steps["losses"] == pytest.approx(expected, rel=1e-2)


def test_learning_rates_are_the_references(ten_steps: dict) -> None:
    assert ten_steps["rates"] == pytest.approx(facts()["train"]["learning_rates"], rel=1e-12)


def test_gradient_norms_are_the_references(ten_steps: dict) -> None:
    expected, found = facts()["train"]["grad_norms_step0"], ten_steps["norms"]
    assert set(found) == set(expected)
    noise = 1e-6 * max(expected.values())  # the key biases' gradients are zero but for rounding
    real = {name: norm for name, norm in expected.items() if norm > noise}
    errors = {name: abs(found[name] / norm - 1) for name, norm in real.items()}
    assert len(real) > 350
    assert np.median(list(errors.values())) < 1e-3
    assert max(errors.values()) < 1e-2, max(errors, key=errors.__getitem__)
    assert all(found[name] < 2 * noise for name in set(expected) - set(real))
