"""Planes with their neighbours: which, in what order, and what becomes of the ends."""

import numpy as np
import pytest

from transunet.data.sampling.slices import Slices, neighbourhoods, stack_neighbours
from transunet.errors import ConfigError


def samples(slices, part, context):
    around, chosen = neighbourhoods(part, len(slices), context)
    return stack_neighbours(slices[around], chosen)


@pytest.mark.parametrize("context", [0, 1, 2, 3])
@pytest.mark.parametrize("part", [slice(0, 1), slice(0, 5), slice(2, 4), slice(4, 5)])
def test_a_sample_is_each_channel_below_itself_and_above(rng, context, part):
    slices = rng.normal(size=(5, 2, 3, 4))
    found = samples(slices, part, context)
    assert found.shape == (part.stop - part.start, 2 * (2 * context + 1), 3, 4)
    for sample, plane in zip(found, range(part.start, part.stop), strict=True):
        expected = [
            slices[min(max(plane + offset, 0), 4), channel]
            for channel in (0, 1)
            for offset in range(-context, context + 1)
        ]
        np.testing.assert_array_equal(sample, expected)


def test_a_volume_of_one_plane_is_its_own_neighbour(rng):
    plane = rng.normal(size=(1, 1, 3, 4))
    np.testing.assert_array_equal(samples(plane, slice(0, 1), 2)[0], np.repeat(plane[0], 5, axis=0))


def test_impossible_settings_are_refused():
    for settings in ({"size": (0, 32)}, {"size": (32, 32), "context": -1}):
        with pytest.raises(ConfigError, match="Slices"):
            Slices(**settings)
