import json
import resource
import sys

import pytest
import torch

from training_runs import steps, weights
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.training.checkpoint import State, load_checkpoint, save_checkpoint
from transunet.training.runs import resume

pytestmark = pytest.mark.slow  # an optimiser imports torch's compiler


@pytest.fixture
def parts():
    model = torch.nn.Linear(3, 2)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}


def one_step(parts):
    parts["optimizer"].zero_grad()
    parts["model"](torch.ones(1, 3)).sum().backward()
    parts["optimizer"].step()


def test_everything_comes_back(tmp_path, parts):
    one_step(parts)
    state = State(step=7, seconds=1.5, validations=2, best=0.25, best_step=6, stale=1, data="x")
    save_checkpoint(tmp_path / "c.pt", state, parts)
    model = torch.nn.Linear(3, 2)
    other = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    assert load_checkpoint(tmp_path / "c.pt", other) == state
    for first, second in ((parts, other), (other, parts)):
        one_step(first)
        one_step(second)
    assert torch.equal(parts["model"].weight, other["model"].weight)
    assert list(tmp_path.iterdir()) == [tmp_path / "c.pt"]


def test_nothing_is_unpickled(tmp_path, parts):
    torch.save({"format": 1, "state": Surprise()}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"c\.pt cannot be read"):
        load_checkpoint(tmp_path / "c.pt", parts)
    assert not Surprise.happened


class Surprise:
    happened = False

    def __setstate__(self, state):
        Surprise.happened = True

    def __getstate__(self):
        return {"a": 1}


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_checkpoint_is_told(tmp_path, parts, damage):
    path = tmp_path / "c.pt"
    save_checkpoint(path, State(), parts)
    content = path.read_bytes()
    path.write_bytes({"cut": content[:500], "empty": b"", "other": b"hello" * 99}[damage])
    with pytest.raises(DataError, match=r"c\.pt cannot be read.*--weights"):
        load_checkpoint(path, parts)


def test_another_versions_checkpoint_is_refused(tmp_path, parts):
    path = tmp_path / "c.pt"
    save_checkpoint(path, State(), parts)
    torch.save(torch.load(path, weights_only=True) | {"format": 9}, path)
    with pytest.raises(ConfigError, match="format 9; this version reads 1"):
        load_checkpoint(path, parts)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, parts):
    save_checkpoint(tmp_path / "c.pt", State(), parts)
    model = torch.nn.Linear(4, 2)
    other = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    with pytest.raises(ConfigError, match=r"does not fit this run \(model\)"):
        load_checkpoint(tmp_path / "c.pt", other)


@pytest.fixture
def disk_that_fills_up(monkeypatch):
    """From `fill()` on, no file of this process can grow beyond so many bytes."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python keeps what is cut short
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, disk_that_fills_up):
    parts = {"model": torch.nn.Linear(300, 300)}
    path = tmp_path / "c.pt"
    save_checkpoint(path, State(step=1), parts)
    before = path.read_bytes()
    disk_that_fills_up(len(before) // 2)
    with pytest.raises(TransUNetError, match=r"previous checkpoint is untouched.*--resume"):
        save_checkpoint(path, State(step=2), parts)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_whose_disk_fills_up_can_go_on(job, tmp_path, disk_that_fills_up):
    folder = tmp_path / "run"
    run = job(checkpoint_minutes=0)
    # Enough for the bundles of the network, too little for it and its momentum.
    disk_that_fills_up(sum(p.nbytes for p in run.model.parameters()) * 3 // 2)
    with pytest.raises(TransUNetError, match="Make room"):
        steps(run)
    disk_that_fills_up(resource.RLIM_INFINITY)
    assert not list(folder.rglob(".partial-*"))
    assert steps(resume(folder, device="cpu"))[-1].step == 6
    assert all(json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    assert weights(folder)
