import json

import numpy as np
import pytest
from PIL import Image

from transunet.data.formats.raster import COLOUR
from transunet.data.layouts import open_dataset
from transunet.data.layouts.masks import MOST_CLASSES
from transunet.data.prepare import prepare
from transunet.errors import DataError, GeometryError


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def photograph(seed=0, size=(6, 9)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def mask(*values, size=(6, 9)):
    out = np.zeros(size, np.uint8)
    out.flat[: len(values)] = values
    return out


@pytest.fixture
def folders(tmp_path):
    """images/ and masks/ with as many pairs as there are masks."""

    def make(*masks, labels="masks", images="images", suffix="", image_format="png"):
        for number, array in enumerate(masks):
            picture(tmp_path / f"set/{images}/im{number}.{image_format}", photograph(number))
            picture(tmp_path / f"set/{labels}/im{number}{suffix}.png", array)
        return tmp_path / "set"

    return make


def first_labels(data):
    _, label = data.read_case(data.cases[0])
    return label.array[0, 0, :4, 0].tolist()


def test_masks_of_0_and_255_are_one_class(folders):
    data = open_dataset(folders(mask(255, 255), mask(), mask(0, 255)))
    assert data.layout == "pairs"
    assert data.channels == ("red", "green", "blue")
    assert data.labels == {0: "background", 1: "foreground"}
    assert first_labels(data) == [1, 1, 0, 0]
    assert [case.name for case in data.cases] == ["im0", "im1", "im2"]


def test_photographs_are_scaled_by_their_range(folders, tmp_path):
    store = prepare(open_dataset(folders(mask(255), mask(255))), tmp_path / "store")
    np.testing.assert_allclose(
        store.image("im0")[:, 0], photograph(0).transpose(2, 0, 1) / np.float32(255), rtol=1e-6
    )


def test_sixteen_bits_are_too(tmp_path):
    for number in range(2):
        picture(tmp_path / f"s/images/{number}.png", np.full((4, 4), 65535, np.uint16))
        picture(tmp_path / f"s/masks/{number}.png", mask(1, size=(4, 4)))
    data = open_dataset(tmp_path / "s")
    assert data.channels == ("grey",)
    assert prepare(data, tmp_path / "store").image("0").max() == 1


@pytest.mark.parametrize("suffix", ["", "_mask", "_label", "_seg"])
@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("imgs", "mask"), ("image", "gt")]
)
def test_folders_and_suffixes(folders, images, labels, suffix):
    data = open_dataset(folders(mask(1), images=images, labels=labels, suffix=suffix))
    assert data.cases[0].label.name == f"im0{suffix}.png"


@pytest.mark.parametrize("image_format", ["png", "jpg", "tif", "bmp", "JPG"])
def test_one_folder_and_other_formats(folders, image_format):
    folder = folders(mask(255), labels="images", suffix="_mask", image_format=image_format)
    data = open_dataset(folder / "images")
    (case,) = data.cases
    assert (case.name, case.label.name) == ("im0", "im0_mask.png")
    assert first_labels(data) == [1, 0, 0, 0]


def test_numbers_in_masks_are_classes(folders):
    data = open_dataset(folders(mask(1, 2), mask(3)))
    assert data.labels == {0: "background", 1: "class 1", 2: "class 2", 3: "class 3"}
    assert not data.label_values
    data = open_dataset(folders(mask(128, 255), mask(64)))
    assert data.label_values == {0: 0, 64: 1, 128: 2, 255: 3}
    assert first_labels(data) == [2, 3, 0, 0]
    assert data.notes[0].kind == "255-label"


def test_indexed_masks_count_by_their_index(folders):
    folder = folders(mask(1))
    indexed = Image.fromarray(mask(2, 1))
    indexed.putpalette([0, 0, 0, 255, 0, 0, 9, 9, 9])
    indexed.save(folder / "masks/im0.png")
    assert first_labels(open_dataset(folder)) == [2, 1, 0, 0]


def test_coloured_masks_have_a_class_per_colour(folders):
    coloured = np.zeros((6, 9, 3), np.uint8)
    coloured[0, 0] = (255, 0, 0)
    coloured[0, 1] = (0, 0, 5)
    data = open_dataset(folders(coloured))
    assert data.labels == {0: "background", 1: "#000005", 2: "#ff0000"}
    assert first_labels(data) == [2, 1, 0, 0]


