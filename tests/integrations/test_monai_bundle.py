"""MONAI's own loader runs the bundle to the labels of `Predictor`, on the image's grid."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tiny_3d import tiny_model_3d
from transunet.bundle.bundle_config import BundleConfig
from transunet.data.formats import read_volume
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.volume import Volume, same_grid
from transunet.errors import ConfigError
from transunet.inference.predictor import Predictor
from transunet.integrations.monai.monai_bundle import inference, write_monai_bundle
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

# Imported by the tests: every worker reads this file, and MONAI takes seconds.
missing = [name for name in ("monai", "ignite") if find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # a word on trust
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:monai"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # of torch, met by ignite
]

NAMES = {0: "background", 1: "liver", 2: "spleen", 3: "kidney"}
REAL = Path(__file__).parents[3] / "shared" / "data" / "Task04_Hippocampus" / "imagesTr"
OBLIQUE = np.array([[0.1, -0.9, 0, 40], [-0.8, 0.1, 0.2, 10], [0, 0.1, 3.5, -80], [0, 0, 0, 1.0]])
CT = Channel(name="CT", normalisation="clip", low=-125, high=275)
MRI = Channel(name="MRI", normalisation="zscore")
HALF = Channel(name="PET", normalisation="clip", low=0.1, high=7.3)
PHOTOGRAPH = tuple(
    Channel(name=name, normalisation="range", high=255) for name in ("red", "green", "blue")
)


def smooth(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(shape), 2)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return noise * (high - low) + low


def write(folder: Path, name: str, voxels: np.ndarray, affine: np.ndarray, **header: Any) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units(header.get("unit", "mm"))
    if "slope" in header:
        image.header.set_slope_inter(header["slope"], header["inter"])
    folder.mkdir(exist_ok=True)
    nib.save(image, folder / name)
    return folder / name


def ct(folder: Path) -> list[Path]:
    voxels = smooth((41, 37, 9), -900, 900).astype(np.int16)
    return [write(folder, "case.nii.gz", voxels, OBLIQUE)]


def mri(folder: Path) -> list[Path]:
    affine = np.array([[0, 0, -1.1, 0], [-0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1.0]])  # PSL
    return [write(folder, "case.nii", smooth((30, 34, 11), 0, 900).astype(np.float32), affine)]


def microns(folder: Path) -> list[Path]:
    voxels = smooth((30, 34, 6), 0, 4000).astype(np.uint16)
    return [write(folder, "case.nii", voxels, np.diag([-600, 700, 2000, 1.0]), unit="micron")]


def unit_steps(folder: Path) -> list[Path]:
    """An sform of unit steps beside the true edges, as in the files of ACDC."""
    voxels = smooth((30, 34, 6), 0, 900).astype(np.int16)
    image = nib.Nifti1Image(voxels, None)
    image.set_qform(np.diag([-1.5, -1.5, 10, 1.0]), code=1)
    image.set_sform(np.diag([-1, -1, 1, 1.0]), code=1)
    image.header["pixdim"][1:4] = 1.5, 1.5, 10
    folder.mkdir(exist_ok=True)
    nib.save(image, folder / "case.nii.gz")
    return [folder / "case.nii.gz"]


def photograph(folder: Path) -> list[Path]:
    voxels = smooth((45, 38, 1, 3), 0, 255).astype(np.uint8)
    return [write(folder, "case.nii.gz", voxels, np.diag([-1, -1, 1, 1.0]))]


def two_files(folder: Path) -> list[Path]:
    counts = smooth((33, 28, 12), 0, 3000).astype(np.int16)
    affine = np.diag([1.2, 1.2, 5, 1])
    return [
        write(folder, "case_0000.nii.gz", counts, affine, slope=0.003, inter=-0.2),
        write(folder, "case_0001.nii.gz", counts[::-1] // 3, affine),
    ]


def windowed_floats(folder: Path) -> list[Path]:
    voxels = smooth((26, 30, 8), -300, 600).astype(np.float32)
    return [write(folder, "case.nii.gz", voxels, np.diag([1, -1, 2, 1.0]))]


IMAGES = {
    "ct, whole numbers": (ct, Preprocessing(channels=(CT,))),
    "ct, real numbers": (windowed_floats, Preprocessing(channels=(CT,), orientation="SLP")),
    "mri, sagittal": (mri, Preprocessing(channels=(MRI,), orientation="RAS")),
    "mri, resampled": (mri, Preprocessing(channels=(MRI,), spacing_mm=(None, 1.3, 0.7))),
    "microns, resampled": (microns, Preprocessing(channels=(MRI,), spacing_mm=(None, 1.0, 1.0))),
    "unit steps, resampled": (
        unit_steps,
        Preprocessing(channels=(MRI,), spacing_mm=(None, 1.0, 1.0)),
    ),
    "photograph": (photograph, Preprocessing(channels=PHOTOGRAPH)),
    "two files": (
        two_files,
        Preprocessing(channels=(HALF, MRI), orientation="SAR"),
    ),
}


def model_for(preprocessing: Preprocessing) -> TransUNet:
    """A network whose labels vary: every class wins somewhere."""
    torch.manual_seed(0)
    channels = len(preprocessing.channels)
    config = variant("R26-ViT-Ti_16", num_classes=4, in_channels=channels, image_size=(32, 48))
    model = TransUNet(config).eval()
    with torch.inference_mode():
        logits = model(torch.randn(2, channels, 32, 48))
    head = model.segmentation_head[0]
    with torch.no_grad():
        head.bias -= logits.mean(dim=(0, 2, 3)).clone()
    return model


def bundle_for(folder: Path, preprocessing: Preprocessing) -> tuple[TransUNet, BundleConfig, Path]:
    model = model_for(preprocessing)
    config = BundleConfig(
        architecture=model.config, preprocessing=preprocessing, labels=NAMES, versions={}
    )
    return model, config, write_monai_bundle(model, config, folder)


def run_workflow(bundle: Path, images: Path, output: Path) -> None:
    from monai.bundle import run

    run(
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
        dataset_dir=str(images),
        output_dir=str(output),
    )


def run_monai(bundle: Path, images: Path, output: Path) -> Volume:
    run_workflow(bundle, images, output)
    (found,) = output.iterdir()
    stored = nib.load(found)
    assert len(stored.shape) == 3
    assert stored.get_data_dtype() == np.uint8
    return read_volume(found)


@pytest.mark.parametrize("case", IMAGES)
def test_monai_finds_the_labels_of_the_predictor(tmp_path: Path, case: str) -> None:
    make, preprocessing = IMAGES[case]
    paths = make(tmp_path / "images")
    model, config, bundle = bundle_for(tmp_path / "bundle", preprocessing)
    ours = Predictor(model, config.preprocessing, config.labels, device="cpu")(paths)
    theirs = run_monai(bundle, tmp_path / "images", tmp_path / "labels")
    assert same_grid(ours, theirs) is None
    assert np.array_equal(theirs.array, ours.array)
    assert len(np.unique(ours.array)) >= 3


@pytest.mark.skipif(not REAL.is_dir(), reason=f"there are no real images at {REAL}")
def test_monai_finds_the_same_labels_on_a_real_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    real = sorted(REAL.glob("hippocampus_*.nii.gz"))[0]
    image = tmp_path / "images" / real.name
    image.write_bytes(real.read_bytes())
    model, config, bundle = bundle_for(tmp_path / "bundle", Preprocessing(channels=(MRI,)))
    ours = Predictor(model, config.preprocessing, config.labels, device="cpu")(image)
    theirs = run_monai(bundle, tmp_path / "images", tmp_path / "labels")
    assert same_grid(ours, theirs) is None
    assert np.array_equal(theirs.array, ours.array)


def check_by_monai(bundle: Path, images: Path) -> None:
    """MONAI finds the properties that it asks of a bundle, and the network's input and output."""
    from monai.bundle import ConfigWorkflow, verify_net_in_out

    files = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
    }
    workflow = ConfigWorkflow(
        workflow_type="inference", **files, bundle_root=str(bundle), dataset_dir=images
    )
    workflow.initialize()
    assert not workflow.check_properties()
    verify_net_in_out(net_id="network_def", device="cpu", **files)


