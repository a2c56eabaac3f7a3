import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from small_data import edit, image_of, label_of
from transunet.data.checks.check import check
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.errors import ConfigError, TransUNetError


def kinds(report, severity=None):
    return sorted(p.kind for p in report.problems if severity in (None, p.severity))


def only(report, kind):
    found = [problem for problem in report.problems if problem.kind == kind]
    assert len(found) == 1, report.problems
    return found[0]


def test_a_sound_data_set_has_no_problems(decathlon):
    calls = []
    report = check(decathlon(), progress=lambda *call: calls.append(call))
    assert report.problems == ()
    assert calls == [(i + 1, 4, f"toy_0{i}") for i in range(4)]


def break_grid(folder, save):
    save(label_of(folder), np.zeros((8, 9, 4), np.uint8))


def break_affine(folder, save):
    save(label_of(folder), np.zeros((8, 9, 5), np.uint8), np.diag([2, 1, 1, 1]))


def break_values(folder, save):
    save(label_of(folder), np.full((8, 9, 5), 9, np.uint8))


def break_255(folder, save):
    save(label_of(folder), np.full((8, 9, 5), 255, np.uint8))


def break_numbers(folder, save):
    save(label_of(folder), np.full((8, 9, 5), 0.5, np.float32))


def break_label(folder, save):
    label_of(folder).unlink()


def break_image(folder, save):
    image_of(folder).unlink()


def break_file(folder, save):
    image_of(folder).write_bytes(image_of(folder).read_bytes()[:99])


def break_empty(folder, save):
    image_of(folder).write_bytes(b"")


def break_nan(folder, save):
    array = np.zeros((8, 9, 5), np.float32)
    array[0, 0, 0] = np.nan
    save(image_of(folder), array)


def break_channels(folder, save):
    save(image_of(folder), np.random.default_rng(0).normal(size=(8, 9, 5, 2)))


def break_header(folder, save):
    raw = bytearray(save(folder / "x.nii", np.zeros((8, 9, 5), np.int16)).read_bytes())
    raw[280:296] = bytes(16)  # the first row of the affine
    (folder / "x.nii").unlink()
    image_of(folder).unlink()
    image_of(folder).with_suffix("").write_bytes(raw)
    training = json.loads((folder / "dataset.json").read_text())["training"]
    training[1]["image"] = "./imagesTr/toy_01.nii"
    edit(folder, training=training)


def break_format(folder, save):
    image_of(folder).rename(folder / "imagesTr/toy_01.dat")
    training = json.loads((folder / "dataset.json").read_text())["training"]
    training[1]["image"] = "./imagesTr/toy_01.dat"
    edit(folder, training=training)


BREAKS = {
    "grid": break_grid,
    "grid ": break_affine,
    "unknown-label": break_values,
    "255-mask": break_255,
    "not-labels": break_numbers,
    "missing-label": break_label,
    "missing-image": break_image,
    "unreadable": break_file,
    "unreadable ": break_empty,
    "not-finite": break_nan,
    "channels": break_channels,
    "affine": break_header,
    "format": break_format,
}


@pytest.mark.parametrize("kind", BREAKS)
def test_an_error_is_named_with_file_and_remedy_and_refused_in_the_same_words(
    decathlon, save, tmp_path, kind
):
    folder = decathlon()
    BREAKS[kind](folder, save)
    report = check(folder)
    (problem,) = report.errors
    assert problem.kind == kind.strip()
    assert "toy_01" in problem.where
    assert problem.remedy
    with pytest.raises(TransUNetError) as refused:
        prepare(open_dataset(folder), tmp_path / "store")
    assert str(refused.value) == problem.text


@pytest.mark.process
def test_every_problem_is_listed_at_once(decathlon, save):
    folder = decathlon(cases=6)
    save(label_of(folder, 0), np.zeros((8, 9, 4), np.uint8))
    save(label_of(folder, 1), np.full((8, 9, 5), 9, np.uint8))
    label_of(folder, 2).unlink()
    image_of(folder, 3).write_bytes(b"")
    report = check(folder)
    assert kinds(report, "error") == ["grid", "missing-label", "unknown-label", "unreadable"]
    assert check(folder, workers=2).problems == report.problems


def test_both_ends_of_a_case_are_looked_at(decathlon, save):
    folder = decathlon()
    break_nan(folder, save)
    break_values(folder, save)
    assert kinds(check(folder), "error") == ["not-finite", "unknown-label"]


