import json

import pytest
from pydantic import ValidationError

from transunet.errors import ConfigError
from transunet.models.families import architecture_of
from transunet.models.variants import VARIANTS, variant


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("R50-ViT-B_16", {"n_skip": 5}, "possible: 0 to 3"),
        ("ViT-B_16", {"n_skip": 1}, "possible: 0 to 0"),
        ("R50-ViT-B_16", {"num_heads": 7}, "possible: 1, 2, 3, 4, 6, 8, 12"),
        ("R50-ViT-B_16", {"image_size": 100}, "possible: 96 or 112"),
        ("ViT-H_14", {"image_size": (224, 225)}, "possible: 224 or 238"),
        ("R50-ViT-B_16", {"resnet_units": (3, 4)}, "three stages"),
        ("R50-ViT-B_16", {"resnet_width": 0.3}, "multiple of 32"),
        ("R50-ViT-B_16", {"patch_size": 32}, "possible: 16"),
        ("R50-ViT-B_16", {"num_classes": 0}, "num_classes"),
        ("R50-ViT-B_16", {"hiden_size": 64}, "did you mean 'hidden_size'"),
    ],
)
def test_an_impossible_configuration_says_what_would_be_possible(
    name: str, changes: dict, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        variant(name, **changes)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'R50-ViT-B_16'"):
        variant("R50-ViT-B16")


def test_a_configuration_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        VARIANTS["ViT-B_16"].n_skip = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        VARIANTS["mine"] = VARIANTS["ViT-B_16"]  # type: ignore[index]
    assert variant("R50-ViT-B_16", n_skip=1).n_skip == 1
    assert VARIANTS["R50-ViT-B_16"].n_skip == 3


def test_a_configuration_survives_json() -> None:
    for config in VARIANTS.values():
        assert architecture_of(json.loads(config.model_dump_json())) == config


def test_one_number_is_a_square() -> None:
    assert variant("ViT-B_16", image_size=64).image_size == (64, 64)
