"""Predictions and references that number their classes differently, or leave voxels out."""

import json

import nibabel as nib
import numpy as np
import pytest

from transunet.batch.outputs import write_labels
from transunet.data.volume import Volume
from transunet.errors import DataError
from transunet.evaluation.evaluate import EvaluationRequest, compare, evaluate
from transunet.evaluation.structure_names import names_of

OURS = {"0": "background", "1": "grey matter", "2": "white matter"}
THEIRS = {"0": "background", "1": "White_Matter", "2": "grey matter"}
SWAPPED = np.array([0, 2, 1], np.uint8)


@pytest.fixture
def predictions(tmp_path, save, blocks):
    """What `transunet predict` writes: two label maps and a manifest that names the labels."""
    for name, shift in (("a", 0), ("b", 1)):
        save(tmp_path / "out" / f"{name}.nii.gz", blocks(shift))
    tell(tmp_path / "out" / "manifest.json", OURS, bundle={}, cases={})
    return tmp_path / "out"


@pytest.fixture
def dataset(tmp_path, save, blocks):
    """A Decathlon data set of the same cases, its two classes numbered the other way round."""
    folder = tmp_path / "D"
    for name in "ab":
        save(folder / "imagesTr" / f"{name}.nii.gz", blocks().astype(np.int16))
        save(folder / "labelsTr" / f"{name}.nii.gz", SWAPPED[blocks()])
    describe(folder, THEIRS)
    return folder


def tell(path, labels, **more):
    path.write_text(json.dumps({"labels": labels, **more}))
    return path


def describe(folder, labels):
    listed = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in "ab"
    ]
    tell(folder / "dataset.json", labels, modality={"0": "MRI"}, training=listed)


def dice(evaluation):
    values = evaluation.values(evaluation.metrics[0])
    return {one.name: values[:, index].tolist() for index, one in enumerate(evaluation.structures)}


RIGHT = {"White_Matter": [1.0, pytest.approx(2 / 3)], "grey matter": [1.0, 0.75]}


@pytest.mark.parametrize("where", ["D", "D/labelsTr"])
def test_classes_are_compared_by_name_whatever_their_numbers(predictions, dataset, where):
    found = evaluate(predictions, EvaluationRequest(dataset.parent / where)).evaluation
    assert dice(found) == RIGHT
    assert "matched by name" in found.notes[0]
    assert "grey matter is 1 in the predictions and 2 in the references" in found.notes[0]


def test_names_given_are_the_predictions_where_a_data_set_has_its_own(
    predictions, dataset, tmp_path
):
    (predictions / "manifest.json").unlink()
    bundle = tell(tmp_path / "config.json", OURS)
    assert (
        dice(evaluate(predictions, EvaluationRequest(dataset, labels=bundle)).evaluation) == RIGHT
    )
    by_number = evaluate(predictions, EvaluationRequest(dataset, labels=dataset)).evaluation
    assert dice(by_number) == {"White_Matter": [0.0, 0.0], "grey matter": [0.0, 0.0]}


def test_names_given_are_the_references_where_the_predictions_alone_have_some(
    predictions, dataset, tmp_path
):
    references = (dataset / "labelsTr").rename(tmp_path / "references")
    names = tell(tmp_path / "names.json", THEIRS)
    assert (
        dice(evaluate(predictions, EvaluationRequest(references, labels=names)).evaluation) == RIGHT
    )


def test_without_names_numbers_count(predictions, dataset, tmp_path):
    references = (dataset / "labelsTr").rename(tmp_path / "references")
    found = evaluate(predictions, EvaluationRequest(references)).evaluation
    assert dice(found)["label 1"] == [0.0, 0.0]
    (note,) = found.notes
    assert "compared by number" in note
    assert "--labels" in note


@pytest.mark.parametrize("where", ["D", "D/labelsTr", "D/labelsTr/a.nii.gz"])
def test_names_given_are_the_predictions_beside_references_that_are_described(
    predictions, dataset, tmp_path, where
):
    (predictions / "manifest.json").unlink()
    bundle = tell(tmp_path / "config.json", OURS)
    name = "a.nii.gz" if where.endswith(".gz") else ""
    request = EvaluationRequest(tmp_path / where, labels=bundle)
    measured = dice(evaluate(predictions / name, request).evaluation)
    assert measured == {key: values[:1] if name else values for key, values in RIGHT.items()}


