"""One toy of each kind enters as CONTRIBUTING says, and is used as those are that are built in.

Each is a module and one entry of a registry, which is a dict literal; here the entry is made from
outside.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from typer.testing import CliRunner

import transunet
from prediction import tiny_bundle
from small_data import decathlon, save
from transunet.backends.engines import Engine
from transunet.cli.main import app
from transunet.data.cases import Case, DataSet
from transunet.data.formats.volume_format import VolumeFormat
from transunet.data.layouts import open_dataset, recognises
from transunet.data.prepare import prepare
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, DataError
from transunet.export.export import export
from transunet.models.architecture import Architecture
from transunet.models.families import Family
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.variants import variant
from transunet.training.loop import Stepped, train
from transunet.training.losses import LossTerm
from transunet.training.recipe import Recipe, load_recipe
from transunet.training.runs import start
from transunet.training.trainer import make_loss

__all__ = ["decathlon", "save"]  # fixtures


@pytest.fixture
def enter(monkeypatch):
    """Add entries to a registry, wherever it was imported: `enter("ENGINES", toy=Engine(...))`."""

    def add(registry: str, entries: Mapping[str, object]) -> None:
        for name, module in list(sys.modules.items()):
            known = vars(module).get(registry) if name.startswith("transunet.") else None
            if isinstance(known, Mapping):
                monkeypatch.setattr(module, registry, {**known, **entries})

    return add


def read_toy(path: Path) -> Volume:
    content = json.loads(path.read_text())
    return Volume(np.array(content["voxels"]), np.array(content["affine"]), str(path))


def read_toy_grid(path: Path) -> Grid:
    volume = read_toy(path)
    return Grid(volume.spatial_shape, volume.affine, str(path))


def write_toy(volume: Volume, path: Path) -> None:
    content = {"voxels": volume.array.tolist(), "affine": volume.affine.tolist()}
    path.write_text(json.dumps(content))


TOY_FORMAT = VolumeFormat(
    read=read_toy,
    read_labels=read_toy,
    read_grid=read_toy_grid,
    channels_in=lambda path: read_toy(path).channels,
    write=write_toy,
)


def test_a_format_is_read_predicted_and_written(enter, tmp_path):
    enter("FORMATS", {".toy": TOY_FORMAT})
    image = np.random.default_rng(0).random((1, 20, 24, 3))
    given = Volume(image, np.diag([2, 2, 3, 1.0]))
    (tmp_path / "in").mkdir()
    transunet.write_volume(given, tmp_path / "in/a.toy")
    assert np.allclose(transunet.read_volume(tmp_path / "in/a.toy").array, image)
    bundle = tiny_bundle(tmp_path / "bundle")
    words = ("predict", bundle, tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu")
    ended = CliRunner().invoke(app, [*map(str, words)])
    assert ended.exit_code == 0, ended.output
    labels = transunet.read_volume(tmp_path / "out/a.toy")
    expected = transunet.Predictor.from_pretrained(bundle, device="cpu")(given)
    assert np.array_equal(labels.array, expected.array)


@pytest.fixture
def toy_layout(enter):
    """The layout `toy`: scan_NAME.nii and truth_NAME.nii side by side."""

    def open_toy(folder):
        images = sorted(folder.glob("scan_*.nii"))
        labels = [folder / path.name.replace("scan", "truth") for path in images]
        cases = tuple(
            Case(path.stem[-1], (path,), label) for path, label in zip(images, labels, strict=True)
        )
        return DataSet(cases, {0: "background", 1: "toy"}, ("MRI",))

    module = ModuleType("toy")
    module.SHAPE = "scan_NAME.nii and truth_NAME.nii"
    module.recognises = lambda folder: any(folder.glob("scan_*.nii"))
    module.open = open_toy
    enter("LAYOUTS", {"toy": module})


@pytest.mark.usefixtures("toy_layout")
def test_a_layout_is_recognised_checked_and_prepared(tmp_path, save):
    image = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    for name in "ab":
        save(tmp_path / f"set/scan_{name}.nii", image)
        save(tmp_path / f"set/truth_{name}.nii", (image > 30).astype(np.uint8))
    assert recognises(tmp_path / "set")
    data = open_dataset(tmp_path / "set")
    assert (data.layout, [case.name for case in data.cases]) == ("toy", ["a", "b"])
    assert prepare(data, tmp_path / "store").labels[1] == "toy"


@pytest.mark.usefixtures("toy_layout")
def test_a_folder_of_no_layout_is_told_the_new_one_too(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=r"toy: scan_NAME"):
        open_dataset(tmp_path / "set")
    with pytest.raises(DataError, match=r"no cases; expected scan_NAME"):
        open_dataset(tmp_path / "set", "toy")


def test_a_variant_is_built_by_its_name(enter):
    enter("VARIANTS", {"toy": variant("testing").replace(name="toy", num_layers=2)})
    model = transunet.create_model("toy", num_classes=3, image_size=32)
    assert model.config.name == "toy"
    assert len(model.transformer.encoder.layer) == 2


def test_a_loss_is_weighed_by_the_recipe(enter):
    def squares(logits, labels, ignored):
        return torch.stack([logits.square().sum(), torch.tensor(float(logits.numel()))])

    enter("LOSSES", {"toy_weight": LossTerm(squares, lambda weight, s: weight * s[0] / s[1])})

    class WithToy(Recipe):
        toy_weight: float = 0.0

    settings = load_recipe("paper").model_dump() | {"ce_weight": 0, "dice_weight": 0}
    loss = make_loss(WithToy(**settings, toy_weight=3))
    logits, labels = torch.full((2, 3, 4, 4), 2.0), torch.zeros(2, 4, 4, dtype=torch.int64)
    assert loss(logits, labels) == 3 * 2**2
    with pytest.raises(ConfigError, match="toy_weight are all 0"):
        WithToy(**settings)


class ToyConfig(Architecture):
    """A few convolutions, and no transformer."""

    family: Literal["toy"] = "toy"
    image_size: tuple[PositiveInt, PositiveInt] = (32, 32)
    width: PositiveInt = 4

    @property
    def stride(self) -> tuple[int, int]:
        return 1, 1


class ToyConvolutions(SegmentationNetwork):
    """Logits of what two convolutions see."""

    head_names = ("head.weight", "head.bias")
    stem_name = "stem.weight"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.stem = torch.nn.Conv2d(config.in_channels, config.width, 3, padding=1)
        self.head = torch.nn.Conv2d(config.width, config.num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(images).relu())


@pytest.fixture
def toy_family(enter):
    enter("ARCHITECTURES", {"toy": ToyConfig})
    enter("VARIANTS", {"Toy-S": ToyConfig(name="Toy-S")})
    enter("FAMILIES", {"toy": Family(ToyConvolutions)})


@pytest.mark.usefixtures("toy_family")
def test_a_family_of_networks_trains_and_predicts(tmp_path, decathlon):
    model = transunet.create_model("Toy-S", num_classes=3, width=6)
    assert isinstance(model, ToyConvolutions)
    assert model.stem.out_channels == 6
    run = tmp_path / "run"
    words = ("train", decathlon(), "-o", run, "--model", "Toy-S", "--image-size", 32)
    budget = ("--iterations", 2, "--batch-size", 2, "--workers", 0, "--device", "cpu")
    ended = CliRunner().invoke(app, [*map(str, words + budget)])
    assert ended.exit_code == 0, ended.output
    values = json.loads((run / "best/config.json").read_text())
    assert values["architecture"]["family"] == "toy"
    trained, config = transunet.from_pretrained(run / "best")
    assert isinstance(trained, ToyConvolutions)
    assert config.architecture == trained.config
    again = transunet.create_model(weights=run, num_classes=4)  # with a fresh head
    assert torch.equal(again.stem.weight, trained.stem.weight)
    image = Volume(np.random.default_rng(0).random((1, 20, 24, 2)), np.eye(4))
    labels = transunet.Predictor.from_pretrained(run / "best", device="cpu")(image)
    assert labels.array.shape == image.array.shape
    with pytest.raises(ConfigError, match="Toy-S has no vision transformer"):
        transunet.explain(run / "best", image, device="cpu")


class ToyLoss(torch.nn.Module):
    """How far from 0 the logits and the stem's maps are, whatever the labels."""

    def forward(self, outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return outputs["logits"].square().mean() + outputs["maps"].square().mean()


class ToyWithMaps(ToyConvolutions):
    """Gives its loss more than logits."""

    def training_outputs(
        self, images: torch.Tensor, heads: torch.nn.ModuleList, guidance: object = None
    ) -> object:
        return {"logits": self(images), "maps": self.stem(images)}


@pytest.mark.slow
@pytest.mark.usefixtures("toy_family")
def test_a_family_brings_a_loss_of_its_own(enter, tmp_path, decathlon):
    enter("FAMILIES", {"toy": Family(ToyWithMaps)})
    enter("FAMILY_LOSSES", {"toy": lambda config, recipe, reduce, ignored: ToyLoss()})
    settings = {"model": "Toy-S", "image_size": 32, "weights": "none", "batch_size": 2}
    budget = {"iterations": 1, "validations": 1}
    recipe = load_recipe("paper", settings | budget)
    trainer = start(tmp_path / "run", decathlon(), recipe, device="cpu")
    images, labels, _ = next(trainer.batches())
    logits, maps = trainer.model(images), trainer.model.stem(images)
    expected = logits.square().mean() + maps.square().mean()
    torch.testing.assert_close(trainer.loss(trainer.trained(images), labels), expected)
    assert [event.loss for event in train(trainer) if isinstance(event, Stepped)] == [
        pytest.approx(expected.item(), rel=1e-5)
    ]


@pytest.mark.runtime
@pytest.mark.usefixtures("toy_family")
def test_a_family_of_networks_is_exported(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = transunet.create_model("Toy-S", num_classes=3).eval()
    preprocessing = transunet.Preprocessing(channels=({"name": "MRI"},))
    labels = {0: "background", 1: "left", 2: "right"}
    config = transunet.BundleConfig(
        architecture=model.config, preprocessing=preprocessing, labels=labels
    )
    transunet.save_pretrained(model, config, tmp_path / "bundle")
    for suffix in (".onnx", ".pt2"):
        assert export(tmp_path / "bundle", tmp_path / f"toy{suffix}").difference < 1e-5


class ToyNetwork:
    """Finds the last class wherever an image is brighter than its mean."""

    image_size, device, fingerprint = (32, 32), "cpu", "toy"

    def __init__(self, source: Path, *settings: object) -> None:
        assert (Path(source) / "config.json").is_file()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        bright = images > images.mean(axis=(1, 2, 3), keepdims=True)
        return np.concatenate([~bright, np.zeros_like(bright), bright], axis=1).astype(np.float32)


def test_an_engine_computes_where_it_is_asked_for(enter, tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle")
    engine = Engine(
        open=ToyNetwork,
        write=lambda *settings: None,
        texts=lambda path: {},
        packages=("numpy",),
        precisions={"cpu": ("fp32",)},
        reads=(),
        auto=False,
    )
    enter("ENGINES", {"toy": engine})
    predictor = transunet.Predictor.from_pretrained(bundle, device="cpu", engine="toy")
    assert (predictor.engine, predictor.precision) == ("toy", "fp32")
    image = np.zeros((1, 32, 32, 2))
    image[:, :, 16:] = 1
    assert np.array_equal(
        predictor(image, spacing_mm=(1, 1, 1)).array[0], np.where(image[0] > 0, 2, 0)
    )
