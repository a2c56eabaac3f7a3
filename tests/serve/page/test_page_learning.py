"""The page leads through a worklist, and what is right is added to a data set."""

from pathlib import Path
from typing import Any

import numpy as np

from browsing import Viewer
from serving import labels_of
from transunet.data.layouts import open_dataset


def opened(viewer: Viewer, name: str) -> None:
    """Wait until an image is open, and segmented by itself."""
    viewer.page.wait_for_function(
        "(name) => document.getElementById('case-name').textContent === name", arg=name
    )
    viewer.page.wait_for_selector("#structures tbody tr")
    viewer.page.wait_for_selector(
        "#dataset-text:has-text('cases.'), #dataset-text:has-text('case.')"
    )


def test_a_worklist_is_walked_through_and_what_is_right_is_kept(
    viewer: Viewer, server: Any, bundles: Path
) -> None:
    dataset = server.learned / "Dataset001_Brain"
    page = viewer.open().page
    page.wait_for_selector("#worklist-text:has-text('0 of 3 done')")
    assert page.is_disabled("#dataset-add")
    page.click("#worklist-next")
    opened(viewer, "most.nii.gz")
    assert viewer.text("#worklist-text") == "Image 1 of 3 · 0 done"
    assert viewer.text("#worklist-why") == "Expected Dice 0.31 (left). Right: not found."

    before = len(open_dataset(dataset).cases) if (dataset / "dataset.json").exists() else 0
    page.click("#dataset-add")
    page.wait_for_selector("#worklist-text:has-text('1 done')")
    assert f"Dataset001_Brain has {before + 1} case" in viewer.text("#dataset-text")
    assert page.is_disabled("#dataset-add")
    data = open_dataset(dataset)
    (case,) = [each for each in data.cases if each.name == "most"]
    expected = labels_of(bundles / "brain", (server.learned / "most.nii.gz").read_bytes())
    np.testing.assert_array_equal(data.read_case(case)[1].array[0], expected)

    page.keyboard.press("j")
    opened(viewer, "less.nii.gz")
    assert not page.is_disabled("#dataset-add")
    page.keyboard.press("j")
    assert "its file gone.nii.gz is not there any more" in viewer.message()
    page.wait_for_selector("#worklist-text:has-text('Image 2 of 3 · 1 done')")
    page.keyboard.press("k")
    opened(viewer, "most.nii.gz")
    assert viewer.text("#dataset-text").startswith("This image is in it, as most.")
    page.click("#worklist-section summary")
    marks = page.locator("#worklist li").all_inner_texts()
    assert ["in the data set as most" in mark for mark in marks] == [True, False, False]
    assert page.locator("#worklist [aria-current=true]").inner_text() == "most"

    viewer.show("renamed.nii.gz", (server.learned / "most.nii.gz").read_bytes())
    page.wait_for_selector("#dataset-text:has-text('This image is in it, as most.')")
