"""Headers whose sform, qform and pixdim contradict each other, as ITK reads them."""

import logging

import nibabel as nib
import numpy as np
import pytest

from transunet.data.checks.check import check
from transunet.data.formats import read_grid, read_labels, read_volume, write_volume
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.volume import Grid, same_grid
from transunet.errors import GeometryError
from transunet.evaluation.evaluate import EvaluationRequest, evaluate

SHAPE = (48, 40, 6)
TRUE = np.diag([-1.5625, -1.5625, 10, 1])
UNIT = np.diag([-1.0, -1, 1, 1])
ZERO = np.zeros((4, 4))


def moved(affine, degrees=30.0, by=(5.0, -7.0, 3.0)):
    a = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    turn[:3, 3] = by
    return turn @ affine


SHEARED = TRUE.copy()
SHEARED[0, 2] = 3


def write(path, qform, sform, pixdim=None, array=None, kind=nib.Nifti1Image, unit="mm"):
    """A file with these (affine, code) and, where they are another's, these spacings."""
    image = kind(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), None)
    if array is not None:
        image = kind(array, None)
    image.header.set_qform(*qform)
    image.header.set_sform(*sform)
    image.header.set_xyzt_units(unit)
    if pixdim:
        image.header["pixdim"][1:4] = pixdim
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def by_itk(path):
    itk = pytest.importorskip("SimpleITK")
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    image = itk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Grid(SHAPE, np.diag([-1.0, -1, 1, 1]) @ affine)


OTHER_EDGES = {
    "unit steps": ((TRUE, 1), (UNIT, 1)),
    "unit steps, aligned": ((TRUE, 1), (UNIT, 2)),
    "unit steps, no qform": ((TRUE, 0), (UNIT, 1)),
    "no sform to speak of": ((TRUE, 1), (ZERO, 1)),
    "other edges": ((TRUE, 1), (np.diag([2.0, 2, 5, 1]), 4)),
    "other edges, elsewhere": ((TRUE, 1), (moved(np.diag([2.0, 2, 5, 1])), 4)),
    "other edges, sheared": ((TRUE, 1), (SHEARED, 1)),
}
OTHER_PLACE = {
    "turned": ((TRUE, 1), (moved(TRUE), 1)),
    "turned, aligned": ((TRUE, 1), (moved(TRUE), 4)),
    "another origin": ((moved(TRUE, 0), 1), (TRUE, 2)),
    "a flipped axis": ((TRUE, 1), (TRUE @ np.diag([-1.0, 1, 1, 1]), 1)),
}
CONTRADICTIONS = {**OTHER_EDGES, **OTHER_PLACE}


@pytest.mark.parametrize("name", OTHER_EDGES)
def test_an_sform_with_other_edges_than_pixdim_is_read_as_itk_does_and_it_is_said(tmp_path, name):
    path = write(tmp_path / "a.nii.gz", *CONTRADICTIONS[name])
    grid = read_grid(path)
    assert grid.spacing_mm == pytest.approx((1.5625, 1.5625, 10))
    assert read_volume(path).spacing_mm == grid.spacing_mm
    assert same_grid(Grid(SHAPE, grid.affine), by_itk(path)) is None
    assert "as ITK does" in grid.doubt.problem.found


@pytest.mark.parametrize("name", OTHER_PLACE)
def test_an_sform_with_the_edges_of_pixdim_is_taken_as_it_stands(tmp_path, name):
    path = write(tmp_path / "a.nii.gz", *CONTRADICTIONS[name])
    grid = read_grid(path)
    np.testing.assert_array_equal(grid.affine, nib.load(path).affine)
    assert same_grid(grid, by_itk(path)) is None  # what ITK writes there lies on the same grid
    contradicts = int(nib.load(path).header["sform_code"]) == 1
    assert (grid.doubt.problem is not None) == contradicts


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_label_map_gets_both_affines_back(tmp_path, name):
    path = write(tmp_path / "a.nii.gz", *CONTRADICTIONS[name])
    volume = read_volume(path)
    write_volume(volume.with_array(np.ones((1, *SHAPE), np.uint8)), tmp_path / "b.nii.gz")
    here, there = nib.load(path).header, nib.load(tmp_path / "b.nii.gz").header
    for key in ["qform_code", "sform_code", "pixdim", "srow_x", "srow_z", "quatern_b", "qoffset_x"]:
        np.testing.assert_array_equal(there[key], here[key], err_msg=key)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("micron", 1e-3), ("meter", 1000)])
def test_units_and_versions_do_not_change_the_choice(tmp_path, kind, unit, mm):
    path = write(tmp_path / "a.nii", (TRUE, 1), (UNIT, 1), kind=kind, unit=unit)
    assert read_grid(path).spacing_mm == pytest.approx((1.5625 * mm, 1.5625 * mm, 10 * mm))


@pytest.mark.parametrize("qform", [(UNIT, 0), (UNIT, 1)])
def test_spacings_that_were_never_set_do_not_count(tmp_path, qform):
    path = write(tmp_path / "a.nii", qform, (moved(TRUE), 2), pixdim=(1, 1, 1))
    grid = read_grid(path)
    np.testing.assert_allclose(grid.affine, moved(TRUE), atol=1e-5)
    assert "1 x 1 x 1 mm; 1.5625 x 1.5625 x 10 mm are taken" in grid.doubt.problem.found


