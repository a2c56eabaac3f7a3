"""A run trains and validates on what was asked for, and goes on with it."""

import json

import pytest

from training_runs import open_folds
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.split_rules import splits_of
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.training import loop
from transunet.training.runs import Run, number_of_folds, resume, start, start_fold
from transunet.training.validation import Validation

pytestmark = pytest.mark.slow  # trains in nearly every test

NAMES = [f"toy_{i}" for i in range(5)]
FOLDS = [{"train": NAMES[:3], "val": NAMES[3:]}, {"train": NAMES[2:], "val": NAMES[:2]}]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(FOLDS))
    return path


@pytest.mark.parametrize("prepared", [False, True])
def test_a_users_splits_are_trained_on_and_resumed(
    toy, store, recipe, file, tmp_path, prepared, monkeypatch
):
    data = store if prepared else toy
    job = start(tmp_path / "run", data, recipe(), splits=file, device="cpu")
    assert job.split.validation == ("toy_3", "toy_4")
    assert Run.reopen(tmp_path / "run").record.splits.rule == f"--splits {file}"
    if not prepared:
        assert Store.open(tmp_path / "run/store").prepared == Run.reopen(job.folder).record.splits
    file.unlink()
    assert resume(tmp_path / "run", device="cpu").split == job.split


def test_going_on_with_another_split_is_refused(store, recipe, file, tmp_path):
    start(tmp_path / "run", store, recipe(), splits=file, device="cpu")
    run = Run.reopen(tmp_path / "run")
    run.check_same_data(file)
    file.write_text(json.dumps(FOLDS[:1]))
    with pytest.raises(ConfigError, match=r"not begun with --splits .*mine\.json"):
        run.check_same_data(file)
    with pytest.raises(ConfigError, match="not begun with --group-by toy"):
        run.check_same_data(group_by="toy")


def test_a_share_and_a_file_are_two_ways_to_split(store, recipe, file, tmp_path):
    with pytest.raises(ConfigError, match="two ways to split"):
        start(tmp_path / "run", store, recipe(holdout=0.2), splits=file, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_split_when_its_store_is_prepared_anew(toy, recipe, tmp_path):
    data = open_dataset(toy)
    prepare(data, tmp_path / "store", seed=1)
    first = start(tmp_path / "run", tmp_path / "store", recipe(), device="cpu").split
    others = (splits_of(data, data.cases, seed) for seed in range(9))
    other = next(splits for splits in others if splits.parts[0] != first)
    prepare(data, tmp_path / "store", splits=other)
    assert resume(tmp_path / "run", device="cpu").split == first


def test_prepared_folds_are_cross_validated(toy, recipe, tmp_path):
    folds = prepare(open_dataset(toy), tmp_path / "store", folds=2, seed=7).splits
    parent = open_folds(tmp_path / "run", tmp_path / "store", recipe(folds=2))
    assert [start_fold(parent, k, device="cpu").split for k in range(2)] == list(folds)
    assert number_of_folds(tmp_path / "store", None, None) == 2
    with pytest.raises(ConfigError, match="prepared with 2 folds"):
        open_folds(tmp_path / "other", tmp_path / "store", recipe(folds=3))
    plain = start(tmp_path / "plain", tmp_path / "store", recipe(), device="cpu")
    assert plain.split == folds[0]


def test_a_run_that_noted_no_splits_is_refused_and_its_version_named(store, recipe, tmp_path):
    start(tmp_path / "run", store, recipe(folds=3, fold=1), device="cpu")
    path = tmp_path / "run/run.json"
    record = json.loads(path.read_text())
    del record["splits"], record["group_by"]
    path.write_text(json.dumps(record | {"transunet": "0.0.9"}))
    with pytest.raises(ConfigError, match=r"run\.json .*Resume with transunet 0\.0\.9"):
        resume(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("prepared", [False, True])
def test_everything_trains_where_nothing_is_held_out(toy, recipe, tmp_path, prepared):
    data, asked = toy, recipe(holdout=0)
    if prepared:
        prepare(open_dataset(toy), tmp_path / "store", how="holdout", fraction=0)
        data, asked = tmp_path / "store", recipe()
    job = start(tmp_path / "run", data, asked, device="cpu")
    assert (job.split.train, job.split.validation) == (tuple(NAMES), ())


@pytest.mark.parametrize("prepared", [False, True])
def test_groups_of_a_run_stay_together(toy, store, recipe, tmp_path, prepared):
    pattern = "toy_[04]|toy_(?=[123])"
    data = store if prepared else toy
    job = start(tmp_path / "run", data, recipe(folds=3), group_by=pattern, device="cpu")
    for part in Run.reopen(job.folder).record.splits.parts:
        assert len({*part.validation} & {"toy_1", "toy_2", "toy_3"}) in (0, 3)
    assert Run.reopen(tmp_path / "run").record.group_by == pattern


def validated(job, monkeypatch, outcomes):
    """Return which validations were the best so far."""
    monkeypatch.setattr(loop, "validate", lambda *_, **__: outcomes.pop(0))
    events = [event for event in loop.train(job) if isinstance(event, loop.Validated)]
    return [event.is_best for event in events]


def outcome(disc, spot, *present):
    return Validation({"toy_0": {"disc": disc, "spot": spot}}, frozenset(present))


NAN = float("nan")


def test_where_no_held_out_case_holds_a_structure_the_last_is_the_best(job, monkeypatch):
    this = job(validations=3)
    outcomes = [outcome(NAN, NAN), outcome(0.0, NAN), outcome(NAN, NAN)]
    assert validated(this, monkeypatch, outcomes) == [True, True, True]
    assert this.state.best is None
    assert this.state.best_step == this.state.step == 6


def test_a_class_that_no_held_out_case_holds_does_not_choose_the_best(job, monkeypatch):
    # The second network is better at what can be measured, and predicts the other class somewhere.
    this = job(validations=3)
    outcomes = [outcome(0.6, NAN, "disc"), outcome(0.8, 0.0, "disc"), outcome(0.7, NAN, "disc")]
    assert validated(this, monkeypatch, outcomes) == [True, True, False]
    assert this.state.best == pytest.approx(0.8)