@pytest.fixture(scope="module")
def of_patches() -> SegmentationNetwork:
    """A network of volumes whose labels vary."""
    return tiny_model_3d("TransUNet3D-S", (8, 16, 16), classes=4)


@pytest.mark.parametrize(
    ("preprocessing", "least"),
    [
        # The windows lie at the same places: a whole number of half patches along each axis.
        (
            Preprocessing(channels=(MRI,), spacing_mm=(34 * 0.9 / 24, 11 * 1.1 / 8, 30 * 0.9 / 32)),
            0.999,
        ),
        (Preprocessing(channels=(MRI,), orientation="LPS", spacing_mm=(2.0, 1.0, 1.3)), 0.9),
        (Preprocessing(channels=(MRI,), orientation="IRP"), 0.8),
    ],
    ids=["same windows", "resampled", "as it is"],
)
def test_patches_go_through_monais_inferer(
    tmp_path: Path, of_patches: SegmentationNetwork, preprocessing: Preprocessing, least: float
) -> None:
    paths = mri(tmp_path / "images")
    config = BundleConfig(architecture=of_patches.config, preprocessing=preprocessing, labels=NAMES)
    bundle = write_monai_bundle(of_patches, config, tmp_path / "bundle")
    stored = json.loads((bundle / "configs" / "inference.json").read_text())
    assert stored["inferer"]["_target_"] == "SlidingWindowInferer"
    predictor = Predictor(
        of_patches, config.preprocessing, config.labels, sampling=config.sampling, device="cpu"
    )
    ours = predictor(paths)
    theirs = run_monai(bundle, tmp_path / "images", tmp_path / "labels")
    assert same_grid(ours, theirs) is None
    assert (theirs.array == ours.array).mean() > least
    assert len(np.unique(ours.array)) >= 3


