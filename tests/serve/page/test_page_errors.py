"""What goes wrong is told on the page, in words, and leaves it usable."""

from typing import Any

import numpy as np
import pytest

from browsing import Viewer
from serving import image_bytes


def test_unreadable_files(viewer: Viewer) -> None:
    place = viewer.open().page.locator("#canvas").bounding_box()
    viewer.drop("broken.nii.gz", b"this is no image")
    assert "broken.nii.gz" in viewer.message()
    assert viewer.page.locator("#canvas").bounding_box() == place  # a message moves nothing
    assert viewer.page.locator("#start").is_visible()
    viewer.drop("notes.docx", b"words")
    viewer.page.wait_for_selector(".message.error :text('notes.docx')")
    assert ".nii.gz" in viewer.message()
    assert viewer.page.locator(".message").count() == 1
    viewer.show("case.nii.gz", image_bytes(20))
    assert viewer.page.locator(".message.error").count() == 0


def test_wrong_channels(viewer: Viewer) -> None:
    viewer.open().show("case.nii.gz", image_bytes(21))
    viewer.page.select_option("#bundle", "pair")
    assert viewer.text("#bundle-facts").endswith("Needs 2 channel(s); this image has 1.")
    viewer.page.click("#segment")
    said = viewer.message()
    assert "pair" in said
    assert "2" in said
    viewer.segment("brain")


def test_a_file_that_is_too_large_is_not_sent(viewer: Viewer) -> None:
    sent: list[str] = []
    viewer.page.on("request", lambda request: sent.append(request.method))
    viewer.open().drop("large.nii.gz", b"\0" * (5 << 20))
    assert "5 MiB; the server takes 4 MiB" in viewer.message()
    assert "POST" not in sent


def test_an_upload_that_the_server_ends(viewer: Viewer) -> None:
    viewer.open()
    viewer.page.route("**/api/v1/images", lambda route: route.abort("connectionreset"))
    viewer.drop("case.nii.gz", image_bytes(22))
    assert "ended the upload" in viewer.message()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "not_found", "There is no bundle 'brain'; served are: other."),
        (429, "queue_full", "32 jobs are waiting, which is all that the server takes."),
    ],
)
def test_what_the_api_refuses(viewer: Viewer, status: int, code: str, message: str) -> None:
    viewer.open().show("case.nii.gz", image_bytes(23))
    viewer.refuse("jobs", status, code, message, "Do something about it.")
    viewer.page.click("#segment")
    assert viewer.message() == f"{message} Do something about it."
    assert viewer.page.get_attribute(".message.error", "role") == "alert"
    viewer.page.unroute(f"{viewer.address}/api/v1/jobs")
    if status == 429:
        viewer.page.click(".message.error button:has-text('Try again')")
        viewer.page.wait_for_selector("#structures tbody tr")
    else:
        viewer.segment()


def test_a_result_that_was_deleted(viewer: Viewer, client: Any) -> None:
    viewer.open().show("case.nii.gz", image_bytes(24)).segment()
    for job in client.get("/jobs").json():
        client.delete(f"/jobs/{job['id']}")
    viewer.page.click("#downloads button:has-text('NIfTI')")
    assert "job" in viewer.message().lower()


def test_a_job_that_fails(viewer: Viewer) -> None:
    viewer.open().show("flat.nii.gz", _flat())
    assert "nothing to segment" in viewer.text(".message.note p")
    viewer.page.click("#segment")
    assert "nothing to segment" in viewer.message()
    assert viewer.page.locator("#segment").is_enabled()


def test_the_server_goes_and_comes_back(viewer: Viewer) -> None:
    viewer.open().show("case.nii.gz", image_bytes(25))
    viewer.page.route("**/api/**", lambda route: route.abort("connectionrefused"))
    viewer.page.click("#segment")
    viewer.page.wait_for_selector("#offline", state="visible")
    assert viewer.page.get_attribute("#offline", "role") == "alert"
    viewer.page.unroute("**/api/**")
    viewer.page.click("#offline-retry")
    viewer.page.wait_for_selector("#structures tbody tr")  # it went on with what was asked
    assert viewer.page.locator("#offline").is_hidden()


def test_a_token_that_has_expired(viewer: Viewer) -> None:
    viewer.open().show("case.nii.gz", image_bytes(27))
    viewer.refuse("jobs", 401, "token_expired", "The token's time is over.", "Ask for another.")
    viewer.page.click("#segment")
    viewer.page.wait_for_selector("#token-dialog", state="visible")
    assert viewer.text("#token-reason") == "The token's time is over. Ask for another."
    viewer.page.unroute(f"{viewer.address}/api/v1/jobs")
    viewer.page.fill("#token", "another")
    viewer.page.keyboard.press("Enter")
    viewer.page.wait_for_selector("#structures tbody tr")  # it went on with what was asked


def test_a_token_is_asked_for(browser: Any, bundles: Any, tmp_path: Any) -> None:
    from serving import command

    token = "another-token-of-many-letters"
    options = ("--data", tmp_path, "--device", "cpu", "--token", token)
    with command(bundles / "brain", *options) as server:
        viewer = Viewer(browser, server.address)
        viewer.page.goto(server.address)
        viewer.page.wait_for_selector("#token-dialog", state="visible")
        assert viewer.text("#token-reason").startswith("This server needs a token.")
        viewer.page.fill("#token", "wrong")
        viewer.page.keyboard.press("Enter")
        viewer.page.wait_for_function(
            "() => document.getElementById('token-reason').textContent.startsWith('The token is')"
        )
        viewer.page.wait_for_selector("#token-dialog", state="visible")
        viewer.page.fill("#token", token)
        viewer.page.keyboard.press("Enter")
        viewer.page.wait_for_selector("#bundle option", state="attached")
        viewer.show("case.nii.gz", image_bytes(26)).segment()
        viewer.page.goto("about:blank")
        viewer.page.goto(f"{server.address}/#token={token}")
        viewer.page.wait_for_selector("#bundle option", state="attached")
        assert token not in viewer.page.url
        viewer.close()


def _flat() -> bytes:
    import gzip

    import nibabel

    image = nibabel.Nifti1Image(np.full((8, 9, 4), 7, dtype=np.int16), np.eye(4))
    return gzip.compress(image.to_bytes())
