import json
import sys
import types

import numpy as np
import pytest

from transunet.errors import ConfigError
from transunet.training.log import check_trackers, curves_of, draw_curves, open_log, read_log

VALIDATION = {"mean_dice": 0.5, "dice": {"a": 0.5, "b": None}}
DETAILS = {"best": True, "cases": {"x": {"a": 0.5, "b": None}}}


def write(folder, steps, done=None, trackers=()):
    done = done or {"train": 0, "validation": -1}
    with open_log(folder, done, trackers, {"lr": 1.0}) as add:
        for step in steps:
            add("train", step, {"loss": 1.0 / step, "lr": 0.1})
        add("validation", steps[-1], VALIDATION, **DETAILS)


def test_a_resumed_log_tells_every_step_once(tmp_path):
    write(tmp_path, [1, 2, 3, 4])
    write(tmp_path, [3, 4, 5], {"train": 2, "validation": -1})
    assert [line["step"] for line in read_log(tmp_path, "train")] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in read_log(tmp_path, "validation")] == [5]


def test_a_validation_that_was_saved_is_kept(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [3], {"train": 2, "validation": 2})
    assert [line["step"] for line in read_log(tmp_path, "validation")] == [2, 3]


def test_a_line_cut_short_is_left_out(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text()[:-10])
    assert [line["step"] for line in read_log(tmp_path, "train")] == [1, 2]
    assert read_log(tmp_path, "validation") == []
    write(tmp_path, [2], {"train": 1, "validation": -1})
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_tensorboard_can_read_it(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, [1, 2, 3])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
    assert events.Scalars("validation/mean_dice")[0].value == 0.5
    assert events.Scalars("validation/dice/a")[0].value == 0.5


@pytest.fixture
def package(monkeypatch):
    """Put a stand-in for a package that is not installed in its place."""

    def put(name, **contents):
        module = types.ModuleType(name)
        vars(module).update(contents)
        module.__spec__ = types.SimpleNamespace()
        monkeypatch.setitem(sys.modules, name, module)

    return put


def test_wandb_gets_the_numbers_when_asked(tmp_path, package):
    told = []
    run = types.SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append("end")
    )
    ids = []
    package("wandb", init=lambda **how: told.append(how["config"]) or ids.append(how["id"]) or run)
    check_trackers(["wandb"])
    write(tmp_path, [1, 2], trackers=["wandb"])
    write(tmp_path, [2], {"train": 1, "validation": -1}, trackers=["wandb"])
    assert ids[0] == ids[1]  # one run there too
    assert told[0] == {"lr": 1.0}
    assert told[1] == (1, {"train/loss": 1.0, "train/lr": 0.1})
    assert told[-2] == (2, {"validation/mean_dice": 0.5, "validation/dice/a": 0.5})
    assert told[-1] == "end"


class Run:
    info = types.SimpleNamespace(run_id="an-id")


def test_mlflow_gets_the_numbers_when_asked(tmp_path, package):
    told = []
    package(
        "mlflow",
        set_experiment=lambda name: None,
        start_run=lambda run_id, run_name: told.append((run_id, run_name)) or Run(),
        log_params=lambda values: told.append(values),
        log_metrics=lambda values, step: told.append((step, values)),
        end_run=lambda: told.append("end"),
    )
    check_trackers(["mlflow"])
    write(tmp_path, [1], trackers=["mlflow"])
    write(tmp_path, [1], trackers=["mlflow"])
    assert told[:2] == [(None, tmp_path.name), {"lr": 1.0}]
    assert ("an-id", tmp_path.name) in told  # one run there too
    assert told[2] == (1, {"train/loss": 1.0, "train/lr": 0.1})
    assert told[-1] == "end"


def test_what_is_asked_for_and_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="pip install mlflow"):
        check_trackers(["mlflow"])


def test_curves_are_drawn_from_the_log_alone(tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path, list(range(1, 40)))
    path = draw_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_curves_tell_both_losses_and_mark_the_best_step(tmp_path):
    pytest.importorskip("matplotlib")
    with open_log(tmp_path, {"train": 0, "validation": -1}, (), {"lr": 1.0}) as add:
        for step in range(1, 7):
            add("train", step, {"loss": 1.0 / step, "lr": 0.1})
            if step % 2 == 0:
                values = {"loss": 1.5 / step, "mean_dice": (None, 0.6, 0.4)[step // 2 - 1]}
                dice = {"a": values["mean_dice"], "b": None}
                add("validation", step, values | {"dice": dice}, best=step < 6, cases={})
    left, right, rates = curves_of(tmp_path).axes
    lines = {
        line.get_label(): tuple(np.asarray(line.get_data()).round(3).tolist())
        for axes in (left, right)
        for line in axes.lines
    }
    assert lines["training"] == ([1, 2, 3, 4, 5, 6], [1, 0.5, 0.333, 0.25, 0.2, 0.167])
    assert lines["held-out samples"] == ([2, 4, 6], [0.75, 0.375, 0.25])
    assert lines["mean"] == ([2, 4, 6], [pytest.approx(np.nan, nan_ok=True), 0.6, 0.4])
    assert lines["best: step 4, mean 0.600"] == ([4], [0.6])
    assert [axes.lines[-1 if axes is left else -2].get_xdata()[0] for axes in (left, right)] == [
        4
    ] * 2
    assert rates.get_ylabel() == "learning rate"


def test_curves_of_a_run_that_logged_no_held_out_loss(tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path, [1, 2])
    left, right, _ = curves_of(tmp_path).axes
    assert [line.get_label() for line in left.lines][:1] == ["training"]
    assert "held-out samples" not in {text.get_text() for text in left.get_legend().get_texts()}
    assert right.get_legend().get_texts()[-1].get_text() == "best: step 2, mean 0.500"


def test_without_matplotlib_there_are_no_curves(tmp_path, monkeypatch):
    monkeypatch.setattr("transunet.training.log.find_spec", lambda name: None)
    write(tmp_path, [1])
    assert draw_curves(tmp_path) is None
