"""A real series as the scanner wrote it, and a real mask."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from transunet.data.formats import dicom
from transunet.data.formats.dicom.segmentation import read_seg, write_seg
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.files import atomic_path
from transunet.inference.predictor import Predictor
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

pytestmark = pytest.mark.slow  # reads whole series

pytest.importorskip("pydicom", reason="needs the extra [dicom]")
highdicom = pytest.importorskip("highdicom", reason="needs the extra [dicom]")
pillow = pytest.importorskip("PIL.Image", reason="needs the extra [images]")


@pytest.fixture(scope="module")
def chaos(tmp_path_factory):
    packed = Path(__file__).parents[3] / "shared" / "data" / "chaos_ct.tar.xz"
    if not packed.exists():
        pytest.skip(f"needs the real series {packed}")
    folder = tmp_path_factory.mktemp("chaos")
    with tarfile.open(packed) as file:
        file.extractall(folder, filter="data")
    return folder / "chaos_ct"


@pytest.fixture(scope="module")
def image(chaos):
    return dicom.read(chaos / "DICOM_anon")


@pytest.fixture(scope="module")
def liver(chaos, image):
    files = sorted((chaos / "Ground").glob("*.png"))
    masks = np.stack([np.asarray(pillow.open(file)) > 0 for file in files])
    # The files are numbered from the head down, as the scanner's; rows and columns are the slices'.
    return image.with_array(masks[::-1].transpose(2, 1, 0)[None].astype(np.uint8))


def test_the_grid_is_the_described_one(image):
    assert image.spatial_shape == (512, 512, 78)
    assert image.spacing_mm == pytest.approx((0.7265625, 0.7265625, 2.0))
    assert image.orientation == "LPS"
    np.testing.assert_allclose(image.affine[:3, 3], [185, 98, 1536.5])


def test_the_intensities_are_hounsfield_units(image, liver):
    inside = image.array[liver.array > 0]
    assert 100 < np.median(inside) < 180  # a liver with contrast, in the portal venous phase
    assert inside.std() < 50  # a mask upside down would reach into lung and air: 250
    assert np.median(image.array[0, :20, :20]) == -1000  # air


def test_the_liver_as_a_segmentation_comes_back_equal(tmp_path, image, liver):
    with atomic_path(tmp_path / "liver.dcm") as path:
        write_seg(liver, image, {0: "background", 1: "liver"}, path)
    back = read_seg(tmp_path / "liver.dcm", image)
    np.testing.assert_array_equal(back.array, liver.array)
    seg = highdicom.seg.segread(tmp_path / "liver.dcm")
    sources = {uid for _, _, uid in seg.get_source_image_uids()}
    assert sources == {str(dataset.SOPInstanceUID) for dataset in image.header.datasets}


def test_a_prediction_of_the_series_is_a_segmentation_of_it(tmp_path, chaos):
    image = dicom.read(sorted((chaos / "DICOM_anon").iterdir())[30:38])
    torch.manual_seed(0)
    model = TransUNet(variant("R26-ViT-Ti_16", num_classes=3, image_size=32)).eval()
    hounsfield = Preprocessing(channels=(Channel(normalisation="clip"),))
    names = {0: "background", 1: "liver", 2: "spleen"}
    labels = Predictor(model, hounsfield, names, device="cpu")(image)
    with atomic_path(tmp_path / "labels.dcm") as path:
        write_seg(labels, labels, names, path)
    np.testing.assert_array_equal(read_seg(tmp_path / "labels.dcm", image).array, labels.array)
