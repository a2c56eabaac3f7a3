"""What is measured on the page, against numpy on the same voxels; and the view as a picture."""

import gzip
import io
import re
from pathlib import Path

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


def test_distances_and_regions(viewer: Viewer, tmp_path: Path) -> None:
    image = oblique()
    array, affine = np.asarray(image.dataobj), image.affine
    page = viewer.open().show("ct.nii.gz", gzip.compress(image.to_bytes())).page
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
    assert page.locator("#measured li").count() == 5
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
    assert page.locator("#measured li").count() == 4
