"""Drawing on the page with a real mouse, and what becomes of it on the server."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browsing import WEB, Viewer
from serving import image_bytes, labels_of, nifti_bytes, nifti_of

Point = tuple[float, float]


class Plane:
    """The one plane that is shown: where each voxel of its slice is on the screen."""

    def __init__(self, viewer: Viewer) -> None:
        self.page = viewer.page
        self.middle: Point = viewer.point()
        self.first = self.voxel(self.middle)
        x, y = self.middle
        # A few voxels away, so that what one is wide is told exactly enough.
        self.right, self.up = (x + 60, y), (x, y - 60)

    def voxel(self, at: Point) -> tuple[int, ...]:
        self.page.mouse.click(*at)
        return tuple(int(n) for n in self.page.text_content("#at-voxel").split(", "))

    def drag(self, *points: Point) -> None:
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=6)
        self.page.mouse.up()

    def around(self, x: float, y: float) -> Point:
        return self.middle[0] + x, self.middle[1] + y


def kept(client: Any, label_map: dict[str, Any]) -> np.ndarray:
    content = client.get(f"/labels/{label_map['id']}/result").content
    return np.asarray(nifti_of(content).dataobj)


def is_drawn(viewer: Viewer, colour: str, x: float, y: float) -> bool:
    """Whether the screen has a colour at a point, told from the plane's middle."""
    pixels = viewer.pixels()
    at = pixels[int(pixels.shape[0] / 2 + y), int(pixels.shape[1] / 2 + x)]
    wanted = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]
    return bool(np.abs(at - wanted).max() <= 6)


def save(viewer: Viewer, author: str = "") -> None:
    viewer.page.click("#save-correction")
    if author:
        viewer.page.fill("#author", author)
        viewer.page.keyboard.press("Enter")
    viewer.page.wait_for_function(
        "() => document.getElementById('status').textContent.startsWith('Saved as')"
        " && document.getElementById('unsaved').textContent !== 'Not saved yet.'"
    )


def brush(viewer: Viewer, size: int) -> None:
    viewer.page.eval_on_selector(
        "#brush-size",
        "(it, n) => { it.value = n; it.dispatchEvent(new Event('input')); }",
        size,
    )


