import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from transunet.errors import ConfigError
from transunet.training.recipe import PRESETS, Augmentation, Recipe, load_recipe, parse_settings


def test_paper_is_the_papers_recipe():
    recipe = load_recipe("paper")
    assert (recipe.model, recipe.image_size) == ("R50-ViT-B_16", (224, 224))
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == (
        "sgd",
        0.01,
        0.9,
        1e-4,
    )
    assert (recipe.epochs, recipe.batch_size, recipe.seed, recipe.schedule) == (
        150,
        24,
        1234,
        "poly",
    )
    assert (recipe.ce_weight, recipe.dice_weight, recipe.paper_augmentation) == (0.5, 0.5, True)
    assert not recipe.deep_supervision
    assert recipe.foreground == 0
    assert recipe.ema is recipe.clip_norm is None
    assert recipe.precision == "fp32"
    assert recipe.augmentation == Recipe(epochs=1).augmentation  # everything never


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_survive_json(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    path = tmp_path / "recipe.json"
    path.write_text(recipe.model_dump_json())
    assert load_recipe(path) == recipe


def test_overrides_reach_into_tables_and_keep_the_rest():
    recipe = load_recipe("modern", {"augmentation.rotation": 15, "lr": 0.5})
    assert (recipe.augmentation.rotation, recipe.lr) == (15, 0.5)
    assert recipe.augmentation.p_affine == load_recipe("modern").augmentation.p_affine


def test_a_budget_given_replaces_the_presets():
    recipe = load_recipe("paper", {"iterations": 7})
    assert (recipe.iterations, recipe.epochs) == (7, None)
    assert load_recipe("paper", {"minutes": 3}).epochs == 150


def test_a_file_can_start_from_a_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "modern"\nname = "mine"\niterations = 9\n[augmentation]\nrotation = 5\n'
    )
    recipe = load_recipe(path)
    assert (recipe.name, recipe.iterations, recipe.epochs, recipe.optimizer) == (
        "mine",
        9,
        None,
        "adamw",
    )
    assert recipe.augmentation.rotation == 5
    assert recipe.augmentation.p_affine == 0.5


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"momentun": 1}, "did you mean 'momentum'"),
        ({"augmentation.rotaton": 1}, "did you mean 'rotation'"),
        ({"augmentatoin.rotation": 1}, "did you mean 'augmentation'"),
        ({"epochs": 1, "iterations": 2}, "give one of them"),
        ({"epochs": None}, "no budget"),
        ({"lr": -1}, "lr: Input should be greater than 0"),
        ({"warmup": 0.1}, "warmup needs schedule"),
        ({"accumulate": 30}, "accumulate=30 is more than the 24 slices"),
        ({"ce_weight": 0, "dice_weight": 0}, "all 0"),
        ({"folds": 3, "fold": 3}, "fold=3"),
        ({"precision": "fp8"}, "precision"),
        ({"augmentation.scale": [1.2, 0.8]}, "scale"),
        ({"augmentation.mirror_axes": [0, 2]}, "slices, which have 0"),
        ({"image_size": "axb"}, "image_size: 'axb' is no size; give one side"),
        ({"image_size": 0}, r"\(0, 0\) is no size"),
        ({"image_size": [32, 32, 32, 32]}, "is no size.*48x192x192"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(overrides, says):
    with pytest.raises(ConfigError, match=says):
        load_recipe("paper", overrides)


def test_every_setting_is_documented():
    text = (Path(__file__).parents[2] / "docs/reference/recipes.md").read_text()
    settings, table = text.split("## `modern`")
    for name in Recipe.model_fields:
        assert f"`{name}`" in settings, name
    for name in Augmentation.model_fields:
        assert f"`{name}`" in table, name


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'modern'"):
        load_recipe("moderne")


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("lr = = 3")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_recipe(path)
    other = tmp_path / "list.json"
    other.write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match=r"list\.json"):
        load_recipe(other)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValidationError):
        load_recipe("paper").lr = 1


def test_settings_are_toml_or_plain_text():
    found = parse_settings(["lr=1e-3", "model=R26-ViT-Ti_16", "deep_supervision=[0.5]", "ema=none"])
    assert found == {"lr": 1e-3, "model": "R26-ViT-Ti_16", "deep_supervision": [0.5], "ema": None}
    with pytest.raises(ConfigError, match="key=value"):
        parse_settings(["lr"])


def test_weights_can_be_set_to_none():
    assert load_recipe("paper", parse_settings(["weights=none"])).weights == "none"


def test_a_file_of_another_kind_is_told_in_a_few_words():
    content = {f"setting{number}": list(range(900)) for number in range(30)}
    with pytest.raises(ConfigError, match=r"unknown setting 'setting0'.*; 27 more$") as caught:
        Recipe.from_json(content, "other.json")
    assert len(str(caught.value)) < 5_000
    with pytest.raises(ConfigError, match=r"lr: .*\(got \[0, 1, .{90,99}\)$"):
        load_recipe("paper", {"lr": list(range(900))})


@pytest.mark.parametrize(
    ("preset", "settings", "axes"),
    [
        ("paper", {}, (0, 1)),
        ("modern", {}, ()),
        ("modern", {"augmentation": {"p_mirror": 0.5}}, (0, 1)),
        ("modern", {"augmentation": {"p_mirror": 0.5, "mirror_axes": [1]}}, (1,)),
        ("paper3d", {}, (0, 1, 2)),
        ("modern3d", {}, ()),
    ],
)
def test_a_recipe_tells_along_which_axes_it_mirrors(preset, settings, axes):
    assert load_recipe(preset, settings).mirror_axes == axes