def test_names_on_one_side_alone_are_told_of(predictions, dataset, save, blocks, tmp_path):
    save(tmp_path / "r" / "a.nii.gz", blocks())
    save(tmp_path / "p" / "a.nii.gz", blocks())
    (predictions / "b.nii.gz").unlink()
    for where, references, named in (
        (predictions, tmp_path / "r", "predictions"),
        (tmp_path / "p", dataset, "references"),
    ):
        found = evaluate(where, EvaluationRequest(references, subset=True)).evaluation
        assert f"Only the {named} name their classes" in found.notes[0]
    assert not evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r")).evaluation.notes


def test_each_of_two_predictions_is_compared_by_its_own_names(
    predictions, dataset, tmp_path, save, blocks
):
    for name, shift in (("a", 0), ("b", 1)):
        save(tmp_path / "other" / f"{name}.nii.gz", SWAPPED[blocks(shift)])
    nnunet = {"background": 0, "white matter": 1, "grey matter": 2}
    tell(tmp_path / "other" / "dataset.json", nnunet)
    compared = compare(predictions, tmp_path / "other", EvaluationRequest(dataset))
    assert dice(compared.first) == dice(compared.second) == RIGHT


@pytest.mark.parametrize("inner", ["native", "p1"])
def test_a_manifest_names_the_label_maps_in_folders_below(predictions, inner):
    (predictions / inner).mkdir()
    label_map = (predictions / "a.nii.gz").rename(predictions / inner / "a.nii.gz")
    cases = {"a": {"outputs": [f"{inner}/a.nii.gz"]}}
    tell(predictions / "manifest.json", OURS, bundle={}, cases=cases)
    assert names_of(label_map, predictions).labels[1] == "grey matter"
    assert names_of(label_map, predictions / inner).labels[1] == "grey matter"
    tell(predictions / "manifest.json", OURS, bundle={}, cases={})
    assert names_of(label_map, predictions / inner) is None


def test_values_of_a_data_set_that_names_no_class_are_matched_by_value(
    predictions, tmp_path, save, blocks
):
    folder = tmp_path / "pairs"
    for name in "ab":
        save(folder / "images" / f"{name}.nii.gz", blocks().astype(np.int16))
        save(folder / "masks" / f"{name}.nii.gz", np.where(blocks() == 2, 2, 0).astype(np.uint8))
    found = evaluate(predictions, EvaluationRequest(folder)).evaluation
    assert dice(found)["white matter"] == [1.0, pytest.approx(2 / 3)]
    assert dice(found)["grey matter"] == [0.0, 0.0]


def test_classes_without_a_counterpart_are_refused_unless_a_subset_is_asked_for(
    predictions, dataset
):
    describe(dataset, {"0": "background", "1": "white matter", "2": "skull"})
    with pytest.raises(DataError) as refused:
        evaluate(predictions, EvaluationRequest(dataset))
    text = str(refused.value)
    assert "manifest.json) have grey matter" in text
    assert "D) have skull" in text
    assert "--labels" in text
    assert "--subset" in text
    found = evaluate(predictions, EvaluationRequest(dataset, subset=True)).evaluation
    assert dice(found) == {"white matter": [1.0, pytest.approx(2 / 3)]}
    assert "left out: grey matter, skull" in found.notes[1]


def test_names_of_which_none_is_on_both_sides_are_always_refused(predictions, dataset):
    describe(dataset, {"0": "background", "1": "liver", "2": "spleen"})
    with pytest.raises(DataError, match="do not match by name"):
        evaluate(predictions, EvaluationRequest(dataset, subset=True))


def test_classes_of_any_name_are_compared_by_number(predictions, dataset):
    tell(predictions / "manifest.json", {"0": "background", "1": "class 1", "2": "class 2"},
         bundle={}, cases={})  # fmt: skip
    assert dice(evaluate(predictions, EvaluationRequest(dataset)).evaluation)["grey matter"] == [
        0.0,
        0.0,
    ]


