"""What is measured on the page, against numpy on the same voxels; and the view as a picture."""

import gzip
import io
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

import browsing
from browsing import Viewer
from prediction import hounsfield

COLOUR = "#63e6ff"


def oblique() -> nibabel.Nifti1Image:
    """A CT whose file runs along inferior, right and posterior, tilted, of three voxel sizes."""
    turn, tilt = np.radians(20), np.radians(15)
    about_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    axes = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ np.array(about_x) @ axes * (3, 0.8, 1.5)
    affine[:3, 3] = (-7, 12, 40)
    return nibabel.Nifti1Image(hounsfield((9, 24, 20)), affine)


def test_distances_and_regions(viewer: Viewer, client: Any) -> None:
    image = oblique()
    array, affine = np.asarray(image.dataobj), image.affine
    with viewer.page.expect_response(lambda answer: answer.request.method == "POST") as sent:
        page = viewer.open().show("ct.nii.gz", gzip.compress(image.to_bytes())).page
    id_ = sent.value.json()["id"]
    press = page.keyboard.press

    def voxel() -> np.ndarray:
        return np.array([int(each) for each in viewer.text("#at-voxel").split(",")])

    def measured(*steps: str) -> tuple[str, np.ndarray, np.ndarray]:
        """Measure from the crosshair to where the keys take it."""
        page.focus("#canvas")
        press("Enter")
        first = voxel()
        for step in steps:
            press(step)
        press("Enter")
        return viewer.text("#measured li:last-child .link"), first, voxel()

    def check_region(text: str, a: np.ndarray, b: np.ndarray) -> None:
        u, v = np.flatnonzero(a != b)
        (across,) = np.flatnonzero(a == b)
        at, centre, radius = np.indices(array.shape), (a + b) / 2, abs(a - b) / 2
        inside = sum(((at[n] - centre[n]) / radius[n]) ** 2 for n in (u, v)) <= 1
        values = array[inside & (at[across] == a[across])]
        pixel = np.linalg.norm(np.cross(affine[:3, u], affine[:3, v]))
        expected = np.pi * radius[u] * radius[v] * pixel, values.mean(), values.std()
        found = re.fullmatch(r"(\S+) mm² · mean (\S+) ± (\S+) HU", text)
        assert found, text
        assert [float(each) for each in found.groups()] == pytest.approx(expected, rel=6e-4)

    def check_triangle(a: np.ndarray, b: np.ndarray, c: np.ndarray, text: str) -> None:
        """No edge runs through a voxel's centre but at the corners, which may count or not."""
        (across,) = np.flatnonzero((a == b) & (b == c))
        u, v = (n for n in range(3) if n != across)
        at = np.stack(np.indices(array.shape), axis=-1)
        sides = [
            (q[u] - p[u]) * (at[..., v] - p[v]) - (q[v] - p[v]) * (at[..., u] - p[u])
            for p, q in ((a, b), (b, c), (c, a))
        ]
        inside = np.abs(np.sign(sides).sum(axis=0)) == 3
        values = array[inside & (at[..., across] == a[across])]
        corners = [array[tuple(each)] for each in (a, b, c)]
        pixel = np.linalg.norm(np.cross(affine[:3, u], affine[:3, v]))
        area = abs((b - a)[u] * (c - a)[v] - (b - a)[v] * (c - a)[u]) / 2 * pixel
        found = re.fullmatch(r"(\S+) mm² · mean (\S+) ± (\S+) HU", text)
        assert found, text
        told = [float(each) for each in found.groups()]
        possible = [
            np.append(values, some)
            for count in range(4)
            for some in itertools.combinations(corners, count)
        ]
        assert any(
            told == pytest.approx((area, each.mean(), each.std()), rel=6e-4) for each in possible
        )

    right, up = ["ArrowRight"] * 5, ["ArrowUp"] * 6
    press("2")
    for key, plane, convention in (("2", "axial", ""), ("4", "sagittal", "#toggle-radiological")):
        press(key)
        if convention:
            page.click(convention)
        press("r")
        assert voxel().tolist() == [4, 12, 10]  # the middle, also of an oblique grid
        press("m")
        text, a, b = measured(*right, *up)
        assert text == f"{np.linalg.norm(affine[:3, :3] @ (b - a)):.1f} mm"
        press("m")
        check_region(*measured("ArrowLeft", *["ArrowDown"] * 4, *["ArrowLeft"] * 6))
        press("m")
        corners = []
        for sides in ((*right, "ArrowUp"), (*["ArrowLeft"] * 3, *["ArrowUp"] * 4), ()):
            press("Enter")
            corners.append(voxel())
            for side in sides:
                press(side)
        press("Enter")
        check_triangle(*corners, viewer.text("#measured li:last-child .link"))
        press("m")
        assert viewer.text("#measured li:last-child .quiet").startswith(plane)
        assert page.is_checked("input[name=tool][value=look]")

    press("2")
    press("r")
    places = [viewer.point(0.42, 0.4), viewer.point(0.56, 0.6)]
    in_mm = []
    for place in places:
        page.mouse.click(*place)
        viewer.settle()
        in_mm.append([float(each) for each in viewer.text("#at-mm").split(",")])
    press("m")
    before = viewer.covered(COLOUR)
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=3)
    page.mouse.up()
    assert page.locator("#measured li").count() == 7
    millimetres = float(viewer.text("#measured [aria-current]").removesuffix(" mm"))
    assert millimetres == pytest.approx(np.linalg.norm(np.subtract(*in_mm)), abs=2)
    assert viewer.covered(COLOUR) > before + 100
    # The scale's bar has a round length.
    pixels = viewer.pixels()
    row = len(pixels) - 12
    white = np.flatnonzero((pixels[row - 2 : row + 2].min(axis=2) > 200).any(axis=0))
    per_pixel = millimetres / np.hypot(*np.subtract(*places))
    length = (white.max() - white.min()) * per_pixel
    assert min(abs(length / each - 1) for each in (1, 2, 5, 10, 20, 50)) < 0.05

    press("PageUp")
    assert viewer.covered(COLOUR) == 0
    press("PageDown")
    with page.expect_download() as saved:
        press("p")
    assert saved.value.suggested_filename == "view.png"
    pillow = pytest.importorskip("PIL.Image")
    picture = np.asarray(
        pillow.open(io.BytesIO(Path(saved.value.path()).read_bytes())).convert("RGB")
    )
    assert picture.shape == pixels.shape
    drawn = (np.abs(picture.astype(int) - [0x63, 0xE6, 0xFF]).max(axis=2) <= 6).sum()
    assert drawn == pytest.approx(viewer.covered(COLOUR), rel=0.05)  # the screen resamples it
    assert drawn > 100
    with page.expect_download() as saved:
        press("P")
    assert saved.value.suggested_filename == "ct.png"
    press("Delete")
    told = page.locator("#measured li").all_inner_texts()
    assert len(told) == 6

    # Around a region by hand: as large as what the mouse went around.
    page.select_option("#plane", "2")
    press("m")
    press("m")
    assert page.is_checked("input[name=tool][value=freehand]")
    (left, top), (right_, bottom) = places
    page.mouse.move(left, top)
    page.mouse.down()
    for corner in ((right_, top), (right_, bottom), (left, bottom)):
        page.mouse.move(*corner, steps=4)
    page.mouse.up()
    area = float(viewer.text("#measured [aria-current]").split(" mm²")[0])
    assert area == pytest.approx((right_ - left) * (bottom - top) * per_pixel**2, rel=0.05)
    told = page.locator("#measured li").all_inner_texts()

    # They are there when the page is loaded anew, and go with the image.
    page.reload()
    page.click("#recent li:first-child .link >> nth=0")
    page.wait_for_selector("#measured li")
    assert page.locator("#measured li").all_inner_texts() == told
    client.delete(f"/images/{id_}")
    page.reload()
    page.wait_for_function(
        "(id) => !(localStorage.getItem('transunet-measures') ?? id).includes(id)", arg=id_
    )