def test_draw_erase_fill_undo_interpolate_save_and_come_back(viewer: Viewer, client: Any) -> None:
    page = viewer.page
    left = next(each for each in client.get("/bundles").json() if each["id"] == "brain")
    colour = left["labels"][0]["color"]
    with page.expect_response(lambda answer: answer.request.method == "POST") as sent:
        viewer.open().show("case.nii.gz", image_bytes(20))
    image = sent.value.json()["id"]
    viewer.opaque()
    plane = Plane(viewer)
    page.keyboard.press("t")
    assert page.locator("#draw-structure option").all_inner_texts() == [
        "left",
        "right",
        "Add a structure…",
    ]
    assert not is_drawn(viewer, colour, 0, 0)

    # A square around the middle, of the thinnest line; then what is in it.
    brush(viewer, 1)
    square = [plane.around(x, y) for x, y in ((-70, -70), (70, -70), (70, 70), (-70, 70))]
    plane.drag(*square, square[0])
    assert is_drawn(viewer, colour, -70, 0)
    assert not is_drawn(viewer, colour, 0, 0)
    page.keyboard.press("f")  # the brush's ring is on the image no more
    outline = viewer.covered(colour)
    page.mouse.click(*plane.around(130, 0))
    assert "not closed" in viewer.text(".message.note")
    page.click(".message.note .close")
    viewer.settle()
    page.mouse.click(*plane.middle)
    assert is_drawn(viewer, colour, 0, 0)
    page.keyboard.press("Control+z")
    assert viewer.covered(colour) == outline
    page.keyboard.press("Control+y")
    filled = viewer.covered(colour)
    assert filled > 1.5 * outline

    # Erase its middle, give that back, and erase it again.
    page.keyboard.press("e")
    brush(viewer, 4)
    page.mouse.click(*plane.middle)
    page.click("#undo")
    assert viewer.covered(colour) == filled
    page.click("#redo")
    assert not is_drawn(viewer, colour, 0, 0)
    hole = viewer.covered(colour)

    # A disc two slices further, and the slice between from the keyboard.
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    viewer.settle()
    assert viewer.covered(colour) == 0
    page.keyboard.press("t")
    brush(viewer, 6)
    page.mouse.click(*plane.middle)
    assert is_drawn(viewer, colour, 0, 0)
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    page.keyboard.press("PageDown")
    viewer.settle()
    between = viewer.covered(colour)
    assert between > 0
    # The other structure with the keyboard, where the first one is and is to stay.
    page.keyboard.press("t")
    page.keyboard.press("q")
    page.select_option("#draw-over", "0")
    brush(viewer, 1)
    page.locator("#canvas").focus()
    page.keyboard.press(" ")
    assert viewer.text("#status") == "0 voxels drawn."
    page.select_option("#draw-over", "")

    save(viewer, "Ada Example")
    (first,) = client.get(f"/images/{image}/labels").json()
    assert (first["author"], first["parent"], first["name"]) == (
        "Ada Example",
        None,
        "correction 1",
    )
    drawn = kept(client, first)
    slices = np.flatnonzero(drawn.any(axis=(0, 2)))  # the file's second axis runs upwards
    assert drawn.max() == 1
    assert first["changed_voxels"] == (drawn == 1).sum()
    assert float(viewer.text("#structures .amount")) == pytest.approx(
        first["structures"][0]["volume_ml"], abs=0.006
    )
    k = plane.first[1]
    assert list(slices) == [k, k + 1, k + 2]
    assert drawn[plane.first] == 0  # erased
    # As many pixels on the screen as voxels are in the file, but for blurred edges.
    counts = drawn[:, slices].sum(axis=(0, 2), dtype=int)
    assert between / counts[1] == pytest.approx(hole / counts[0], rel=0.12), counts

    # Another image does not take what is not saved with it, unless somebody says so.
    page.mouse.click(*plane.around(30, 30))
    viewer.drop("other.nii.gz", image_bytes(21))
    page.click("#unsaved-dialog .leave")
    assert viewer.text("#case-name") == "case.nii.gz"
    assert viewer.text("#unsaved") == "Not saved yet."
    save(viewer)
    viewer.segment()
    page.wait_for_selector("#maps [aria-current]:has-text('brain')")
    page.reload()
    page.click("#recent .link:has-text('case.nii.gz')")
    page.wait_for_selector("#structures tbody tr")
    page.wait_for_selector("#maps .link:has-text('correction 2')")
    assert page.locator("#maps .link").all_inner_texts() == [
        "correction 1",
        "correction 2",
        "brain",
    ]
    page.click("#maps .link:has-text('correction 1')")
    page.wait_for_selector("#maps .link[aria-current]:has-text('correction 1')")
    with page.expect_download() as download:
        page.click("#downloads button:has-text('NIfTI')")
    content = Path(download.value.path()).read_bytes()
    assert np.array_equal(np.asarray(nifti_of(content).dataobj), drawn)


def test_two_people_correct_one(viewer: Viewer, client: Any, bundles: Any) -> None:
    content = image_bytes(22)
    viewer.open().show("case.nii.gz", content).opaque().segment()
    job = client.get("/jobs").json()[-1]
    found = labels_of(bundles / "brain", content).astype(np.uint8)
    plane = Plane(viewer)
    before = kept_voxels(viewer)
    viewer.page.keyboard.press("e")
    brush(viewer, 40)
    viewer.page.mouse.click(*plane.middle)
    viewer.settle()
    assert kept_voxels(viewer) != before  # volumes follow
    client.post(
        f"/images/{job['image']}/corrections",
        files={"file": ("l.nii.gz", nifti_bytes(found))},
        data={"parent": job["id"], "author": "Bo"},
    )
    viewer.page.click("#save-correction")
    viewer.page.fill("#author", "Ada")
    viewer.page.keyboard.press("Enter")
    assert "Bo corrected this already" in viewer.message()
    assert viewer.text("#unsaved") == "Not saved yet."
    viewer.page.click(".message.error button:has-text('beside')")
    viewer.page.wait_for_selector("#maps .link:has-text('correction 2')")
    theirs, mine = client.get(f"/images/{job['image']}/labels").json()
    assert (theirs["author"], mine["author"], mine["parent"]) == ("Bo", "Ada", job["id"])
    drawn = kept(client, mine)
    assert ((drawn != found) <= (drawn == 0)).all()
    assert (drawn != found).sum() == mine["changed_voxels"] > 0


