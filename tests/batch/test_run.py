"""Many cases into one folder: records, skipping, conflicts, failures, what is left behind."""

import csv
import json
from contextlib import ExitStack
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prediction import left_in, noise, save_nifti, tiny_bundle
from transunet import files
from transunet.batch import outputs, run
from transunet.batch.case_queue import claim_cases, join_run
from transunet.batch.run import CaseOutcome, OutputOptions, predict_cases
from transunet.data.inputs import find_inputs
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle(tmp_path_factory.mktemp("bundle")), device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in range(3):
        save_nifti(tmp_path / "in" / f"p{index}.nii.gz", noise(seed=index))
    return tmp_path / "in"


def go(predictor: Predictor, images: Path, **wanted: object) -> dict[str, CaseOutcome]:
    cases = find_inputs([images], 1)
    found = predict_cases(predictor, cases, images.parent / "out", OutputOptions(**wanted))
    assert sorted(outcome.case for outcome in found) == [case.name for case in cases]
    return {outcome.case: outcome for outcome in found}


def statuses(found: dict[str, CaseOutcome]) -> str:
    return " ".join(found[name].status for name in sorted(found))


def shown(folder: Path) -> set[str]:
    """What a user sees: no locks."""
    return {name for name in left_in(folder) if not name.startswith(".transunet")}


def test_every_case_and_nothing_else(predictor: Predictor, images: Path) -> None:
    assert statuses(go(predictor, images)) == "done done done"
    assert shown(images.parent / "out") == {
        *(f"p{i}.nii.gz" for i in range(3)),
        *(f"cases/p{i}.json" for i in range(3)),
        "cases",
        "labels.ctbl",
        "labels.txt",
        "manifest.json",
        "statistics.csv",
        "statistics.json",
    }


def test_names_and_colours_for_slicer_and_itk_snap(tmp_path: Path) -> None:
    outputs.write_colour_tables({0: "background", 1: 'left "ear"', 3: "the  nose"}, tmp_path)
    slicer, snap = (
        [line.split(maxsplit=columns) for line in (tmp_path / file).read_text().splitlines()]
        for file, columns in (("labels.ctbl", 5), ("labels.txt", 7))
    )
    assert slicer[1:] == [
        ["0", "background", "0", "0", "0", "0"],
        ["1", 'left_"ear"', "79", "195", "247", "255"],
        ["3", "the_nose", "129", "199", "132", "255"],
    ]
    assert snap[2:] == [
        [*"0000000", '"Clear Label"'],
        ["1", "79", "195", "247", *"111", "\"left 'ear'\""],
        ["3", "129", "199", "132", *"111", '"the nose"'],
    ]


def test_no_colour_tables_beside_what_neither_reads(predictor: Predictor, images: Path) -> None:
    go(predictor, images, format="npz")
    assert not {"labels.ctbl", "labels.txt"} & shown(images.parent / "out")


def test_label_maps_are_the_predictors(predictor: Predictor, images: Path) -> None:
    go(predictor, images)
    for index in range(3):
        stored = nib.load(images.parent / "out" / f"p{index}.nii.gz")
        expected = predictor(images / f"p{index}.nii.gz").array[0]
        assert np.array_equal(np.asarray(stored.dataobj), expected)


