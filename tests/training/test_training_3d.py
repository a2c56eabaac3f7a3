"""Runs of networks of three axes: recipes, what is derived, resuming, fine-tuning, bundles."""

from itertools import islice

import nibabel as nib
import numpy as np
import pytest
import torch

from training_runs import same, steps, weights
from transunet.bundle.bundle_config import read_config
from transunet.cli.train_display import show_recipe
from transunet.data.sampling.patches import Patches
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.inference.predictor import Predictor
from transunet.models.variants import VARIANTS
from transunet.training import memory
from transunet.training.loop import Interrupted, train
from transunet.training.losses3d import TransUNet3DLoss
from transunet.training.memory import fit_to_memory
from transunet.training.recipe import PRESETS, Augmentation, load_recipe, usual_recipe
from transunet.training.runs import resume, start
from transunet.training.schedule import Budget, epoch_rate, rate_at
from transunet.training.trainer import make_loss, make_optimizer

pytestmark = pytest.mark.slow

# Volumes of the toy data set are 4 x 24 x 28.
SMALL = {
    "model": "UNet3D-S",
    "architecture": {"width": 4},
    "image_size": (8, 16, 16),
    "batch_size": 2,
    "iterations": 4,
    "validations": 2,
    "weights": "none",
}
QUERIES = {
    "model": "TransUNet3D-S",
    "image_size": (8, 32, 32),
    "architecture": {
        "width": 4,
        "vit": {"num_layers": 1, "hidden_size": 12, "mlp_size": 8},
        "queries": {"num_queries": 4, "mlp_size": 8},
    },
}


@pytest.fixture
def job3d(tmp_path, store):
    """Begin a run on the CPU: `job3d(folder="run", lr=0.1)`."""

    def make(name="modern3d", folder="run", data=store, **changes):
        recipe = load_recipe(name, SMALL | changes)
        return start(tmp_path / folder, data, recipe, device="cpu")

    return make


@pytest.mark.parametrize(
    ("preset", "axes"), [("paper", 2), ("modern", 2), ("paper3d", 3), ("modern3d", 3)]
)
def test_the_presets_are_whole(preset, axes):
    recipe = load_recipe(preset)
    assert preset in PRESETS
    assert (recipe.name, recipe.axes) == (preset, axes)
    assert VARIANTS[recipe.model].axes == axes


