"""Contact sheets: which slices, how they are turned, and that labels are drawn where they lie."""

import numpy as np
import pytest

from transunet.data.volume import Volume
from transunet.drawing.panels import draw_panel
from transunet.drawing.sheets import SheetOptions, draw_sheet, slices_of
from transunet.errors import ConfigError, GeometryError

pytest.importorskip("matplotlib", reason="pictures are drawn with the extra [train]")

RAS = np.eye(4)
BLUE = (79, 195, 247)  # of label 1


def labelled(shape, *boxes, affine=RAS):
    """A label map whose n-th box holds label n."""
    array = np.zeros((1, *shape), np.uint8)
    for value, box in enumerate(boxes, start=1):
        array[0][box] = value
    return Volume(array, affine, "labels")


def grey(labels: Volume) -> Volume:
    rng = np.random.default_rng(0)
    array = rng.normal(size=labels.array.shape).astype(np.float32)
    return Volume(array, labels.affine, "image")


def pixels(path):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(path).convert("RGB")).astype(int)


def test_slices_that_hold_labels_are_shown_evenly():
    labels = labelled((20, 24, 90), np.s_[5:9, 5:9, 10:70])
    panels = slices_of(grey(labels), labels)
    assert len(panels) == 20
    assert panels[0].title == "axial 11 of 90"
    assert panels[-1].title == "axial 70 of 90"
    assert all(panel.values == (1,) for panel in panels)
    assert panels[0].letters == ("R", "L", "A", "P")


def test_every_so_many_slices_are_shown_from_the_first():
    labels = labelled((20, 24, 10), np.s_[5:9, 5:9, 4:6])
    panels = slices_of(None, labels, SheetOptions(every=4))
    assert [panel.title for panel in panels] == ["axial 1 of 10", "axial 5 of 10", "axial 9 of 10"]
    assert [panel.values for panel in panels] == [(), (1,), ()]


def test_without_labels_the_whole_volume_is_shown():
    labels = labelled((8, 8, 30))
    panels = slices_of(grey(labels), labels)
    assert (panels[0].title, panels[-1].title) == ("axial 1 of 30", "axial 30 of 30")


@pytest.mark.parametrize(
    ("axis", "letters", "count"), [("coronal", "RLSI", 24), ("sagittal", "APSI", 20)]
)
def test_a_plane_can_be_chosen(axis, letters, count):
    labels = labelled((20, 24, 30), np.s_[:, :, 10:20])
    panels = slices_of(grey(labels), labels, SheetOptions(axis=axis, every=1))
    assert len(panels) == count
    assert "".join(panels[0].letters) == letters


def test_a_volume_stored_in_another_order_gives_the_same_picture():
    labels = labelled((20, 24, 12), np.s_[2:6, 3:9, 5:8], np.s_[12:14, 3:9, 5:8])
    turned = Volume(
        np.flip(labels.array.transpose(0, 3, 1, 2), 2).copy(),
        np.array([[0, -1, 0, 19], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]),
    )
    first, second = (slices_of(None, one)[0] for one in (labels, turned))
    assert np.array_equal(first.labels, second.labels)
    assert first.title == second.title == "axial 6 of 12"
    # The patient's right, where label 2 lies, is on the left.
    assert np.argwhere(first.labels == 2)[:, 1].max() < np.argwhere(first.labels == 1)[:, 1].min()


def test_thick_slices_keep_their_proportions():
    labels = labelled((20, 24, 12), np.s_[:, :, :], affine=np.diag([1, 1, 1.4, 1]))
    panel = slices_of(None, labels, SheetOptions(axis="coronal"))[0]
    assert panel.size_mm == pytest.approx((12 * 1.4, 20))


def test_cropping_leaves_what_lies_around_the_labels_of_all_slices():
    labels = labelled((200, 200, 4), np.s_[100:110, 80:90, 1], np.s_[100:110, 110:120, 2])
    for panel in slices_of(grey(labels), labels, SheetOptions(crop=True)):
        assert panel.labels.shape == (40 + 2 * 12, 10 + 2 * 12)
        assert panel.picture.shape == panel.labels.shape


def test_one_window_serves_all_slices():
    labels = labelled((10, 10, 3), np.s_[:, :, :])
    array = np.zeros((1, 10, 10, 3), np.float32)
    array[..., 1], array[..., 2] = 50, 100
    image = Volume(array, RAS)
    assert [int(one.picture.max()) for one in slices_of(image, labels)] == [0, 127, 255]
    shown = slices_of(image, labels, SheetOptions(window=(0, 200)))
    assert [int(one.picture.max()) for one in shown] == [0, 63, 127]


def test_the_fullest_slice_stands_for_a_case():
    labels = labelled((10, 10, 9), np.s_[2:4, 2:4, 2], np.s_[2:8, 2:8, 6])
    (panel,) = slices_of(grey(labels), labels, case="case 7")
    assert panel.title == "case 7\naxial 7 of 9"
    assert panel.values == (2,)
    empty = labelled((10, 10, 9))
    assert slices_of(None, empty, case="")[0].title == "axial 5 of 9"


