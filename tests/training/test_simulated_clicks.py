"""Clicks as training simulates them, on a network that predicts what it is shown."""

import numpy as np
import torch

from transunet.data.click_maps import RADIUS, draw_guidance, largest_error, middle_of
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.variants import variant
from transunet.training.simulated_clicks import SimulatedClicks

SIDE = 24
PLACES = np.s_[4:12, 6:18]  # of the structure


class Shown(SegmentationNetwork):
    """Finds the first structure where the image is bright, whatever it is told."""

    def forward(self, images, guidance=None):
        if self.config.regions:
            return torch.cat([images - 0.5, -torch.ones_like(images)], 1)
        return torch.cat([1 - images, images, torch.zeros_like(images)], 1)


def simulate(images, labels, first=0, ignored=None, regions=()):
    classes = len(regions) or 3
    config = variant("testing", image_size=32, num_classes=classes, regions=regions, clicks=True)
    keys = [(draw, 0) for draw in range(first, first + len(images))]
    return SimulatedClicks(Shown(config), 7, "fp32", ignored)(images, labels, keys)


def batch(count):
    labels = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    labels[:, *PLACES] = 2
    images = torch.zeros(count, 1, SIDE, SIDE)
    images[:, 0, 16:20, :4] = 1  # where it is wrong, too
    return images, labels


def test_half_of_the_samples_are_guided_by_what_is_wrong():
    images, labels = batch(64)
    guidance = simulate(images, labels)
    assert guidance.shape == (64, 5, SIDE, SIDE)
    assert set(guidance.unique().tolist()) == {0, 1}
    guided = guidance.flatten(1).any(1)
    assert 20 < guided.sum() < 44
    found, removed, spleen = guidance[guided, 0], guidance[guided, 2], guidance[guided, 4]
    assert torch.equal(found, images[guided, 0])  # the network's own prediction
    assert not guidance[:, 1].any()  # which has no second structure
    assert not guidance[:, 3].any()  # nor the truth a first one
    assert removed.any()
    assert spleen.any()
    # Nearly all guided samples have a click in the large thing that was missed, at its middle.
    assert spleen[:, 6:10, 10:14].flatten(1).any(1).float().mean() > 0.7


def test_clicks_are_a_function_of_the_key_alone():
    images, labels = batch(8)
    together = simulate(images, labels)
    alone = [simulate(images[i : i + 1], labels[i : i + 1], first=i) for i in range(8)]
    assert torch.equal(torch.cat(alone), together)
    assert not torch.equal(simulate(images, labels, first=8), together)


def test_regions_are_clicked_by_what_is_written_last():
    images, labels = batch(64)
    labels[:, 16:20, :4] = 1  # what is found: the first region
    guidance = simulate(images, labels, regions=((1, 2), (2,)))
    guided = guidance.flatten(1).any(1)
    assert torch.equal(guidance[guided, 0], images[guided, 0])
    assert not guidance[:, 1].any()
    # Of the other label both regions are true, and the second is written over the first.
    second = guidance[guided, 4]
    assert second[:, 6:10, 10:14].flatten(1).any(1).float().mean() > 0.7
    assert not guidance[:, 3, 6:10, 10:14].any()


def test_nobody_clicks_where_nobody_labelled():
    images, labels = batch(32)
    labels[:, *PLACES] = 255
    guidance = simulate(images, labels, ignored=255)
    assert guidance.any()
    assert not guidance[:, 3:].any()
    assert not guidance[:, 2, 8, 12].any()


def test_a_click_is_a_ball_cut_off_at_the_border():
    label_map = np.array([[[0, 1], [2, 1]]])
    guidance = draw_guidance(label_map, [], 2)
    np.testing.assert_array_equal(guidance[0], label_map == 1)
    np.testing.assert_array_equal(guidance[1], label_map == 2)
    places = [((8, 8), 0), ((0, 15), 2), ((40, 40), 1)]
    removing, first, second = draw_guidance(np.zeros((16, 16), int), places, 2)[2:]
    assert (removing.sum(), first.sum(), second.sum()) == (29, 0, 11)
    assert removing[8, 8 + RADIUS] == 1 == second[0, 15]


def test_the_largest_error_and_its_middle():
    wanted = np.zeros((20, 20), int)
    wanted[3:8, 3:8] = 1
    wanted[12:15, 12:18] = 2
    assert largest_error(wanted, wanted) is None
    piece, position = largest_error(np.zeros_like(wanted), wanted)
    assert (piece.sum(), position, middle_of(piece)) == (25, 1, (5, 5))
    piece, position = largest_error(np.where(wanted == 1, 1, 0), wanted, wanted != 1)
    assert (piece.sum(), position) == (18, 2)
    near = {middle_of(piece, np.random.default_rng(seed)) for seed in range(30)}
    assert {row for row, _ in near} == {13}  # the deeper half of three rows
    assert len(near) > 2