def test_paper3d_is_the_references_recipe():
    recipe = load_recipe("paper3d")
    optimizer = make_optimizer(recipe, torch.nn.Conv3d(1, 2, 3))
    (group,) = optimizer.param_groups  # everything decays
    assert group["nesterov"]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.08, 0.99, 3e-5)
    assert (recipe.clip_norm, recipe.foreground, recipe.batch) == (12, 0.33, 16)
    for step in (0, 249, 250, 2499, 2500, 2749, 2750, 20_000, 31_249):
        rate = rate_at(recipe.schedule, Budget(31_250), step, 0, recipe.lr, recipe.warmup)
        assert rate == epoch_rate(step // 250, 0.08), step
    config = recipe.network()
    assert config.queries.matching == "reference"
    scales = (config.queries.layer_scale, config.vit.layer_scale, config.vit.positions_of_2d)
    assert scales == ("reference",) * 3
    plain = load_recipe("paper3d", {"model": "UNet3D"}).network()  # which can make none of them
    assert plain == VARIANTS["UNet3D"].replace(num_classes=2, in_channels=1)


def test_the_rate_of_epochs_follows_time_where_only_that_is_limited():
    rates = [rate_at("cosine_epochs", Budget(None, 125), 7, t, 1.0, 0.08) for t in (0, 60.5, 124.9)]
    assert rates == [epoch_rate(epoch, 1.0) for epoch in (0, 60, 124)]


def test_mistakes_and_the_architecture_are_settings_like_others():
    changes = {
        "model": "TransUNet3D-S",
        "mistakes": ["matching"],
        "architecture.vit.num_layers": 2,
        "architecture.width": 32,
    }
    recipe = load_recipe("modern3d", changes)
    config = recipe.network(num_classes=5, in_channels=2)
    assert (config.queries.matching, config.vit.layer_scale) == ("reference", "branch")
    assert (config.vit.num_layers, config.width, config.vit.hidden_size) == (2, 32, 192)
    loss = make_loss(recipe, config=config)
    assert isinstance(loss, TransUNet3DLoss)
    assert loss.matching == "reference"


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("modern3d", {"context": 1}, "context=1 makes no sense here: TransUNet3D-S takes patches"),
        ("modern3d", {"paper_augmentation": True}, "paper_augmentation.*paper3d or modern3d"),
        ("modern3d", {"deep_supervision": [0.5]}, "heads of its own"),
        ("modern3d", {"n_skip": 2}, "n_skip"),
        ("modern3d", {"dropout": 0.1}, "architecture.vit.dropout"),
        ("modern3d", {"image_size": [32, 32]}, "planes, rows and columns"),
        ("modern3d", {"image_size": [8, 8, 8, 8]}, "image_size"),
        ("modern3d", {"accumulate": 3, "batch_size": 2}, "2 patches"),
        ("modern3d", {"optimizer": "adamw", "nesterov": True}, "nesterov"),
        ("modern", {"image_size": [8, 32, 32]}, "R50-ViT-B_16 takes slices.*height and width"),
        ("modern", {"augmentation.spared_axis": 0}, "spared_axis=0 is for patches"),
        ("modern", {"model": "UNet3D"}, "modern3d"),
        ("paper", {"model": "UNet3D"}, "paper3d or modern3d"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_message(name, overrides, says):
    with pytest.raises(ConfigError, match=says) as raised:
        load_recipe(name, overrides)
    assert str(raised.value).count("Recipe") <= 2


def test_a_patch_too_small_to_be_halved_leaves_nothing(job3d, tmp_path):
    with pytest.raises(ConfigError, match="too small to be halved"):
        job3d(image_size=4)
    assert not (tmp_path / "run").exists()


def test_the_recipe_follows_from_the_model_where_none_is_named():
    assert usual_recipe("TransUNet3D-S") == "modern3d"
    assert usual_recipe("R50-ViT-B_16") == usual_recipe(None) == "paper"
    assert load_recipe(None, {"model": "UNet3D-S"}) == load_recipe(
        "modern3d", {"model": "UNet3D-S"}
    )
    assert load_recipe(None) == load_recipe("paper")


def test_rotation_and_zoom_come_alone_too():
    from transunet.training.augmentation import BatchAugmentation

    rng = np.random.default_rng(0)
    size = (10, 12, 14)
    for settings in ({"p_rotation": 1}, {"p_scale": 1}):
        warp = BatchAugmentation(Augmentation(**settings), 0)._draw_warp(rng, size)
        matrix = warp[0]
        sides = np.array(size[::-1])
        turn = matrix[:, :3] * sides[:, None] / sides
        assert not matrix[:, 3].any()
        scale = np.linalg.det(turn)
        if "p_scale" in settings:
            assert np.allclose(turn, turn[0, 0] * np.eye(3))
            assert scale != pytest.approx(1)
        else:
            assert np.allclose(turn @ turn.T, np.eye(3))
            assert not np.allclose(turn, np.eye(3), atol=1e-3)


def test_inverted_gamma_is_gamma_of_the_negative():
    from transunet.training.augmentation import BatchAugmentation

    images, labels = torch.rand(2, 1, 4, 5, 6), torch.zeros(2, 4, 5, 6, dtype=torch.int64)
    keys = [(0, 0), (1, 1)]
    plain = BatchAugmentation(Augmentation(p_gamma=1), 0)(-images, labels, keys)[0]
    inverted = BatchAugmentation(Augmentation(p_inverted_gamma=1), 0)(images, labels, keys)[0]
    torch.testing.assert_close(inverted, -plain)


def test_sizes_are_derived_from_data_and_memory(store, monkeypatch):
    opened, cpu = Store.open(store), torch.device("cpu")
    asked = load_recipe("modern3d", SMALL | {"image_size": "auto", "batch_size": "auto"})
    found = fit_to_memory(asked, opened, cpu)
    assert found.image_size == (4, 24, 28)  # 4 planes are too few to be halved
    assert found.architecture["poolings"] == ((1, 2, 2), (1, 2, 2))
    assert (found.batch_size, found.accumulate) == (2, 1)
    assert found.augmentation.spared_axis is None  # 1 mm along each axis
    monkeypatch.setattr(memory, "_LIBRARIES", 0)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * 2**20)
    small = fit_to_memory(asked, opened, cpu)
    assert np.prod(small.image_size) < np.prod(found.image_size)
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(ConfigError, match="Not even one patch"):
        fit_to_memory(asked, opened, cpu)


def test_what_was_derived_is_told_with_its_reason(job3d, capsys):
    asked = {"image_size": "auto", "batch_size": "auto"}
    trainer = job3d(**asked)
    show_recipe(trainer, load_recipe("modern3d", SMALL | asked))
    told = " ".join(capsys.readouterr().out.split())
    assert "patch size 4x24x28: the median working volume, 4 x 24 x 28, as near" in told
    assert "batch size 2: patches per step" in told


def test_memory_of_queries_is_counted_too(store):
    recipe = load_recipe("modern3d", SMALL | QUERIES)
    opened = Store.open(store)
    recipe = memory.planned(recipe)
    one, two = (memory._counted(recipe, opened, number) for number in (1, 2))
    assert 2**20 < one < two < 2 * one


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, QUERIES], ids=["dense", "queries"])
def test_it_learns(job3d, settings):
    run = job3d(iterations=25, validations=1, lr=3e-3, ema=None, **settings)
    done = steps(run)
    losses = [event.loss for event in done]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.15 * abs(np.mean(losses[:5]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"clicks": True}, QUERIES], ids=["dense, with clicks", "queries"]
)
def test_a_resumed_run_ends_the_same_to_the_bit(job3d, tmp_path, settings):
    steps(job3d(folder="whole", foreground=0.5, **settings))
    interrupted = job3d(folder="part", foreground=0.5, **settings)
    with pytest.raises(Interrupted):
        stop_after(interrupted, 3)
    steps(resume(tmp_path / "part", device="cpu"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))


