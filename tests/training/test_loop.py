import importlib.util
import json
import os
import signal
from itertools import pairwise
from math import isnan
from time import monotonic

import numpy as np
import pytest
import torch

from training_runs import same, steps, validations, weights
from transunet.bundle.bundle_config import read_config
from transunet.data.checks.problems import Problem
from transunet.data.store import Store
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.evaluation.metrics import dice_per_class
from transunet.inference.predictor import Predictor
from transunet.training.log import read_log
from transunet.training.loop import Interrupted, Stepped, held_out_loss, train
from transunet.training.recipe import load_recipe
from transunet.training.runs import resume
from transunet.training.schedule import Budget, rate_at
from transunet.training.step import NonFiniteLossError

pytestmark = pytest.mark.slow  # trains in every test

# Everything at once that has a state of its own.
FULL = {"ema": 0.9, "deep_supervision": [0.5, 0.25], "foreground": 0.5, "dropout": 0.1}
FULL |= {"clicks": True}


def test_a_run_leaves_bundles_its_recipe_its_log_and_curves(job, tmp_path, curves):
    pytest.importorskip("matplotlib")
    run = job()
    done = steps(run)
    assert [event.step for event in done] == list(range(1, 7))
    folder = tmp_path / "run"
    for name in ("best", "last"):
        assert (folder / name / "model.safetensors").is_file()
        seen = read_config(folder / name).training_data
        assert (seen.cases, seen.mirror_axes) == (len(run.store.cases), run.recipe.mirror_axes)
    assert load_recipe(folder / "recipe.json") == run.recipe
    assert run.recipe.weights == "none"  # derived: nothing is published for this variant
    losses = [line["loss"] for line in read_log(folder, "validation")]
    assert len(losses) == 2
    assert losses[1] == held_out_loss(run)  # of the last weights, and each time of the same samples
    assert 0 < losses[1] < losses[0]
    assert run.network.training
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.rglob(".partial-*"))


def test_the_log_holds_every_step_with_the_papers_rates(job, tmp_path):
    done = steps(job(epochs=2, iterations=None))
    lines = read_log(tmp_path / "run", "train")
    assert len(lines) == 12  # 16 slices in batches of 3 are 6 steps
    assert [line["lr"] for line in lines] == [
        rate_at("poly", Budget(12), step, 0, 0.01, 0) for step in range(12)
    ]
    assert [line["loss"] for line in lines] == [event.loss for event in done]
    assert [line["slices"] for line in lines] == [3, 3, 3, 3, 3, 1] * 2


def test_it_learns(job):
    done = steps(job(model="R26-ViT-Ti_16", iterations=20, validations=1, batch_size=8))
    assert np.mean([e.loss for e in done[-4:]]) < 0.6 * np.mean([e.loss for e in done[:4]])


def test_the_best_bundle_predicts_what_the_log_says(job, tmp_path):
    run = job(iterations=9, validations=3, ema=0.5)
    found = validations(run)
    assert [event.step for event in found] == [3, 6, 9]
    best = max(event.outcome.mean_dice for event in found)
    assert [e.is_best for e in found] == [
        e.outcome.mean_dice > max([d.outcome.mean_dice for d in found[:i]], default=-1)
        for i, e in enumerate(found)
    ]
    predictor = Predictor.from_pretrained(tmp_path / "run/best", device="cpu", engine="eager")
    (case,) = run.split.validation
    store = Store.open(run.store.path)
    labels = predictor.label_slices(store.image(case).swapaxes(0, 1))
    dice = dice_per_class(labels, np.asarray(store.label(case)), [1, 2])
    assert np.nanmean(list(dice.values())) == pytest.approx(best)
    logged = read_log(tmp_path / "run", "validation")
    assert max(line["mean_dice"] for line in logged) == pytest.approx(best)


@pytest.mark.process
def test_data_workers_change_nothing(job, tmp_path):
    steps(job(folder="alone"))
    steps(job(folder="helped", workers=1))
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "helped"))


