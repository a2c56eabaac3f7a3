"""nnU-Net plans, trains, resumes, validates and predicts with this network.

nnU-Net is installed for these tests without the packages that it does not need here:
`pip install --no-deps -r tests/integrations/nnunet/requirements.txt`.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import forks
from prediction import COMMAND
from transunet.data.formats import read_volume
from transunet.data.volume import same_grid
from transunet.integrations.nnunet.plans import config_for_plans
from transunet.models.families import build
from transunet.weights.load import load_weights

if find_spec("nnunetv2") is None:
    pytest.skip(
        "nnU-Net is not installed: "
        "pip install --no-deps -r tests/integrations/nnunet/requirements.txt",
        allow_module_level=True,
    )
pytestmark = pytest.mark.slow  # nnU-Net starts many processes, and each imports torch

NAME = "Dataset777_Made"
AFFINE = np.array([[-0.9, 0, 0, 5], [0, 1.1, 0, -3], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])
LABELS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
TRAINERS = """
import os
from transunet.integrations.nnunet import nnunet_trainer

class Short:
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["EPOCHS"])
        self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1

class nnUNetTrainerTransUNetShort(Short, nnunet_trainer.nnUNetTrainerTransUNet_R26Ti):
    pass

class nnUNetTrainerUNet3DShort(Short, nnunet_trainer.nnUNetTrainerTransUNet3D_UNetS):
    pass

class nnUNetTrainerTransUNet3DShort(Short, nnunet_trainer.nnUNetTrainerTransUNet3D_S):
    pass
"""
# The pools of `transunet nnunet` are forked: each process that is spawned imports for 7 seconds.
FORKED = """
import multiprocessing
forked = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: forked
"""


class Project:
    """The folders of nnU-Net with a data set of two channels and an ignore label."""

    def __init__(
        self,
        folder: Path,
        labels: dict = LABELS,
        shape: tuple[int, int, int] = (22, 26, 5),
        trainer: str = "nnUNetTrainerTransUNetShort",
        configuration: str = "2d",
    ) -> None:
        self.folder, self.raw = folder, folder / "raw" / NAME
        self.labels, self.shape = labels, shape
        self.trainer, self.configuration = trainer, configuration
        self.results = folder / "results" / NAME / f"{trainer}__nnUNetPlans__{configuration}"
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (self.raw / name).mkdir(parents=True)
        for index in range(2):
            self._write_case(f"case_{index}", index)
        self._write_dataset()
        (folder / "trainers").mkdir()
        (folder / "trainers" / "short_trainers.py").write_text(TRAINERS)

    def run(self, *words: str, epochs: int = 1, forked: bool = True, **more: str) -> str:
        code = (FORKED if forked else "") + COMMAND
        environment = self.environment(epochs) | more
        result = forks.Process(code, "nnunet", *words, environment=environment, stderr=True)
        assert result.wait() == 0, result.stdout[-2000:] + result.stderr[-2000:]
        return result.stdout

    def environment(self, epochs: int) -> dict[str, str]:
        return {
            "nnUNet_raw": str(self.folder / "raw"),
            "nnUNet_preprocessed": str(self.folder / "preprocessed"),
            "nnUNet_results": str(self.folder / "results"),
            "nnUNet_extTrainer": str(self.folder / "trainers"),
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "0",
            "EPOCHS": str(epochs),
        }

    def plan(self, *configurations: str) -> None:
        words = ("nnUNetv2_plan_and_preprocess", "-d", "777", "-npfp", "1", "-np", "1", "-c")
        self.run(*words, *configurations, nnUNet_n_proc_DA="1")  # planning cannot do with none

    def train(self, *words: str, epochs: int = 1, **more: str) -> str:
        fixed = ("777", self.configuration, "all", "-tr", self.trainer, "-device", "cpu")
        return self.run("nnUNetv2_train", *fixed, *words, epochs=epochs, **more)

    def predict(self, labels: Path) -> None:
        self.run(
            *("nnUNetv2_predict", "-d", "777", "-c", self.configuration, "-f", "all"),
            *("-tr", self.trainer, "-i", str(self.raw / "imagesTs"), "-o", str(labels)),
            *("-device", "cpu", "-npp", "1", "-nps", "1"),
            forked=self.configuration == "2d",  # a pool that is forked after volumes waits forever
        )

    def _write_case(self, name: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (self.shape[0] + seed, *self.shape[1:])
        for channel in range(2):
            image = nib.Nifti1Image(rng.normal(size=shape).astype(np.float32), AFFINE)
            for folder in ("imagesTr", "imagesTs"):
                nib.save(image, self.raw / folder / f"{name}_{channel:04d}.nii.gz")
        label = rng.integers(0, 4, size=shape).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, AFFINE), self.raw / "labelsTr" / f"{name}.nii.gz")

    def _write_dataset(self) -> None:
        values = {"channel_names": {"0": "T1", "1": "T2"}, "labels": self.labels}
        values |= {"regions_class_order": [1, 2], "numTraining": 2, "file_ending": ".nii.gz"}
        (self.raw / "dataset.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("nnunet"))
    project.plan("2d", "3d_fullres")
    return project


@pytest.fixture(scope="module")
def trained(planned: Project) -> Project:
    said = planned.train()
    assert "starts from random weights" in said
    return planned


def checkpoint_of(project: Project) -> dict:
    path = project.results / "fold_all" / "checkpoint_final.pth"
    found: dict = torch.load(path, weights_only=False)
    return found


def test_training_ends_with_a_validation(trained: Project) -> None:
    summary = json.loads((trained.results / "fold_all" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    weights = checkpoint_of(trained)["network_weights"]
    heads = next(value for name, value in weights.items() if name == "segmentation_head.0.weight")
    assert heads.shape[0] == 2  # one per region, none for the background or what is ignored


def test_what_was_trained_is_taken_back(trained: Project) -> None:
    plans = json.loads((trained.folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    patch_size = plans["configurations"]["2d"]["patch_size"]
    model = build(config_for_plans("R26-ViT-Ti_16", patch_size, 2, 2))
    load_weights(model, trained.results / "fold_all" / "checkpoint_final.pth")
    theirs = checkpoint_of(trained)["network_weights"]
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def test_training_is_taken_up_again(trained: Project) -> None:
    said = trained.train("--c", epochs=2)
    assert "Epoch 1" in said
    assert "Epoch 0" not in said
    assert checkpoint_of(trained)["current_epoch"] == 2


def test_label_maps_lie_on_the_images_grid(trained: Project) -> None:
    images, labels = trained.raw / "imagesTs", trained.folder / "labels"
    trained.predict(labels)
    for index in range(2):
        found = read_volume(labels / f"case_{index}.nii.gz")
        assert same_grid(found, read_volume(images / f"case_{index}_0000.nii.gz")) is None
        assert set(np.unique(found.array)) <= {0, 1, 2}


def test_training_starts_from_the_weights_that_are_named(planned: Project, tmp_path: Path) -> None:
    plans = json.loads((planned.folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    patch_size = plans["configurations"]["2d"]["patch_size"]
    model = build(config_for_plans("R26-ViT-Ti_16", patch_size, 2, 2))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    code = (
        "import sys, torch, nnunetv2.run.run_training as r\n"
        "from safetensors.torch import load_file\n"
        "from transunet.integrations.nnunet.nnunet_trainer import nnUNetTrainerTransUNet_R26Ti\n"
        "r.recursive_find_trainer_class_by_name = lambda name: nnUNetTrainerTransUNet_R26Ti\n"
        "t = r.get_trainer_from_args('777', '2d', 'all', device=torch.device('cpu'))\n"
        "t.initialize()\n"
        "expected = load_file(sys.argv[1])\n"
        "found = t.network.state_dict()\n"
        "assert all(torch.equal(found[name], value) for name, value in expected.items())\n"
        "group = t.optimizer.param_groups[0]\n"
        "assert (group['lr'], group['momentum'], group['weight_decay']) == (0.01, 0.9, 1e-4)\n"
    )
    weights = str(tmp_path / "model.safetensors")
    environment = planned.environment(1) | {"TRANSUNET_WEIGHTS": weights}
    ended = forks.Process(code, weights, environment=environment)
    assert ended.wait() == 0, ended.stdout


@pytest.mark.parametrize(
    ("trainer", "configuration", "said"),
    [
        ("nnUNetTrainerTransUNet", "3d_fullres", "segments slices"),
        ("nnUNetTrainerTransUNet3D_UNet", "2d", "segments volumes"),
        ("nnUNetTrainerTransUNet3D_S", "3d_fullres", "has regions"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    planned: Project, trainer: str, configuration: str, said: str
) -> None:
    words = ("nnUNetv2_train", "777", configuration, "all", "-tr", trainer)
    words += ("-device", "cpu")
    result = forks.Process(
        COMMAND, "nnunet", *words, environment=planned.environment(1), stderr=True
    )
    assert result.wait() == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(planned.folder.glob(f"results/*/{trainer}__*"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A data set of classes, for the network with queries."""
    project = Project(
        tmp_path_factory.mktemp("volumes"),
        {"background": 0, "rest": 1, "core": 2, "ignore": 3},
        (34, 36, 20),
        "nnUNetTrainerTransUNet3DShort",
        "3d_fullres",
    )
    project.plan("3d_fullres")
    return project


