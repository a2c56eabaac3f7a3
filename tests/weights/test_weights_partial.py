"""Fine-tuning: which values of a network for other classes or channels are taken, row by row."""

import pytest
import torch

from transunet.errors import ConfigError, DataError, WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.load import load_weights
from transunet.weights.partial import match_rows
from weights.written import seeded_model, small, write_bundle, write_npz, write_pth

HEAD = ("segmentation_head.0.weight", "segmentation_head.0.bias")
ROOT = "transformer.embeddings.hybrid_model.root.conv.weight"
PATCHES = "transformer.embeddings.patch_embeddings.weight"


def numbered(*names):
    return dict(enumerate(("background", *names)))


def fresh(**changes):
    torch.manual_seed(11)
    return TransUNet(small(**changes))


def assert_taken(model, state, before, rows):
    """Class `ours` of the head comes from `rows[ours]` of `state`, or was left alone."""
    loaded = model.state_dict()
    for name in loaded:
        if name not in HEAD:
            torch.testing.assert_close(loaded[name], state[name], rtol=0, atol=0, msg=name)
    for name in HEAD:
        assert len(loaded[name]) == len(rows)
        for ours, theirs in enumerate(rows):
            row = before[name][ours] if theirs is None else state[name][theirs]
            assert torch.equal(loaded[name][ours], row), (name, ours)


@pytest.mark.parametrize(
    ("theirs", "ours", "rows"),
    [
        (("liver", "spleen"), ("liver", "spleen"), (0, 1, 2)),
        (("liver", "spleen"), ("Spleen", "LIVER"), (0, 2, 1)),
        (("liver", "spleen"), ("spleen",), (0, 2)),
        (("liver", "spleen"), ("kidney", "spleen", "liver", "pancreas"), (0, None, 2, 1, None)),
        (("liver", "spleen"), ("tumour", "cyst"), (0, None, None)),
        (("left_atrium",), ("Left Atrium",), (0, 1)),
        (("class 1", "class 2"), ("liver", "spleen"), (0, 1, 2)),
        (("liver", "spleen"), ("class 1",), (0, 1)),
    ],
)
def test_classes_keep_their_weights_by_name(tmp_path, theirs, ours, rows):
    labels = list(numbered(*theirs).values())
    bundle, state = write_bundle(tmp_path, small(num_classes=1 + len(theirs)), labels)
    model = fresh(num_classes=1 + len(ours))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_weights(model, bundle, partial=True, labels=numbered(*ours))
    assert_taken(model, state, before, rows)
    assert loaded.anew == (None in rows)
    for index, row in enumerate(rows[1:], 1):
        assert ("fresh" if row is None else "kept for") in str(loaded)
        assert ours[index - 1] in str(loaded)