def test_another_seed_is_another_run(job, tmp_path):
    steps(job(folder="one"))
    steps(job(folder="two", seed=5))
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_run_goes_on_bitwise(job, tmp_path, number, at):
    steps(job(folder="whole", **FULL))
    handlers = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"step \d; everything is saved.*--resume") as stop:
        train_and_ask_to_stop(job(folder="broken", **FULL), number, at)
    assert stop.value.exit_code == 128 + number
    assert signal.getsignal(number) is handlers
    steps(resume(tmp_path / "broken", device="cpu"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "broken")


def train_and_ask_to_stop(run, number, at):
    for event in train(run):
        if isinstance(event, Stepped) and event.step == at:
            signal.raise_signal(number)


def numbers(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    times = {"seconds", "data_share", "validation_share"}
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


def test_a_run_tells_where_its_time_went(job, tmp_path):
    begun = monotonic()
    run = job(validations=2)
    steps(run)
    within = monotonic() - begun
    (end,) = read_log(tmp_path / "run", "end")
    assert end["data_share"] > 0
    assert end["validation_share"] > 0
    assert end["data_share"] + end["validation_share"] < 1
    assert 0 < run.state.data_seconds + run.state.validation_seconds < within


def test_a_finished_run_is_not_trained_further(job, tmp_path):
    steps(job())
    assert list(train(resume(tmp_path / "run", device="cpu"))) == []


def test_patience_ends_a_run_that_no_longer_improves(job):
    run = job(iterations=12, validations=12, patience=2, lr=1e-12)  # nothing can improve
    assert steps(run)[-1].step == 3


def test_minutes_end_a_run_and_its_rate(job):
    done = steps(job(epochs=None, iterations=None, minutes=0.02))
    assert done[-1].progress == 1
    assert all(a.lr >= b.lr for a, b in pairwise(done))


def test_without_held_out_cases_the_last_is_the_best(job, tmp_path):
    run = job(holdout=0)
    found = validations(run)
    assert len(run.split.train) == 5
    assert all(event.is_best and isnan(event.outcome.mean_dice) for event in found)
    best, last = (tmp_path / "run" / n / "model.safetensors" for n in ("best", "last"))
    assert best.read_bytes() == last.read_bytes()


def test_gradient_accumulation_sees_every_slice(job):
    # Without batch statistics and Dice, pieces of equal size add up to the whole batch.
    run = job(accumulate=3, ce_weight=1, dice_weight=0, dropout=0)
    whole = job(folder="whole", ce_weight=1, dice_weight=0, dropout=0)
    for one in (run, whole):
        one.model.eval()
        one.network.eval()
    first = next(event for event in train(run) if isinstance(event, Stepped))
    expected = next(event for event in train(whole) if isinstance(event, Stepped))
    assert first.loss == pytest.approx(expected.loss, rel=1e-5)
    for one, other in zip(run.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp16", "clip_norm": 1, "image_size": 16, "batch_size": 4},  # slow on a CPU
        {"optimizer": "adamw", "schedule": "cosine", "warmup": 0.3},
        {"clip_norm": 0.1, "accumulate": 2},
        {"gradient_checkpointing": True, "deep_supervision": [0.5]},
    ],
)
def test_every_way_of_computing_trains(job, changes):
    done = steps(job(iterations=3, **changes))
    assert all(np.isfinite(event.loss) for event in done)


@pytest.mark.runtime
def test_a_compiled_network_trains_and_leaves_ordinary_bundles(job, tmp_path, monkeypatch):
    usual = torch.nn.Module.compile

    def compiled(self: torch.nn.Module, dynamic: bool) -> None:
        assert not dynamic
        usual(self, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    steps(job(folder="compiled", compile=True, deep_supervision=[0.5]))
    steps(job(folder="usual", deep_supervision=[0.5]))
    first, second = weights(tmp_path / "compiled"), weights(tmp_path / "usual")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)
    Predictor.from_pretrained(tmp_path / "compiled/best", device="cpu", engine="eager")


@pytest.mark.runtime
def test_a_compiler_that_fails_is_told(job, monkeypatch):
    def broken(graph, inputs):
        raise ValueError("no compiler here")

    usual = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, dynamic: usual(self, backend=broken)
    )
    with pytest.raises(TransUNetError, match=r"(?s)torch\.compile failed.*leave out"):
        steps(job(compile=True))