@pytest.mark.exhaustive  # its network, loss and plans are tested by themselves
def test_queries_are_trained_validated_and_predicted_with(volumes: Project) -> None:
    assert "TransUNet TransUNet3D-S starts from random weights" in volumes.train()
    summary = volumes.results / "fold_all" / "validation" / "summary.json"
    assert len(json.loads(summary.read_text())["metric_per_case"]) == 2
    labels = volumes.folder / "labels"
    volumes.predict(labels)
    found = read_volume(labels / "case_1.nii.gz")
    assert same_grid(found, read_volume(volumes.raw / "imagesTs" / "case_1_0000.nii.gz")) is None
    # What was trained is this package's network, by its names.
    plans = json.loads((volumes.folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    planned = plans["configurations"]["3d_fullres"]
    stages = planned["architecture"]["arch_kwargs"]
    model = build(
        config_for_plans(
            *("TransUNet3D-S", planned["patch_size"], 2, 3),
            *(stages["strides"], stages["kernel_sizes"]),
        )
    )
    model.load_state_dict(checkpoint_of(volumes)["network_weights"])


@pytest.mark.exhaustive
def test_the_3d_unet_is_trained_for_regions(planned: Project) -> None:
    """With deep supervision at each stage, and nnU-Net's own loss."""
    trainer = "nnUNetTrainerUNet3DShort"
    planned.run("nnUNetv2_train", "777", "3d_fullres", "all", "-tr", trainer, "-device", "cpu")
    results = planned.folder / "results" / NAME / f"{trainer}__nnUNetPlans__3d_fullres"
    assert (results / "fold_all" / "validation" / "summary.json").is_file()
    weights = torch.load(results / "fold_all" / "checkpoint_final.pth", weights_only=False)
    heads = [v for n, v in weights["network_weights"].items() if n.startswith("seg_outputs")]
    assert len(heads) >= 2
    assert all(head.shape[0] == 2 for head in heads)