def test_black_and_white_stored_as_rgb_is_one_class(folders):
    data = open_dataset(folders(np.repeat(mask(255)[..., None], 3, axis=2)))
    assert data.labels == {0: "background", 1: "foreground"}


def test_labels_json_settles_what_values_mean(folders):
    coloured = np.zeros((6, 9, 3), np.uint8)
    coloured[0, 0] = (128, 64, 0)
    folder = folders(coloured)
    names = {"void": "#000000", "sky": "#FFFFFF", "road": "#804000"}
    (folder / "labels.json").write_text(json.dumps(names))
    data = open_dataset(folder)
    assert data.labels == {0: "void", 1: "sky", 2: "road"}
    assert data.label_values == {0: 0, 255: 1, COLOUR + 0x804000: 2}
    assert first_labels(data) == [2, 0, 0, 0]


def test_labels_json_fixes_the_order_of_the_classes(folders):
    folder = folders(mask(2))
    (folder / "labels.json").write_text('{"cell": 2, "background": 0, "nucleus": 1}')
    data = open_dataset(folder)
    assert data.labels == {0: "background", 1: "cell", 2: "nucleus"}
    assert data.label_values == {0: 0, 2: 1, 1: 2}


def test_a_value_that_labels_json_does_not_list_is_refused(folders):
    folder = folders(mask(7))
    (folder / "labels.json").write_text('{"background": 0, "cell": 1}')
    data = open_dataset(folder)
    with pytest.raises(DataError, match=r"im0\.png.*: 7; listed"):
        data.read_case(data.cases[0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"a": 0, "b": "red"}', "rrggbb"),
        ('{"a": 0, "b": 0}', "same value"),
        ('{"a": 1}', "background"),
        ('{"a": 0, "b": -1}', "rrggbb"),
    ],
)
def test_a_labels_json_that_cannot_be_is_refused(folders, text, says):
    folder = folders(mask(1))
    (folder / "labels.json").write_text(text)
    with pytest.raises(DataError, match=rf"labels\.json.*{says}"):
        open_dataset(folder)


