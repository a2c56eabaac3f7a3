"""The page with a PACS behind the server; its answers are made here, `test_serve_pacs` has one."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from browsing import Viewer
from dicom_made import PATIENT_ID, ramp, save, series_of
from serving import Client, nifti_bytes

SERIES = {"study": "1.2", "series": "1.2.3", "modality": "CT", "description": "portal venous"}


def test_a_series_is_fetched_segmented_and_its_result_stored(
    viewer: Viewer, client: Client, tmp_path: Path
) -> None:
    uploaded = client.upload(*sorted(save(tmp_path, series_of(ramp())).iterdir()))
    asked: dict[str, Any] = {}

    def answer(path: str, status: int, body: object) -> None:
        def fulfil(route: Any) -> None:
            asked[path] = route.request.post_data_json if route.request.post_data else None
            route.fulfill(status=status, json=body)

        viewer.page.route(f"**/api/v1/{path}", fulfil)

    answer("health", 200, {**client.get("/health").json(), "pacs": True})
    answer("pacs/series", 200, [{**SERIES, "images": 5}, {**SERIES, "images": None}])
    answer("pacs/images", 201, {**uploaded, "from_pacs": True, "name": "portal venous"})
    for kept in ("jobs", "labels"):
        answer(f"{kept}/*/pacs", 200, {"study": "1.2", "segmentation": "1.3", "report": "1.4"})

    page = viewer.open().page
    page.click("#open-pacs")
    page.fill("#pacs-patient", "4711")
    page.fill("#pacs-date", "2026-11-26")
    page.click("#pacs-form button.primary")
    choices = page.locator("#pacs-found li button")
    choices.first.wait_for()
    assert choices.all_inner_texts() == ["CT portal venous, 5 images", "CT portal venous"]
    query = {"patient_id": "4711", "study_date": "20261126", "modality": ""}
    assert asked["pacs/series"] == query
    choices.first.click()
    page.wait_for_function(
        "(name) => document.getElementById('case-name').textContent === name",
        arg=f"Test, Case · ID {PATIENT_ID}",
    )
    assert asked["pacs/images"] == {"study": "1.2", "series": "1.2.3"}
    page.wait_for_selector("#busy", state="hidden")
    assert page.is_hidden("#pacs-store")
    viewer.segment()
    page.click("#pacs-store")
    page.wait_for_selector("#pacs-stored:text('stored beside the series')")
    assert asked["jobs/*/pacs"] == {}

    # A correction likewise, once it is saved.
    page.keyboard.press("2")
    page.keyboard.press("t")
    page.locator("#canvas").click()
    page.wait_for_selector("#pacs-store", state="hidden")
    page.click("#save-correction")
    page.fill("#author", "Ada")
    page.keyboard.press("Enter")
    page.wait_for_selector("#maps [aria-current]:has-text('correction 1')")
    assert viewer.text("#pacs-stored") == ""
    page.click("#pacs-store")
    page.wait_for_selector("#pacs-stored:text('stored beside the series')")
    assert asked.pop("labels/*/pacs") == {}

    # A label map that was given likewise; it is told as what it is.
    assert page.is_hidden("#pacs-given")
    affine = client.get(f"/images/{uploaded['id']}").json()["affine"]
    given = nifti_bytes(np.ones(uploaded["shape"], np.uint8), affine)
    viewer.drop("reader.nii.gz", given, "#reference-drop")
    page.click("#maps .link:has-text('reader.nii.gz')")
    page.wait_for_selector("#maps [aria-current]:has-text('reader.nii.gz')")
    assert "given as a file" in page.inner_text("#pacs-row")
    assert viewer.text("#pacs-stored") == ""
    page.click("#pacs-store")
    page.wait_for_selector("#pacs-stored:text('stored beside the series')")
    assert asked["labels/*/pacs"] == {}


def test_a_pacs_that_fails_is_told_and_can_be_asked_again(viewer: Viewer, client: Client) -> None:
    health = {**client.get("/health").json(), "pacs": True}
    failed = {"error": {"code": "pacs_failed", "message": "http://host/x cannot be reached."}}
    viewer.page.route("**/api/v1/health", lambda route: route.fulfill(json=health))
    viewer.page.route(
        "**/api/v1/pacs/series",
        lambda route: route.fulfill(status=502, body=json.dumps(failed)),
    )
    page = viewer.open().page
    page.click("#open-pacs")
    page.click("#pacs-form button.primary")
    page.wait_for_selector(".message.error")
    assert "cannot be reached" in viewer.text(".message.error")
    assert not page.locator("#pacs-dialog").is_visible()


def test_without_a_pacs_nothing_offers_one(viewer: Viewer) -> None:
    page = viewer.open().page
    page.wait_for_load_state("networkidle")
    assert page.is_hidden("#open-pacs")
    assert page.is_hidden("#pacs-row")