def test_what_is_drawn_is_seen_and_what_is_hidden_stays_so(viewer: Viewer, client: Any) -> None:
    page = viewer.page
    viewer.open().show("case.nii.gz", image_bytes(25)).segment().opaque()
    plane = Plane(viewer)
    (brain,) = (each for each in client.get("/bundles").json() if each["id"] == "brain")
    left, right = (label["color"] for label in brain["labels"])
    for structure in ("left", "right"):
        page.click(f"#structures .eye:has-text('Show {structure}')")
    page.keyboard.press("l")
    assert viewer.covered(left) == viewer.covered(right) == 0
    page.keyboard.press("t")
    page.select_option("#draw-structure", label="left")
    page.mouse.click(*plane.middle)
    assert is_drawn(viewer, left, 0, 0)
    save(viewer, "Ada")
    eyes = page.locator("#structures .eye")
    assert [eye.get_attribute("aria-pressed") for eye in eyes.all()] == ["true", "false"]
    assert viewer.covered(right) == 0


def test_what_was_drawn_on_an_image_that_is_gone_is_downloaded(viewer: Viewer, client: Any) -> None:
    page = viewer.page
    with page.expect_response(lambda answer: answer.request.method == "POST") as sent:
        viewer.open().show("case.nii.gz", image_bytes(27)).opaque()
    image = sent.value.json()
    plane = Plane(viewer)
    place = plane.around(7, 7)  # the middle is a border between two voxels
    voxel = plane.voxel(place)
    page.keyboard.press("t")
    page.select_option("#draw-structure", label="right")
    brush(viewer, 1)
    page.mouse.click(*place)
    client.delete(f"/images/{image['id']}")
    page.click("#save-correction")
    page.fill("#author", "Ada")
    page.keyboard.press("Enter")
    assert "There is no such image" in viewer.message()
    assert viewer.text("#unsaved") == "Not saved yet."
    with page.expect_download() as download:
        page.click(".message.error button:has-text('Download what was drawn')")
    assert download.value.suggested_filename == "case_labels.nii.gz"
    drawn = np.asarray(nifti_of(Path(download.value.path()).read_bytes()).dataobj)
    assert list(drawn.shape) == image["shape"]
    assert np.argwhere(drawn).tolist() == [list(voxel)]
    assert drawn[voxel] == 2


def test_the_keyboard_stays_where_it_is_in_a_list(viewer: Viewer) -> None:
    page = viewer.page
    viewer.open().show("case.nii.gz", image_bytes(26)).segment()
    page.click("#segment")
    page.wait_for_selector("#maps > li:nth-child(2) [aria-current]")

    def focused() -> str:
        return str(page.evaluate("() => document.activeElement.closest('#maps li')?.innerText"))

    first = page.locator("#maps > li:first-child .link")
    first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#maps > li:first-child [aria-current]")
    assert "shown" in focused()
    page.keyboard.press("Tab")  # to what deletes it
    page.keyboard.press("Enter")
    page.click(".message.note button:has-text('Delete it')")
    page.wait_for_selector("#maps > li:nth-child(2)", state="detached")


def test_a_stroke_outlasts_a_result_that_comes_meanwhile(viewer: Viewer) -> None:
    page = viewer.page
    viewer.open().show("case.nii.gz", image_bytes(24)).segment().opaque()
    plane = Plane(viewer)
    found = kept_voxels(viewer)
    held: list[Any] = []
    page.route("**/labels.nii.gz", lambda route: held.append(route))
    with page.expect_request("**/labels.nii.gz"):
        page.click("#segment")
    page.keyboard.press("e")
    brush(viewer, 30)
    page.mouse.move(*plane.middle)
    page.mouse.down()
    page.mouse.move(*plane.around(30, 0), steps=3)
    with page.expect_response("**/labels.nii.gz"):
        held[0].continue_()
    viewer.settle()
    assert page.is_hidden("#unsaved-dialog")  # not below a hand that draws
    page.keyboard.press("z")  # neither is a step undone there
    page.mouse.move(*plane.around(60, 0), steps=3)
    page.mouse.up()
    page.click("#unsaved-dialog .leave")
    viewer.settle()
    assert kept_voxels(viewer) != found
    page.click("#undo")
    viewer.settle()
    assert kept_voxels(viewer) == found