def test_soft_masks_are_refused(folders):
    with pytest.raises(DataError, match=r"Soft edges"):
        open_dataset(folders(np.arange(MOST_CLASSES + 2, dtype=np.uint8).reshape(1, -1)))
    with pytest.raises(DataError, match="anything but background"):
        open_dataset(folders(mask(), mask()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_class_may_be_another_number_in_other_files(folders, dtype):
    white = np.iinfo(dtype).max
    data = open_dataset(folders(mask(255, 255), mask(1), (mask(1, 0, 1) * dtype(white))))
    assert data.labels == {0: "background", 1: "foreground"}
    assert [first(data, case) for case in (0, 1, 2)] == [[1, 1, 0], [1, 0, 0], [1, 0, 1]]
    assert [note.kind for note in data.notes] == ["mixed-foreground"]
    assert "1 masks 1" in data.notes[0].found


def first(data, case):
    _, label = data.read_case(data.cases[case])
    return label.array[0, 0, :3, 0].tolist()


def test_1_and_255_in_one_file_are_two_classes(folders):
    data = open_dataset(folders(mask(255, 1), mask(1)))
    assert data.label_values == {0: 0, 1: 1, 255: 2}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("how", ["jpeg kept as png", "jpeg", "blur", "little noise", "vessels"])
def test_soft_edges_are_cut_at_half(tmp_path, how, named):
    exact = np.zeros((64, 64), np.uint8)
    exact[20:45, 25:50] = 255
    if how == "vessels":
        from scipy.ndimage import rotate

        exact[:] = 0
        exact[8::12] = exact[9::12] = 255
        blurred = rotate(exact.astype(float), 20, reshape=False, order=1).clip(0, 255)
        exact = np.where(blurred > 127, 255, 0).astype(np.uint8)
    soft = Image.fromarray(exact)
    if how.startswith("jpeg"):
        soft.save(tmp_path / "m.jpg", quality=70)
        soft = Image.open(tmp_path / "m.jpg")
    elif how == "vessels":
        soft = Image.fromarray(blurred.astype(np.uint8))
    elif how == "blur":
        soft = soft.resize((32, 32)).resize((64, 64), Image.Resampling.BICUBIC)
    else:
        noisy = exact.copy()
        noisy[0, :4], noisy[30, 30:33] = (1, 2, 1, 2), (254, 253, 254)
        soft = Image.fromarray(noisy)
    picture(tmp_path / "s/images/a.png", photograph(size=(64, 64)))
    (tmp_path / "s/masks").mkdir()
    soft.save(tmp_path / f"s/masks/a.{'jpg' if how == 'jpeg' else 'png'}")
    if named:
        (tmp_path / "s/labels.json").write_text('{"background": 0, "cell": 255}')
    data = open_dataset(tmp_path / "s")
    assert data.labels == {0: "background", 1: "cell" if named else "foreground"}
    assert [note.kind for note in data.notes] == ["soft-edges"]
    _, label = data.read_case(data.cases[0])
    assert (label.array[0, ..., 0] != (exact > 0)).mean() < 0.02
    assert label.array.max() == 1


@pytest.mark.parametrize(
    "values",
    [
        (*range(19), 255),  # classes and "void"
        (64, 128, 191, 255),
        (50, 100, 150, 200, 250),
        tuple(range(0, 256, 12)),
    ],
)
def test_classes_are_not_taken_for_soft_edges(folders, values):
    array = np.repeat(np.array(values, np.uint8), 10).reshape(10, -1)
    data = open_dataset(folders(np.vstack([np.zeros_like(array), array])))
    assert len(data.labels) == len({0, *values})


def test_the_colours_of_coloured_masks_are_told(folders):
    coloured = np.zeros((6, 9, 3), np.uint8)
    coloured[0] = (255, 0, 0)
    (note,) = open_dataset(folders(coloured)).notes
    assert "#ff0000 (16.67% of the pixels)" in note.found


def test_masks_that_were_not_read_are_not_called_empty(folders):
    folder = folders(mask(1), mask(1))
    for path in sorted((folder / "masks").iterdir()):
        path.rename(path.with_stem(path.stem.replace("im", "mask")))
    says = r"2 masks are missing or unreadable: .*masks/im0\.png: case im0 has no label map"
    with pytest.raises(
        DataError, match=rf"{says}.* no image: masks/mask0\.png, masks/mask1\.png\. Give each"
    ):
        open_dataset(folder)


@pytest.mark.parametrize("others_are_empty", [False, True])
def test_what_made_a_mask_unreadable_is_told(folders, others_are_empty):
    folder = folders(mask(1), mask())
    (folder / "masks/im0.png").write_bytes(b"no picture")
    if not others_are_empty:
        (folder / "masks/im1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"masks/im0\.png: it cannot be read as an image") as error:
        open_dataset(folder)
    assert ("none of 1 masks holds" in str(error.value)) is others_are_empty


def test_a_mask_without_image_and_an_image_without_mask(folders):
    folder = folders(mask(1), mask(1), mask(1))
    (folder / "images/im0.png").unlink()
    (folder / "masks/im1.png").unlink()
    data = open_dataset(folder)
    assert [note.where for note in data.notes] == [str(folder / "masks/im0.png")]
    with pytest.raises(DataError, match=r"masks/im1\.png.*no label map"):
        data.read_case(data.cases[0])


def test_another_size_is_refused(folders):
    folder = folders(mask(1))
    picture(folder / "masks/im0.png", mask(1, size=(6, 8)))
    data = open_dataset(folder)
    with pytest.raises(GeometryError, match=r"im0\.png.*6 x 9 x 1 and 6 x 8 x 1"):
        data.read_case(data.cases[0])


def test_a_grey_image_among_coloured_ones_is_refused(folders):
    folder = folders(mask(1), mask(1), mask(1))
    picture(folder / "images/im1.png", mask(9))
    data = open_dataset(folder)
    assert len(data.channels) == 3
    with pytest.raises(DataError, match=r"im1\.png.*1 channel"):
        data.read_case(data.cases[1])


@pytest.mark.parametrize("inside", [True, False])
def test_folders_of_splits_are_the_data_sets_own(tmp_path, inside):
    for split in ("train", "val", "test"):
        for kind, array in (("images", photograph()), ("masks", mask(255))):
            where = f"{kind}/{split}" if inside else f"{split}/{kind}"
            picture(tmp_path / where / "1.png", array)
    data = open_dataset(tmp_path)
    assert {(c.name, c.split) for c in data.cases} == {
        ("train_1", "train"),
        ("validation_1", "validation"),
        ("test_1", "test"),
    }
    assert len({case.label for case in data.cases}) == 3


def test_volumes_may_be_pairs_too(tmp_path, save):
    for number in range(2):
        array = np.full((4, 5, 6), number, np.int16)
        save(tmp_path / f"images/v{number}.nii.gz", array)
        save(tmp_path / f"labels/v{number}.nii.gz", np.ones((4, 5, 6), np.uint8))
    data = open_dataset(tmp_path)
    assert data.channels == ("image",)
    assert data.intensity_range is None
    save(tmp_path / "images/v0.nii.gz", np.full((4, 5, 6), -1000, np.int16))
    assert open_dataset(tmp_path).channels == ("CT",)


def test_nrrd_images_with_metaimage_masks(tmp_path, rng):
    pytest.importorskip("SimpleITK", reason="needs the extra [images]")
    from transunet.data.formats import write_volume
    from transunet.data.volume import Volume

    for sub in ("images", "masks"):
        (tmp_path / sub).mkdir()
    image = Volume(rng.normal(size=(1, 4, 5, 6)).astype(np.float32), np.diag([-1, 1, 2, 1]))
    write_volume(image, tmp_path / "images/a.nrrd")
    write_volume(image.with_array(np.ones((1, 4, 5, 6), np.uint8)), tmp_path / "masks/a.mha")
    data = open_dataset(tmp_path)
    _, label = data.read_case(data.cases[0])
    assert label.array.min() == 1


@pytest.mark.slow
def test_the_real_nuclei(shared, tmp_path):
    data = open_dataset(shared("nuclei"))
    assert (data.layout, len(data.cases)) == ("pairs", 150)
    assert data.channels == ("red", "green", "blue")
    assert data.labels == {0: "background", 1: "foreground"}
    store = prepare(data, tmp_path / "store")
    assert 0 <= store.image(data.cases[0].name).min() < store.image(data.cases[0].name).max() <= 1
    assert 0.02 < store.fingerprint.frequencies[1] < 0.5


def test_a_name_that_differs_in_unicode_form_or_case_is_the_same(tmp_path):
    import unicodedata

    for image, label in (
        (unicodedata.normalize("NFC", "h\u00fcfte"), unicodedata.normalize("NFD", "h\u00fcfte")),
        ("Scan", "scan_Mask"),
    ):
        picture(tmp_path / f"images/{image}.png", photograph())
        picture(tmp_path / f"masks/{label}.png", mask(255))
    data = open_dataset(tmp_path)
    assert all(case.label.is_file() for case in data.cases)
    assert not data.notes


def test_a_and_capital_a_have_a_mask_each_or_none(tmp_path):
    for name in "aA":
        picture(tmp_path / f"images/{name}.png", photograph())
        picture(tmp_path / f"masks/{name}.png", mask(255))
    assert all(case.label.name == case.images[0].name for case in open_dataset(tmp_path).cases)
    (tmp_path / "masks/a.png").unlink()
    data = open_dataset(tmp_path)
    assert {case.name: case.label.is_file() for case in data.cases} == {"A": True, "a": False}
    (tmp_path / "masks/A.png").rename(tmp_path / "masks/A_seg.png")
    picture(tmp_path / "masks/b.png", mask(255))
    picture(tmp_path / "images/b.png", photograph())
    data = open_dataset(tmp_path)
    assert {case.name: case.label.is_file() for case in data.cases}["a"] is False


@pytest.mark.parametrize(
    "name",
    ["c0.seg.nrrd", "c0-label.nrrd", "c0_gt.nrrd", "C0.nrrd", "c0-segmentation.seg.nrrd"],
)
@pytest.mark.parametrize("image", ["c0.nrrd", "c0_0000.nrrd", "c0_image.nrrd"])
def test_masks_as_other_programs_name_them(tmp_path, name, image, rng):
    pytest.importorskip("SimpleITK", reason="needs the extra [images]")
    from transunet.data.formats import write_volume
    from transunet.data.volume import Volume

    for sub in ("images", "masks"):
        (tmp_path / sub).mkdir()
    volume = Volume(rng.normal(size=(1, 4, 5, 6)).astype(np.float32), np.eye(4))
    write_volume(volume, tmp_path / "images" / image)
    write_volume(volume.with_array(np.ones((1, 4, 5, 6), np.uint8)), tmp_path / "masks" / name)
    (case,) = open_dataset(tmp_path).cases
    assert case.label.name == name


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("Images", "Masks", None),
        ("IMG", "Mask", None),
        ("image", "label", None),
        ("original", "Ground Truth", None),
        ("train_images", "train_masks", "train"),
        ("Train/Images", "Train/Labels", "train"),
        ("images/Training", "masks/Training", "train"),
    ],
)
def test_folders_as_public_data_sets_call_them(tmp_path, images, labels, split):
    picture(tmp_path / images / "1.png", photograph())
    picture(tmp_path / labels / "1.png", mask(255))
    (case,) = open_dataset(tmp_path).cases
    assert (case.name, case.split) == ("1", split)
    assert case.label.is_file()


def test_test_images_may_have_no_masks(tmp_path):
    picture(tmp_path / "train/images/1.png", photograph())
    picture(tmp_path / "train/masks/1.png", mask(255))
    picture(tmp_path / "test/images/2.png", photograph())
    assert {(c.name, c.split, c.label is None) for c in open_dataset(tmp_path).cases} == {
        ("1", "train", False),
        ("2", "test", True),
    }


def test_the_same_name_in_several_folders(tmp_path):
    for patient in ("p1", "p2"):
        picture(tmp_path / f"images/{patient}/0.png", photograph())
        picture(tmp_path / f"masks/{patient}/0_mask.png", mask(255))
    data = open_dataset(tmp_path)
    assert [case.name for case in data.cases] == ["p1_0", "p2_0"]
    assert [case.label.parent.name for case in data.cases] == ["p1", "p2"]


def test_a_mask_in_a_format_that_is_not_read_is_told_as_such(folders):
    folder = folders(mask(255), mask(255))
    Image.fromarray(mask(255)).save(folder / "masks/im0.gif")
    (folder / "masks/im0.png").unlink()
    data = open_dataset(folder)
    with pytest.raises(DataError, match=r"masks/im0\.gif: it is of no format"):
        data.read_case(data.cases[0])


def test_a_dicom_series_may_be_an_image(tmp_path):
    """Its mask lies on the same grid, in another format."""
    dicom_made = pytest.importorskip("dicom_made", reason="needs the extra [dicom]")
    from transunet.data.formats import read_volume, write_volume

    series = dicom_made.save(tmp_path / "images/c1", dicom_made.series_of(dicom_made.ramp()))
    volume = read_volume(series)
    (tmp_path / "masks").mkdir()
    label = volume.with_array(np.ones((1, *volume.spatial_shape), np.uint8))
    write_volume(label, tmp_path / "masks/c1.nii.gz")
    data = open_dataset(tmp_path)
    (case,) = data.cases
    assert (case.name, case.images) == ("c1", (series,))
    store = prepare(data, tmp_path / "store", how="holdout", fraction=0)
    assert store.label("c1").min() == 1
    made = (tmp_path / "store/cases/c1/image.npy").stat().st_mtime_ns
    prepare(data, tmp_path / "store", how="holdout", fraction=0)
    assert (tmp_path / "store/cases/c1/image.npy").stat().st_mtime_ns == made


def test_ome_tiff_pairs_with_a_plain_mask(tmp_path):
    picture(tmp_path / "images/1.ome.tif", mask(9, 8))
    picture(tmp_path / "masks/1.png", mask(255))
    (case,) = open_dataset(tmp_path).cases
    assert (case.name, case.label.name) == ("1", "1.png")


def test_8_and_16_bits_are_compared_by_their_white(tmp_path):
    grey = np.arange(54, dtype=np.uint8).reshape(6, 9)
    picture(tmp_path / "s/images/a.png", grey)
    picture(tmp_path / "s/images/b.png", grey.astype(np.uint16) * 257)
    for name in "ab":
        picture(tmp_path / f"s/masks/{name}.png", mask(255))
    data = open_dataset(tmp_path / "s")
    assert [note.kind for note in data.notes] == ["several-depths"]
    store = prepare(data, tmp_path / "store")
    np.testing.assert_allclose(store.image("a"), store.image("b"), rtol=1e-6)
    assert store.image("a").max() == pytest.approx(53 / 255)


def test_floats_among_bytes_cannot_be_compared(tmp_path):
    for name, kind in (("a", np.uint8), ("b", np.uint8), ("c", np.float32)):
        picture(tmp_path / f"images/{name}.tif", mask(9).astype(kind))
        picture(tmp_path / f"masks/{name}.png", mask(255))
    data = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"c\.tif.*float32.*one type"):
        data.read_case(data.cases[2])


