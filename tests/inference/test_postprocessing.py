"""Keeping the largest piece of a structure."""

import numpy as np
import pytest

from transunet.data.classes import classes_named
from transunet.errors import ConfigError
from transunet.inference.postprocessing import keep_largest


def pieces() -> np.ndarray:
    labels = np.zeros((12, 12, 6), np.uint8)
    labels[0:3, 0:3, 0:3] = 1  # 27 voxels
    labels[3, 3, 3] = 1  # touches it with a corner
    labels[8:10, 8:10, 0:2] = 1  # 8 voxels, apart
    labels[6:8, 0:2, 0:2] = 2
    labels[0, 11, 5] = 2
    return labels


def test_only_the_largest_piece_stays_and_corners_connect() -> None:
    keep_largest(kept := pieces(), [1])
    assert (kept == 1).sum() == 28
    assert kept[3, 3, 3] == 1
    assert kept[8, 8, 0] == 0
    assert np.array_equal(kept == 2, pieces() == 2)


def test_each_structure_for_itself_and_absent_ones_do_no_harm() -> None:
    keep_largest(kept := pieces(), [1, 2, 3, 9])
    assert (kept == 2).sum() == 8
    assert kept.dtype == np.uint8


def test_structures_by_name_or_number() -> None:
    labels = {0: "background", 1: "liver", 2: "spleen"}
    assert classes_named(["spleen", "1"], labels) == (1, 2)
    assert classes_named(["all"], labels) == (1, 2)
    assert classes_named([], labels) == ()
    with pytest.raises(ConfigError, match=r"'kidney'; it has liver, spleen"):
        classes_named(["kidney"], labels)


def test_structures_are_named_in_any_case_of_letters_and_by_number() -> None:
    labels = {0: "background", 1: "Liver", 2: "left Kidney"}
    assert classes_named(["liver"], labels) == (1,)
    assert classes_named(["LEFT KIDNEY", "Liver", "1"], labels) == (1, 2)
    assert classes_named(["left_kidney"], labels) == (2,)
    with pytest.raises(ConfigError, match="no structure 'spleen'; it has Liver, left Kidney"):
        classes_named(["spleen"], labels)


def test_names_that_differ_in_case_only_are_told_apart() -> None:
    labels = {0: "background", 1: "LV", 2: "lv"}
    assert classes_named(["lv"], labels) == (2,)
    assert classes_named(["LV"], labels) == (1,)
    with pytest.raises(ConfigError, match="no structure 'Lv'"):
        classes_named(["Lv"], labels)