def kept_voxels(viewer: Viewer) -> list[str]:
    return viewer.page.locator("#structures .amount").all_inner_texts()


SHAPES = """
import { buildSync } from "esbuild";
const entryPoints = ["src/shapes.ts"];
const { outputFiles } = buildSync({ entryPoints, format: "esm", write: false });
const code = Buffer.from(outputFiles[0].contents).toString("base64");
const { alongStroke, between, closedRegion } = await import("data:text/javascript;base64," + code);
const area = (mask) => mask.reduce((sum, each) => sum + each, 0);
const disc = (x, y, radius) => ({ width: 40, height: 30, inside: Uint8Array.from({ length: 1200 },
  (_, n) => (Math.hypot((n % 40) - x, Math.floor(n / 40) - y) <= radius ? 1 : 0)) });
const moved = between(disc(10, 15, 5), disc(20, 15, 5), [1, 1], 4);
const grown = between(disc(10, 15, 4), disc(26, 15, 8), [1, 1], 3).map(area);
// The first axis runs backwards in the file; slices are twice as thick as pixels are wide.
const grid = { extents: [10, 8, 4], start: 9, stride: [-1, 10, 80], sizes: [1, 1, 2] };
const stroke = (from, to, radius, ball) => {
  const hit = new Set();
  alongStroke(grid, from, to, radius, 2, ball, (index) => hit.add(index));
  return [...hit].sort((a, b) => a - b);
};
const labels = new Uint8Array(320);
for (const n of stroke([2.5, 2.5, 1.5], [4.5, 2.5, 1.5], 0.1)) labels[n] = 1;
for (const n of stroke([4.5, 2.5, 1.5], [4.5, 4.5, 1.5], 0.1)) labels[n] = 1;
for (const n of stroke([4.5, 4.5, 1.5], [2.5, 4.5, 1.5], 0.1)) labels[n] = 1;
const open = closedRegion(grid, labels, [3, 3, 1], 2);
for (const n of stroke([2.5, 4.5, 1.5], [2.5, 2.5, 1.5], 0.1)) labels[n] = 1;
const unlike = (mask, other) => area(mask.map((each, at) => each ^ other.inside[at]));
console.log(JSON.stringify({
  moved: moved.map((mask, n) => unlike(mask, disc(12 + 2 * n, 15, 5))),
  grown,
  line: stroke([2.5, 2.5, 1.5], [6.5, 2.5, 1.5], 1, false),
  ball: stroke([2.5, 2.5, 1.5], [2.5, 2.5, 1.5], 2, true).length,
  outside: stroke([-5, 3.5, 1.5], [-2, 3.5, 1.5], 1, false),
  open,
  closed: closedRegion(grid, labels, [3, 3, 1], 2),
}));
"""


def test_strokes_fills_and_shapes_between_slices() -> None:
    node = shutil.which("node")
    if node is None or not (WEB / "node_modules" / "esbuild").is_dir():
        pytest.skip("needs Node and the page's packages")
    told = subprocess.run(
        [node, "--input-type=module", "-e", SHAPES], cwd=WEB, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["moved"] == [0, 0, 0, 0]  # the same disc on its way
    assert found["grown"] == [73, 105, 149]  # from 49 to 197: radii of 4 to 8
    rows = [range(103, 108), range(93, 98), range(113, 118), [102, 108]]
    assert found["line"] == sorted(n for row in rows for n in row)
    assert found["ball"] == 13 + 2
    assert found["outside"] == []
    assert found["open"] is None
    assert found["closed"] == [116]