def test_bands_and_floats_are_normalised_by_themselves(tmp_path):
    for name in "ab":
        picture(tmp_path / f"images/{name}.tif", mask(9).astype(np.float32))
        picture(tmp_path / f"masks/{name}.png", mask(255))
    data = open_dataset(tmp_path)
    assert (data.channels, data.intensity_range) == (("band 1",), None)


def test_a_picture_that_is_turned_by_its_tag_is_told(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(photograph()).save(tmp_path / "images/a.png", exif=exif)
    picture(tmp_path / "masks/a.png", mask(255, size=(9, 6)))
    data = open_dataset(tmp_path)
    image, label = data.read_case(data.cases[0])
    assert image.spatial_shape == label.spatial_shape == (9, 6, 1)
    assert [note.kind for note in data.notes] == ["orientation-tag"]
    picture(tmp_path / "masks/a.png", mask(255))
    with pytest.raises(GeometryError, match=r"orientation tag.*as it is stored: turn the mask"):
        data.read_case(data.cases[0])


def test_preparing_tells_what_the_layout_noticed(folders, tmp_path, caplog):
    folder = folders(mask(255), mask(1), mask(255))
    for number in range(5):
        picture(folder / f"masks/orphan{number}.png", mask(255))
    with caplog.at_level("WARNING", logger="transunet"):
        prepare(open_dataset(folder), tmp_path / "store")
    told = [record.getMessage() for record in caplog.records]
    assert "not the same number in all masks" in told[0]
    assert sum("this mask has no image" in text for text in told) == 3
    assert told[-1] == "2 more like these; transunet check lists them all."


def test_a_mask_in_the_transparency_is_told(folders):
    shape = mask(255, 255)
    with pytest.raises(DataError, match=r"none of 1 masks .*transparency has a shape"):
        open_dataset(folders(np.dstack([np.zeros((6, 9, 3), np.uint8), shape])))


def test_headers_with_their_voxels_beside_them_are_pairs_too(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    label = np.ones((4, 5, 6), np.uint8)
    for number in range(2):
        for sub in ("images", "masks"):
            (tmp_path / "s" / sub).mkdir(parents=True, exist_ok=True)
            pair = nibabel.Nifti1Pair(label * (number + 1), np.eye(4))
            nibabel.save(pair, tmp_path / f"s/{sub}/c{number}.img")
    data = open_dataset(tmp_path / "s")
    assert [case.name for case in data.cases] == ["c0", "c1"]
    assert not data.notes
    before = dict(prepare(data, tmp_path / "store").cases)
    for path in (tmp_path / "s/images/c0.img", tmp_path / "s/images/c0.hdr"):
        assert path.is_file()
    with (tmp_path / "s/images/c0.img").open("r+b") as file:
        file.write(b"\7")
    after = prepare(data, tmp_path / "store").cases
    assert before["c0"].hashes != after["c0"].hashes
    assert before["c1"].hashes == after["c1"].hashes


@pytest.mark.parametrize("label", ["p1/0", "p1_0", "p1_0_mask", "p1"])
def test_folders_of_images_with_masks_in_one_folder(tmp_path, label):
    picture(tmp_path / "images/p1/0.png", photograph())
    picture(tmp_path / "images/p2/0.png", photograph())
    picture(tmp_path / f"masks/{label}.png", mask(255))
    data = open_dataset(tmp_path)
    assert [case.label.is_file() for case in data.cases] == [True, False]


def test_many_values_with_gaps_are_told_to_be_perhaps_soft_edges(folders):
    (many,) = (note for note in open_dataset(folders(mask(*range(0, 75, 3)))).notes)
    assert many.kind == "many-labels"
    assert "24 values" in many.found


def test_images_of_a_format_that_is_not_read_are_told(tmp_path):
    for folder, ending in (("images", "webp"), ("masks", "png")):
        picture(tmp_path / f"set/{folder}/a.{ending}", mask(1))
    with pytest.raises(DataError, match=r"format that is read: \.nii"):
        open_dataset(tmp_path / "set")


def test_images_whose_names_end_as_those_of_masks_do_are_paired(tmp_path):
    for name in ("a_seg", "b_label", "c"):
        picture(tmp_path / "images" / f"{name}.png", photograph())
        picture(tmp_path / "masks" / f"{name}_mask.png", mask(255))
    assert {case.name: case.label.name for case in open_dataset(tmp_path).cases} == {
        name: f"{name}_mask.png" for name in ("a_seg", "b_label", "c")
    }
