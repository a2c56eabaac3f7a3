"""On a GPU of NVIDIA's: what the CPU computes, in less memory than there is, in half precision.

`pytest -m cuda`; `TRANSUNET_TEST_DEVICE=cpu pytest -m cuda` tries what does not need one.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from prediction import OBLIQUE, noise, tiny_model
from tiny_3d import TINY_3D, tiny_model_3d
from training_runs import steps
from transunet.backends.pytorch import FixedNetwork, TorchNetwork
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.resize import resize, resize_tensor
from transunet.data.sampling.slices import neighbourhoods, stack_neighbours
from transunet.data.store import Store
from transunet.data.volume import Volume
from transunet.errors import TransUNetError
from transunet.inference.predictor import Predictor
from transunet.models.families import optimised
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.training.augmentation import BatchAugmentation
from transunet.training.distributed import ProcessGroup, _Sum, share_batches
from transunet.training.log import read_log
from transunet.training.loop import train
from transunet.training.losses import SegmentationLoss
from transunet.training.losses3d import TransUNet3DLoss
from transunet.training.memory import fit_to_memory
from transunet.training.recipe import Augmentation, load_recipe
from transunet.training.runs import resume, start
from transunet.training.step import Arithmetic, train_step
from transunet.training.trainer import DeeplySupervised, Trainer

DEVICE = os.environ.get("TRANSUNET_TEST_DEVICE", "cuda")
HERE = torch.cuda.is_available() or not DEVICE.startswith("cuda")
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not HERE, reason="needs a GPU of NVIDIA's")]
needs_its_memory = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="fills the memory of a GPU of NVIDIA's"
)

SIZE = (8, 32, 32)
WITHOUT_NOISE = {"p_affine": 1.0, "p_blur": 1.0, "p_brightness": 1.0, "p_contrast": 1.0,
                 "p_gamma": 1.0, "p_low_resolution": 1.0, "p_mirror": 1.0}  # fmt: skip
"""Noise is drawn by the device, which has its own numbers."""


@pytest.fixture(autouse=True)
def _whole_fp32() -> Iterator[None]:
    """Compute fp32 with all its bits: PyTorch lets a GPU's convolutions have fewer (tf32)."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def network(axes: int, seed: int = 0) -> SegmentationNetwork:
    """A tiny network whose logits differ from place to place, on the CPU."""
    if axes == 2:
        return tiny_model(seed)
    return tiny_model_3d("TransUNet3D", SIZE, seed=seed)


def images(axes: int, batch: int = 2) -> torch.Tensor:
    size = (32, 32) if axes == 2 else SIZE
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(0))


# Prediction


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 3e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("axes", [2, 3])
def test_probabilities_are_the_cpus(axes, precision, most):
    model, batch = network(axes), images(axes).numpy()
    expected = TorchNetwork(model, "cpu")(batch).softmax(1)
    fixed = FixedNetwork(optimised(model), model.config.image_size, "", DEVICE, precision)
    found = fixed(batch)
    assert found.device.type == torch.device(DEVICE).type
    assert found.dtype == torch.float32
    assert expected.std() > 0.05
    assert (found.cpu().softmax(1) - expected).abs().mean() < most


@pytest.mark.parametrize(
    ("axes", "settings"),
    [
        (2, {}),
        (2, {"mirror": True}),
        (2, {"window": True}),
        (2, {"procedure": "paper"}),
        (3, {}),
        (3, {"mirror": True}),
    ],
)
def test_a_volume_is_labelled_as_on_the_cpu(axes, settings, tmp_path, monkeypatch):
    """Resizing, mirror images, the windows' sums and the largest class are the device's, too."""

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("done on the CPU")

    image = Volume(noise((50, 44, 19)).astype(np.float32)[None], OBLIQUE, "scan")
    spacing = (2.0, 0.9, 0.8) if axes == 3 else None
    preprocessing = Preprocessing(channels=(Channel(name="MRI"),), spacing_mm=spacing)
    labels = {0: "background", 1: "left", 2: "right"}
    maps, stored = [], []
    for device in ("cpu", DEVICE):
        if not device.startswith("cpu"):
            monkeypatch.setattr("transunet.inference.slice_inference.resize", fails)
            for module in ("tta", "sliding_window"):
                monkeypatch.setattr(f"transunet.inference.{module}.as_array", fails)
        seed = 0 if axes == 2 else 6  # which makes more than one class of the volume
        model = network(axes, seed)
        predictor = Predictor(model, preprocessing, labels, device=device, **settings)
        path = tmp_path / f"{device}.npy"
        maps.append(predictor(image, probabilities=path).array)
        stored.append(np.load(path).astype(np.float32))
    assert len(np.unique(maps[0])) > 1
    assert (maps[0] == maps[1]).mean() > 0.999
    np.testing.assert_allclose(stored[1], stored[0], atol=2e-3)


