import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

import transunet
from transunet.bundle.bundle_config import keep_trust
from transunet.bundle.io import BundleConfig, from_pretrained, save_pretrained
from transunet.bundle.trust_config import StructureTrust, Trust
from transunet.data.checks.suitability import TrainingData
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices
from transunet.errors import ConfigError, DataError, WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

LABELS = {0: "background", 1: "anterior", 2: "posterior"}


@pytest.fixture(scope="module")
def model() -> TransUNet:
    torch.manual_seed(0)
    return TransUNet(variant("R26-ViT-Ti_16", num_classes=3, image_size=32)).eval()


@pytest.fixture
def bundle(model: TransUNet, tmp_path: Path) -> Path:
    config = BundleConfig(architecture=model.config, preprocessing=Preprocessing(), labels=LABELS)
    return save_pretrained(model, config, tmp_path / "bundle")


def test_a_bundle_gives_back_model_and_configuration(model: TransUNet, bundle: Path) -> None:
    again, config = from_pretrained(bundle)
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
    assert not again.training
    assert config.labels == LABELS
    assert config.architecture == model.config
    assert {"transunet-torch", "torch", "numpy", "python"} <= set(config.versions)
    names = {"model.safetensors", "config.json", "README.md"}
    assert {path.name for path in bundle.iterdir()} == names
    modes = {path.stat().st_mode for path in bundle.iterdir()}
    assert len(modes) == 1, "others can read the one but not the other"


def test_a_bundle_is_overwritten_file_by_file(model: TransUNet, bundle: Path) -> None:
    (bundle / "README.md").write_text("mine")
    save_pretrained(model, from_pretrained(bundle)[1], bundle)
    assert (bundle / "README.md").read_text() == "mine"
    assert len(list(bundle.iterdir())) == 3


def test_a_readme_tells_the_hub_and_people_what_the_bundle_is(bundle: Path) -> None:
    card = ModelCard.load(bundle / "README.md", ignore_metadata_errors=False)
    assert card.data.license == "unknown"
    assert card.data.library_name == "transunet"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.metrics == ["dice"]
    assert card.data.tags == ["transunet", "medical-imaging"]
    assert "# R26-ViT-Ti_16: anterior, posterior in images" in card.text
    assert "Not known: nothing was fitted" in card.text


def test_a_readme_is_written_anew_until_it_is_edited(bundle: Path) -> None:
    structures = {"anterior": StructureTrust(present=1), "posterior": StructureTrust(present=1)}
    keep_trust(bundle, Trust(cases=7, structures=structures))
    readme = bundle / "README.md"
    assert "Fitted on 7 held-out cases" in readme.read_text()
    readme.write_text(readme.read_text().replace("license: unknown", "license: mit"))
    edited = readme.read_bytes()
    keep_trust(bundle, Trust(cases=8, structures=structures))
    assert readme.read_bytes() == edited
    readme.unlink()
    keep_trust(bundle, Trust(cases=9, structures=structures))
    assert "Fitted on 9 held-out cases" in readme.read_text()


@pytest.mark.parametrize(
    ("largest", "said"),
    [(1.0, "voxels of 1 x 1 x 1 mm"), (2.5, "voxels of 1 x 1 x 1 to 2.5 x 1 x 1 mm")],
)
def test_a_readme_tells_a_single_voxel_size_once(
    model: TransUNet, tmp_path: Path, largest: float, said: str
) -> None:
    config = BundleConfig(
        architecture=model.config,
        preprocessing=Preprocessing(),
        labels=LABELS,
        training_data=TrainingData(
            cases=2,
            channels=(),
            spacing_mm=((1, 1, 1), (largest, 1, 1)),
            view_mm=((64, 64), (64, 64)),
        ),
    )
    text = (save_pretrained(model, config, tmp_path / "bundle") / "README.md").read_text()
    assert f"| its data | 2 cases, {said}" in text


def test_names_make_no_markup_of_a_readme(model: TransUNet, tmp_path: Path) -> None:
    labels = {0: "background", 1: "<img src=x>|", 2: "*[a](b)\n---"}
    config = BundleConfig(architecture=model.config, preprocessing=Preprocessing(), labels=labels)
    text = (save_pretrained(model, config, tmp_path / "bundle") / "README.md").read_text()
    assert "| finds | 1 \\<img src=x>\\|, 2 \\*[a]\\(b) --- |" in text
    assert ModelCard(text).data.license == "unknown"


def test_a_bundle_without_its_config_is_refused(bundle: Path) -> None:
    (bundle / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"is not a bundle: it has no config\.json"):
        from_pretrained(bundle)


def test_a_run_in_a_bundles_place_names_its_best(bundle: Path) -> None:
    best = bundle.rename(bundle.parent / "best")
    with pytest.raises(ConfigError, match=rf"is not a bundle: .* Give {best}$"):
        from_pretrained(best.parent)


def test_a_bundle_without_weights_is_refused(bundle: Path) -> None:
    (bundle / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"it has no model\.safetensors"):
        from_pretrained(bundle)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no bundle"):
        from_pretrained(tmp_path / "nothing")


def test_the_hub_without_a_network_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSUNET_OFFLINE", "1")
    with pytest.raises(ConfigError, match="Give a local bundle folder"):
        from_pretrained("somebody/some-model")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"labels": {"0": "background"}}, "do not number the model's 3 classes"),
        ({"format_version": 3}, "format_version"),
    ],
)
def test_a_wrong_configuration_names_the_file(bundle: Path, change: dict, says: str) -> None:
    path = bundle / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=says) as caught:
        from_pretrained(bundle)
    assert str(path) in str(caught.value)


def test_broken_json_is_refused(bundle: Path) -> None:
    (bundle / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        from_pretrained(bundle)


def test_weights_of_another_architecture_are_refused(bundle: Path) -> None:
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["architecture"]["n_skip"] = 1
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="conv1"):
        from_pretrained(bundle)


def test_truncated_weights_are_refused(bundle: Path) -> None:
    path = bundle / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        from_pretrained(bundle)


def test_public_names_are_there_and_sorted() -> None:
    assert transunet.__all__ == sorted(transunet.__all__, key=lambda n: (not n.isupper(), n))
    for name in transunet.__all__:
        assert getattr(transunet, name) is not None


def test_a_bundle_of_a_3d_network_takes_patches_and_any_spacing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transunet.create_model("UNet3D-S", num_classes=3, image_size=(32, 32, 48), width=4)
    preprocessing = Preprocessing(spacing_mm=(2.0, 0.8, 0.8))
    config = BundleConfig(architecture=model.config, preprocessing=preprocessing, labels=LABELS)
    assert config.sampling == Patches(size=(32, 32, 48))
    config = config.replace(sampling=Patches(size=(32, 32, 48), overlap=0.25, padding="minimum"))
    again, read = from_pretrained(save_pretrained(model, config, tmp_path / "bundle"))
    assert read == config.replace(versions=read.versions)
    x = torch.rand(1, 1, 32, 32, 48)
    with torch.inference_mode():
        assert torch.equal(again(x), model.eval()(x))
    with pytest.raises(ConfigError, match=r"slices of \(32, 32\) .* takes \(32, 32, 48\)"):
        config.replace(sampling=Slices(size=(32, 32)))
    with pytest.raises(ConfigError, match=r"patches of \(32, 32, 32\) .* takes \(32, 32, 48\)"):
        config.replace(sampling=Patches(size=(32, 32, 32)))
    with pytest.raises(ConfigError, match="2 channels, the model takes 1"):
        config.replace(preprocessing=Preprocessing(channels=(Channel(), Channel(name="b"))))
