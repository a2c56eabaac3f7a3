"""What is drawn on the planes: contours, two label maps against each other, the same in figures."""

import gzip
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from browsing import Viewer

nib: Any = nibabel
SHAPE = (24, 20, 12)
SPACING_MM = (1.0, 2.0, 1.5)
VOXEL_ML = float(np.prod(SPACING_MM)) / 1000
FIRST = "#4fc3f7"
REFERENCE, MISSED, EXTRA, OTHERWISE = "#ffffff", "#2f6bff", "#ff9500", "#e01fd0"
GREY = 128
AGREED = "#adadad"  # a veil over the even grey


def nifti(array: NDArray[Any]) -> bytes:
    """An image whose first axis points to the left, which is on the right of the screen."""
    affine = np.diag([-SPACING_MM[0], *SPACING_MM[1:], 1.0])
    return gzip.compress(nib.Nifti1Image(array, affine).to_bytes())


def box(x: slice, y: slice, z: slice, label: int = 1) -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[x, y, z] = label
    return labels


def covered(viewer: Viewer, color: str) -> NDArray[np.bool_]:
    """Which pixels have a colour, #rrggbb."""
    wanted = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return np.asarray(np.abs(viewer.pixels() - wanted).max(axis=2) <= 6)


def opened(viewer: Viewer) -> Viewer:
    """An image that is open and evenly grey, seen in one plane, with labels that hide it."""
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    viewer.open().show("grey.nii.gz", nifti(image)).opaque()
    viewer.page.fill("#width", "100000")
    viewer.page.press("#width", "Enter")
    viewer.page.focus("#canvas")
    return viewer


def give(viewer: Viewer, name: str, labels: NDArray[Any]) -> Any:
    """Drop a label map and return what the server says of it."""
    with viewer.page.expect_response(lambda answer: answer.request.method == "POST") as sent:
        viewer.drop(name, nifti(labels), "#reference-drop")
    viewer.page.wait_for_selector(f"#maps .link:has-text('{name}')")
    return sent.value.json()


def go(viewer: Viewer, key: str, slice_: int) -> None:
    """Show a slice, from 0, of the plane of a key."""
    viewer.page.keyboard.press(key)
    move = "(it, slice) => { it.value = slice; it.dispatchEvent(new Event('input')); }"
    viewer.page.eval_on_selector("#slice", move, slice_ + 1)


def middle(mask: NDArray[np.bool_]) -> float:
    """The column that lies in its middle."""
    return float(np.nonzero(mask)[1].mean())