def test_constant_images_and_labels_without_foreground_are_warnings(decathlon, save):
    folder = decathlon()
    save(image_of(folder), np.full((8, 9, 5), 7, np.int16))
    save(label_of(folder, 2), np.zeros((8, 9, 5), np.uint8))
    report = check(folder)
    assert not report.errors
    assert "is 7" in only(report, "constant").found
    assert "toy_02" in only(report, "no-foreground").where


def test_duplicates_are_found_by_content(decathlon, save):
    folder = decathlon()
    image = np.asanyarray(nib.load(image_of(folder, 0)).dataobj)
    save(image_of(folder, 3), image.astype(np.float64))  # other bytes, the same voxels
    problem = only(check(folder), "duplicate")
    assert "toy_03" in problem.where
    assert "toy_00" in problem.found
    assert "other labels" in problem.found


def test_mixed_spacings_and_orientations_are_warnings(decathlon, save):
    folder = decathlon()
    for number, affine in ((1, np.diag([1, 1, 3, 1])), (2, np.diag([-1, 1, 1, 1]))):
        for path in (image_of(folder, number), label_of(folder, number)):
            save(path, np.asanyarray(nib.load(path).dataobj), affine)
    report = check(folder)
    assert not report.errors
    assert "1 x 1 x 3 mm" in only(report, "spacing").found
    problem = only(report, "orientation")
    assert "toy_02" in problem.where
    assert "LAS" in problem.found


def test_a_little_rounding_in_spacing_is_no_problem(decathlon, save):
    folder = decathlon()
    for path in (image_of(folder), label_of(folder)):
        save(path, np.asanyarray(nib.load(path).dataobj), np.diag([1.01, 1, 1, 1]))
    assert not check(folder).problems


def test_labels_that_are_not_consecutive_and_classes_that_are_absent(decathlon):
    folder = decathlon()
    edit(folder, labels={"0": "background", "1": "left", "2": "right", "7": "top"})
    report = check(folder)
    assert kinds(report) == ["absent-class", "non-consecutive"]
    assert "7 -> 3" in only(report, "non-consecutive").found
    assert "top" in only(report, "absent-class").found


def test_orphans_are_warnings(decathlon, save):
    folder = decathlon()
    save(folder / "labelsTr/stray.nii.gz", np.zeros((8, 9, 5), np.uint8))
    assert "stray" in only(check(folder), "orphan").where


def test_problems_of_cases_without_label_are_warnings(decathlon, save):
    folder = decathlon()
    edit(folder, test=["./imagesTs/t.nii.gz"])
    save(folder / "imagesTs/t.nii.gz", np.zeros((8, 9, 5), np.int16))
    (folder / "imagesTs/t.nii.gz").write_bytes(b"x")
    assert only(check(folder), "unreadable").severity == "warning"


def test_a_data_set_without_labels_and_one_with_one_case(decathlon, tmp_path):
    folder = decathlon(cases=1)
    assert kinds(check(folder)) == ["one-case"]
    edit(folder, training=[], test=["./imagesTr/toy_00.nii.gz"])
    report = check(folder)
    assert kinds(report, "error") == ["no-labels"]
    with pytest.raises(TransUNetError) as refused:
        prepare(open_dataset(folder), tmp_path / "store")
    assert str(refused.value) == only(report, "no-labels").text


def test_a_data_set_that_cannot_be_opened_is_one_problem(decathlon):
    folder = decathlon()
    (folder / "dataset.json").write_text('{"training": 1, "labels": 2}')
    report = check(folder, layout="decathlon")
    assert report.dataset is None
    assert kinds(report, "error") == ["description"]
    with pytest.raises(ConfigError):
        check(folder / "nowhere")


def test_masks_of_255_are_told_in_pairs(tmp_path, rng):
    for sub in ("images", "masks"):
        (tmp_path / sub).mkdir()
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)).save(
            tmp_path / f"images/{number}.png"
        )
        mask = np.zeros((8, 9), np.uint8)
        mask[number] = 255
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    report = check(tmp_path)
    assert not report.errors
    assert only(report, "255-mask").severity == "warning"


def test_a_report_is_plain_json(decathlon, save):
    folder = decathlon()
    break_values(folder, save)
    content = json.loads(json.dumps(check(folder).as_json()))
    assert (content["errors"], content["cases"], content["layout"]) == (1, 4, "decathlon")
    assert set(content["problems"][0]) == {"severity", "kind", "where", "found", "remedy"}


@pytest.mark.process
@pytest.mark.slow
def test_the_real_data_sets_have_no_errors(shared):
    hippocampus = check(shared("Task04_Hippocampus"), workers=2)
    assert not hippocampus.errors
    nuclei = check(shared("nuclei"))
    assert not nuclei.errors
    assert "255-mask" in kinds(nuclei)