def test_two_tabs_measure_one_image(viewer: Viewer) -> None:
    first = viewer.open().show("two.nii.gz", gzip.compress(oblique().to_bytes())).page
    second = viewer.context.new_page()
    second.goto(viewer.address)
    second.click("#recent li:first-child .link")

    def measure(page: Any, steps: int) -> None:
        page.wait_for_selector("#busy", state="hidden")
        page.bring_to_front()
        page.keyboard.press("Escape")
        page.keyboard.press("m")
        page.focus("#canvas")
        page.keyboard.press("Enter")
        for _ in range(steps):
            page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")

    measure(first, 2)
    one = first.inner_text("#measured li .link")
    second.wait_for_selector(f"#measured li:has-text('{one}')")
    measure(second, 3)
    both = [one, second.inner_text("#measured li:last-child .link")]
    first.wait_for_selector("#measured li:nth-child(2)")
    assert first.locator("#measured .link").all_inner_texts() == both
    first.reload()
    first.click("#recent li:first-child .link")
    first.wait_for_selector("#measured li:nth-child(2)")
    assert first.locator("#measured .link").all_inner_texts() == both


class Outline:
    """An outline that is drawn by hand on a sagittal slice, and what is to be told of it."""

    corners = ((0.40, 0.38), (0.61, 0.39), (0.62, 0.64), (0.41, 0.66))
    """Where the pointer goes, in shares of the canvas."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer, self.page, self.image = viewer, viewer.page, oblique()
        with self.page.expect_response(lambda answer: answer.request.method == "POST") as sent:
            viewer.open().show("ct.nii.gz", gzip.compress(self.image.to_bytes()))
        self.id = sent.value.json()["id"]
        self.page.keyboard.press("4")
        self.page.keyboard.press("r")
        for _ in range(3):
            self.page.keyboard.press("m")

    def draw(self) -> None:
        self.page.mouse.move(*self.viewer.point(*self.corners[0]))
        self.page.mouse.down()
        for corner in (*self.corners[1:], self.corners[0]):
            self.page.mouse.move(*self.viewer.point(*corner), steps=6)
        self.page.mouse.up()
        drawn = np.array(self.points())
        # From where the pointer was to where that is in the image, along each of its axes.
        self.scale = (drawn[2] - drawn[0]) / np.subtract(
            self.viewer.point(*self.corners[2]), self.viewer.point(*self.corners[0])
        )

    def drag(self, start: tuple[float, float], *to: tuple[float, float]) -> None:
        self.page.mouse.move(*self.viewer.point(*start))
        self.page.mouse.down()
        for each in to:
            self.page.mouse.move(*self.viewer.point(*each), steps=4)
        self.page.mouse.up()

    def moved(self, start: tuple[float, float], to: tuple[float, float]) -> NDArray[Any]:
        """By how much, along anterior and superior, a place of the image moves."""
        return np.subtract(self.viewer.point(*to), self.viewer.point(*start)) * self.scale

    def points(self, which: int = -1) -> list[list[float]]:
        """Along anterior and superior; the third coordinate is the slice's."""
        kept = json.loads(self.page.evaluate("() => localStorage.getItem('transunet-measures')"))
        return [point[1:] for point in kept[self.id][which]["points"]]

    def told(self) -> str:
        return self.viewer.text("#measured [aria-current]")

    def check(self, corners: Any) -> None:
        """Whether what is told is that of an outline of these corners."""
        corners = np.array(corners)
        # The file's axes run inferior, right, posterior; the page's right, anterior, superior.
        array, affine = np.asarray(self.image.dataobj), self.image.affine
        pixel = np.linalg.norm(np.cross(affine[:3, 2], affine[:3, 0]))
        plane = array[::-1, array.shape[1] // 2, ::-1].T  # (anterior, superior)
        values = plane[within(np.stack(np.indices(plane.shape), axis=-1), corners)]
        low, high = corners.min(axis=0), corners.max(axis=0)
        side = 1200
        fine = np.stack(
            np.meshgrid(*(np.linspace(*ends, side) for ends in zip(low, high, strict=True))),
            axis=-1,
        )
        area = within(fine, corners).mean() * np.prod(high - low) * pixel
        found = re.fullmatch(r"(\S+) mm² · mean (\S+) ± (\S+) HU", self.told())
        assert found, self.told()
        told = [float(each) for each in found.groups()]
        assert told[1:] == pytest.approx((values.mean(), values.std()), rel=6e-4)
        assert told[0] == pytest.approx(area, rel=3e-3)


def middle(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


def within(places: NDArray[Any], corners: NDArray[Any]) -> NDArray[np.bool_]:
    """Which places (..., 2) an outline goes around an odd number of times, by its angle."""
    turned = np.zeros(places.shape[:-1])
    for a, b in itertools.pairwise([*corners, corners[0]]):
        u, v = a - places, b - places
        turned += np.arctan2(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0], (u * v).sum(axis=-1))
    return np.asarray(np.rint(turned / (2 * np.pi)) % 2 == 1)


def test_an_outline_is_changed(viewer: Viewer) -> None:
    outline = Outline(viewer)
    page, corners = viewer.page, Outline.corners
    press = page.keyboard.press
    outline.draw()
    drawn = np.array(outline.points())
    assert len(drawn) == 4  # not each place that the pointer went through
    outline.check(drawn)
    texts = [outline.told()]

    # A corner.
    outline.drag(corners[1], (0.7, 0.3))
    changed = drawn.copy()
    changed[1] += outline.moved(corners[1], (0.7, 0.3))
    assert np.array(outline.points()) == pytest.approx(changed, abs=0.02)
    outline.check(changed)
    texts.append(outline.told())

    # An edge, which gets a corner there.
    edge = middle((0.7, 0.3), corners[2])
    outline.drag(edge, (0.55, 0.5))
    changed = np.insert(
        changed, 2, (changed[1] + changed[2]) / 2 + outline.moved(edge, (0.55, 0.5)), axis=0
    )
    assert np.array(outline.points()) == pytest.approx(changed, abs=0.05)
    outline.check(outline.points())
    texts.append(outline.told())

    # All of it, from within.
    inside = (0.48, 0.5)
    outline.drag(inside, (0.53, 0.47))
    changed = np.array(outline.points(), copy=True)
    texts.append(outline.told())
    outline.check(changed)
    press("z")
    assert outline.told() == texts[-2]
    shift = changed - np.array(outline.points())
    assert shift == pytest.approx(
        np.broadcast_to(outline.moved(inside, (0.53, 0.47)), shift.shape), abs=1e-4
    )
    press("y")
    assert outline.told() == texts[-1]

    # A corner is taken out by a double click; three stay.
    page.mouse.dblclick(*outline.viewer.point(*np.add((0.55, 0.5), (0.05, -0.03))))
    changed = np.delete(changed, 2, axis=0)
    assert np.array(outline.points()) == pytest.approx(changed, abs=1e-9)
    outline.check(changed)
    texts.append(outline.told())
    assert page.is_checked("input[name=view][value=sagittal]")  # it is no click on the plane

    # One that crosses itself has the area of what it goes around once.
    shifted = [tuple(np.add(corner, (0.05, -0.03))) for corner in corners]
    outline.drag(shifted[3], (0.72, 0.45))
    outline.check(outline.points())
    texts.append(outline.told())

    for text in texts[-2::-1]:
        press("Control+z")
        assert outline.told() == text
    page.click("#measure-redo")
    assert outline.told() == texts[1]
    page.click("#measure-undo")
    press("Delete")
    assert page.locator("#measured li").count() == 0
    page.click("#measure-undo")
    assert page.locator("#measured li .link").all_inner_texts() == texts[:1]
    press("Control+z")  # that it was drawn
    assert page.locator("#measured li").count() == 0
    assert page.is_disabled("#measure-undo")
    press("Control+Shift+Z")

    # Another one may be drawn within one that is not selected, and a click selects.
    page.mouse.click(*outline.viewer.point(0.8, 0.8))
    assert page.locator("#measured [aria-current]").count() == 0
    outline.drag((0.47, 0.47), (0.55, 0.47), (0.55, 0.55), (0.47, 0.55))
    assert page.locator("#measured li").count() == 2
    outline.check(outline.points())
    page.mouse.click(*outline.viewer.point(0.44, 0.6))
    assert outline.told() == texts[0]
    assert np.array(outline.points(0)) == pytest.approx(drawn)


def test_an_outline_is_changed_by_touch(browser: Any, server: Any) -> None:
    phone = {"width": 390, "height": 800}
    viewer = browsing.Viewer(browser, server.address, viewport=phone, has_touch=True)
    outline = Outline(viewer)
    outline.draw()
    before = np.array(outline.points())
    text = outline.told()
    touch = viewer.context.new_cdp_session(viewer.page)

    def fingers(kind: str, *places: tuple[float, float], **more: float) -> None:
        at = [
            {"x": x, "y": y, "id": n}
            for n, (x, y) in enumerate(outline.viewer.point(*place) for place in places)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at, **more})

    start, to = Outline.corners[1], (0.75, 0.3)
    beside = tuple(np.add(start, (0.025, 0)))  # a finger is not that exact
    fingers("touchStart", beside)
    for share in (0.5, 1):
        fingers("touchMove", tuple(np.add(beside, np.subtract(to, beside) * share)))
    fingers("touchEnd")
    after = before.copy()
    after[1] += outline.moved(start, to)
    assert np.array(outline.points()) == pytest.approx(after, abs=0.05)
    outline.check(outline.points())

    # A double tap takes a corner out, as fast however busy the machine is.
    now = time.time()
    for tap in (0, 0.2):
        fingers("touchStart", to, timestamp=now + tap)
        fingers("touchEnd", timestamp=now + tap + 0.05)
    assert np.array(outline.points()) == pytest.approx(np.delete(after, 1, axis=0), abs=0.05)
    viewer.page.tap("#measure-undo")
    assert np.array(outline.points()) == pytest.approx(after, abs=0.05)

    # Two fingers zoom: what the first one began is taken back.
    changed = outline.told()
    inside = (0.5, 0.5)
    fingers("touchStart", inside)
    fingers("touchMove", (0.6, 0.6))
    assert outline.told() == changed
    fingers("touchStart", (0.6, 0.6), (0.3, 0.3))
    drawn = viewer.covered(COLOUR)
    for out in (0, 0.05, 0.1):
        fingers("touchMove", (0.6 + out, 0.6 + out), (0.3 - out, 0.3 - out))
    fingers("touchEnd")
    assert viewer.covered(COLOUR) > 1.1 * drawn  # its figures are as large as before
    assert np.array(outline.points()) == pytest.approx(after, abs=0.05)
    viewer.page.tap("#measure-undo")
    assert outline.told() == text
    # What the browser says of NiiVue on a machine that is busy.
    viewer.broken = [each for each in viewer.broken if "Ignored attempt to cancel" not in each]
    viewer.close()
