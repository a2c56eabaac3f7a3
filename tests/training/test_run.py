"""A run's folder: held by one process, moved about, gone on with from anywhere."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import forks
from training_runs import open_folds, same, steps, weights
from transunet.errors import ConfigError
from transunet.training import run_lock
from transunet.training.distributed import ProcessGroup
from transunet.training.run_lock import RunInUseError, locked
from transunet.training.runs import Run, begin, resume, start, start_fold
from transunet.training.trainer import Trainer

pytestmark = pytest.mark.slow  # trains in nearly every test

HOLDS = """
import sys, time
from pathlib import Path
from transunet.training.distributed import ProcessGroup
from transunet.training.run_lock import locked
with locked(Path(sys.argv[1]), ProcessGroup()):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], forks.Process]]:
    """Have another process hold the run in a folder."""
    monkeypatch.setattr(run_lock, "LOCK_SECONDS", 0.2)
    holders: list[forks.Process] = []

    def hold(folder: Path) -> forks.Process:
        holder = forks.Process(HOLDS, folder)
        holders.append(holder)
        while "held" not in holder.stdout:
            assert holder.poll() is None, holder.stdout
            time.sleep(0.01)
        return holder

    yield hold
    for holder in holders:
        holder.kill()
        holder.wait()


@pytest.mark.process
def test_a_run_that_another_process_trains_is_refused_and_named(job, tmp_path, held):
    run = job()
    holder = held(tmp_path / "run")
    for attempt in (lambda: resume(tmp_path / "run", device="cpu"), lambda: steps(run)):
        with pytest.raises(RunInUseError, match=rf"process {holder.pid} on .*--resume") as error:
            attempt()
        assert os.uname().nodename in str(error.value)
    assert not (tmp_path / "run/log.jsonl").exists()


@pytest.mark.process
def test_a_run_is_free_when_its_holder_was_killed(job, tmp_path, held):
    job()
    holder = held(tmp_path / "run")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert len(steps(resume(tmp_path / "run", device="cpu"))) == 6


@pytest.mark.process
def test_a_run_is_free_when_training_has_ended(job, tmp_path, held):
    run = job()
    steps(run)
    held(tmp_path / "run")  # though the job is still known here


@pytest.mark.process
def test_folds_of_one_cross_validation_may_be_trained_at_the_same_time(toy, tmp_path, recipe, held):
    parent = open_folds(tmp_path / "cv", toy, recipe(folds=2, iterations=1, validations=1))
    start_fold(parent, 0, device="cpu")
    held(tmp_path / "cv/fold-0")
    assert len(steps(start_fold(parent, 1, device="cpu"))) == 1
    with pytest.raises(RunInUseError):
        start_fold(parent, 0, go_on=True, device="cpu")


def test_without_locks_a_run_goes_on_and_says_so(job, tmp_path, monkeypatch, caplog):
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    run = job()
    monkeypatch.setattr(run_lock.FileLock, "acquire", unsupported)
    with caplog.at_level("WARNING", "transunet"):
        assert len(steps(run)) == 6
    assert "file system without locks (No locks available)" in caplog.text


def test_relative_weights_are_those_of_the_folder_in_which_the_run_was_begun(
    job, store, recipe, tmp_path, monkeypatch
):
    steps(job(folder="first"))
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    shutil.copytree(tmp_path / "first/best", here / "w")
    monkeypatch.chdir(here)
    asked = recipe(weights="w")
    expected = start(Path("run"), store, asked, device="cpu").model.state_dict()
    assert Run.reopen(Path("run")).record.recipe.weights == str(here / "w")
    Run.reopen(Path("run")).check_same_recipe(asked)  # the same command once more
    monkeypatch.chdir(elsewhere)
    again = resume(Path("../here/run"), device="cpu").model.state_dict()
    assert all(again[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("weights", ["none", "auto"])
def test_names_of_weights_stay_names(job, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    (tmp_path / weights).mkdir()
    job(weights=weights)
    assert Run.reopen(tmp_path / "run").record.recipe.weights == weights


def trained_in_part(toy: Path, folder: Path, recipe: Callable[..., object]) -> Trainer:
    """Begin a run with its own store and stop it after a save."""
    run = start(folder, toy, recipe(checkpoint_minutes=0), device="cpu")
    from transunet.training.loop import Stepped, train

    for event in train(run):
        if isinstance(event, Stepped) and event.step == 3:
            break
    return run


def test_a_run_that_was_moved_with_its_store_goes_on(toy, tmp_path, recipe, job):
    trained_in_part(toy, tmp_path / "old", recipe)
    (tmp_path / "old").rename(tmp_path / "new")
    steps(resume(tmp_path / "new", device="cpu"))
    assert not (tmp_path / "old").exists()
    steps(start(tmp_path / "whole", toy, recipe(), device="cpu"))
    assert same(weights(tmp_path / "new"), weights(tmp_path / "whole"))


def test_a_copied_run_trains_on_its_own_store(toy, tmp_path, recipe):
    trained_in_part(toy, tmp_path / "old", recipe)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    assert resume(tmp_path / "new", device="cpu").store.path == tmp_path / "new/store"


def test_a_cross_validation_that_was_moved_goes_on(toy, tmp_path, recipe):
    parent = open_folds(tmp_path / "old", toy, recipe(folds=2))
    start_fold(parent, 0, device="cpu")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Run.reopen(tmp_path / "new")
    for fold in (0, 1):
        run = start_fold(moved, fold, go_on=True, device="cpu")
        assert run.store.path.resolve() == tmp_path / "new/store"
    assert not (tmp_path / "old").exists()


def test_a_data_set_that_was_moved_is_asked_for_and_then_known(toy, tmp_path, recipe):
    shutil.copytree(toy, tmp_path / "data")
    run = begin(tmp_path / "run", tmp_path / "data", recipe())
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"no longer in .*train DATASET --resume"):
        resume(tmp_path / "run", device="cpu")
    run.with_data_at(tmp_path / "moved")
    assert len(steps(resume(tmp_path / "run", device="cpu"))) == 6
    with pytest.raises(ConfigError, match="was begun with the data in"):
        Run.reopen(tmp_path / "run").with_data_at(toy)


def test_a_store_that_was_moved_is_taken_from_its_new_place(store, tmp_path, recipe):
    shutil.copytree(store, tmp_path / "store")
    begin(tmp_path / "run", tmp_path / "store", recipe())
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="no longer in"):
        resume(tmp_path / "run", device="cpu")
    Run.reopen(tmp_path / "run").with_data_at(tmp_path / "moved")
    assert resume(tmp_path / "run", device="cpu").store.path == tmp_path / "moved"


def test_processes_of_one_launch_share_the_lock(job):
    folder = job().folder
    with locked(folder, ProcessGroup()), locked(folder, ProcessGroup()):
        pass