def test_statistics_and_manifest_say_what_was_found_and_how(
    predictor: Predictor, images: Path
) -> None:
    go(predictor, images)
    out = images.parent / "out"
    found = json.loads((out / "statistics.json").read_text())
    assert set(found) == {"p0", "p1", "p2"}
    labels, image = nib.load(out / "p1.nii.gz"), nib.load(images / "p1.nii.gz")
    inside = np.asarray(labels.dataobj) == 2
    right = found["p1"]["right"]
    assert right["voxels"] == inside.sum() > 0
    millilitres = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert right["volume_ml"] == pytest.approx(inside.sum() * millilitres, rel=1e-5)
    assert right["mean_intensity"] == pytest.approx([image.get_fdata()[inside].mean()], rel=1e-5)
    # Slices are axial in RAS; the file's first axis runs up and down (see OBLIQUE).
    assert right["slices"] == np.unique(np.nonzero(inside)[1]).size
    with (out / "statistics.csv").open(newline="") as file:
        rows = {(row["case"], row["structure"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3 * len(found["p1"])
    row = rows["p1", "right"]
    assert (int(row["voxels"]), float(row["volume_ml"])) == (right["voxels"], right["volume_ml"])
    assert [float(row["mean_intensity_MRI 0"])] == right["mean_intensity"]
    assert row["look"] == row["expected_dice"] == ""
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["bundle"]["sha256"] == predictor.fingerprint
    assert manifest["device"] == "cpu"
    assert manifest["settings"]["procedure"] == "native"
    assert manifest["cases"]["p0"]["status"] == "done"
    assert {"transunet-torch", "torch", "python"} <= set(manifest["versions"])


def test_a_second_run_keeps_what_is_finished(predictor: Predictor, images: Path) -> None:
    go(predictor, images)
    out = images.parent / "out"
    before = {name: (out / name).stat().st_mtime_ns for name in ("p0.nii.gz", "p2.nii.gz")}
    (out / "p1.nii.gz").unlink()
    assert statuses(go(predictor, images)) == "kept done kept"
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert statuses(go(predictor, images, overwrite=True)) == "done done done"
    assert (out / "p0.nii.gz").stat().st_mtime_ns > before["p0.nii.gz"]


def test_another_image_bundle_or_setting_never_replaces_unasked(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    go(predictor, images)
    save_nifti(images / "p0.nii.gz", noise(seed=9))
    found = go(predictor, images)
    assert statuses(found) == "failed kept kept"
    assert "p0: the output folder holds its label map made from another image" in str(
        found["p0"].error
    )
    other = Predictor.from_pretrained(tiny_bundle(tmp_path / "other", seed=5), device="cpu")
    assert statuses(go(other, images)) == "failed failed failed"
    found = go(predictor, images, uncertainty=True)
    assert "another bundle or other settings" in str(found["p1"].error)
    assert statuses(go(other, images, overwrite=True)) == "done done done"


def test_a_file_of_someone_else_is_never_replaced_unasked(
    predictor: Predictor, images: Path
) -> None:
    mine = images.parent / "out" / "p1.nii.gz"
    mine.parent.mkdir()
    mine.write_text("drawn by hand")
    found = go(predictor, images)
    assert statuses(found) == "done failed done"
    assert "was not written by a prediction" in str(found["p1"].error)
    assert mine.read_text() == "drawn by hand"


def test_a_failing_case_harms_no_other_and_is_tried_again(
    predictor: Predictor, images: Path
) -> None:
    good = (images / "p1.nii.gz").read_bytes()
    (images / "p1.nii.gz").write_bytes(good[:300])
    found = go(predictor, images)
    assert statuses(found) == "done failed done"
    assert isinstance(found["p1"].error, DataError)
    assert "p1.nii.gz" in str(found["p1"].error)
    manifest = json.loads((images.parent / "out" / "manifest.json").read_text())
    assert "p1.nii.gz" in manifest["cases"]["p1"]["problem"]
    assert not any(".partial" in name for name in left_in(images.parent / "out"))
    (images / "p1.nii.gz").write_bytes(good)
    assert statuses(go(predictor, images)) == "kept done kept"


def test_what_was_begun_and_never_finished_is_done_again_and_swept(
    predictor: Predictor, images: Path
) -> None:
    go(predictor, images)
    out = images.parent / "out"
    record = json.loads((out / "cases" / "p1.json").read_text())
    (out / "cases" / "p1.json").write_text(json.dumps({**record, "status": "begun"}))
    for folder, name in ((out, "p1.nii.gz"), (out / "cases", "p1.json")):
        (folder / ".partial-x1").mkdir(parents=True)
        (folder / ".partial-x1" / name).write_text("half")
    (out / ".partial-x2").mkdir()
    (out / ".partial-x2" / "p11.nii.gz").write_text("another worker's")
    assert statuses(go(predictor, images)) == "kept done kept"
    left = {name for name in left_in(out) if ".partial" in name}
    assert left == {".partial-x2", ".partial-x2/p11.nii.gz"}


def test_maps_have_their_own_folders(predictor: Predictor, images: Path) -> None:
    go(predictor, images, probabilities="nii", uncertainty=True)
    out = images.parent / "out"
    assert nib.load(out / "probabilities" / "p0.nii").shape == (20, 24, 6, 3)
    assert nib.load(out / "uncertainty" / "p0.nii").shape == (20, 24, 6)
    (out / "uncertainty" / "p0.nii").unlink()
    assert go(predictor, images, probabilities="nii", uncertainty=True)["p0"].status == "done"


@pytest.mark.parametrize("large", [False, True])
def test_a_full_disk_fails_the_case_and_leaves_nothing_half_written(
    predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        monkeypatch.setattr("transunet.batch.run._SMALL", 10)
    whole = outputs.write_volume

    def full(labels: object, path: Path) -> None:
        if "p1" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        whole(labels, path)

    monkeypatch.setattr(outputs, "write_volume", full)
    found = go(predictor, images)
    assert statuses(found) == "done failed done"
    assert "No space left on device" in str(found["p1"].error)
    assert not {name for name in shown(images.parent / "out") if "p1.nii" in name}


def test_a_disk_too_full_to_note_anything_stops_the_run(
    predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            go(predictor, images)
    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_path", full)
        with pytest.raises(ConfigError, match=r"Cannot write .*p0.json: No space left"):
            go(predictor, images)
    assert not list((images.parent / "out").rglob(".partial-*"))
    assert statuses(go(predictor, images)) == "done done done"


def test_memory_that_runs_out_is_told_and_a_mistake_of_ours_is_not_hidden(
    predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fault: Exception) -> None:
        def raises(*_: object, **__: object) -> None:
            raise fault

        monkeypatch.setattr(run.Predictor, "__call__", raises)

    fail(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert "smaller batch size (--batch-size)" in str(go(predictor, images)["p0"].error)
    fail(RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        go(predictor, images)
    out, cases = images.parent / "out", find_inputs([images], 1)
    with join_run(out, "another key", ""), ExitStack() as claims:  # nothing is held any more
        case, _ = next(claim_cases(out, cases, claims))
        assert case.name == "p0"


def test_ctrl_c_keeps_what_is_finished_and_nothing_half(predictor: Predictor, images: Path) -> None:
    def watch(name: str) -> None:
        if name == "p2":
            raise KeyboardInterrupt

    cases, out = find_inputs([images], 1), images.parent / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_cases(predictor, cases, out, OutputOptions(probabilities="npy"), watch)
    assert (out / "p0.nii.gz").exists()
    assert not any(".partial" in name or "p2.n" in name for name in left_in(out))
    found = predict_cases(predictor, cases, out, OutputOptions(probabilities="npy"))
    assert {o.case: o.status for o in found}["p0"] == "kept"
    assert {o.case: o.status for o in found}["p2"] == "done"


def test_workers_with_other_settings_are_refused_while_one_is_alive(
    predictor: Predictor, images: Path
) -> None:
    with (
        join_run(images.parent / "out", "key of another", "runs/a/best, mirrored"),
        pytest.raises(ConfigError, match=r"other settings \(runs/a/best, mirrored\)"),
    ):
        go(predictor, images)
    assert statuses(go(predictor, images)) == "done done done"


def test_a_single_case_takes_no_claim_but_joins_those_at_work(
    predictor: Predictor, images: Path
) -> None:
    out, cases = images.parent / "out", find_inputs([images / "p1.nii.gz"], 1)
    (outcome,) = predict_cases(predictor, cases, out)
    assert outcome.status == "done"
    assert shown(out) == {
        "p1.nii.gz",
        "cases",
        "cases/p1.json",
        "labels.ctbl",
        "labels.txt",
        "manifest.json",
        "statistics.csv",
        "statistics.json",
    }
    assert [path.name for path in (out / ".transunet").iterdir()] == ["summary.lock"]
    (outcome,) = predict_cases(predictor, cases, out)
    assert outcome.status == "kept"
    with (
        join_run(out, "key of another", "runs/a/best, mirrored"),
        pytest.raises(ConfigError, match=r"other settings \(runs/a/best, mirrored\)"),
    ):
        predict_cases(predictor, cases, out)


def test_processes_that_began_together_share_a_single_case(
    predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    out = images.parent / "out"
    (outcome,) = predict_cases(predictor, find_inputs([images / "p1.nii.gz"], 1), out)
    assert outcome.status == "done"
    assert (out / ".transunet" / "case-p1.lock").exists()


def test_photographs_become_png_masks(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra [images]")
    predictor = Predictor.from_pretrained(
        tiny_bundle(tmp_path / "b", channels=3, channels_named=("red", "green", "blue")),
        device="cpu",
    )
    colours = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    pillow.fromarray(colours).save(tmp_path / "in" / "skin.jpg")
    assert statuses(go(predictor, tmp_path / "in")) == "done"
    mask = np.asarray(pillow.open(tmp_path / "out" / "skin.png"))
    assert mask.shape == (40, 50)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, predictor(tmp_path / "in" / "skin.jpg").array[0, ..., 0])


@pytest.mark.parametrize(("suffix", "becomes"), [(".nrrd", ".nrrd"), (".mhd", ".mha")])
def test_itk_formats_stay_on_their_grid(
    predictor: Predictor, tmp_path: Path, suffix: str, becomes: str
) -> None:
    itk = pytest.importorskip("SimpleITK", reason="needs the extra [images]")
    image = itk.GetImageFromArray(np.ascontiguousarray(noise().T))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-3.0, 4.0, 5.5))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    (tmp_path / "in").mkdir()
    itk.WriteImage(image, str(tmp_path / "in" / f"a{suffix}"))
    assert statuses(go(predictor, tmp_path / "in")) == "done"
    labels = itk.ReadImage(str(tmp_path / "out" / f"a{becomes}"))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(labels, what)() == getattr(image, what)()
