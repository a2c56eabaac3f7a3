"""Label maps corrected by clicks, with a network whose answer to them is known by heart."""

import numpy as np
import pytest
import torch

from transunet.data.clicks import Click
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.regions import Region
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.inference.predictor import Predictor
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.variants import variant

LABELS = {0: "background", 1: "liver", 2: "spleen"}


class Echo(SegmentationNetwork):
    """Says what it is told: the label map so far, and within a click's reach what the click says.

    Without guidance it sees background where the image is dark and the first structure elsewhere.
    """

    def forward(self, images, return_attention=False, guidance=None):
        structures = self.config.structures
        told = torch.zeros(len(images), structures + 1, *images.shape[2:])
        told[:, 0] = 0.25
        if guidance is None:
            told[:, 1] = images[:, 0]
        else:
            told[:, 1:] += 0.5 * guidance[:, :structures]
            told += guidance[:, structures:]
        return told[:, 1:] - 0.4 if self.config.regions else told


def predictor(sampling, **settings):
    regions = settings.pop("regions", ())
    name = "TransUNet3D-S" if isinstance(sampling, Patches) else "R26-ViT-Ti_16"
    plan = {"poolings": ((2, 2, 2),) * 3, "kernels": ((3, 3, 3),) * 4} if "3D" in name else {}
    config = variant(
        name,
        image_size=sampling.size,
        num_classes=len(regions) or 3,
        regions=[region.members for region in regions],
        clicks=settings.pop("clicks", True),
        **plan,
    )
    preprocessing = Preprocessing(
        channels=(Channel(name="CT", normalisation="clip", low=0, high=1),),
        **settings.pop("preprocessing", {}),
    )
    return Predictor(
        Echo(config),
        preprocessing,
        settings.pop("labels", LABELS),
        regions=regions,
        sampling=sampling,
        device="cpu",
        **settings,
    )


def image(shape=(20, 30, 8), affine=None):
    affine = np.diag([-2.0, 1, 3, 1]) if affine is None else affine
    return Volume(np.zeros((1, *shape), np.float32), affine, "patient")


def labelled(image, label=0):
    return image.with_array(np.full(image.array.shape, label, np.uint8))