def test_a_quaternion_that_is_none_does_not_hide_a_good_sform(tmp_path):
    path = write(tmp_path / "a.nii", (TRUE, 1), (TRUE, 1))
    raw = bytearray(path.read_bytes())
    raw[256:268] = np.array([3.0, 3, 3], "<f4").tobytes()  # quatern_b, c, d
    path.write_bytes(raw)
    assert read_grid(path).spacing_mm == pytest.approx((1.5625, 1.5625, 10))


def test_a_header_at_one_with_itself_keeps_its_sform_without_a_word(tmp_path):
    rounded = moved(TRUE) + 1e-5
    rounded[3] = 0, 0, 0, 1
    grid = read_grid(write(tmp_path / "a.nii", (moved(TRUE), 1), (rounded, 2)))
    np.testing.assert_array_equal(grid.affine, rounded.astype(np.float32))
    assert grid.doubt is None


def test_without_codes_the_spacing_counts_and_what_itk_makes_of_it_is_the_same_grid(tmp_path):
    path = write(tmp_path / "a.nii", (TRUE, 0), (UNIT, 0), pixdim=(1.5, 1.5, 3))
    grid = read_grid(path)
    assert grid.spacing_mm == pytest.approx((1.5, 1.5, 3))
    assert same_grid(grid, by_itk(path)) is None
    assert grid.doubt.problem is None


def test_a_singular_sform_alone_is_refused(tmp_path):
    path = write(tmp_path / "a.nii", (TRUE, 0), (ZERO, 1), pixdim=(1.5, 1.5, 3))
    with pytest.raises(GeometryError, match="singular"):
        read_grid(path)


def acdc(folder):
    """Two patients as the challenge stores them, and references one slice (10 mm) too high."""
    for number in (1, 2):
        label = np.zeros(SHAPE, np.uint8)
        label[20:26, 20:26, 1:5] = 3
        name = f"patient{number:03d}_frame01"
        place = folder / "ACDC" / f"patient{number:03d}"
        for path, array in [
            (place / f"{name}.nii.gz", None),
            (place / f"{name}_gt.nii.gz", label),
            (folder / "high" / f"{name}.nii.gz", np.roll(label, 1, 2)),
        ]:
            write(path, (TRUE, 1), (UNIT, 1), array=array)
    return folder / "ACDC"


def test_distances_are_in_true_millimetres_and_the_warning_comes_once(tmp_path, caplog):
    references = acdc(tmp_path)
    with caplog.at_level(logging.WARNING, "transunet"):
        result = evaluate(tmp_path / "high", EvaluationRequest(references))
    for case in result.evaluation.cases:
        assert case.metrics["3"].hd95 == pytest.approx(10)
        assert case.metrics["3"].reference_ml == pytest.approx(144 * 1.5625**2 * 10 / 1000)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # the references, the predictions
    assert "patient001_frame01_gt.nii.gz: its sform has voxels of 1 x 1 x 1 mm" in said[0]
    assert "1 more file contradicts itself" in said[0]


@pytest.mark.parametrize("writer", ["itk", "nibabel"])
def test_what_other_programs_write_on_such_a_grid_is_on_it(tmp_path, writer):
    references = acdc(tmp_path)
    for path in references.rglob("*_gt.nii.gz"):
        copy = tmp_path / "copies" / path.name.replace("_gt", "")
        copy.parent.mkdir(exist_ok=True)
        if writer == "itk":
            itk = pytest.importorskip("SimpleITK")
            itk.WriteImage(itk.ReadImage(str(path)), str(copy))
        else:
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), copy)
    result = evaluate(tmp_path / "copies", EvaluationRequest(references))
    assert [case.metrics["3"].dice for case in result.evaluation.cases] == [1, 1]
    assert result.evaluation.cases[0].metrics["3"].reference_ml == pytest.approx(3.515625)


def test_checking_and_preparing_say_it_once_with_both_spacings(tmp_path, caplog):
    folder = acdc(tmp_path)
    (problem,) = [one for one in check(folder).warnings if one.kind == "voxel-size"]
    assert "1 x 1 x 1 mm, its pixdim says 1.5625 x 1.5625 x 10 mm" in problem.found
    assert "3 more files contradict themselves" in problem.found
    with caplog.at_level(logging.WARNING, "transunet"):
        store = prepare(open_dataset(folder), tmp_path / "store")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    case = store.case("patient001_frame01")
    assert sorted(case.spacing_mm) == pytest.approx([1.5625, 1.5625, 10])


def test_labels_read_from_such_a_file_lie_where_its_image_does(tmp_path):
    path = write(tmp_path / "a.nii", (TRUE, 1), (UNIT, 1), array=np.ones(SHAPE, np.uint8))
    image = read_volume(path)
    turned = image.reoriented("RAS")
    assert turned.spacing_mm == pytest.approx((1.5625, 1.5625, 10))
    assert same_grid(turned, read_labels(path).reoriented("RAS")) is None
