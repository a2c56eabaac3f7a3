"""Which classes of two lists are the same."""

import pytest

from transunet.data.classes import is_named, match_classes


def numbered(*names):
    return dict(enumerate(("background", *names)))


@pytest.mark.parametrize(
    ("first", "second", "numbers"),
    [
        (("grey matter", "white matter"), ("White_Matter", "grey-matter"), {1: 2, 2: 1}),
        (("liver", "spleen"), ("spleen", "kidney", "Liver"), {1: 3, 2: 1}),
        (("foreground",), ("nucleus",), {1: 1}),
        (("class 1", "class 2"), ("grey", "white"), {1: 1, 2: 2}),
        (("grey", "white"), ("class 2",), {2: 1}),  # masks that hold 0 and 2
        (("class 1", "class 2"), ("class 2",), {2: 1}),
        (("class 85", "class 170"), ("grey", "white"), {1: 1, 2: 2}),  # masks of 0, 85, 170
        (("kidney", "kidney"), ("kidney", "kidney"), {1: 1, 2: 2}),
        (("#ff0000", "#00ff00"), ("#00FF00", "#ff0000"), {1: 2, 2: 1}),
        (("tumor",), ("tumour",), {}),
        (("Segment_2", "Segment_1"), ("grey", "white"), {1: 1, 2: 2}),  # 3D Slicer's, by value
        (("Segment", "Segment_1"), ("Segment_1", "Segment_2"), {1: 1, 2: 2}),
    ],
)
def test_classes_are_matched_by_name_and_those_without_one_by_number(first, second, numbers):
    matched = match_classes(numbered(*first), numbered(*second))
    assert matched.numbers == {0: 0, **numbers}
    backwards = match_classes(numbered(*second), numbered(*first))
    assert backwards.numbers == {0: 0, **{b: a for a, b in numbers.items()}}


def test_what_only_one_side_has_is_told():
    matched = match_classes(numbered("liver", "spleen"), numbered("spleen", "kidney"))
    assert matched.first_only == {1: "liver"}
    assert matched.second_only == {2: "kidney"}
    assert not matched.in_order
    assert match_classes(numbered("liver"), numbered("Liver", "spleen")).in_order


def test_real_names_are_told_from_numbers_colours_and_words_for_any_class():
    assert [n for n in ("liver", "class 3", "label_3", "3", "#a0b0c0", "Foreground", "class c")
            if is_named(n)] == ["liver", "class c"]  # fmt: skip