AFFINES = {
    "LAS": np.diag([-2.0, 1, 3, 1]),
    "sagittal": np.array([[0, 0, 3.0, -5], [-1, 0, 0, 9], [0, 2, 0, 4], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_click_says_what_is_at_its_voxel_in_its_plane_alone(affine):
    scan = image((30, 20, 24), affine)
    before = labelled(scan)
    before.array[0, :4] = 2
    axis = Preprocessing().plane_axis(scan)
    after = predictor(Slices(size=(64, 64))).correct(
        scan, [Click(voxel=(20, 7, 11), structure="liver")], before
    )
    assert after.array[0, 20, 7, 11] == 1
    assert (after.array[0, :4] == 2).all()
    changed = np.argwhere(after.array[0] != before.array[0])
    assert set(changed[:, axis]) == {(20, 7, 11)[axis]}
    middle = changed.mean(0)
    np.testing.assert_allclose(middle, (20, 7, 11), atol=0.5)  # the disk lies around it
    assert (before.array[0, 4:] == 0).all()


def test_a_click_without_a_structure_removes_and_millimetres_name_the_same_voxel():
    scan, sampling = image(), Slices(size=(64, 64))
    before = labelled(scan, 1)
    x, y, z, _ = scan.affine @ (5, 9, 3, 1)
    by_voxel = predictor(sampling).correct(scan, [Click(voxel=(5, 9, 3))], before)
    by_place = predictor(sampling).correct(scan, [Click(mm=(x, y, z))], before)
    assert by_voxel.array[0, 5, 9, 3] == 0
    assert (by_voxel.array == 1).sum() > 4700
    np.testing.assert_array_equal(by_place.array, by_voxel.array)


def test_clicks_that_the_map_shows_already_are_only_told_again():
    scan, sampling = image(), Slices(size=(64, 64))
    clicks = [
        Click(voxel=(3, 4, 2), structure=1),
        Click(voxel=(15, 20, 5), structure=2),
        Click(voxel=(15, 4, 5), structure=1),
    ]
    after = predictor(sampling).correct(scan, clicks, labelled(scan), applied=2).array[0]
    assert after[3, 4, 2] == 0  # its plane has no new click
    assert (after[15, 20, 5], after[15, 4, 5]) == (2, 1)


def test_without_a_previous_label_map_it_is_what_the_network_finds():
    scan = image()
    scan.array[0, 10:] = 1
    after = predictor(Slices(size=(64, 64))).correct(scan, [Click(voxel=(2, 2, 2), structure=2)])
    assert (after.array[0, 10:] == 1).all()
    assert after.array[0, 2, 2, 2] == 2
    assert not after.array[0, :10, :, 3:].any()


@pytest.mark.parametrize("spacing", [None, (1.5, 1.0, 1.0)], ids=["as it is", "resampled"])
def test_of_patches_the_inner_half_around_a_click_is_taken_over(spacing):
    scan = image((60, 20, 40), np.diag([1.0, 1, 1.5, 1]))
    sampling = Patches(size=(16, 16, 16))
    before = labelled(scan)
    before.array[0, :, 0] = 2
    after = predictor(sampling, preprocessing={"spacing_mm": spacing}).correct(
        scan, [Click(voxel=(30, 10, 20), structure=1)], before
    )
    assert (after.array[0, :, 0] == 2).all()
    changed = np.argwhere(after.array[0] != before.array[0])
    np.testing.assert_allclose(changed.mean(0), (30, 10, 20), atol=0.5)
    assert after.array[0, 30, 10, 20] == 1
    assert np.ptp(changed, axis=0).tolist() == [6, 6, 6]  # the ball's 7 voxels


def test_regions_are_clicked_by_what_is_written_for_them():
    regions = (
        Region(name="whole", members=(1, 2), label=2),
        Region(name="core", members=(1,), label=1),
    )
    scan = image()
    names = {0: "background", 1: "necrosis", 2: "oedema"}
    after = predictor(Slices(size=(64, 64)), regions=regions, labels=names).correct(
        scan, [Click(voxel=(5, 9, 3), structure="core")], labelled(scan, 2)
    )
    assert after.array[0, 5, 9, 3] == 1
    assert (after.array == 2).sum() > 4700


def test_what_cannot_be_corrected_is_refused():
    scan, sampling = image(), Slices(size=(64, 64))
    takes, click = predictor(sampling), [Click(voxel=(1, 1, 1))]
    with pytest.raises(ConfigError, match=r"takes no clicks.*--set clicks=true"):
        predictor(sampling, clicks=False).correct(scan, click)
    with pytest.raises(ConfigError, match="paper's procedure"):
        takes.replace(procedure="paper").correct(scan, click)
    with pytest.raises(ConfigError, match="not for an ensemble"):
        takes.replace(others=[takes]).correct(scan, click)
    with pytest.raises(ConfigError, match=r"no structure 'kidney'; it has liver, spleen"):
        takes.correct(scan, [Click(voxel=(1, 1, 1), structure="kidney")])
    for outside in (Click(voxel=(20, 1, 1)), Click(voxel=(-1, 1, 1)), Click(mm=(500, 0, 0))):
        with pytest.raises(DataError, match=r"patient: a click at .* outside .*20 x 30 x 8"):
            takes.correct(scan, [outside])
    with pytest.raises(DataError, match=r"\[1, 1\] has two numbers.*20 x 30 x 8 voxels"):
        takes.correct(scan, [Click(voxel=(1, 1))])
    with pytest.raises(GeometryError, match=r"not lie on the grid of patient: the shapes differ"):
        takes.correct(scan, click, labelled(image((21, 30, 8))))
