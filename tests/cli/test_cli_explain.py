"""`transunet explain` as it is typed, and `transunet.explain` in two lines."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import transunet
from prediction import OBLIQUE, left_in, noise, save_nifti, tiny_bundle, tiny_model
from transunet.attention.view import AttentionView
from transunet.bundle.io import BundleConfig, save_pretrained
from transunet.cli.main import app
from transunet.create import create_model
from transunet.data.formats import write_volume
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.inference.predictor import Predictor

pytest.importorskip("matplotlib", reason="pictures are drawn with the extra [train]")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["explain", "--device", "cpu", *map(str, arguments)])


def refused(error: type[TransUNetError], *arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, error), result.output
    return str(result.exception)


def test_a_map_on_the_images_grid_and_a_figure(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    result = run(bundle, image, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"Figure: {tmp_path / 'out/a.png'}" in result.output
    assert f"Map: {tmp_path / 'out/a_rollout.nii.gz'}" in result.output
    assert left_in(tmp_path / "out") == {"a.png", "a_rollout.nii.gz"}
    found = nib.load(tmp_path / "out" / "a_rollout.nii.gz")
    assert found.shape == (20, 24, 6)
    assert found.get_data_dtype() == np.float32
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-5)
    assert found.get_fdata().std() > 0
    assert (tmp_path / "out" / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_files_hold_what_the_network_attends_to(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    result = run(bundle, image, "-o", tmp_path / "out", "--layer", "0", "--head", "0", "--at", "3,20,2")  # fmt: skip  # noqa: E501
    assert result.exit_code == 0, result.output
    model, config = transunet.from_pretrained(bundle)
    volume = transunet.read_volume(image)
    view = AttentionView(model, config.preprocessing, "cpu")
    (expected,) = view.maps(volume, [(0, 0)], at=(3, 20, 2))
    found = nib.load(tmp_path / "out" / "a_layer00_head00.nii.gz").get_fdata()
    np.testing.assert_allclose(found, expected.on(volume).array[0], rtol=1e-5)


def test_every_layer_and_head(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    result = run(bundle, image, "-o", tmp_path, "--layer", "all", "--head", "all", "--format", "npy")  # fmt: skip  # noqa: E501
    assert result.exit_code == 0, result.output
    assert "3 maps in" in result.output
    names = ("a_layer00_head00.npy", "a_layer00_mean.npy", "a_rollout.npy")
    assert {*names, "a.png"} <= left_in(tmp_path)
    assert all(np.load(tmp_path / name).shape == (20, 24, 6) for name in names)


def test_a_structures_tokens(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    result = run(bundle, image, "-o", tmp_path, "--structure", "left")
    assert result.exit_code == 0, result.output
    found = nib.load(tmp_path / "a_rollout.nii.gz").get_fdata()
    # Slices without the structure have nobody who looks.
    model, config = transunet.from_pretrained(bundle)
    grid = AttentionView(model, config.preprocessing, "cpu").grid_of(transunet.read_volume(image))
    labels = Predictor.from_pretrained(bundle, device="cpu")(image).array[0]
    others = tuple(axis for axis in range(3) if axis != grid.slice_axis)
    np.testing.assert_array_equal(found.any(axis=others), (labels == 1).any(axis=others))


def test_many_images_keep_their_names(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / "in" / f"{name}.nii.gz")
    result = run(bundle, tmp_path / "in", "-o", tmp_path / "out")
    assert "2 figures in" in result.output
    assert left_in(tmp_path / "out") == {
        "a.png", "a_rollout.nii.gz", "b.png", "b_rollout.nii.gz",
    }  # fmt: skip


def test_photographs_of_three_channels(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="photographs are read with the extra [images]")
    model = tiny_model(channels=3)
    channels = tuple(Channel(name=c, normalisation="range", high=255.0) for c in "rgb")
    config = BundleConfig(
        architecture=model.config,
        preprocessing=Preprocessing(channels=channels),
        labels={0: "background", 1: "cell", 2: "gap"},
    )
    bundle = save_pretrained(model, config, tmp_path / "bundle")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 1)).astype(np.uint8)
    write_volume(Volume(pixels, np.eye(4)), tmp_path / "photo.png")
    result = run(bundle, tmp_path / "photo.png", "-o", tmp_path / "out", "--at", "39,0,0")
    assert result.exit_code == 0, result.output
    assert nib.load(tmp_path / "out" / "photo_rollout.nii.gz").shape == (40, 50, 1)


def test_the_testing_network_and_the_small_one(tmp_path: Path) -> None:
    """One layer and head of one number, and eight layers of three heads."""
    image = save_nifti(tmp_path / "a.nii.gz")
    for name, maps in (("testing", 3), ("R26-ViT-Ti_16", 8 * 4 + 1)):
        model = create_model(name, num_classes=2, in_channels=1, image_size=32)
        config = BundleConfig(
            architecture=model.config,
            preprocessing=Preprocessing(),
            labels={0: "background", 1: "one"},
        )
        folder = save_pretrained(model, config, tmp_path / name)
        found = transunet.explain(folder, image, layer="all", head="all", device="cpu")
        assert len(found.maps) == maps
        assert found.draw(tmp_path / f"{name}.svg").stat().st_size > 1000
        # Tokens share out their attention: on average each gets the even share.
        for one in found.maps:
            np.testing.assert_allclose(one.tokens.mean(axis=(1, 2)), 1, rtol=1e-4)


def test_two_lines_of_python(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    found = transunet.explain(bundle, image)
    written = found.write(tmp_path / "out")
    assert [path.name for path in written] == ["a.png", "a_rollout.nii.gz"]
    assert found.volume().array.shape == (1, 20, 24, 6)
    with pytest.raises(ConfigError, match="there is rollout"):
        found.volume(0, 0)


def test_an_array_and_a_mask(bundle: Path) -> None:
    array = noise().astype(np.float32)
    mask = np.zeros((1, *array.shape), np.uint8)
    mask[0, 3:9, 4:9, 2] = 1
    whose = Volume(mask, np.diag([1, 1, 3, 1.0]))
    found = transunet.explain(bundle, array, spacing_mm=(1, 1, 3), at=whose, device="cpu")
    assert found.volume().array[0].any(axis=(0, 1)).tolist() == [0, 0, 1, 0, 0, 0]
    assert found.slice_index == 2
    assert "a mask" in found.asked


def test_the_figure_marks_the_voxel_where_it_lies(bundle: Path, tmp_path: Path) -> None:
    """The voxel is lit in the image; the cross is drawn on the bright pixel."""
    from transunet.drawing.panels import pixel_of, plane, plane_of

    array = np.zeros((20, 24, 6), np.float32)
    array[3, 20, 2] = 1
    one = Volume(array[None], OBLIQUE)
    for axis in range(3):
        turned, index = plane_of(one.grid, "RAS", axis, (3, 20, 2)[axis])
        drawn = plane(one.reoriented("RAS").array[0], turned, index)
        assert np.argwhere(drawn).tolist() == [list(pixel_of(one.grid, "RAS", axis, (3, 20, 2)))]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--at", "3,4"], "three indices"),
        (["--at", "3,4,60"], "has no voxel (3, 4, 60)"),
        (["--at", "a,b,c"], "not a voxel"),
        (["--structure", "heart"], "it has left, right"),
        (["--at", "1,1,1", "--structure", "left"], "not both"),
        (["--layer", "1"], "no layer 1; it has 0 to 0"),
        (["--layer", "last"], "no layer 'last'"),
        (["--layer", "0", "--head", "4"], "no head 4"),
        (["--layer", "rollout", "--head", "0"], "roll-out takes the mean"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_wrong_use(bundle: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    assert told in refused(ConfigError, bundle, image, "-o", tmp_path / "out", *arguments)
    assert not list((tmp_path / "out").glob("*"))


def test_a_voxel_of_several_images_is_wrong_use(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / "in" / f"{name}.nii.gz")
    told = refused(ConfigError, bundle, tmp_path / "in", "-o", tmp_path / "out", "--at", "1,1,1")
    assert "voxel of one image; 2 were given" in told


def test_a_structure_that_there_is_not_is_told_once(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / "in" / f"{name}.nii.gz")
    words = (bundle, tmp_path / "in", "-o", tmp_path / "out", "--structure", "heart")
    assert refused(ConfigError, *words).startswith("The bundle has no structure 'heart'")
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_used_are_named(bundle: Path, tmp_path: Path) -> None:
    two = save_nifti(tmp_path / "two.nii.gz", np.stack([noise(), noise()], axis=-1))
    assert "2 channels; expected 1" in refused(DataError, bundle, two, "-o", tmp_path / "out")
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(two.read_bytes()[:900])
    assert "cut.nii.gz" in refused(DataError, bundle, cut, "-o", tmp_path / "out")
    missing = tmp_path / "none.nii.gz"
    assert "none.nii.gz" in refused(ConfigError, bundle, missing, "-o", tmp_path / "out")
    assert "no bundle" in refused(ConfigError, tmp_path / "no/such", two, "-o", tmp_path / "out")


def test_the_other_images_go_on(bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for name in ("a", "c"):
        save_nifti(images / f"{name}.nii.gz")
    (images / "b.nii.gz").write_bytes(b"no image")
    told = refused(DataError, bundle, images, "-o", tmp_path / "out")
    assert "1 of 3 cases could not be explained" in told
    assert "b.nii.gz" in told
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"a.png", "a_rollout.nii.gz", "c.png", "c_rollout.nii.gz"}


def test_a_structure_that_is_not_found_has_no_tokens(tmp_path: Path) -> None:
    model = tiny_model()
    model.segmentation_head[0].bias.data[2] = -1000
    config = BundleConfig(
        architecture=model.config,
        preprocessing=Preprocessing(),
        labels={0: "background", 1: "left", 2: "right"},
    )
    folder = save_pretrained(model, config, tmp_path / "bundle")
    image = save_nifti(tmp_path / "a.nii.gz")
    told = refused(DataError, folder, image, "-o", tmp_path / "out", "--structure", "right")
    assert "finds no right in it" in told


def test_without_matplotlib_it_says_what_to_install(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    image = save_nifti(tmp_path / "a.nii.gz")
    told = refused(ConfigError, bundle, image, "-o", tmp_path / "out")
    assert "pip install 'transunet-torch[train]'" in told