def test_regions_are_measured_of_classes_matched_by_name(tmp_path, save, blocks):
    folder = tmp_path / "regions"
    save(folder / "imagesTr" / "a_0000.nii.gz", blocks().astype(np.int16))
    save(folder / "labelsTr" / "a.nii.gz", SWAPPED[blocks()])
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    tell(folder / "dataset.json", labels, channel_names={"0": "MRI"}, file_ending=".nii.gz")
    save(tmp_path / "out" / "a.nii.gz", blocks())
    tell(tmp_path / "out" / "dataset.json", {"background": 0, "core": 1, "whole": [1, 2]})
    found = evaluate(tmp_path / "out", EvaluationRequest(folder)).evaluation
    assert dice(found) == {"whole": [1.0], "core": [1.0]}


def segmented(path, array, names):
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(array.T.copy())
    for index, (value, name) in enumerate(names.items()):
        image.SetMetaData(f"Segment{index}_Name", name)
        image.SetMetaData(f"Segment{index}_LabelValue", str(value))
    path.parent.mkdir(exist_ok=True)
    itk.WriteImage(image, str(path))


def test_segmentations_of_slicer_are_compared_by_the_names_of_their_segments(tmp_path, blocks):
    grey, white = "grey matter", "white matter"
    segmented(tmp_path / "p" / "a.seg.nrrd", blocks(), {1: grey, 2: white})
    segmented(tmp_path / "r" / "a-label.nrrd", SWAPPED[blocks()], {1: white, 2: grey})
    segmented(tmp_path / "p" / "b.seg.nrrd", blocks(), {2: white, 1: grey})
    segmented(tmp_path / "r" / "b-label.nrrd", blocks() * np.uint8(3), {3: grey, 6: white})
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r")).evaluation
    assert dice(found) == {white: [1.0, 1.0], grey: [1.0, 1.0]}


@pytest.mark.parametrize("short", ["p", "r"])
def test_a_header_need_not_list_what_its_file_does_not_hold(tmp_path, blocks, short):
    names = {1: "grey matter", 2: "white matter"}
    for side in "pr":
        array, listed = (
            (blocks(second=False), {1: names[1]}) if side == short else (blocks(), names)
        )
        segmented(tmp_path / side / "a.seg.nrrd", array, listed)
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r")).evaluation
    assert dice(found) == {"grey matter": [1.0], "white matter": [0.0]}


def test_a_table_of_labels_in_a_nifti_header_names_them(dataset, tmp_path, blocks):
    table = "".join(
        f'<Label Key="{value}" Red="1" Alpha="1">{name}</Label>'
        for value, name in ((1, "grey_matter"), (2, "<![CDATA[white matter]]>"))
    )
    image = nib.Nifti1Image(blocks(), np.diag([-1.0, -1.0, 2.0, 1.0]))
    xml = f'<?xml version="1.0"?><CaretExtension><LabelTable>{table}</LabelTable></CaretExtension>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, xml.encode()))
    (tmp_path / "p").mkdir()
    for name in "ab":
        nib.save(image, tmp_path / "p" / f"{name}.nii.gz")
    found = evaluate(tmp_path / "p", EvaluationRequest(dataset)).evaluation
    assert dice(found) == {"White_Matter": [1.0, 1.0], "grey matter": [1.0, 1.0]}


def test_what_predict_calls_labels_goes_with_a_file_that_is_moved_away(dataset, tmp_path, blocks):
    names = {0: "background", 1: "white matter", 2: "grey matter"}
    volume = Volume(SWAPPED[blocks()][None], np.diag([-1.0, -1.0, 2.0, 1.0]))
    (tmp_path / "p").mkdir()
    for name in "ab":
        write_labels(volume, tmp_path / "p" / f"{name}.nii.gz", names)
    found = evaluate(tmp_path / "p", EvaluationRequest(dataset)).evaluation
    assert dice(found) == {"White_Matter": [1.0, 1.0], "grey matter": [1.0, 1.0]}


