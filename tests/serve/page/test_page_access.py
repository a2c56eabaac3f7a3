"""The page without a mouse, on a phone, in the dark, read aloud."""

from typing import Any

import browsing
from browsing import Viewer
from serving import image_bytes

REACHED_BY_TAB = {
    "open-files", "open-folder", "open-help", "preset", "level", "width", "toggle-crosshair",
    "toggle-smooth", "toggle-radiological", "reset-view", "canvas", "plane", "slice", "bundle",
    "segment", "opacity", "toggle-labels", "toggle-outline", "body", "reference-choose",
}  # fmt: skip


def test_all_of_it_with_the_keyboard(viewer: Viewer, tmp_path: Any) -> None:
    path = tmp_path / "case.nii.gz"
    path.write_bytes(image_bytes(30))
    viewer.open()
    press = viewer.page.keyboard.press
    press("Tab")
    viewer.choose(lambda: press("o"), path)
    viewer.page.wait_for_selector("#start", state="hidden")
    viewer.page.wait_for_selector("#busy", state="hidden")
    press("s")
    viewer.page.wait_for_selector("#structures tbody tr")
    reached = _tabbed(viewer)
    assert reached >= REACHED_BY_TAB
    assert "eye" in reached
    assert "link" in reached

    viewer.page.focus("#segment")
    press("l")
    assert viewer.page.get_attribute("#toggle-labels", "aria-pressed") == "false"
    press("2")
    assert viewer.page.is_checked("input[name=view][value=axial]")
    before = viewer.text("#slice-text")
    press("PageUp")
    assert viewer.text("#slice-text") != before
    viewer.page.focus("#canvas")
    voxel = viewer.text("#at-voxel")
    press("ArrowLeft")
    assert viewer.text("#at-voxel") != voxel
    press("ArrowRight")
    assert viewer.text("#at-voxel") == voxel
    press("a")
    press("Enter")
    viewer.page.wait_for_function(
        "() => document.getElementById('attention-text').textContent.startsWith('From voxel')"
    )


def test_the_help_lists_the_keys_and_can_turn_them_off(viewer: Viewer) -> None:
    viewer.open().show("case.nii.gz", image_bytes(31))
    viewer.page.focus("#level")
    viewer.page.keyboard.press("2")  # in a field a key is a letter
    assert viewer.page.is_checked("input[name=view][value=all]")
    viewer.page.focus("#segment")
    viewer.page.keyboard.press("?")
    assert viewer.page.locator("#help").is_visible()
    assert viewer.page.locator("#shortcuts h3").all_inner_texts() == [
        "Open and segment", "Look", "Window", "Structures", "Measure", "Correct", "Clicks",
        "Versions and comparing", "Mouse and touch",
    ]  # fmt: skip
    assert viewer.page.locator("#shortcuts kbd").count() >= 20
    viewer.page.uncheck("#keys-on")
    viewer.page.keyboard.press("Escape")
    viewer.page.keyboard.press("2")
    assert viewer.page.is_checked("input[name=view][value=all]")


def test_everything_has_a_name_and_is_heard(viewer: Viewer) -> None:
    viewer.open().show("case.nii.gz", image_bytes(33))
    assert viewer.text("#status") == "case.nii.gz is open."
    viewer.segment()
    viewer.page.wait_for_function(
        "() => document.getElementById('status').textContent === 'Segmentation finished.'"
    )
    assert viewer.page.get_attribute("#status", "aria-live") == "polite"
    nameless = viewer.page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas, progress')]
            .filter((each) => each.getAttribute('aria-hidden') !== 'true')
            .filter((each) => !each.textContent.trim() && !each.getAttribute('aria-label')
                && !each.getAttribute('aria-labelledby') && !(each.labels && each.labels.length))
            .map((each) => each.outerHTML)"""
    )
    assert nameless == []


def test_a_phone(browser: Any, server: Any) -> None:
    phone = {"width": 360, "height": 740}
    viewer = Viewer(browser, server.address, viewport=phone, color_scheme="light", has_touch=True)
    viewer.open()
    assert viewer.page.locator("#start-files").is_visible()
    viewer.show("case.nii.gz", image_bytes(34)).segment()
    viewer.page.tap("#structures .eye >> nth=0")
    assert viewer.page.get_attribute("#structures .eye >> nth=0", "aria-pressed") == "false"
    assert viewer.page.evaluate("() => document.documentElement.scrollWidth") <= 360
    box = viewer.page.locator("#canvas").bounding_box()
    assert box["width"] == 360
    assert box["height"] >= 230
    assert _contrast(viewer) >= 4.5
    viewer.page.emulate_media(color_scheme="dark")
    assert _contrast(viewer) >= 4.5
    viewer.close()


def test_no_tool_is_cut_off(browser: Any, server: Any) -> None:
    viewer = Viewer(browser, server.address)
    viewer.open().show("case.nii.gz", image_bytes(36))
    for width, height in ((768, 1024), (1024, 768), (1200, 760), (1280, 768)):
        viewer.page.set_viewport_size({"width": width, "height": height})
        right = viewer.page.locator("#viewer").bounding_box()["width"]
        for control in viewer.page.locator(".tools button, .tools .choice, .tools select").all():
            box = control.bounding_box()
            assert box is None or box["x"] + box["width"] <= right, control.inner_text()
        assert viewer.page.locator("#stage").bounding_box()["height"] >= 0.45 * height
    viewer.close()


def test_without_webgl_the_rest_works(browser: Any, server: Any) -> None:
    viewer = browsing.Viewer(browser, server.address)
    viewer.page.add_init_script(
        "const asked = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
        "  return kind.startsWith('webgl') ? null : asked.call(this, kind, ...more); };"
    )
    viewer.open()
    assert "WebGL 2" in viewer.message()
    viewer.drop("case.nii.gz", image_bytes(35))
    viewer.page.wait_for_selector("#segment:enabled")
    viewer.page.click("#segment")
    viewer.page.wait_for_selector("#downloads button")
    viewer.broken = [each for each in viewer.broken if "no WebGL2" not in each]
    viewer.close()


def _tabbed(viewer: Viewer) -> set[str]:
    """What the tab key reaches, by id or first class."""
    viewer.page.evaluate("() => document.activeElement.blur()")
    found: list[str] = []
    for _ in range(80):
        viewer.page.keyboard.press("Tab")
        found.append(
            viewer.page.evaluate(
                "() => document.activeElement.id || document.activeElement.classList[0] || ''"
            )
        )
    return set(found)


def _contrast(viewer: Viewer) -> float:
    """The contrast of quiet text on a panel, as WCAG 2 defines it."""
    colours = viewer.page.evaluate(
        """() => ['color', 'backgroundColor'].map((key) => getComputedStyle(
            document.querySelector(key === 'color' ? '#bundle-facts' : '#panel'))[key])"""
    )

    def luminance(colour: str) -> float:
        parts = [int(one) / 255 for one in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)