def test_another_order_and_what_is_left_out_are_said(tmp_path):
    labels = ["background", "grey matter", "white matter", "fluid"]
    bundle, _ = write_bundle(tmp_path, small(num_classes=4), labels)
    ours = ["background", "white matter", "grey matter"]
    text = str(load_weights(fresh(), bundle, partial=True, labels=ours))
    assert "order differs (white matter is 1 and was 2, grey matter is 2 and was 1)" in text
    assert "left out fluid" in text
    assert str(bundle) in text


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_without_names_the_head_is_kept_whole_or_starts_fresh(tmp_path, classes):
    state = seeded_model(small()).state_dict()
    model = fresh(num_classes=classes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = write_pth(tmp_path / "a.pth", state)
    loaded = load_weights(model, path, partial=True, labels=numbered(*"abcd"[: classes - 1]))
    assert_taken(model, state, before, (0, 1, 2) if classes == 3 else [None] * classes)
    said = (
        "class by class number"
        if classes == 3
        else f"fresh (3 classes in the weights, {classes} here)"
    )
    assert said in str(loaded)


def test_without_being_asked_nothing_is_left_out(tmp_path):
    bundle, _ = write_bundle(tmp_path, small())
    with pytest.raises(WeightsError, match=r"num_classes=3, or load with partial=True"):
        load_weights(fresh(num_classes=2), bundle)


@pytest.mark.parametrize("hybrid", [True, False])
@pytest.mark.parametrize(
    ("theirs", "ours", "planes", "scale"),
    [
        (("T1", "T2"), ("T2", "T1"), (1, 0), 1),
        (("T1", "T2"), ("FLAIR", "t1"), (1, 0), 1),
        (("T1", "T2"), ("T1", "T2", "FLAIR", "T1ce"), (0, 1, 0, 1), 0.5),
        (("T1", "T2", "FLAIR", "T1ce"), ("FLAIR", "T1"), (2, 0), 2),
        (("T1", "T2"), ("MRI",), (0, 1, 0), 2 / 3),  # one channel is repeated to three
        (("MRI",), ("T1", "T2"), (0, 1), 1.5),
        (("red", "green", "blue"), ("red", "green", "blue", "nir"), (0, 1, 2, 0), 0.75),
        (("MRI",), ("CT",), (0, 1, 2), 1),
    ],
)
def test_other_channels(tmp_path, hybrid, theirs, ours, planes, scale):
    bundle, state = write_bundle(tmp_path, small(hybrid, in_channels=len(theirs)), None, theirs)
    model = TransUNet(small(hybrid, in_channels=len(ours)))
    labels = numbered("organ1", "organ2")
    loaded = load_weights(model, bundle, partial=True, labels=labels, channels=ours)
    stem = ROOT if hybrid else PATCHES
    expected = state[stem][:, planes] * scale
    torch.testing.assert_close(model.state_dict()[stem], expected)
    assert ("first convolution" in str(loaded)) == (planes != (0, 1, 2))
    assert torch.equal(model.state_dict()[HEAD[0]], state[HEAD[0]])


def test_another_network_stays_an_error(tmp_path):
    bundle, _ = write_bundle(tmp_path, small())
    for changes in ({"hidden_size": 48}, {"n_skip": 1}, {"num_layers": 3}):
        model = fresh(**changes)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(WeightsError, match="does not fit"):
            load_weights(model, bundle, partial=True)
        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_an_encoder_says_that_the_rest_is_fresh(tmp_path):
    state = seeded_model(small()).state_dict()
    path = write_npz(tmp_path / "a.npz", state, 3)
    assert "decoder and head start fresh" in str(load_weights(fresh(), path, partial=True))


def test_a_runs_folder_stands_for_its_best_bundle(tmp_path):
    run = tmp_path / "run"
    write_bundle(run / "last", small())
    _, state = write_bundle(run / "best", small())
    for value in (state := {n: v + 0 for n, v in state.items()}).values():
        value += 1
    torch.save(state, run / "checkpoint.pt")
    model = fresh()
    loaded = load_weights(model, run)
    assert loaded.source == str(run / "best")
    assert torch.equal(model.state_dict()[HEAD[0]], seeded_model(small()).state_dict()[HEAD[0]])
    (run / "run.json").write_text("{}")
    loaded = load_weights(
        model, run / "checkpoint.pt", partial=True, labels=numbered("organ2", "a")
    )
    assert torch.equal(model.state_dict()[HEAD[0]][1], state[HEAD[0]][2])  # the bundle names them


def test_folders_without_weights(tmp_path):
    with pytest.raises(ConfigError, match="no best or last beside it"):
        load_weights(fresh(), tmp_path)
    for fold in range(2):
        (tmp_path / f"fold-{fold}").mkdir()
    with pytest.raises(ConfigError, match="holds folds: give one of them, fold-0, fold-1"):
        load_weights(fresh(), tmp_path)


def test_a_bundle_that_cannot_be_read(tmp_path):
    bundle, _ = write_bundle(tmp_path, small())
    (bundle / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: cannot be read as JSON"):
        load_weights(fresh(), bundle)


def test_rows_of_heads_that_nobody_names():
    assert match_rows(None, None, 2, 2).taken == {0: 0, 1: 1}
    assert match_rows(numbered("a"), numbered("a", "b"), 3, 3).taken == {0: 0, 1: 1, 2: 2}
    assert match_rows(numbered("a", "b"), None, 3, 2).taken == {}