def test_checkpointing_gradients_changes_nothing(job, tmp_path):
    for folder, on in (("kept", False), ("recomputed", True)):
        changes = {"model": "R26-ViT-Ti_16", "iterations": 2, "validations": 1}
        steps(job(folder=folder, gradient_checkpointing=on, **changes))
    first, second = weights(tmp_path / "kept"), weights(tmp_path / "recomputed")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


def test_a_loss_that_becomes_nan_names_the_cases_and_keeps_the_last_good_state(job, tmp_path):
    run = job(lr=1e25, checkpoint_minutes=0, iterations=30)
    with pytest.raises(TransUNetError, match=r"(became|is) (nan|inf|NaN)") as error:
        steps(run)
    assert str(error.value).count("--lr") == 1
    if isinstance(error.value, NonFiniteLossError):
        assert "toy_" in str(error.value)
        assert "slice" in str(error.value)
    if (tmp_path / "run/checkpoint.pt").exists():
        assert all(t.isfinite().all() for t in weights(tmp_path / "run").values())


def test_a_nan_image_stops_with_its_case_and_keeps_what_was_saved(job, tmp_path, monkeypatch):
    run = job(checkpoint_minutes=0)
    original = type(run.dataset).__getitem__

    def spoiled(self, key):
        sample = original(self, key)
        if sample["case"] == run.split.train[0]:
            sample["image"][:] = float("nan")
        return sample

    monkeypatch.setattr(type(run.dataset), "__getitem__", spoiled)
    with pytest.raises(NonFiniteLossError, match=rf"{run.split.train[0]} \(slice \d"):
        steps(run)
    if run.checkpoint.exists():
        assert all(t.isfinite().all() for t in weights(tmp_path / "run").values())


def test_one_token_in_a_step_is_refused_before_it_begins(job, tmp_path):
    with pytest.raises(ConfigError, match=r"--image-size of 32 or more.*--batch-size"):
        job(image_size=16, batch_size=1)
    with pytest.raises(ConfigError, match="last of an epoch"):
        job(image_size=16, batch_size=3)  # 16 slices: the last batch has one
    with pytest.raises(ConfigError, match="accumulate"):
        job(image_size=16, batch_size=4, accumulate=4)
    assert not (tmp_path / "run").exists()
    assert len(steps(job(image_size=16, batch_size=4))) == 6


@pytest.mark.process
@pytest.mark.parametrize(
    "raised",
    [
        DataError("image.npy: cut short. Prepare it again."),
        Problem("damaged-store", "image.npy", "cut short", "Prepare it again").error(),
        Problem("grids", "image.npy", "cut short", "Prepare it again", geometry=True).error(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_data_worker_raises_is_told_without_its_traceback(job, monkeypatch, raised):
    run = job(workers=1)

    def damaged(self, key):
        raise raised

    monkeypatch.setattr(type(run.dataset), "__getitem__", damaged)
    with pytest.raises(TransUNetError, match=r"^image.npy: cut short. Prepare it again. ") as error:
        steps(run)
    assert "Traceback" not in str(error.value)
    assert "died" not in str(error.value)


def test_running_out_of_memory_names_what_to_lower(job, monkeypatch):
    run = job()

    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(run.trained, "forward", full)
    with pytest.raises(TransUNetError, match="accumulate=2") as error:
        steps(run)
    for remedy in ("--batch-size", "--image-size", "gradient_checkpointing=true"):
        assert remedy in str(error.value)


@pytest.mark.process
def test_a_dead_worker_is_told_and_nothing_is_lost(job, tmp_path, monkeypatch):
    run = job(folder="dead", workers=1, checkpoint_minutes=0)
    original, parent = type(run.dataset).__getitem__, os.getpid()

    def dies(self, key):
        if key[0] == 9 and os.getpid() != parent:
            signal.raise_signal(signal.SIGKILL)
        return original(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(run.dataset), "__getitem__", dies)
        with pytest.raises(TransUNetError, match=r"fewer --workers.*--resume"):
            steps(run)
    steps(resume(tmp_path / "dead", device="cpu"))
    steps(job(folder="whole"))
    assert same(weights(tmp_path / "dead"), weights(tmp_path / "whole"))


def test_a_logger_that_is_not_installed_is_refused(job, tmp_path):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed here")
    with pytest.raises(ConfigError, match="pip install wandb"):
        job(loggers=["wandb"])
    assert not (tmp_path / "run").exists()
