"""The click tool: a model with clicks corrects what is shown, and each click can be undone."""

from typing import Any

import pytest

import browsing
from browsing import Viewer
from serving import image_bytes


def test_clicks_correct_what_was_drawn_and_are_undone(viewer: Viewer) -> None:
    page = viewer.page
    viewer.open().show("clicked.nii.gz", image_bytes(31)).segment("brain").opaque()
    x, y = viewer.point()
    found = viewer.text("#structures tbody")

    def wait_until(told: str, same: bool = True) -> None:
        """Wait until the volumes are, or are not, those."""
        page.wait_for_function(
            """([told, same]) => {
                const now = document.querySelector("#structures tbody").textContent.trim();
                return (now === told) === same;
            }""",
            arg=[told, same],
        )

    def asked(start: Any) -> dict[str, Any]:
        with page.expect_response(lambda answer: answer.url.endswith("/clicks")) as answered:
            start()
        assert answered.value.ok
        page.wait_for_selector("#stage:not(.asking)")
        viewer.settle()
        return dict(answered.value.request.post_data_json)

    page.keyboard.press("c")
    assert page.get_attribute("#tools input:checked", "value") == "click"
    assert page.locator("#click-structure option").all_inner_texts() == ["left", "right"]
    # `brain` answers a click with what it finds in the slice: here that is shown already.
    question = asked(lambda: page.mouse.click(x, y))
    assert question["parent"]
    assert question["edited"] is None
    page.wait_for_selector(".message:has-text('changes nothing')")
    assert page.locator(".dot").count() == 0

    page.keyboard.press("t")
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=4)
    page.mouse.up()
    wait_until(found, same=False)
    drawn = viewer.text("#structures tbody")
    page.keyboard.press("c")
    page.select_option("#click-structure", label="right")
    question = asked(lambda: page.mouse.click(x, y))
    (click,) = question["clicks"]
    assert click["structure"] == 2
    assert (question["parent"], question["applied"]) == (None, 0)
    assert question["edited"]["data"]
    wait_until(found)
    assert page.locator(".dot").count() == 1
    page.keyboard.press("z")
    wait_until(drawn)
    assert page.locator(".dot").count() == 0
    page.keyboard.press("y")
    wait_until(found)
    assert page.locator(".dot").count() == 1

    # The next click tells the network of the first one, too; Delete removes.
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowRight")
    question = asked(lambda: page.keyboard.press("Delete"))
    assert [each["structure"] for each in question["clicks"]] == [2, None]
    assert question["applied"] == 1

    # What is drawn while the model computes stays as it is drawn.
    held: list[Any] = []
    page.route("**/clicks", lambda route: held.append(route))
    with page.expect_request("**/clicks"):
        page.mouse.click(x, y)
    page.keyboard.press("e")
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x, y, steps=3)
    with page.expect_response("**/clicks"):
        held[0].continue_()
    page.wait_for_selector("#stage:not(.asking)")
    page.mouse.move(x + 40, y, steps=3)
    page.mouse.up()
    page.wait_for_selector(".message:has-text('changes nothing')")
    wait_until(found, same=False)
    page.click("#undo")
    wait_until(found)
    page.keyboard.press("c")
    page.select_option("#bundle", "pair")
    assert page.get_attribute("#tools input:checked", "value") == "look"
    assert not page.locator("#tools label:has-text('Click')").is_visible()


@pytest.mark.parametrize("pointer", ["mouse", "finger"])
def test_each_pointer_adds_and_takes_away(browser: Any, server: Any, pointer: str) -> None:
    viewer = browsing.Viewer(browser, server.address, has_touch=pointer == "finger")
    page = viewer.page
    viewer.open().show("clicked.nii.gz", image_bytes(33)).segment("brain").opaque()
    page.keyboard.press("c")
    page.select_option("#click-structure", label="right")

    def said(**keys: Any) -> int | None:
        """The structure that a click in the middle tells the server of; None where it removes."""
        with page.expect_response(lambda answer: answer.url.endswith("/clicks")) as answered:
            if pointer == "mouse":
                page.locator("#canvas").click(**keys)
            else:
                page.touchscreen.tap(*viewer.point())
        assert answered.value.ok
        page.wait_for_selector("#stage:not(.asking)")
        structure: int | None = answered.value.request.post_data_json["clicks"][-1]["structure"]
        return structure

    assert said() == 2
    if pointer == "mouse":
        assert said(modifiers=["Shift"]) is None
    page.get_by_role("radio", name="Take away").check(force=True)
    assert page.is_disabled("#click-structure")
    assert said() is None
    page.get_by_role("radio", name="Add").check(force=True)
    assert said() == 2
    viewer.close()


def test_a_stroke_that_repeats_another_while_the_model_computes_stays(viewer: Viewer) -> None:
    page = viewer.page
    viewer.open().show("clicked.nii.gz", image_bytes(31)).segment("brain").opaque()
    x, y = viewer.point()
    found = viewer.text("#structures tbody")

    def stroke() -> None:
        page.keyboard.press("t")
        page.mouse.move(x - 40, y)
        page.mouse.down()
        page.mouse.move(x + 40, y, steps=4)
        page.mouse.up()
        viewer.settle()

    stroke()
    drawn = viewer.text("#structures tbody")
    assert drawn != found
    page.keyboard.press("c")
    held: list[Any] = []
    page.route("**/clicks", lambda route: held.append(route))
    with page.expect_request("**/clicks"):
        page.mouse.click(x, y)
    stroke()  # changes nothing, but says again what is there
    with page.expect_response("**/clicks"):
        held[0].continue_()  # alone it would bring back what was found
    page.wait_for_selector("#stage:not(.asking)")
    viewer.settle()
    assert viewer.text("#structures tbody") == drawn
