from pathlib import Path

import pytest
import torch

import forks
from transunet.data.store import Store
from transunet.device import free_memory
from transunet.errors import ConfigError
from transunet.training import memory
from transunet.training.distributed import ALONE, ProcessGroup
from transunet.training.memory import BATCH, fit_to_memory
from transunet.training.recipe import load_recipe
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


def test_the_precision_is_the_devices(store, recipe, monkeypatch):
    opened = Store.open(store)
    asked = recipe(precision="auto")
    assert fit_to_memory(asked, opened, CPU).precision == "fp32"
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert fit_to_memory(asked, opened, torch.device("cuda")).precision == precision
    assert load_recipe("modern").precision == load_recipe("modern3d").precision == "auto"


def test_less_memory_means_more_pieces(pieces, memory_of, monkeypatch):
    needed = []
    for megabytes in (100_000, 250, 130):
        memory_of(megabytes)
        needed.append(pieces())
    assert needed == sorted(needed)
    assert needed[0] == 1 < needed[-1]
    assert all(BATCH % count == 0 for count in needed)
    memory_of(180)
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
    memory_of(180)
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
    for megabytes in (100_000, 4000, 100):
        memory_of(megabytes)
        sizes.append(fit_to_memory(recipe(image_size="auto"), opened, CPU).size[0])
    assert sizes[0] == 512 > sizes[1] > sizes[2] == 224


def test_a_batch_of_patches_grows_with_data_and_memory(store, memory_of, monkeypatch):
    opened = Store.open(store)
    small = {"image_size": (8, 32, 32), "architecture.width": 4, "architecture.max_width": 8}
    asked = load_recipe("modern3d", {"model": "UNet3D-S", "weights": "none", **small})
    sizes = {**opened.fingerprint.size, "median": (8, 32, 32)}

    def fitted(cases, **changes):
        data = opened.fingerprint.replace(size=sizes, cases=cases)
        monkeypatch.setattr(type(opened), "fingerprint", data)
        return fit_to_memory(asked.replace(**changes), opened, CPU)

    memory_of(100_000)
    assert fitted(30).batch_size == 2
    assert fitted(200).batch_size == 10  # a twentieth
    assert fitted(2000).batch_size == 64**3 // (8 * 32 * 32)  # on a CPU time is short
    assert fitted(2000, memory_gib=100).batch_size == 100
    memory_of(95)
    assert 2 < fitted(200).batch_size < 10
    assert fitted(200, memory_gib=95 / 1024) == fitted(200).replace(memory_gib=95 / 1024)
    memory_of(80)
    needy = fitted(200)
    assert (needy.batch_size, needy.accumulate) == (2, 2)
    memory_of(1)
    with pytest.raises(
        ConfigError, match=r"one patch of 8 x 32 x 32 voxels .* about 0\.1 GiB, and"
    ):
        fitted(200)


MEASURING = """
import re, sys
from pathlib import Path
import torch
from transunet.data.store import Store
from transunet.training import memory
from transunet.training.recipe import load_recipe
from transunet.training.step import train_step
from transunet.training.trainer import make_optimizer

settings = {"model": "UNet3D-S", "image_size": (32, 32, 32), "weights": "none"}
recipe, store = memory.planned(load_recipe("modern3d", settings)), Store.open(Path(sys.argv[1]))
counted = memory._counted(recipe, store, 6)
kib = lambda of: int(re.search(of + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
network, loss = memory._network(recipe, store, torch.device("cpu")), memory._loss(recipe, store)
optimizer = make_optimizer(recipe, network)
for _ in range(2):
    train_step(network, loss, optimizer, *memory._blank(recipe, store, torch.device("cpu"), 6))
print(counted / 1024 / (kib("VmHWM") - before))
"""


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's own account")
def test_a_step_takes_about_what_is_counted(store):
    ended = forks.Process(MEASURING, store)
    assert ended.wait() == 0, ended.stdout
    assert 0.8 < float(ended.stdout) < 1.3


def test_the_machine_has_some_memory():
    assert free_memory(CPU) > 1 << 26
