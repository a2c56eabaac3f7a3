"""Reading pairs, refusing what cannot be compared, and putting cases together."""

import json
import pickle
from math import isnan
from pathlib import Path

import numpy as np
import pytest

from transunet.data.formats import read_labels
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.evaluation.measure import Settings, gather, measure, measure_all
from transunet.evaluation.pairs import Pair, match, references_in
from transunet.evaluation.records import CaseRecord, Structure
from transunet.inference.postprocessing import measure_structures

STRUCTURES = (Structure((1,), "liver"), Structure((2,), "spleen"))


@pytest.fixture
def pair(tmp_path, save, blocks):
    save(tmp_path / "p" / "a.nii.gz", blocks(1))
    save(tmp_path / "r" / "a.nii.gz", blocks())
    return Pair("a", tmp_path / "p" / "a.nii.gz", tmp_path / "r" / "a.nii.gz")


def test_a_pair_is_measured_in_millimetres(pair):
    record = measure(pair, Settings(STRUCTURES))
    liver = record.metrics["1"]
    assert liver.dice == pytest.approx(3 / 4)  # blocks of 4 layers, shifted by one
    assert liver.reference_ml == pytest.approx(4 * 4 * 3 * 2 / 1000)  # voxels of 2 mm³
    assert liver.hd95 == pytest.approx(1)


def test_distances_use_the_thickness_of_slices(tmp_path, save, blocks):
    moved = np.roll(blocks(), 1, axis=2)
    save(tmp_path / "p.nii.gz", moved)
    save(tmp_path / "r.nii.gz", blocks())
    record = measure(Pair("a", tmp_path / "p.nii.gz", tmp_path / "r.nii.gz"), Settings(STRUCTURES))
    assert record.metrics["1"].hd95 == pytest.approx(2)


def test_a_sheared_voxel_has_the_volume_that_predict_tells(tmp_path, save, blocks):
    tilt = np.diag([1.0, 1.0, 2.0, 1.0])
    tilt[1, 2] = 0.8  # edges of 1, 1 and 2.15 mm, and still 2 mm³
    files = [save(tmp_path / f"{shift}.nii.gz", blocks(shift), tilt) for shift in (1, 0)]
    record = measure(Pair("a", *files), Settings(STRUCTURES))
    labels = read_labels(files[0])
    told = measure_structures(labels, labels, {0: "background", 1: "liver", 2: "spleen"}, axis=2)
    assert record.metrics["1"].prediction_ml == pytest.approx(4 * 4 * 3 * 2 / 1000)
    assert told["liver"]["volume_ml"] == pytest.approx(record.metrics["1"].prediction_ml)


def test_a_region_is_measured_as_one_structure(pair):
    both = Structure((1, 2), "both")
    record = measure(pair, Settings((*STRUCTURES, both)))
    expected = 2 * (3 * 12 + 2 * 12) / (2 * (4 * 12 + 3 * 12))
    assert record.metrics["1+2"].dice == pytest.approx(expected)
    assert set(record.metrics) == {"1", "2", "1+2"}


def test_without_names_every_label_that_occurs_is_measured(pair, tmp_path, save, blocks):
    save(tmp_path / "p" / "b.nii.gz", np.where(blocks() == 1, 7, 0).astype(np.uint8))
    save(tmp_path / "r" / "b.nii.gz", np.where(blocks() == 1, 7, 0).astype(np.uint8))
    other = Pair("b", tmp_path / "p" / "b.nii.gz", tmp_path / "r" / "b.nii.gz")
    pairs = [pair, other]
    evaluation = gather(measure_all(pairs, Settings()), pairs, Settings(), "P", "R")
    assert [one.name for one in evaluation.structures] == ["label 1", "label 2", "label 7"]
    first, second = evaluation.cases
    assert isnan(first.metrics["7"].dice)
    assert isnan(second.metrics["1"].dice)
    assert second.metrics["7"].dice == 1
    assert [s.not_counted for s in evaluation.summaries["dice"].structures] == [1, 1, 1]


def test_under_the_official_convention_absent_labels_score_zero(pair, tmp_path, save, blocks):
    save(tmp_path / "p" / "b.nii.gz", blocks(second=False))
    save(tmp_path / "r" / "b.nii.gz", blocks(second=False))
    other = Pair("b", tmp_path / "p" / "b.nii.gz", tmp_path / "r" / "b.nii.gz")
    settings, pairs = Settings(convention="official"), [pair, other]
    evaluation = gather(measure_all(pairs, settings), pairs, settings, "P", "R")
    assert evaluation.cases[1].metrics["2"].dice == 0
    assert evaluation.summaries["dice_official"].structures[1].counted == 2