def test_slices_are_resized_with_all_their_bits_where_tf32_is_allowed():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    slices = np.random.default_rng(0).normal(size=(2, 1, 512, 300)).astype(np.float32)
    there = TorchNetwork(network(2), DEVICE).upload(slices)
    found = resize_tensor(there, (224, 224), order=3, edge="kept")
    assert found.device.type == torch.device(DEVICE).type
    np.testing.assert_allclose(
        found.cpu().numpy(), resize(slices, (224, 224), 3, "kept"), atol=1e-5
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a GPU of NVIDIA's")
def test_nobody_waits_for_the_device_while_samples_are_prepared():
    on_device = TorchNetwork(network(2), DEVICE)
    slices = np.random.default_rng(0).normal(size=(4, 1, 50, 40)).astype(np.float32)
    around, chosen = neighbourhoods(slice(0, 4), 4, 1)
    for mode in ("default", "error"):  # the first time the matrices are brought
        torch.cuda.set_sync_debug_mode(mode)
        try:
            planes = resize_tensor(on_device.upload(slices[around]), (32, 32))
            samples = stack_neighbours(planes, chosen)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    expected = stack_neighbours(resize(slices[around], (32, 32)), chosen)
    np.testing.assert_allclose(samples.cpu().numpy(), expected, atol=1e-5)


# Training


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("axes", "precision", "most"),  # of the gradient's length
    [
        (2, "fp32", 1e-3),
        (2, "fp16", 1e-2),
        (2, "bf16", 5e-2),
        (3, "fp32", 1e-3),
        # What a query sees is a threshold, which half precision moves: CPUs give 0.06 and 0.26, an
        # H200 0.57 in bf16.
        (3, "fp16", 0.2),
        (3, "bf16", 0.8),
    ],
)
def test_a_step_is_the_cpus(axes, precision, most, checkpointing):
    found = []
    for device, arithmetic in (("cpu", Arithmetic()), (DEVICE, Arithmetic(precision, 2))):
        model = network(axes).to(device).train()
        for module in model.modules():  # a piece has statistics of its own, and draws of its own
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout):
                module.eval()
        model.set_gradient_checkpointing(checkpointing)
        trained = model if axes == 2 else DeeplySupervised(model, 0)
        batch = images(axes, 4).to(device)
        labels = (batch[:, 0] > 0).long() + (batch[:, 0] > 1).long()
        loss = SegmentationLoss({"ce_weight": 1.0}) if axes == 2 else TransUNet3DLoss(model.config)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        value = train_step(trained, loss, optimizer, batch, labels, arithmetic)
        gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
        found.append((torch.cat(gradients), value))
    (expected, expected_loss), (gradient, loss) = found
    assert loss == pytest.approx(expected_loss, rel=min(most, 2e-2))
    assert (gradient - expected).norm() < most * expected.norm()


@pytest.mark.parametrize("axes", [2, 3])
def test_augmentation_is_the_cpus(axes):
    settings = Augmentation(**WITHOUT_NOISE, mirror_axes=tuple(range(axes)))
    augment = BatchAugmentation(settings, seed=1)
    batch = torch.nn.functional.avg_pool2d(images(axes, 4).flatten(0, 1), 5, 1, 2)
    batch = batch.reshape(images(axes, 4).shape)  # smooth: a shifted sample is nearly the same
    labels, keys = (batch[:, 0] > 0).long(), [(0, n) for n in range(4)]
    expected = augment(batch, labels, keys)
    found = augment(batch.to(DEVICE), labels.to(DEVICE), keys)
    assert found[0].device.type == found[1].device.type == torch.device(DEVICE).type
    # A place between two pixels may be rounded to the other one.
    assert torch.isclose(found[0].cpu(), expected[0], atol=1e-3).float().mean() > 0.999
    assert (found[1].cpu() == expected[1]).float().mean() > 0.999