def test_an_own_label_map_is_outlined_in_the_plane_that_is_shown(viewer: Viewer) -> None:
    opened(viewer)
    labels = box(slice(6, 18), slice(5, 15), slice(3, 9))
    give(viewer, "own.nii.gz", labels)
    viewer.page.wait_for_selector("#structures tbody tr")
    assert viewer.text("#structures .link") == "label 1"
    millilitres = float(viewer.text("#structures td.number"))
    assert millilitres == pytest.approx(labels.sum() * VOXEL_ML, abs=0.006)
    # The last slice of the box: its surface lies in the plane, and is no contour of it.
    for key, last in (("2", 8), ("3", 14), ("4", 17)):
        go(viewer, key, last)
        rows, columns = np.nonzero(covered(viewer, FIRST))
        viewer.page.keyboard.press("u")
        for zoom in ("", "+"):
            if zoom:
                viewer.page.keyboard.press(zoom)
            line = covered(viewer, FIRST)
            found = [(each.min(), each.max()) for each in np.nonzero(line)]
            if not zoom:
                assert np.allclose(
                    found, [(each.min(), each.max()) for each in (rows, columns)], atol=1.5
                )
            (top, bottom), (left, right) = found
            off = 12 + (zoom == "+") * 4  # half a voxel, by which its corners are cut
            assert not line[top + off : bottom - off, left + off : right - off].any()
            across = line[(top + bottom) // 2]
            # Two pixels, or one and two that are half covered, on either side.
            assert 2 <= across.sum() <= 4
            assert 1 <= across[: (left + right) // 2].sum() <= 2
        viewer.page.keyboard.press("-")
        viewer.page.keyboard.press("u")
    go(viewer, "2", 9)
    assert not covered(viewer, FIRST).any()


def test_two_label_maps_are_compared(viewer: Viewer, client: Any) -> None:
    opened(viewer)
    first = box(slice(6, 14), slice(5, 15), slice(3, 9))
    second = box(slice(8, 16), slice(5, 15), slice(3, 9))
    second[10:12, 9:11] *= 2
    shown = give(viewer, "mine.nii.gz", first)
    alone = covered(viewer, FIRST)
    other = give(viewer, "other.nii.gz", second)
    viewer.page.wait_for_selector("#comparison", state="visible")
    assert viewer.text("#maps [aria-current]") == "mine.nii.gz"
    other_item = viewer.page.locator("#maps li:has-text('other.nii.gz')")
    assert other_item.locator(".compare").get_attribute("aria-pressed") == "true"

    query = {"of": shown["id"], "with": other["id"]}
    told = client.get(f"/images/{shown['image']}/comparison", params=query).json()
    (score,) = told["structures"]
    assert viewer.page.locator("#comparison tbody tr").all_inner_texts() == [
        f"label 1\t{first.sum() * VOXEL_ML:.2f}\t{(second == 1).sum() * VOXEL_ML:.2f}"
        f"\t{score['dice']:.3f}\t{score['hd95_mm']:.2f}"
    ]
    assert "label 2" in viewer.text("#reference-text")

    # The other one's outline, in white and dashed, reaches beyond what is shown.
    outline = covered(viewer, REFERENCE)
    assert np.nonzero(outline)[1].max() > np.nonzero(alone)[1].max() + 5
    assert np.nonzero(outline)[1].min() > np.nonzero(alone)[1].min() + 5

    viewer.page.click("#comparing label:has-text('Difference')")
    colours = {"agreed": AGREED, "missed": MISSED, "extra": EXTRA, "otherwise": OTHERWISE}
    parts = {name: covered(viewer, color) for name, color in colours.items()}
    voxels = {"agreed": 6 * 10 - 4, "missed": 2 * 10, "extra": 2 * 10, "otherwise": 4}
    size = sum(part.sum() for part in parts.values()) / sum(voxels.values())
    assert size > 50
    for name, count in voxels.items():
        assert parts[name].sum() / size == pytest.approx(
            count, rel=0.08
        )  # voxels are not whole pixels
    assert middle(parts["extra"]) < middle(parts["otherwise"]) < middle(parts["missed"])
    viewer.page.click("#toggle-radiological")
    assert middle(covered(viewer, MISSED)) < middle(covered(viewer, EXTRA))
    viewer.page.click("#toggle-radiological")

    viewer.page.keyboard.press("b")
    assert middle(covered(viewer, FIRST)) > middle(alone) + 10
    viewer.page.keyboard.press("b")
    assert middle(covered(viewer, FIRST)) == pytest.approx(middle(alone), abs=0.1)
    # Half-way both are seen, fainter where only one is.
    give_half = "(it) => { it.value = 50; it.dispatchEvent(new Event('input')); }"
    viewer.page.eval_on_selector("#blend", give_half)
    only = viewer.pixels()[np.nonzero(alone)[0], np.nonzero(alone)[1].min() + 4].max(axis=0)
    whole = np.array([int(FIRST[at : at + 2], 16) for at in (1, 3, 5)])
    assert only[2] == pytest.approx((whole[2] + GREY) / 2, abs=4)

    # A stroke has its structure's colour: the difference makes way for it, and comes back with it.
    viewer.page.click("#comparing label:has-text('Difference')")
    missed, extra = (covered(viewer, color).sum() for color in (MISSED, EXTRA))
    viewer.page.keyboard.press("t")
    assert viewer.page.is_checked("#comparing input[value=outline]")
    found = covered(viewer, FIRST)
    place = viewer.page.locator("#canvas").bounding_box()
    below = place["x"] + middle(alone), place["y"] + float(np.nonzero(alone)[0].max()) + 30
    viewer.page.mouse.click(*below)
    viewer.settle()
    assert covered(viewer, FIRST).sum() > found.sum() + 100
    assert viewer.page.is_visible("#comparison caption")
    viewer.page.keyboard.press("Escape")
    assert viewer.page.is_checked("#comparing input[value=difference]")
    assert covered(viewer, EXTRA).sum() > extra + 100
    assert covered(viewer, MISSED).sum() == pytest.approx(missed, rel=0.02)
    viewer.page.keyboard.press("z")

    viewer.page.click("#comparing label:has-text('Side by side')")
    both = covered(viewer, FIRST)
    half = both.shape[1] // 2
    assert middle(both[:, half:]) > middle(both[:, :half]) + 5
    other_item.locator(".compare").click()
    viewer.page.wait_for_selector("#comparison", state="hidden")
    assert np.array_equal(covered(viewer, FIRST), alone)
