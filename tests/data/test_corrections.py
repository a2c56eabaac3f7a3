import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from small_data import image_of, label_of
from transunet.data.checks.check import check
from transunet.data.checks.corrections import fix
from transunet.data.formats import read_volume
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.errors import ConfigError, DataError


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def one_class(folder):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "labels": {"0": "background", "1": "organ"}}))
    for number, label in enumerate(sorted((folder / "labelsTr").iterdir())):
        array = np.asanyarray(nib.load(label).dataobj).clip(0, 1)
        nib.save(nib.Nifti1Image(array.astype(np.uint8), np.eye(4)), label)
        assert number < 9
    return folder


def fixed(folder, out):
    before = contents(folder)
    result = fix(check(folder), out)
    assert contents(folder) == before  # the original is never touched
    return result


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_what_is_sound_is_copied_as_it_is(decathlon, tmp_path):
    folder = decathlon()
    (folder / "LICENCE.txt").write_text("CC0")
    result = fixed(folder, tmp_path / "out")
    assert (result.corrected, result.left_out) == ((), ())
    assert contents(tmp_path / "out") == contents(folder)


def test_255_becomes_the_only_class(decathlon, tmp_path, save):
    folder = one_class(decathlon())
    label = voxels(label_of(folder))
    save(label_of(folder), label * 255)
    assert check(folder).errors
    (done,) = fixed(folder, tmp_path / "out").corrected
    assert (done.kind, done.where) == ("255-mask", str(label_of(folder)))
    np.testing.assert_array_equal(voxels(label_of(tmp_path / "out")), label)
    assert not check(tmp_path / "out").errors
    prepare(open_dataset(tmp_path / "out"), tmp_path / "store")


def test_255_among_several_classes_is_not_guessed(decathlon, tmp_path, save):
    folder = decathlon()
    save(label_of(folder), np.full((8, 9, 5), 255, np.uint8))
    result = fixed(folder, tmp_path / "out")
    (left_out,) = result.left_out
    assert left_out == check(folder).errors[0]
    assert [case.name for case in open_dataset(tmp_path / "out").cases] == [
        "toy_00",
        "toy_02",
        "toy_03",
    ]
    assert not label_of(tmp_path / "out").exists()
    assert json.loads((tmp_path / "out/dataset.json").read_text())["numTraining"] == 3
    assert not check(tmp_path / "out").errors


def test_voxels_that_are_not_finite_become_the_smallest(decathlon, tmp_path, save):
    folder = decathlon()
    array = np.linspace(-3, 5, 360).reshape(8, 9, 5).astype(np.float32)
    array[0, 0, 1:4] = (np.nan, np.inf, -np.inf)
    save(image_of(folder), array)
    (done,) = fixed(folder, tmp_path / "out").corrected
    assert "3 of 360" in done.found
    out = voxels(image_of(tmp_path / "out"))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[0, 0, 1:4], -3)
    np.testing.assert_array_equal(out[1:], array[1:])


def test_an_image_of_nothing_but_nan_is_left_out(decathlon, tmp_path, save):
    folder = decathlon()
    save(image_of(folder), np.full((8, 9, 5), np.nan, np.float32))
    assert [p.kind for p in fixed(folder, tmp_path / "out").left_out] == ["not-finite"]


def test_a_header_that_drifted_is_taken_from_the_image(decathlon, tmp_path, save):
    folder = decathlon()
    drifted = np.eye(4)
    drifted[0, 3] = 0.5
    save(label_of(folder), voxels(label_of(folder)), drifted)
    (error,) = check(folder).errors
    assert "transunet check --fix write a copy with this corrected (the image's" in error.remedy
    (done,) = fixed(folder, tmp_path / "out").corrected
    assert done.kind == "grid"
    np.testing.assert_array_equal(nib.load(label_of(tmp_path / "out")).affine, np.eye(4))
    np.testing.assert_array_equal(voxels(label_of(tmp_path / "out")), voxels(label_of(folder)))


