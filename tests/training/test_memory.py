import pytest
import torch

from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.training import memory
from transunet.training.memory import BATCH, pieces_that_fit, size_that_fits
from transunet.training.start import start


@pytest.fixture
def memory_of(monkeypatch):
    return lambda size: monkeypatch.setattr(memory, "free_memory", lambda device: size)


def test_less_memory_means_more_pieces(job, memory_of):
    run = job(batch_size=BATCH)
    needed = []
    for megabytes in (100_000, 200, 120, 80, 65):
        memory_of(megabytes * 2**20)
        needed.append(pieces_that_fit(run))
    assert needed == sorted(needed)
    assert needed[0] == 1 < needed[-1]
    assert all(BATCH % pieces == 0 for pieces in needed)
    memory_of(80 * 2**20)
    assert pieces_that_fit(run, world=4) < pieces_that_fit(run)


def test_too_little_for_one_slice_names_what_to_lower(job, memory_of):
    memory_of(1000)
    with pytest.raises(ConfigError, match=r"Not even one slice.*--image-size.*checkpointing"):
        pieces_that_fit(job(batch_size=BATCH))


def test_checkpointing_gradients_needs_less(job):
    changes = {"model": "R26-ViT-Ti_16", "image_size": 64}
    plain = memory._kept(job(folder="a", **changes), 2)
    saving = memory._kept(job(folder="b", gradient_checkpointing=True, **changes), 2)
    assert saving < 0.7 * plain


def test_auto_is_written_down_as_what_it_came_to(store, recipe, tmp_path, memory_of):
    memory_of(80 * 2**20)
    asked = recipe(batch_size="auto", image_size="auto")
    run = start(tmp_path / "run", store, asked, device="cpu")
    assert run.recipe.batch_size == BATCH
    assert run.recipe.accumulate > 1
    assert run.run.recipe() == run.recipe
    assert run.run.record.recipe == asked


def test_the_image_size_is_in_whole_patches(store, recipe):
    opened, cpu = Store.open(store), torch.device("cpu")
    assert size_that_fits(recipe(model="testing"), opened, cpu) == (64, 64)
    assert size_that_fits(recipe(model="ViT-H_14", image_size=224), opened, cpu) == (70, 70)