def test_floating_point_label_maps_are_read(tmp_path, save, blocks):
    save(tmp_path / "p.nii.gz", blocks().astype(np.float32))
    save(tmp_path / "r.nii.gz", blocks().astype(np.int16))
    record = measure(Pair("a", tmp_path / "p.nii.gz", tmp_path / "r.nii.gz"), Settings())
    assert record.metrics["1"].dice == 1


def refused(tmp_path, save, prediction, reference, settings=None, **options):
    save(tmp_path / "p.nii.gz", prediction, **options)
    save(tmp_path / "r.nii.gz", reference)
    pair = Pair("a", tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")
    with pytest.raises((DataError, GeometryError)) as raised:
        measure(pair, settings or Settings())
    assert raised.value.exit_code == 1
    return str(raised.value)


def test_another_shape_is_refused(tmp_path, save, blocks):
    message = refused(tmp_path, save, blocks()[:, :, :5], blocks())
    assert "Case a" in message
    assert "12 x 10 x 5 and 12 x 10 x 6" in message


def test_another_affine_is_refused_with_both(tmp_path, save, blocks):
    message = refused(tmp_path, save, blocks(), blocks(), affine=np.diag([-1.0, -1.0, 3.0, 1.0]))
    assert "different grids" in message
    assert "[0.0, 0.0, 3.0, 0.0]" in message
    assert "[0.0, 0.0, 2.0, 0.0]" in message


def test_a_flipped_grid_is_refused(tmp_path, save, blocks):
    message = refused(tmp_path, save, blocks(), blocks(), affine=np.diag([1.0, -1.0, 2.0, 1.0]))
    assert "different grids" in message


@pytest.mark.parametrize("codes", ["LPS", "SAR"])
def test_the_same_map_in_another_orientation_is_the_same(tmp_path, save, blocks, codes):
    affine = np.diag([1.5, 1.5, 4.0, 1.0])
    real = Volume(blocks().astype(np.uint8)[None], affine)
    turned = real.reoriented(codes)
    pair = Pair(
        "a",
        save(tmp_path / "p.nii.gz", turned.array[0], turned.affine),
        save(tmp_path / "r.nii.gz", real.array[0], affine),
    )
    metrics = measure(pair, Settings()).metrics
    assert metrics
    assert all((one.dice, one.hd95) == (1, 0) for one in metrics.values())


def test_probabilities_are_refused(tmp_path, save, blocks):
    message = refused(tmp_path, save, blocks() * np.float32(0.37), blocks())
    assert "p.nii.gz" in message
    assert "not whole" in message


def test_an_image_instead_of_a_label_map_is_refused(tmp_path, save, blocks):
    image = np.arange(12 * 10 * 6, dtype=np.int32).reshape(12, 10, 6)
    assert "looks like an image" in refused(tmp_path, save, image, blocks())
    assert "up to 70000" in refused(tmp_path, save, image + 69281, blocks())
    assert "negative" in refused(tmp_path, save, image.astype(np.int16) - 1000, blocks())


def test_a_damaged_file_is_refused_by_name(tmp_path, save, blocks):
    save(tmp_path / "p.nii.gz", blocks())
    (tmp_path / "p.nii.gz").write_bytes((tmp_path / "p.nii.gz").read_bytes()[:60])
    save(tmp_path / "r.nii.gz", blocks())
    with pytest.raises(DataError, match=r"p\.nii\.gz"):
        measure(Pair("a", tmp_path / "p.nii.gz", tmp_path / "r.nii.gz"), Settings())


def test_labels_without_a_name_are_refused(tmp_path, save, blocks):
    settings = Settings((Structure((1,), "liver"),))
    message = refused(tmp_path, save, blocks(), blocks(), settings)
    assert "labels" in message
    assert ": 2; expected 0 background, 1 liver" in message
    white = np.where(blocks() == 1, 255, 0).astype(np.uint8)
    message = refused(tmp_path, save, white, blocks(second=False), settings)
    assert "255 usually stands for class 1" in message


def test_black_and_white_masks_against_labels_are_refused(tmp_path, save, blocks):
    save(tmp_path / "p.nii.gz", blocks(second=False) * np.uint8(255))
    save(tmp_path / "r.nii.gz", blocks(second=False))
    pairs = [Pair("a", tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")]
    records = measure_all(pairs, Settings())
    with pytest.raises(DataError, match="label 1 and the other 255"):
        gather(records, pairs, Settings(), "P", "R")


def test_nothing_but_background_is_refused(tmp_path, save):
    nothing = np.zeros((4, 4, 4), np.uint8)
    save(tmp_path / "p.nii.gz", nothing)
    save(tmp_path / "r.nii.gz", nothing)
    pairs = [Pair("a", tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")]
    records = measure_all(pairs, Settings())
    with pytest.raises(DataError, match="no structure to measure"):
        gather(records, pairs, Settings(), "P", "R")


@pytest.fixture
def dataset(tmp_path, save, blocks):
    """An nnU-Net data set whose files hold 1 and 3 for the classes 1 and 2."""
    folder = tmp_path / "dataset"
    values = np.array([0, 1, 3], np.uint8)
    for name in "ab":
        save(folder / "imagesTr" / f"{name}_0000.nii.gz", blocks().astype(np.int16))
        save(folder / "labelsTr" / f"{name}.nii.gz", values[blocks()])
        save(tmp_path / "p" / f"{name}.nii.gz", blocks())
    labels = {"background": 0, "liver": 1, "spleen": 3}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_values_of_a_data_set_become_its_classes(dataset, tmp_path):
    references = references_in(dataset)
    pairs, _ = match(tmp_path / "p", references)
    settings = Settings(references.structures, dataset=references.dataset)
    assert measure(pairs[0], settings).metrics["2"].dice == 1


def test_a_value_that_the_data_set_does_not_list_is_refused(dataset, tmp_path, save, blocks):
    save(dataset / "labelsTr" / "a.nii.gz", blocks() * np.uint8(2))
    references = references_in(dataset)
    pairs, _ = match(tmp_path / "p", references)
    settings = Settings(references.structures, dataset=references.dataset)
    with pytest.raises(DataError, match=r"a\.nii\.gz: label values .*does not list: 2, 4"):
        measure(pairs[0], settings)


@pytest.mark.process
def test_several_processes_give_the_same_records(dataset, tmp_path):
    references = references_in(dataset)
    pairs, _ = match(tmp_path / "p", references)
    settings = Settings(references.structures, dataset=references.dataset)
    alone = measure_all(pairs, settings)
    assert measure_all(pairs, settings, workers=2) == alone
    assert [record.name for record in alone] == ["a", "b"]


@pytest.mark.process
def test_an_error_in_another_process_comes_back_as_it_is(folders, save, blocks):
    predictions, references = folders
    save(predictions / "b.nii.gz", blocks()[:, :, :5])
    pairs, _ = match(predictions, references_in(references))
    with pytest.raises(GeometryError, match="Case b") as alone:
        measure_all(pairs, Settings())
    with pytest.raises(GeometryError) as several:
        measure_all(pairs, Settings(), workers=2)
    assert str(several.value) == str(alone.value)


def test_records_can_be_sent_between_processes(pair):
    record = measure(pair, Settings(STRUCTURES))
    assert pickle.loads(pickle.dumps(record)) == record


def test_no_process_is_wrong_use(pair):
    with pytest.raises(ConfigError, match="At least one process"):
        measure_all([pair], Settings(), workers=0)


def test_files_that_tell_no_voxel_size_are_said_to(tmp_path):
    image = pytest.importorskip("PIL.Image")
    mask = np.zeros((8, 9), np.uint8)
    mask[2:5, 3:6] = 1
    for name in ("p.png", "r.png"):
        image.fromarray(mask).save(tmp_path / name)
    pairs = [Pair("a", tmp_path / "p.png", tmp_path / "r.png")]
    evaluation = gather(measure_all(pairs, Settings()), pairs, Settings(), "P", "R")
    assert "a pixel of them counts as 1 mm" in evaluation.policy
    volume = [Pair("a", Path("p.nii.gz"), Path("r.nii.gz"))]
    record = [CaseRecord("a", evaluation.cases[0].metrics)]
    assert "pixel" not in gather(record, volume, Settings(), "P", "R").policy