def test_a_header_that_is_far_off_is_left_out(decathlon, tmp_path, save):
    folder = decathlon()
    far = np.eye(4)
    far[0, 3] = 30
    save(label_of(folder), voxels(label_of(folder)), far)
    (error,) = check(folder).errors
    assert "--fix" not in error.remedy
    assert [p.kind for p in fixed(folder, tmp_path / "out").left_out] == ["grid"]


def test_a_header_without_geometry_is_taken_from_the_image(decathlon, tmp_path, save):
    folder = decathlon()
    affine = np.diag([2.0, 2, 3, 1])
    save(image_of(folder), voxels(image_of(folder)), affine)
    bare = nib.Nifti1Image(voxels(label_of(folder)), None)
    bare.header["qform_code"] = bare.header["sform_code"] = 0
    nib.save(bare, label_of(folder))
    (error,) = check(folder).errors
    assert "--fix" in error.remedy
    assert [p.kind for p in fixed(folder, tmp_path / "out").corrected] == ["grid"]
    np.testing.assert_array_equal(nib.load(label_of(tmp_path / "out")).affine, affine)


def test_flipped_and_swapped_axes_are_turned_voxel_by_voxel(decathlon, tmp_path, oblique, save):
    folder = decathlon()
    image, label = voxels(image_of(folder)), voxels(label_of(folder))
    save(image_of(folder), image, oblique)
    turned = nib.as_closest_canonical(nib.Nifti1Image(label, oblique))
    assert turned.shape != label.shape
    nib.save(turned, label_of(folder))
    report = check(folder)
    assert report.errors == ()
    (warning,) = [one for one in report.warnings if one.kind == "grid"]
    assert warning.where == str(label_of(folder))
    assert "--fix stores it turned" in warning.remedy
    dataset = open_dataset(folder)
    (case,) = (case for case in dataset.cases if case.label == label_of(folder))
    np.testing.assert_array_equal(dataset.read_case(case)[1].array[0], label)
    (done,) = fixed(folder, tmp_path / "out").corrected
    assert "turned to AIL" in done.remedy
    np.testing.assert_array_equal(voxels(label_of(tmp_path / "out")), label)


def test_second_copies_orphans_and_broken_cases_are_left_out(decathlon, tmp_path, save):
    folder = decathlon(cases=5)
    for of in (image_of, label_of):
        save(of(folder, 4), voxels(of(folder, 0)))
    save(folder / "labelsTr/stray.nii.gz", np.zeros((8, 9, 5), np.uint8))
    image_of(folder, 2).write_bytes(b"cut")
    label_of(folder, 3).unlink()
    result = fixed(folder, tmp_path / "out")
    assert sorted(p.kind for p in result.left_out) == [
        "duplicate",
        "missing-label",
        "orphan",
        "unreadable",
    ]
    assert [c.name for c in open_dataset(tmp_path / "out").cases] == ["toy_00", "toy_01"]
    assert not check(tmp_path / "out").problems


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_pairs_get_masks_of_ones_and_colours(tmp_path, rng):
    folder = tmp_path / "set"
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 3:11] = 255
    for number in range(3):
        picture(folder / f"images/{number}.png", rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
        picture(folder / f"masks/{number}.png", np.roll(mask, number))
    grey = rng.integers(0, 256, (16, 16)).astype(np.uint8)
    picture(folder / "images/3.png", grey)
    picture(folder / "masks/3.jpg", mask)
    result = fixed(folder, tmp_path / "out")
    assert sorted(p.kind for p in result.corrected) == ["255-mask"] * 4 + ["channels"]
    assert not result.left_out
    assert not check(tmp_path / "out").problems
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/masks/3.png")), mask // 255)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/images/3.png")), np.repeat(grey[..., None], 3, 2)
    )