def test_what_monai_asks_of_a_bundle_of_patches_is_there(
    tmp_path: Path, of_patches: SegmentationNetwork
) -> None:
    mri(tmp_path / "images")
    config = BundleConfig(
        architecture=of_patches.config, preprocessing=Preprocessing(channels=(MRI,)), labels=NAMES
    )
    bundle = write_monai_bundle(of_patches, config, tmp_path / "bundle")
    check_by_monai(bundle, tmp_path / "images")
    image = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert image["inputs"]["image"]["spatial_shape"] == [8, 16, 16]
    assert image["inputs"]["image"]["is_patch_data"] is True


def test_the_example_with_monais_loss_and_inferer_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "monai.md").read_text()
    example = page.partition("own code")[2].partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["probabilities"].shape == (1, 3, 40, 50, 60)
    torch.testing.assert_close(names["probabilities"].sum(1), torch.ones(1, 40, 50, 60))
    head = names["network"].seg_outputs["3"].weight
    assert head.grad.abs().sum() > 0


def test_images_of_one_name_in_two_folders_keep_apart(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for patient in ("ann", "bob"):
        ct(tmp_path / "images" / patient)
    _, _, bundle = bundle_for(tmp_path / "bundle", Preprocessing(channels=(CT,)))
    run_workflow(bundle, tmp_path / "images", tmp_path / "labels")
    found = sorted(path.relative_to(tmp_path / "labels") for path in tmp_path.glob("labels/*/*"))
    assert found == [Path("ann/case_seg.nii.gz"), Path("bob/case_seg.nii.gz")]


def test_the_documented_command_runs_from_within_the_bundle(tmp_path: Path) -> None:
    pytest.importorskip("fire", reason="fire is not installed")
    paths = ct(tmp_path / "images")
    model, config, bundle = bundle_for(tmp_path / "bundle", Preprocessing(channels=(CT,)))
    words = "-m monai.bundle run --config_file configs/inference.json --dataset_dir ../images"
    subprocess.run(
        [sys.executable, *words.split(), "--output_dir", "../labels"],
        cwd=bundle,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    ours = Predictor(model, config.preprocessing, config.labels, device="cpu")(paths)
    theirs = read_volume(tmp_path / "labels" / "case_seg.nii.gz")
    assert np.array_equal(theirs.array, ours.array)


def test_what_monai_asks_of_a_bundle_is_there(tmp_path: Path) -> None:
    from monai.bundle import load

    ct(tmp_path / "images")
    model, _, bundle = bundle_for(tmp_path / "bundle", Preprocessing(channels=(CT,)))
    check_by_monai(bundle, tmp_path / "images")
    loaded = load("bundle", bundle_dir=str(tmp_path), workflow_type="inference", device="cpu")
    image = torch.rand(1, 1, 32, 48)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(image), model(image))


def test_the_metadata_has_what_the_specification_demands(tmp_path: Path) -> None:
    _, _, bundle = bundle_for(tmp_path / "bundle", Preprocessing(channels=(CT,)))
    found = json.loads((bundle / "configs" / "metadata.json").read_text())
    mandatory = ("version", "monai_version", "pytorch_version", "numpy_version")
    mandatory += ("required_packages_version", "task", "description", "authors", "copyright")
    assert all(found[key] for key in mandatory)
    assert "transunet-torch" in found["required_packages_version"]
    formats = found["network_data_format"]
    tensor = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
    tensor |= {"modality", "is_patch_data", "channel_def"}
    assert set(formats["inputs"]["image"]) == set(formats["outputs"]["pred"]) == tensor
    assert formats["inputs"]["image"]["modality"] == "CT"
    assert formats["inputs"]["image"]["spatial_shape"] == [32, 48]
    assert formats["outputs"]["pred"]["channel_def"] == {str(k): v for k, v in NAMES.items()}


def test_nothing_in_the_bundle_is_unpickled_into_code(tmp_path: Path) -> None:
    model, _, bundle = bundle_for(tmp_path / "bundle", Preprocessing(channels=(CT,)))
    weights = bundle / "models" / "model.pt"
    assert torch.serialization.get_unsafe_globals_in_checkpoint(weights) == []
    state = torch.load(weights, weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    suffixes = {path.suffix for path in bundle.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".pt", ".md", ""}


def test_stock_transforms_are_used_where_they_are_exact() -> None:
    def intensities(*channels: Channel) -> str:
        config = BundleConfig(
            architecture=variant("testing", num_classes=4, in_channels=len(channels)),
            preprocessing=Preprocessing(channels=channels),
            labels=NAMES,
        )
        target: str = inference(config)["preprocessing"]["transforms"][-1]["_target_"]
        return target.rpartition(".")[2]

    assert intensities(CT) == intensities(*PHOTOGRAPH) == "ScaleIntensityRanged"
    assert intensities(MRI) == intensities(HALF) == intensities(CT, MRI) == "NormaliseChannelsd"
    assert intensities(CT, CT.replace(high=400)) == "NormaliseChannelsd"


def test_a_bundle_is_replaced_and_other_folders_are_not(tmp_path: Path) -> None:
    bundle_for(tmp_path / "bundle", Preprocessing(channels=(CT,)))
    (tmp_path / "bundle" / "old.txt").write_text("old")
    bundle_for(tmp_path / "bundle", Preprocessing(channels=(MRI,)))
    assert not (tmp_path / "bundle" / "old.txt").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    with pytest.raises(ConfigError, match="thesis holds other files"):
        bundle_for(tmp_path / "thesis", Preprocessing(channels=(CT,)))
    with pytest.raises(ConfigError, match="is a file"):
        bundle_for(tmp_path / "thesis" / "chapter.txt", Preprocessing(channels=(CT,)))


def test_images_of_other_formats_are_refused(tmp_path: Path) -> None:
    from transunet.integrations.monai.monai_parts import find_cases

    ct(tmp_path)
    assert find_cases(tmp_path, 1) == [{"image": [str(tmp_path / "case.nii.gz")]}]
    (tmp_path / "scan.nrrd").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"scan\.nrrd.*reads NIfTI"):
        find_cases(tmp_path, 1)


def test_a_volume_without_its_affine_is_not_resampled() -> None:
    from transunet.integrations.monai.monai_parts import SliceBySlice

    model = model_for(Preprocessing(channels=(MRI,)))
    with pytest.raises(ConfigError, match="MetaTensor"):
        SliceBySlice(spacing_mm=(None, 1.0, 1.0))(torch.rand(1, 1, 8, 8, 2), model)
    assert SliceBySlice()(torch.rand(2, 1, 8, 9, 2), model).shape == (2, 1, 8, 9, 2)


def test_a_bundle_is_written_without_monai() -> None:
    code = (
        "import sys; sys.modules['monai'] = None; import transunet.integrations.monai.monai_bundle"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
