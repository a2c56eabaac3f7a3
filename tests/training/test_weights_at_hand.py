"""Which weights a recipe that leaves them open starts from."""

from pathlib import Path

import pytest

from transunet.training import fine_tuning
from transunet.training.recipe import load_recipe
from transunet.weights.catalog import WeightFile


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRANSUNET_OFFLINE", "1")
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("offline")
def test_a_machine_without_a_network_trains_all_the_same() -> None:
    assert fine_tuning.with_weights_chosen(load_recipe("paper")).weights == "none"


def test_published_weights_are_taken_where_they_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[WeightFile] = []
    monkeypatch.setattr(fine_tuning, "fetch", fetched.append)
    assert fine_tuning.with_weights_chosen(load_recipe("paper")).weights == "imagenet21k"
    assert [file.key for file in fetched] == ["vit_base_r50_s16_224.orig_in21k"]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("weights", ["none", "imagenet21k", "mine.pth"])
def test_what_was_asked_for_stays(weights: str) -> None:
    recipe = load_recipe("paper", {"weights": weights})
    assert fine_tuning.with_weights_chosen(recipe) == recipe