def test_nnunet_lists_and_counts_follow(tmp_path, save):
    folder = tmp_path / "set"
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 99, (4, 5, 6)).astype(np.int16)
        save(folder / f"imagesTr/c{number}_0000.nii.gz", noise)
        save(
            folder / f"labelsTr/c{number}.nii.gz",
            np.full((4, 5, 6), 1 + 8 * (number == 1), np.uint8),
        )
    cases = {
        f"c{n}": {"images": [f"imagesTr/c{n}_0000.nii.gz"], "label": f"labelsTr/c{n}.nii.gz"}
        for n in range(3)
    }
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
    for listed in ({}, {"dataset": cases}):
        (folder / "dataset.json").write_text(
            json.dumps({**description, **listed, "numTraining": 3})
        )
        out = tmp_path / f"out{len(listed)}"
        assert [p.kind for p in fixed(folder, out).left_out] == ["unknown-label"]
        assert [case.name for case in open_dataset(out).cases] == ["c0", "c2"]
        assert json.loads((out / "dataset.json").read_text())["numTraining"] == 2


def test_synapse_lists_follow(tmp_path):
    folder = tmp_path / "Synapse"
    (folder / "train_npz").mkdir(parents=True)
    for number in range(3):
        label = np.full((4, 4), 1 + 20 * (number == 1), np.uint8)
        np.savez(
            folder / f"train_npz/c_slice{number}.npz", image=np.eye(4) * (number + 1), label=label
        )
    (folder / "train.txt").write_text("c_slice0\nc_slice1\nc_slice2\n")
    assert [p.kind for p in fixed(folder, tmp_path / "out").left_out] == ["unknown-label"]
    assert (tmp_path / "out/train.txt").read_text() == "c_slice0\nc_slice2\n"
    assert len(open_dataset(tmp_path / "out").cases) == 2


def test_the_copy_goes_where_nothing_is(decathlon, tmp_path):
    folder = decathlon()
    report = check(folder)
    with pytest.raises(ConfigError, match="only read"):
        fix(report, folder / "fixed")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").touch()
    with pytest.raises(ConfigError, match="not an empty folder"):
        fix(report, tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Cannot write to the folder"):
        fix(report, tmp_path / "file/copy")
    (tmp_path / "empty").mkdir()
    fix(report, tmp_path / "empty")
    assert (tmp_path / "empty/dataset.json").is_file()


def test_an_interrupted_copy_leaves_nothing(decathlon, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fix(check(decathlon()), tmp_path / "out", interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Task99_Toy"]


def test_a_data_set_that_cannot_be_opened_cannot_be_fixed(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        fix(check(tmp_path / "set"), tmp_path / "out")


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3), (6, 7, 2), (4, 6, 7)])
def test_nan_in_a_tiff_of_floats(tmp_path, rng, shape):
    tifffile = pytest.importorskip("tifffile", reason="needs the extra [images]")
    image = rng.normal(size=shape).astype(np.float32)
    image[0, 0] = np.nan
    colours = shape[-1] == 3
    bands = {"photometric": "rgb" if colours else "minisblack", "metadata": None}
    if len(shape) == 3 and shape[-1] < 4:
        bands["planarconfig"] = "contig"
    size = shape if shape[0] == 4 else shape[:2]
    for name in ("a", "b"):
        for folder, array in (("images", image), ("masks", np.ones(size, np.uint8))):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            kinds = bands if folder == "images" else {"photometric": "minisblack", "metadata": None}
            tifffile.imwrite(tmp_path / f"set/{folder}/{name}.tif", array, **kinds)
    fix(check(tmp_path / "set"), tmp_path / "fixed")
    before, after = (
        read_volume(tmp_path / folder / "images/a.tif").array for folder in ("set", "fixed")
    )
    assert after.shape == before.shape
    np.testing.assert_array_equal(after, np.nan_to_num(before, nan=float(np.nanmin(before))))