def layered(path, layers, names):
    """A segmentation as 3D Slicer writes one whose segments have overlapped: a layer for each."""
    itk = pytest.importorskip("SimpleITK")
    stacked = np.stack([layer.T for layer in layers], axis=-1).astype(np.uint8)
    image = itk.GetImageFromArray(stacked, isVector=True)
    for index, name in enumerate(names):
        for key, value in (("Name", name), ("LabelValue", "1"), ("Layer", str(index))):
            image.SetMetaData(f"Segment{index}_{key}", value)
    path.parent.mkdir(exist_ok=True)
    itk.WriteImage(image, str(path))


def test_layers_of_slicer_are_one_label_map(tmp_path, blocks):
    names = ["white matter", "grey matter"]
    layered(tmp_path / "r" / "a.seg.nrrd", [blocks() == 2, blocks() == 1], names)
    segmented(tmp_path / "p" / "a.nrrd", blocks(), {1: "grey matter", 2: "white matter"})
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r")).evaluation
    assert dice(found) == {"white matter": [1.0], "grey matter": [1.0]}
    layered(tmp_path / "r" / "a.seg.nrrd", [blocks() == 2, blocks() >= 1], names)
    with pytest.raises(DataError, match="'white matter' and 'grey matter' overlap"):
        evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r"))


def test_voxels_that_nobody_labelled_count_in_neither_map(tmp_path, save, blocks):
    reference, prediction = blocks(), blocks(1)
    nobody = reference.copy()
    nobody[9:] = 255
    save(tmp_path / "r" / "a.nii.gz", nobody)
    save(tmp_path / "p" / "a.nii.gz", prediction)
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r", ignore=255)).evaluation
    assert dice(found) == {"label 1": [0.75], "label 2": [pytest.approx(4 / 5)]}
    assert found.notes == ("Voxels that hold 255 in the reference count in neither map.",)
    assert found.cases[0].metrics["2"].prediction_ml == pytest.approx(2 * 36 / 3 * 2 / 1000)


@pytest.mark.parametrize("labels", [None, {"0": "background", "1": "a", "2": "b"}])
def test_a_value_of_255_that_nobody_declared_is_refused_with_the_option(
    tmp_path, save, blocks, labels
):
    reference = blocks()
    reference[9:] = 255
    save(tmp_path / "r" / "a.nii.gz", reference)
    save(tmp_path / "p" / "a.nii.gz", blocks())
    names = labels and tell(tmp_path / "names.json", labels)
    with pytest.raises(DataError, match="--ignore 255"):
        evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r", labels=names))


def test_a_prediction_of_255_is_not_told_to_be_ignored(tmp_path, save, blocks):
    prediction = blocks()
    prediction[9:] = 255
    save(tmp_path / "p" / "a.nii.gz", prediction)
    save(tmp_path / "r" / "a.nii.gz", blocks())
    names = tell(tmp_path / "names.json", OURS)
    with pytest.raises(DataError, match="255 stands for in the prediction") as caught:
        evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r", labels=names))
    assert "--ignore" not in str(caught.value)


def test_a_class_of_255_that_was_found_in_masks_is_told_of(tmp_path, save, blocks):
    masks = blocks(second=False)
    masks[9:] = 255
    save(tmp_path / "D" / "images" / "a.nii.gz", blocks().astype(np.int16))
    save(tmp_path / "D" / "masks" / "a.nii.gz", masks)
    save(tmp_path / "p" / "a.nii.gz", blocks(second=False))
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "D")).evaluation
    assert "--ignore 255" in found.notes[0]
    left_out = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "D", ignore=255)).evaluation
    assert dice(left_out) == {"class 1": [1.0]}


