"""Which stores networks of two and of three axes are trained on."""

import pytest

from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.training.recipe import load_recipe
from transunet.training.runs import is_store_of_volumes, start


@pytest.mark.slow
def test_a_raw_data_set_becomes_volumes_for_a_3d_model(toy, tmp_path):
    changes = {
        "model": "UNet3D-S",
        "architecture": {"width": 4},
        "iterations": 1,
        "weights": "none",
    }
    recipe = load_recipe("modern3d", changes)
    start(tmp_path / "run", toy, recipe, device="cpu")
    opened = Store.open(tmp_path / "run/store")
    assert opened.preprocessing.of_volumes
    assert all(case.fingerprint.nonzero is not None for case in opened.cases.values())


def test_a_store_of_volumes_is_refused_to_a_2d_model(toy, tmp_path):
    prepare(open_dataset(toy), tmp_path / "store", dimensions=3)
    assert is_store_of_volumes(tmp_path / "store")  # for which modern3d is taken, if nobody chose
    assert not is_store_of_volumes(toy)
    with pytest.raises(ConfigError, match=r"prepared for 3D networks.*with 3D in its name"):
        start(tmp_path / "run", tmp_path / "store", load_recipe("modern"), device="cpu")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
