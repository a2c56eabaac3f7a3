"""Weights of networks with clicks for networks without, and the reverse."""

import pytest
import torch

from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.io import save_pretrained
from transunet.data.preprocessing import Preprocessing
from transunet.models.families import build
from transunet.models.variants import variant
from transunet.training.recipe import load_recipe
from transunet.weights.load import load_weights


def network(classes, clicks):
    torch.manual_seed(0)
    model = build(variant("testing", image_size=32, num_classes=classes, clicks=clicks))
    if clicks:  # each channel of the guidance has its number
        numbers = torch.arange(1.0, 2 * classes)
        model.clicks.weight.data += numbers[None, :, None, None]
    return model


@pytest.fixture
def bundle(tmp_path):
    def save(labels, clicks):
        model = network(len(labels), clicks)
        config = BundleConfig(
            architecture=model.config,
            preprocessing=Preprocessing(),
            labels=dict(enumerate(labels)),
        )
        return save_pretrained(model, config, tmp_path / "bundle")

    return save


def channels(model):
    return model.clicks.weight[0, :, 0, 0].tolist()


LABELS = ("background", "liver", "spleen")


def test_the_same_structures_keep_their_clicks(bundle):
    source = bundle(LABELS, clicks=True)
    model = network(3, clicks=True)
    torch.nn.init.zeros_(model.clicks.weight)
    load_weights(model, source, partial=True, labels=LABELS)
    assert channels(model) == [1, 2, 3, 4, 5]


def test_clicks_follow_the_names_of_structures(bundle):
    source = bundle(LABELS, clicks=True)
    model = network(4, clicks=True)
    torch.nn.init.zeros_(model.clicks.weight)
    load_weights(model, source, partial=True, labels=("background", "kidney", "spleen", "liver"))
    assert channels(model) == [0, 2, 1, 3, 0, 5, 4]


def test_clicks_are_learned_anew_or_left_out(bundle):
    model = network(3, clicks=True)
    load_weights(model, bundle(LABELS, clicks=False), partial=True, labels=LABELS)
    assert channels(model) == [1, 2, 3, 4, 5]  # the model's own
    model = network(3, clicks=False)
    told = load_weights(model, bundle(LABELS, clicks=True), partial=True, labels=LABELS)
    assert told.entries == told.of
    model = network(5, clicks=True)
    load_weights(model, bundle(LABELS, clicks=True), partial=True)  # nobody names its classes
    assert channels(model) == [1, 2, 3, 4, 3, 6, 7, 8, 9]  # all but those that remove


def test_a_run_from_a_bundle_with_clicks_goes_on_with_them(bundle):
    source = str(bundle(LABELS, clicks=True))
    assert load_recipe("modern", {"weights": source}).clicks
    assert not load_recipe("modern", {"weights": source, "clicks": False}).clicks
    plain = str(bundle(LABELS, clicks=False))
    assert not load_recipe("modern", {"weights": plain}).clicks
    recipe = load_recipe("modern", {"weights": plain, "clicks": True})
    assert recipe.network(3).clicks