def stop_after(run, number):
    """Train as far as that, then as if Ctrl-C came."""
    import os
    import signal

    events = train(run)
    for event in events:
        if getattr(event, "lr", None) is not None and event.step == number - 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_the_bundle_predicts_whole_volumes(job3d, toy, tmp_path):
    run = job3d(**QUERIES)
    validated = [event.outcome for event in train(run) if hasattr(event, "outcome")]
    assert len(validated) == 2
    config = read_config(tmp_path / "run" / "best")
    assert config.sampling == Patches(size=(8, 32, 32))
    assert config.architecture.poolings == run.recipe.network().poolings
    path = next((toy / "imagesTr").glob("*.nii.gz"))
    labels = Predictor.from_pretrained(tmp_path / "run" / "best", device="cpu")(path)
    assert labels.spatial_shape == nib.load(path).shape
    (case,) = islice(run.split.validation, 1)
    last = Predictor.from_pretrained(tmp_path / "run" / "last", device="cpu")
    predicted = last.label_slices(run.store.image(case).swapaxes(0, 1))
    truth = run.store.label(case)
    both = 2 * np.sum((predicted == 1) & (truth == 1))
    dice = both / max(np.sum(predicted == 1) + np.sum(truth == 1), 1)
    assert validated[-1].cases[case]["disc"] == pytest.approx(dice)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"accumulate": 2}, {"gradient_checkpointing": True}]
)
def test_ways_to_compute_a_step_agree(job3d, changes):
    common = QUERIES | {"iterations": 1, "validations": 1}
    first = steps(job3d(folder="plain", **common))[0]
    other = steps(job3d(folder="other", **common, **changes))[0]
    # Pieces are matched and averaged each on its own, as samples are.
    tolerance = 0.02 if "precision" in changes else 1e-4
    if "accumulate" not in changes:
        assert other.loss == pytest.approx(first.loss, rel=tolerance)
    assert np.isfinite(other.loss)


@pytest.mark.slow
def test_fine_tuning_takes_over_network_and_plan_and_classes_by_name(job3d, store, tmp_path):
    source = job3d(folder="source", **QUERIES)
    steps(source)
    recipe = load_recipe(
        None,
        {"weights": str(tmp_path / "source/best"), "iterations": 1, "validations": 1},
    )
    assert recipe.name == "modern3d"
    tuned = start(tmp_path / "tuned", store, recipe, device="cpu")
    assert tuned.model.config == source.model.config
    for name, value in source.best_guess.state_dict().items():
        assert torch.equal(tuned.model.state_dict()[name], value), name
    assert "preprocessing: as of the weights' own data" in str(tuned.beginning.notes)
    steps(tuned)
    plan = {"architecture.poolings": [[1, 2, 2], [2, 2, 2], [1, 2, 2]]}
    other = load_recipe(None, {"weights": recipe.weights, "iterations": 1, **plan})
    with pytest.raises(ConfigError, match=r"with poolings .*2, 2, 2.* asks for .*1, 2, 2.*Leave"):
        start(tmp_path / "other", store, other, device="cpu")
    assert not (tmp_path / "other").exists()
    other = load_recipe("modern3d", recipe.model_dump() | {"model": "UNet3D-S"})
    with pytest.raises(ConfigError, match="are of TransUNet3D-S"):
        start(tmp_path / "other", store, other, device="cpu")
