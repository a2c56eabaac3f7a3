"""What is measured on the page, against numpy on the same voxels; and the view as a picture."""

import gzip
import io
import itertools
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

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
    box = page.locator("#canvas").bounding_box()
    places = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"])
        for x, y in ((0.42, 0.4), (0.56, 0.6))
    ]
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