def test_a_photograph_is_shown_as_it_is_stored_and_in_colour():
    labels = labelled((30, 40, 1), np.s_[0:5, 30:40, 0])
    colours = np.zeros((3, 30, 40, 1), np.float32)
    colours[0, 0:5, 30:40] = 255
    (panel,) = slices_of(Volume(colours, RAS), labels, oriented=False)
    assert panel.letters is None
    assert panel.title == ""
    assert panel.picture.shape == (30, 40, 3)
    assert np.array_equal(np.argwhere(panel.labels), np.argwhere(panel.picture[..., 0] > 0))


def test_labels_are_drawn_over_what_they_label(tmp_path):
    labels = labelled((40, 40, 1), np.s_[20:40, 20:40, 0])  # to the right and in front: top left
    image = Volume(np.zeros((1, 40, 40, 1), np.float32), RAS)
    options = SheetOptions(opacity=1)
    path = draw_sheet(
        slices_of(image, labels, options), {1: "liver"}, tmp_path / "one.png", options
    )
    found = np.argwhere((np.abs(pixels(path) - BLUE) < 6).all(axis=-1))
    height, width = pixels(path).shape[:2]
    panel = found[found[:, 0] < 0.85 * height]  # the rest is the legend's
    assert panel[:, 0].max() < 0.55 * height
    assert panel[:, 1].max() < 0.55 * width
    assert len(panel) > 0.15 * height * width
    assert len(found) > len(panel)


def test_outlines_alone_leave_the_image_visible(tmp_path):
    labels = labelled((40, 40, 1), np.s_[10:30, 10:30, 0])
    image = Volume(np.zeros((1, 40, 40, 1), np.float32), RAS)
    counts = []
    for opacity in (0, 1):
        options = SheetOptions(opacity=opacity)
        path = draw_sheet(slices_of(image, labels, options), {}, tmp_path / "one.png", options)
        counts.append(int((np.abs(pixels(path) - BLUE) < 6).all(axis=-1).sum()))
    assert 0 < counts[0] < 0.2 * counts[1]


def test_a_hole_is_not_filled(tmp_path):
    array = np.zeros((1, 40, 40, 1), np.uint8)
    array[0, 5:35, 5:35] = 1
    array[0, 12:28, 12:28] = 0
    options = SheetOptions(opacity=1)
    path = draw_sheet(
        slices_of(None, Volume(array, RAS), options), {}, tmp_path / "one.png", options
    )
    picture = pixels(path)
    height, width = picture.shape[:2]
    assert tuple(picture[height // 2, width // 2]) == (0, 0, 0)


def test_the_legend_names_what_is_there_and_takes_names_as_they_are(tmp_path):
    labels = labelled((20, 20, 1), np.s_[2:5, 2:5, 0], np.s_[8:12, 8:12, 0])
    names = {1: "a $price$ & <tag>", 3: "not here"}
    path = draw_sheet(slices_of(None, labels), names, tmp_path / "one.svg")
    drawn = path.read_text()
    assert "a $price$" in drawn
    assert "label 2" in drawn
    assert "not here" not in drawn


def test_a_map_of_thousands_of_objects_has_a_legend_that_ends(tmp_path):
    array = np.arange(1, 401, dtype=np.uint16).reshape(1, 20, 20, 1)
    path = draw_sheet(slices_of(None, Volume(array, RAS)), {}, tmp_path / "one.svg")
    assert "and 370 more" in path.read_text()


def test_rows_and_columns(tmp_path):
    labels = labelled((20, 20, 12), np.s_[:, :, :])
    sizes = []
    for columns in (2, 6):
        options = SheetOptions(columns=columns)
        path = draw_sheet(
            slices_of(None, labels, options), {}, tmp_path / f"{columns}.png", options
        )
        sizes.append(pixels(path).shape[:2])
    (high, narrow), (low, wide) = sizes
    assert high > 2 * low
    assert wide > 2 * narrow


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_suffixes(tmp_path, suffix):
    labels = labelled((8, 8, 1), np.s_[2:5, 2:5, 0])
    path = draw_sheet(slices_of(None, labels), {}, tmp_path / f"one{suffix}")
    assert path.stat().st_size > 500
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"every": 0}, "every=0 must be at least 1"),
        ({"columns": -1}, "columns=-1"),
        ({"window": (5, 5)}, "window 5 to 5 is empty"),
        ({"opacity": 2}, "between 0 and 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        SheetOptions(**settings)


def test_an_image_on_another_grid_is_refused():
    labels = labelled((8, 8, 4))
    with pytest.raises(GeometryError, match="does not lie on the grid of its image"):
        slices_of(grey(labelled((8, 8, 5))), labels)


def test_nothing_to_draw_and_nowhere_to_draw_it_are_refused(tmp_path):
    labels = labelled((8, 8, 1))
    with pytest.raises(ConfigError, match="no slice to draw"):
        draw_sheet([], {}, tmp_path / "one.png")
    with pytest.raises(ConfigError, match=r"written as \.png"):
        draw_sheet(slices_of(None, labels), {}, tmp_path / "one.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Cannot write"):
        draw_sheet(slices_of(None, labels), {}, tmp_path / "file" / "one.png")


def test_a_panel_has_no_ticks_and_true_limits():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    labels = labelled((20, 30, 1), np.s_[2:5, 2:5, 0], affine=np.diag([2, 1, 1, 1]))
    draw_panel(axes, slices_of(None, labels)[0])
    assert axes.get_xlim() == (0, 40)
    assert axes.get_ylim() == (30, 0)
    assert len(axes.patches) == 1
