import pytest
import torch

from transunet.data.store import Store
from transunet.device import free_memory
from transunet.errors import ConfigError
from transunet.training import memory
from transunet.training.distributed import ALONE, ProcessGroup
from transunet.training.memory import BATCH, fit_to_memory
from transunet.training.runs import Run, start

pytestmark = pytest.mark.slow  # measures by training

CPU = torch.device("cpu")


@pytest.fixture
def memory_of(monkeypatch):
    """Let there be so many megabytes."""
    return lambda size: monkeypatch.setattr(memory, "free_memory", lambda device: size * 2**20)


@pytest.fixture
def pieces(store, recipe):
    opened = Store.open(store)

    def measure(world=ALONE, **changes):
        return fit_to_memory(recipe(batch_size="auto", **changes), opened, CPU, world).accumulate

    return measure


def test_less_memory_means_more_pieces(pieces, memory_of, monkeypatch):
    needed = []
    for megabytes in (100_000, 200, 120, 80, 65):
        memory_of(megabytes)
        needed.append(pieces())
    assert needed == sorted(needed)
    assert needed[0] == 1 < needed[-1]
    assert all(BATCH % count == 0 for count in needed)
    memory_of(80)
    monkeypatch.setattr(ProcessGroup, "gather", lambda self, value: [value] * 4)
    assert pieces(ProcessGroup(0, 4)) < pieces()


def test_too_little_for_one_slice_names_what_to_lower(pieces, memory_of):
    memory_of(0.001)
    with pytest.raises(ConfigError, match=r"Not even one slice.*--image-size.*checkpointing"):
        pieces()


def test_checkpointing_gradients_needs_less(pieces, memory_of):
    memory_of(400)
    changes = {"model": "R26-ViT-Ti_16", "image_size": 64}
    assert 1 <= pieces(gradient_checkpointing=True, **changes) < pieces(**changes)


def test_auto_is_written_down_as_what_it_came_to(store, recipe, tmp_path, memory_of):
    memory_of(80)
    asked = recipe(batch_size="auto", image_size="auto")
    run = start(tmp_path / "run", store, asked, device="cpu")
    assert run.recipe.batch_size == BATCH
    assert run.recipe.accumulate > 1
    begun = Run.reopen(run.folder)
    assert begun.recipe() == run.recipe
    assert begun.record.recipe == asked


def test_the_image_size_is_in_whole_patches_and_smaller_where_little_fits(
    store, recipe, memory_of, monkeypatch
):
    opened = Store.open(store)
    for model, size in (("testing", 64), ("ViT-H_14", 70)):
        memory_of(100_000)
        fitted = fit_to_memory(recipe(model=model, image_size="auto"), opened, CPU)
        assert fitted.size == (size, size)
    size = {**opened.fingerprint.size, "median": (9, 500, 400)}
    monkeypatch.setattr(type(opened), "fingerprint", opened.fingerprint.replace(size=size))
    sizes = []
    for megabytes in (100_000, 1200, 100):
        memory_of(megabytes)
        sizes.append(fit_to_memory(recipe(image_size="auto"), opened, CPU).size[0])
    assert sizes[0] == 512 > sizes[1] > sizes[2] == 224


def test_the_machine_has_some_memory():
    assert free_memory(CPU) > 1 << 26
