"""The API's own page: every call is told, and may be tried, with nothing from elsewhere."""

from serving import API, image_bytes


def test_a_call_is_read_and_tried(viewer, server, client):
    page = viewer.page
    page.goto(f"{server.address}{API}/docs")
    page.wait_for_selector("#segment_image")
    paths = client.get("/openapi.json").json()["paths"].values()
    assert page.locator("details").count() == sum(map(len, paths))
    segment = page.locator("#segment_image")
    segment.locator("summary").click()
    content = {"name": "a.nii.gz", "mimeType": "", "buffer": image_bytes(3)}
    segment.get_by_label("files").set_input_files(content)
    segment.get_by_role("button", name="Send").click()
    segment.get_by_text("422").first.wait_for()
    segment.get_by_text("Several").last.wait_for()  # which of three bundles?
    segment.get_by_label("bundle").fill("brain")
    segment.get_by_role("button", name="Send").click()
    link = segment.locator("a[download]")
    link.wait_for(timeout=120_000)
    assert link.get_attribute("download") == "a_brain.nii.gz"
    assert "segment?bundle=brain" in segment.locator("pre").first.inner_text()
    assert viewer.broken == []