@pytest.fixture
def run(tmp_path, store):
    """Begin a small run: `run("modern3d", "cpu", lr=0.1)`."""

    def make(name: str, device: str = DEVICE, folder: str = "run", **changes: object) -> Trainer:
        small: dict[str, object] = {"model": "testing", "image_size": 32, "batch_size": 4}
        small["dropout"] = 0.0  # which a device draws from numbers of its own
        if name == "modern3d":
            vit = TINY_3D["vit"] | {"dropout": 0.0}
            architecture = {"width": 4, "vit": vit, "queries": TINY_3D["queries"]}
            small = {"model": "TransUNet3D-S", "image_size": SIZE, "batch_size": 2}
            small["architecture"] = architecture
        small |= {"iterations": 6, "validations": 2, "weights": "none", **changes}
        workers = int(device == DEVICE)
        return start(
            tmp_path / folder, store, load_recipe(name, small), device=device, workers=workers
        )

    return make


@pytest.mark.process
@pytest.mark.parametrize("name", ["modern", "modern3d"])
def test_a_run_is_the_cpus(run, name):
    """Samples from a worker, augmentation, deep supervision, the average, validation, bundles."""
    augmentation = {f"augmentation.{key}": p / 2 for key, p in WITHOUT_NOISE.items()}
    changes = {**augmentation, "augmentation.p_noise": 0.0, "lr": 1e-4}
    expected = steps(run(name, "cpu", "cpu", **changes))
    device_run = run(name, **changes)
    found = steps(device_run)
    assert len(found) == 6
    for here, there in zip(found, expected, strict=True):
        assert here.loss == pytest.approx(there.loss, rel=2e-2)
    predictor = Predictor.from_pretrained(device_run.folder / "best", device=DEVICE)
    (case, *_) = device_run.split.validation
    labels = predictor.label_slices(device_run.store.image(case).swapaxes(0, 1))
    assert labels.shape == device_run.store.label(case).shape


@pytest.mark.process
@pytest.mark.parametrize("name", ["modern", "modern3d"])
def test_an_interrupted_run_goes_on(run, name, tmp_path):
    """As one that was not, within what a device adds up in another order each time."""
    changes = {"checkpoint_minutes": 0, "validations": 1, "precision": "fp16", "lr": 1e-4}
    expected = steps(run(name, folder="whole", **changes))
    interrupted = run(name, folder="part", **changes)
    assert len(list(islice(train(interrupted), 3))) == 3
    found = steps(resume(tmp_path / "part", device=DEVICE))
    assert [step.step for step in found] == list(range(found[0].step, 7))
    assert found[0].step in (3, 4)  # the third step's checkpoint is written when it goes on
    for here, there in zip(found, expected[found[0].step - 1 :], strict=True):
        assert here.loss == pytest.approx(there.loss, rel=5e-2)
    checkpoint = torch.load(tmp_path / "part/checkpoint.pt", weights_only=True)
    assert checkpoint["scaler"]["scale"] > 1
    assert len(read_log(tmp_path / "part", "train")) == 6


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Leave this process half a gibibyte more than it holds."""
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved() + (1 << 29)
    torch.cuda.set_per_process_memory_fraction(
        held / torch.cuda.get_device_properties(0).total_memory
    )
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@needs_its_memory
def test_a_batch_that_does_not_fit_is_computed_in_pieces(store, little_memory):
    changes = {"model": "testing", "image_size": 256, "batch_size": "auto", "weights": "none"}
    recipe = load_recipe("modern", changes)
    fitted = fit_to_memory(recipe, Store.open(store), torch.device(DEVICE))
    assert fitted.batch_size == 24
    assert fitted.accumulate > 1
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert fit_to_memory(recipe, Store.open(store), torch.device(DEVICE)).accumulate == 1


@needs_its_memory
@pytest.mark.process
def test_running_out_of_memory_says_what_to_lower(run, little_memory):
    full = run("modern", image_size=512, batch_size=24, folder="full")
    with pytest.raises(TransUNetError, match=r"too little memory.*--set accumulate=2.*precision"):
        steps(full)


def test_what_nccl_adds_up_for_one_process_changes_nothing(tmp_path: Path):
    """The gradients' exchange, shared statistics and sums, with nobody else in the group."""
    backend = "nccl" if DEVICE.startswith("cuda") else "gloo"
    device = torch.device("cuda:0" if DEVICE.startswith("cuda") else DEVICE)
    found = []
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        for world in (ProcessGroup(), ProcessGroup(rank=0, size=2)):  # said to be shared
            model = network(2).to(device).train()
            trained = share_batches(model, world, device)
            loss = SegmentationLoss(reduce=_Sum.apply if world.size > 1 else lambda sums: sums)
            optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
            batch = images(2, 4).to(device)
            labels = (batch[:, 0] > 0).long()
            values = [train_step(trained, loss, optimizer, batch, labels) for _ in range(3)]
            found.append(torch.tensor(values))
        assert world.largest([1.0, 2.5], device) == [1.0, 2.5]
        world.wait()
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