def ignoring(folder, labels, save, array):
    save(folder / "imagesTr" / "a_0000.nii.gz", array.astype(np.int16))
    save(folder / "labelsTr" / "a.nii.gz", array)
    tell(folder / "dataset.json", labels, channel_names={"0": "MRI"}, file_ending=".nii.gz")
    return folder


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "grey": 1, "white": 2, "ignore": 3},
        {"background": 0, "grey": 1, "white": [1, 2], "ignore": 3},
    ],
)
def test_the_ignore_label_of_nnunet_is_left_out(tmp_path, save, blocks, labels):
    reference = blocks()
    reference[9:] = 3
    ignoring(tmp_path / "D", labels, save, reference)
    save(tmp_path / "p" / "a.nii.gz", blocks(1))
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "D")).evaluation
    region = (36 + 24) * 2 / (48 + 36 + 48 + 24)
    expected = region if isinstance(labels["white"], list) else 4 / 5
    assert dice(found) == {"grey": [0.75], "white": [pytest.approx(expected)]}
    alone = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "D" / "labelsTr")).evaluation
    assert dice(alone) == {"label 1": [0.75], "label 2": [pytest.approx(4 / 5)]}


def test_a_case_that_nobody_labelled_counts_nothing(tmp_path, save, blocks):
    labels = {"background": 0, "grey": 1, "white": 2, "ignore": 3}
    folder = ignoring(tmp_path / "D", labels, save, np.full((12, 10, 6), 3, np.uint8))
    save(tmp_path / "p" / "a.nii.gz", blocks())
    found = evaluate(tmp_path / "p", EvaluationRequest(folder)).evaluation
    assert np.isnan(dice(found)["grey"]).all()


def test_a_class_that_no_case_holds_is_told(tmp_path, save, blocks):
    for side in "pr":
        save(tmp_path / side / "a.nii.gz", blocks())
    labels = tell(tmp_path / "names.json", {**OURS, "3": "skull", "4": "scalp"})
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r", labels=labels)).evaluation
    assert found.notes == ("No prediction and no reference holds skull, scalp.",)


WHITE = "In 2 references 255 is read as class 1: they are black-and-white masks."


@pytest.mark.parametrize("named", [None, "names.json", "D"])
def test_black_and_white_references_are_measured_as_the_one_class(tmp_path, save, blocks, named):
    for name, shift in (("a", 0), ("b", 1)):
        save(tmp_path / "out" / f"{name}.nii.gz", blocks(shift, second=False))
        reference = blocks(second=False) * np.uint8(255)
        save(tmp_path / "D" / "imagesTr" / f"{name}.nii.gz", reference.astype(np.int16))
        save(tmp_path / "D" / "labelsTr" / f"{name}.nii.gz", reference)
    request = EvaluationRequest(tmp_path / "D" / "labelsTr")
    if named:
        describe(tmp_path / "D", {"0": "background", "1": "nucleus"})
        request = EvaluationRequest(tmp_path / "D")
    if named == "names.json":
        (tmp_path / "D" / "dataset.json").unlink()
        names = tell(tmp_path / named, {"0": "background", "1": "nucleus"})
        request = EvaluationRequest(tmp_path / "D" / "labelsTr", labels=names)
    found = evaluate(tmp_path / "out", request).evaluation
    assert list(dice(found).values()) == [[1.0, 0.75]]
    assert found.notes == (WHITE,)


@pytest.mark.parametrize("kept_as", ["jpg", "png"])
def test_black_and_white_references_with_soft_edges(tmp_path, kept_as):
    image_module = pytest.importorskip("PIL.Image", reason="needs the extra [images]")
    exact = np.zeros((64, 64), np.uint8)
    exact[10:40, 20:50] = 1
    for folder in "pr":
        (tmp_path / folder).mkdir()
    image_module.fromarray(exact).save(tmp_path / "p/a.png")
    image_module.fromarray(exact * 255).save(tmp_path / "m.jpg", quality=75)
    noisy = image_module.open(tmp_path / "m.jpg")
    noisy.save(tmp_path / f"r/a.{kept_as}")
    found = evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r")).evaluation
    assert list(dice(found).values()) == [[1.0]]
    assert ("edges" in found.notes[-1]) is (kept_as == "png")


def test_white_beside_other_labels_is_no_class_1(tmp_path, save, blocks):
    save(tmp_path / "p" / "a.nii.gz", blocks(second=False))
    both = blocks(second=False)
    both[9:] = 255
    save(tmp_path / "r" / "a.nii.gz", both)
    with pytest.raises(DataError, match="--ignore 255"):
        evaluate(tmp_path / "p", EvaluationRequest(tmp_path / "r"))
