"""Beginning a run from a bundle: what is taken from it, what is not, and what is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training_runs import same, steps, weights
from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.bundle.io import save_pretrained
from transunet.create import create_model
from transunet.data.layouts import open_dataset
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.sampling.slices import Slices
from transunet.data.store import Store
from transunet.errors import ConfigError, WeightsError
from transunet.inference.predictor import Predictor
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant
from transunet.training.fine_tuning import check_weights, preprocessing_from_weights
from transunet.training.loop import Stepped, train
from transunet.training.recipe import load_recipe
from transunet.training.runs import resume, start
from transunet.training.trainer import DeeplySupervised

pytestmark = pytest.mark.slow  # trains in nearly every test

HEAD = ("segmentation_head.0.weight", "segmentation_head.0.bias")
QUICK = {"batch_size": 3, "iterations": 4, "validations": 1}


def bundle_at(folder, labels=("background", "spot", "vessel"), preprocessing=None, **architecture):
    torch.manual_seed(3)
    settings = {"image_size": 48, "num_classes": len(labels)} | architecture
    model = TransUNet(variant("testing", **settings))
    config = BundleConfig(
        architecture=model.config,
        preprocessing=preprocessing or Preprocessing(),
        labels=dict(enumerate(labels)),
    )
    return save_pretrained(model, config, folder), model.state_dict()


def begin(folder, data, source, **changes):
    recipe = load_recipe("paper", QUICK | {"weights": str(source)} | changes)
    return start(folder, data, recipe, device="cpu")


def fresh(job):
    torch.manual_seed(job.recipe.seed)
    return TransUNet(job.model.config).state_dict()


def test_each_class_begins_with_the_weights_of_its_name(tmp_path, store):
    bundle, state = bundle_at(tmp_path / "bundle")
    job = begin(tmp_path / "run", store, bundle)  # background, disc, spot
    loaded, anew = job.model.state_dict(), fresh(job)
    for name, value in loaded.items():
        if name not in HEAD:
            assert torch.equal(value, state[name]), name
            continue
        assert torch.equal(value[0], state[name][0])
        assert torch.equal(value[1], anew[name][1])
        assert torch.equal(value[2], state[name][1])
    said = "\n".join(job.beginning.notes)
    assert "kept for spot; fresh for disc; left out vessel; matched by name" in said
    assert "spot is 2 and was 1" in said


@pytest.mark.parametrize(
    "source", ["bundle", "bundle/model.safetensors", "run", "run/checkpoint.pt"]
)
def test_a_bundle_a_file_of_it_a_run_or_its_checkpoint(tmp_path, store, source):
    bundle_at(tmp_path / "bundle")
    _, state = bundle_at(tmp_path / "run" / "best")
    if "run" in source:
        shutil.copytree(tmp_path / "run" / "best", tmp_path / "run" / "last")
        (tmp_path / "run" / "run.json").write_text("{}")
        torch.save({"format": 1, "model": state}, tmp_path / "run" / "checkpoint.pt")
    job = begin(tmp_path / "new", store, tmp_path / source)
    assert job.recipe.model == "testing"
    assert job.recipe.size == (48, 48)
    assert torch.equal(job.model.state_dict()[HEAD[0]][2], state[HEAD[0]][1])


def test_what_is_said_explicitly_wins(tmp_path, store):
    bundle, state = bundle_at(tmp_path / "bundle")
    assert load_recipe("modern", {"weights": str(bundle)}).image_size == (48, 48)
    assert load_recipe("paper", {"weights": str(bundle), "image_size": 64}).image_size == (64, 64)
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "paper"\nimage_size = 32\nweights = "{bundle.as_posix()}"\n')
    recipe = load_recipe(file)
    assert (recipe.model, recipe.image_size) == ("testing", (32, 32))
    assert load_recipe(file, {"weights": "none"}).model == "R50-ViT-B_16"
    job = begin(tmp_path / "run", store, bundle, image_size=(16, 64))
    positions = "transformer.embeddings.position_embeddings"
    assert job.model.state_dict()[positions].shape == (1, 4, 1)
    expected = state[positions].reshape(3, 3)[0].repeat(1)  # its first row, at 1 x 4
    torch.testing.assert_close(
        job.model.state_dict()[positions].flatten()[[0, -1]], expected[[0, -1]]
    )
    assert "3 x 3 resized to 1 x 4" in "\n".join(job.beginning.notes)


def test_a_bare_checkpoint_tells_its_model_by_its_shapes(tmp_path, store):
    model = TransUNet(variant("R26-ViT-Ti_16", n_skip=2, image_size=64, num_classes=3))
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": model.state_dict()}, path)
    recipe = load_recipe("paper", {"weights": str(path)})
    assert (recipe.model, recipe.n_skip, recipe.size) == ("R26-ViT-Ti_16", 2, (224, 224))
    with pytest.raises(ConfigError, match=r"n_skip=2, and the recipe asks for n_skip=3"):
        begin(tmp_path / "run", store, path, n_skip=3)
    job = begin(tmp_path / "run", store, path, image_size=64)
    assert torch.equal(job.model.state_dict()[HEAD[0]], model.state_dict()[HEAD[0]])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        load_recipe("paper", {"weights": str(path)})


def test_skips_are_taken_over(tmp_path):
    model = TransUNet(variant("R26-ViT-Ti_16", n_skip=1, image_size=64))
    config = BundleConfig(
        architecture=model.config, preprocessing=Preprocessing(), labels={0: "background", 1: "a"}
    )
    bundle = save_pretrained(model, config, tmp_path)
    assert load_recipe("paper", {"weights": str(bundle)}).n_skip == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "R26-ViT-Ti_16"}, r"are of testing, and the recipe asks for R26.*Leave out"),
        ({"weights": "nothing"}, "no weights 'nothing'"),
        ({"weights": "{tmp}"}, "no best or last beside it"),
    ],
)
def test_what_contradicts_the_weights_is_refused_before_any_work(tmp_path, toy, changes, says):
    bundle, _ = bundle_at(tmp_path / "bundle")
    changes = {key: value.format(tmp=tmp_path) for key, value in changes.items()}
    with pytest.raises((ConfigError, WeightsError), match=f"(?s){says}"):
        begin(tmp_path / "run", toy, bundle, **changes)
    assert not (tmp_path / "run").exists()


def test_a_raw_data_set_is_prepared_as_the_bundles_was(tmp_path, toy):
    theirs = Preprocessing(
        channels=(Channel(name="MRI", normalisation="clip", low=-50, high=250),),
        orientation="LPS",
    )
    bundle, _ = bundle_at(tmp_path / "bundle", preprocessing=theirs)
    job = begin(tmp_path / "run", toy, bundle)
    assert job.store.preprocessing == theirs
    assert job.bundle_config.preprocessing == theirs
    assert "preprocessing: as of the weights' own data" in job.beginning.notes[-1]
    image = job.store.image(next(iter(job.store.cases)))
    assert image.shape[1] == 24  # sagittal
    assert 0 <= image.min() < image.max() <= 1


def test_pictures_are_not_cut_into_lines(tmp_path):
    bundle, _ = bundle_at(tmp_path / "bundle", preprocessing=Preprocessing(orientation="RAS"))
    for index in range(2):
        for kind in ("images", "masks"):
            path = tmp_path / "data" / kind / f"a{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(24, dtype=np.uint8) * (200 if kind == "images" else 1)).save(
                path
            )
    recipe = load_recipe("paper", QUICK | {"weights": str(bundle)})
    preprocessing = preprocessing_from_weights(recipe, open_dataset(tmp_path / "data"))
    assert preprocessing.orientation == "SRA"
    assert preprocessing.channels[0].normalisation == "range"


def test_a_store_is_taken_as_it_was_prepared_and_the_difference_is_said(tmp_path, store):
    theirs = Preprocessing(channels=(Channel(name="CT"),), orientation="RAS")
    bundle, _ = bundle_at(tmp_path / "bundle", preprocessing=theirs)
    job = begin(tmp_path / "run", store, bundle)
    assert job.store.preprocessing == Store.open(store).preprocessing
    assert "the data set's, which is not" in job.beginning.notes[-1]
    assert "orientation SRA (weights: RAS)" in job.beginning.notes[-1]


def test_a_resumed_run_needs_no_source_and_ends_the_same_to_the_bit(tmp_path, toy):
    bundle, _ = bundle_at(tmp_path / "bundle", preprocessing=Preprocessing(orientation="ARS"))
    how = {"checkpoint_minutes": 0, "iterations": 6}
    steps(begin(tmp_path / "whole", toy, bundle, **how))
    job = begin(tmp_path / "parted", toy, bundle, **how)
    events = train(job)
    assert sum(isinstance(next(events), Stepped) for _ in range(3)) >= 2
    events.close()
    shutil.rmtree(bundle)
    again = resume(tmp_path / "parted", device="cpu")
    assert again.state.step >= 2
    assert again.beginning is None
    steps(again)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parted"))


def test_heads_of_deep_supervision_go_by_name_too(tmp_path, store):
    run = tmp_path / "run"
    shutil.copytree(bundle_at(run / "best")[0], run / "last")
    (run / "run.json").write_text("{}")
    network = DeeplySupervised(TransUNet(variant("testing", num_classes=3, image_size=48)), 2)
    average = TransUNet(network.model.config).state_dict()
    contents = {"format": 1, "model": network.state_dict(), "average": average}
    torch.save(contents, run / "checkpoint.pt")
    job = begin(tmp_path / "new", store, run / "checkpoint.pt", deep_supervision=(0.5, 0.25))
    for depth in range(2):
        ours, theirs = job.network.heads[depth], network.heads[depth]
        for name in ("weight", "bias"):
            assert torch.equal(getattr(ours, name)[[0, 2]], getattr(theirs, name)[[0, 1]])
            assert not torch.equal(getattr(ours, name)[1], getattr(theirs, name)[2])
    assert torch.equal(job.model.state_dict()[HEAD[0]][2], average[HEAD[0]][1])


def test_other_channels(tmp_path, store):
    theirs = Preprocessing(channels=tuple(Channel(name=name) for name in ("T1", "T2", "FLAIR")))
    bundle, state = bundle_at(tmp_path / "bundle", preprocessing=theirs, in_channels=3)
    job = begin(tmp_path / "run", store, bundle)  # one, repeated to three
    stem = "transformer.embeddings.patch_embeddings.weight"
    assert torch.equal(job.model.state_dict()[stem], state[stem])


def test_create_model_takes_over_what_is_not_given(tmp_path, caplog):
    bundle, state = bundle_at(tmp_path / "bundle", image_size=(32, 64))
    model = create_model(weights=bundle)
    assert model.config == variant("testing", num_classes=3, image_size=(32, 64))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not caplog.records
    names = ["background", "vessel", "liver", "spot"]
    model = create_model(weights=str(bundle), class_names=names, in_channels=2, image_size=64)
    assert model.config == variant("testing", num_classes=4, in_channels=2, image_size=64)
    for ours, row in {0: 0, 1: 2, 3: 1}.items():
        np.testing.assert_array_equal(model.state_dict()[HEAD[1]][ours], state[HEAD[1]][row])
    assert "fresh for liver" in caplog.text
    caplog.clear()
    assert create_model(weights=bundle, num_classes=7).config.num_classes == 7
    assert "head: fresh (3 classes in the weights, 7 here)" in caplog.text
    with pytest.raises(WeightsError, match=r"This file is testing .*--model testing"):
        create_model("R26-ViT-Ti_16", weights=bundle)


def test_a_checkpoint_without_a_bundle_needs_the_number_of_classes_said(tmp_path, caplog):
    _, state = bundle_at(tmp_path / "bundle")
    path = Path(tmp_path / "a.pth")
    torch.save({"network_weights": state}, path)
    with pytest.raises(WeightsError, match="num_classes=3"):
        create_model("testing", image_size=48, weights=path)
    model = create_model("testing", image_size=48, num_classes=2, weights=path)
    assert "head: fresh (3 classes in the weights, 2 here)" in caplog.text
    name = "decoder.conv_more.0.weight"
    assert torch.equal(model.state_dict()[name], state[name])


def test_neighbours_are_seen_from_the_weights_of_single_slices_on(tmp_path, store):
    """2.5D: one grey channel is repeated to three, so three planes take its weights unchanged."""
    bundle, state = bundle_at(tmp_path / "bundle", labels=("background", "disc", "spot"))
    job = begin(tmp_path / "run", store, bundle, context=1)
    assert job.model.config.in_channels == 3
    for name, value in job.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert job.dataset[0, 0]["image"].shape == (3, 48, 48)
    assert len([event for event in train(job) if isinstance(event, Stepped)]) == 4
    kept = read_config(tmp_path / "run" / "last")
    assert kept.sampling == Slices(size=(48, 48), context=1)
    predictor = Predictor.from_pretrained(tmp_path / "run" / "last", device="cpu", engine="eager")
    planes = job.store.image(next(iter(job.store.cases))).swapaxes(0, 1)
    assert predictor.label_slices(planes).shape == (len(planes), *planes.shape[2:])
    # What begins from it sees as much, unless told otherwise.
    assert load_recipe("paper", {"weights": str(tmp_path / "run" / "last")}).context == 1
    assert load_recipe("paper", {"weights": str(tmp_path / "run"), "context": 0}).context == 0


@pytest.mark.parametrize("network", ["UNet3D-S", "TransUNet3D-S"])
def test_weights_of_slices_are_refused_to_networks_of_patches(tmp_path, network):
    bundle_at(tmp_path / "slices")
    recipe = load_recipe(None, QUICK | {"weights": str(tmp_path / "slices"), "model": network})
    with pytest.raises(ConfigError, match=f"are of testing, and the recipe asks for {network}"):
        check_weights(recipe)
