"""What people do on the page, in a real browser, with the real server and tiny bundles."""

import csv
import gzip
import io
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from browsing import Viewer
from prediction import hounsfield, noise
from serving import image_bytes, labels_of, nifti_bytes, nifti_of

nib: Any = nibabel


def colours(client: Any) -> dict[str, str]:
    (bundle,) = [each for each in client.get("/bundles").json() if each["id"] == "brain"]
    return {label["name"]: label["color"] for label in bundle["labels"] if label["index"]}


def sizes(*counts: int) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, counts))


def test_drop_segment_and_see(viewer: Viewer, client: Any) -> None:
    viewer.open().show("case.nii.gz", image_bytes(1)).opaque()
    left, right = colours(client).values()
    assert viewer.text("#case-facts").startswith(f"{sizes(20, 24, 6)} · ")
    assert viewer.pixels().max() > 100
    assert viewer.covered(left) == viewer.covered(right) == 0
    viewer.segment()
    assert viewer.covered(left) > 500
    assert viewer.covered(right) > 500
    assert viewer.page.is_visible("#trust-unknown")
    assert viewer.page.is_hidden("#toggle-doubt")


def test_structures_are_named_measured_and_toggled(
    viewer: Viewer, client: Any, bundles: Path
) -> None:
    content = image_bytes(2)
    viewer.open().show("case.nii.gz", content).opaque().segment()
    voxels = np.bincount(labels_of(bundles / "brain", content).ravel().astype(int), minlength=3)
    millilitres = abs(np.linalg.det(nifti_of(content).affine)) / 1000
    rows = viewer.page.locator("#structures tbody tr")
    assert [rows.nth(n).locator(".link").inner_text() for n in (0, 1)] == ["left", "right"]
    for n in (0, 1):
        shown = float(rows.nth(n).locator("td.number").first.inner_text())
        assert shown == pytest.approx(voxels[n + 1] * millilitres, abs=0.006)

    left, right = colours(client).values()
    before = viewer.covered(right)
    rows.nth(0).locator(".eye").click()
    assert viewer.covered(left) == 0
    assert viewer.covered(right) == before
    rows.nth(0).locator(".eye").click()
    assert viewer.covered(left) > 500
    viewer.page.click("#toggle-labels")
    assert viewer.covered(left) == viewer.covered(right) == 0


def test_values_at_the_crosshair_are_the_files(viewer: Viewer, bundles: Path) -> None:
    content = image_bytes(3)
    image, labels = nifti_of(content), labels_of(bundles / "brain", content)
    viewer.open().show("case.nii.gz", content).segment()
    for x, y in ((0.2, 0.2), (0.3, 0.27), (0.7, 0.25)):
        viewer.page.mouse.click(*viewer.point(x, y))
        viewer.settle()
        voxel = tuple(int(one) for one in viewer.text("#at-voxel").split(","))
        mm = [float(one) for one in viewer.text("#at-mm").split(",")]
        assert float(viewer.text("#at-value")) == image.dataobj[voxel]
        assert viewer.text("#at-structure") == ["none", "left", "right"][int(labels[voxel])]
        centre = nib.affines.apply_affine(image.affine, voxel)
        assert np.linalg.norm(centre - mm) <= np.linalg.norm(image.header.get_zooms()) / 2 + 0.1


def test_sides_are_told_and_turned_with_the_image(viewer: Viewer) -> None:
    voxels = np.zeros((30, 20, 10), dtype=np.int16)
    voxels[3:9] = 500  # the patient's right, since the first axis points left
    right = nib.Nifti1Image(voxels, np.diag([-1.0, 1, 1, 1]))
    viewer.open().show("right.nii.gz", gzip.compress(right.to_bytes()))
    viewer.page.keyboard.press("2")
    viewer.page.click("#toggle-crosshair")

    def bright_side() -> tuple[str, str]:
        columns = viewer.pixels().max(axis=(0, 2)).astype(float)
        middle = np.average(np.arange(len(columns)), weights=columns > 200)
        side = "left" if middle < len(columns) / 2 else "right"
        return side, viewer.text(f"#letters .{side}")

    assert bright_side() == ("left", "R")
    viewer.page.click("#toggle-radiological")
    assert bright_side() == ("right", "R")


def test_window_and_level(viewer: Viewer) -> None:
    viewer.open().show("case.nii.gz", image_bytes(4))
    before = viewer.pixels().mean()
    viewer.page.fill("#level", "-800")
    viewer.page.press("#level", "Enter")
    assert viewer.page.input_value("#preset") == ""
    assert viewer.pixels().mean() > before + 20
    viewer.page.select_option("#preset", "Automatic")
    assert viewer.pixels().mean() == pytest.approx(before, abs=1)


def test_a_ct_opens_with_its_windows(viewer: Viewer) -> None:
    hounsfield = np.full((20, 20, 8), -1000, dtype=np.int16)
    hounsfield[5:15, 5:15] = 60
    hounsfield[8:10, 8:10] = 1200
    content = gzip.compress(nib.Nifti1Image(hounsfield, np.eye(4)).to_bytes())
    viewer.open().show("ct.nii.gz", content)
    assert viewer.page.input_value("#preset") == "Soft tissue"
    assert viewer.page.input_value("#level") == "40"
    assert viewer.page.input_value("#width") == "400"
    viewer.page.keyboard.press("w")
    assert viewer.page.input_value("#preset") == "Liver, portal venous"
    assert viewer.page.input_value("#width") == "200"
    # Where the crosshair is on an axis, there is no minus before its zero.
    assert "-0.0" not in viewer.text("#at-mm")


def test_a_ct_opens_in_the_window_of_what_the_model_segments(viewer: Viewer, client: Any) -> None:
    served = client.get("/bundles").json()
    for number, structures in enumerate((["liver", "liver tumour"], ["lung_left", "lobe"])):
        named = [
            {"index": n + 1, "name": each, "color": "#4fc3f7"} for n, each in enumerate(structures)
        ]
        served[number]["labels"] = named
    viewer.page.route("**/api/v1/bundles", lambda route: route.fulfill(json=served))
    viewer.open().show("ct.nii.gz", nifti_bytes(hounsfield()))
    assert viewer.page.input_value("#preset") == "Liver, portal venous"
    viewer.page.select_option("#bundle", served[1]["id"])
    assert viewer.page.input_value("#level") == "-600"
    viewer.page.fill("#width", "700")
    viewer.page.press("#width", "Enter")
    viewer.page.select_option("#bundle", served[0]["id"])
    assert viewer.page.input_value("#width") == "700"  # what a person chose stays


def test_attention_is_a_heat_map_on_the_slice(viewer: Viewer) -> None:
    viewer.open().show("case.nii.gz", image_bytes(5))
    viewer.page.click("#toggle-crosshair")
    point = viewer.point(0.25, 0.25)
    viewer.page.mouse.click(*point)
    grey = viewer.pixels()
    viewer.page.click("#tools label:has-text('Attention')")
    assert viewer.page.locator("#layer option").all_inner_texts() == [
        "All layers (roll-out)",
        "1 of 1",
    ]
    viewer.page.select_option("#layer", "0")
    viewer.page.select_option("#head", "0")
    viewer.page.route("**/attention", lambda route: in_front_only(route))
    with viewer.page.expect_request("**/attention") as asked:
        viewer.page.mouse.click(*point)
    viewer.page.wait_for_function(
        "() => document.getElementById('attention-text').textContent.startsWith('From voxel')"
    )
    query = asked.value.post_data_json
    assert query["bundle"] == "brain"
    assert query["voxel"] == [int(one) for one in viewer.text("#at-voxel").split(",")]
    assert (query["layer"], query["head"]) == (0, 0)

    height, width = grey.shape[0] // 2, grey.shape[1] // 2

    def coloured() -> np.ndarray:
        return np.abs(viewer.pixels() - grey)[:height, :width].max(axis=2) > 3

    axial = coloured()
    image = grey[:height, :width].max(axis=2) > 8
    assert axial[: height // 2][image[: height // 2]].mean() > 0.7
    assert axial[height // 2 + 12 :].sum() == 0  # nothing where there is none
    assert viewer.text("#attention-top") == "100 % of the strongest"
    viewer.page.click("#tools label:has-text('Look')")
    assert not coloured().any()


def in_front_only(route: Any) -> None:
    """Answer with attention of 1 in the front half of the slice and 0 behind it."""
    answer = route.fetch()
    found = nifti_of(answer.body())
    voxels = np.zeros(found.shape, dtype=np.float32)
    voxels[:10] = 1  # the file's first axis points backwards
    changed = nib.Nifti1Image(voxels, found.affine, found.header)
    route.fulfill(response=answer, body=gzip.compress(changed.to_bytes()))


def test_each_structure_says_how_far_to_trust_it_and_where_the_doubt_is(
    viewer: Viewer, client: Any
) -> None:
    maps: list[str] = []
    viewer.page.on("request", lambda asked: maps.append(asked.url) if "unc" in asked.url else None)
    channels = np.stack([abs(noise(seed=1)), abs(noise(seed=2))], axis=-1)
    viewer.open().show("two.nii.gz", nifti_bytes(channels)).opaque().segment("pair")
    lights = viewer.page.locator("#structures .light")
    assert [lights.nth(n).get_attribute("class") for n in (0, 1)] == ["light good", "light look"]
    good, bad = viewer.page.locator("#structures .words").all_inner_texts()
    assert (good, bad) == (
        "expected Dice 0.93\xa0±\xa00.05",
        "look at this: expected Dice 0.61\xa0±\xa00.25",
    )
    with viewer.page.expect_download() as download:
        viewer.page.click("#volumes-csv")
    assert download.value.suggested_filename == "two_volumes.csv"
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    for row, found in zip(rows, client.get("/jobs").json()[-1]["statistics"], strict=True):
        assert (row["structure"], int(row["voxels"])) == (found["name"], found["voxels"])
        assert float(row["volume_ml"]) == found["volume_ml"]
        assert float(row["expected_dice"]) == found["expected_dice"]
        assert [float(row[f"volume_{end}_ml"]) for end in ("from", "to")] == found[
            "volume_interval_ml"
        ]
        assert (row["look"] == "true") == found["look"]
    reason = viewer.page.locator("#structures .trust p").nth(1)
    assert reason.is_hidden()
    viewer.page.locator("#structures .trust summary").nth(1).click()
    assert reason.inner_text().startswith("Less than Dice 0.7 is expected.")
    left = colours(client)["left"]
    before = viewer.covered(left)
    assert before > 500

    def doubt() -> int:
        red, green, blue = (viewer.pixels()[..., channel] for channel in range(3))
        return int(((green > 200) & (red - blue > 50)).sum())

    assert not maps  # fetched when it is asked for, and once
    for _ in range(2):
        assert doubt() == 0
        viewer.page.keyboard.press("d")
        viewer.page.wait_for_selector("#doubt-scale", state="visible")
        viewer.page.wait_for_function(
            "() => document.getElementById('status').textContent === 'Doubt is shown.'"
        )
        assert doubt() > 200
        assert viewer.covered(left) == 0
        viewer.page.keyboard.press("d")
        assert viewer.covered(left) == before
    assert len(maps) == 1
    viewer.page.keyboard.press("d")
    viewer.page.keyboard.press("a")  # one heat map at a time, and no labels
    assert viewer.page.is_hidden("#doubt-scale")
    assert viewer.covered(left) == 0
    viewer.page.keyboard.press("Escape")
    assert viewer.covered(left) == before


def test_downloads_are_the_servers_labels(viewer: Viewer, bundles: Path) -> None:
    content = image_bytes(6)
    viewer.open().show("case.nii.gz", content).segment()
    with viewer.page.expect_download() as download:
        viewer.page.click("#downloads button:has-text('NIfTI')")
    assert download.value.suggested_filename.startswith("case")
    assert download.value.suggested_filename.endswith(".nii.gz")
    found = nifti_of(Path(download.value.path()).read_bytes())
    assert np.array_equal(np.asarray(found.dataobj), labels_of(bundles / "brain", content))
    assert np.allclose(found.affine, nifti_of(content).affine)


def test_a_reference_is_compared(viewer: Viewer, bundles: Path) -> None:
    content = image_bytes(7)
    labels = labels_of(bundles / "brain", content).astype(np.uint8)
    labels[labels == 2] = 0
    reference = nib.Nifti1Image(labels, nifti_of(content).affine)
    viewer.open().show("case.nii.gz", content).segment()
    assert viewer.page.is_hidden("#comparison")
    viewer.drop("reference.nii.gz", gzip.compress(reference.to_bytes()), "#reference-drop")
    viewer.page.wait_for_selector("#comparison", state="visible")
    rows = [
        line.split("\t") for line in viewer.page.locator("#comparison tbody tr").all_inner_texts()
    ]
    assert [row[0] for row in rows] == ["left", "right"]
    assert [row[3] for row in rows] == ["1.000", "0.000"]
    assert rows[0][4] == "0.00"
    assert viewer.text("#case-name") == "case.nii.gz"


def test_a_dicom_folder_is_drawn_and_answered_with_a_segmentation(
    viewer: Viewer, tmp_path: Path
) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    from dicom_made import PATIENT_ID, complete, save, series_of
    from prediction import noise

    pixels = noise((24, 20, 6), 8).transpose(2, 0, 1).copy()
    folder = save(tmp_path / "series", series_of(pixels, edit=complete))
    viewer.open()
    viewer.choose(lambda: viewer.page.click("#start-folder"), folder)
    viewer.page.wait_for_selector("#start", state="hidden")
    viewer.page.wait_for_selector("#busy", state="hidden")
    assert viewer.text("#case-facts").startswith(f"{sizes(20, 24, 6)} · ")
    assert viewer.text("#case-name") == f"Test, Case · ID {PATIENT_ID}"
    assert viewer.text("#case-study") == "CT · 2026-11-26 · made"
    assert viewer.page.title() == "transunet"  # which browsers write into their history
    assert viewer.text("#window-unit") == "HU"
    assert viewer.text("#at-value").endswith(" HU")
    viewer.segment(force=True)  # a CT, and the bundle is for MRI
    with viewer.page.expect_download() as download:
        viewer.page.click("#downloads button:has-text('DICOM SEG')")
    found = pydicom.dcmread(download.value.path())
    assert found.Modality == "SEG"
    assert [item.SegmentLabel for item in found.SegmentSequence] == ["left", "right"]


def test_one_of_several_series_is_chosen(viewer: Viewer, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from dicom_made import STUDY, ramp, save, series_of

    folder = save(tmp_path / "study", series_of(ramp(5, 20, 22)))
    save(folder, series_of(ramp(6, 20, 22), uid=f"{STUDY}.2"))
    viewer.open()
    viewer.choose(lambda: viewer.page.click("#start-folder"), folder)
    viewer.page.click(".message.error button:has-text('2. CT made, 6 slices')")
    viewer.page.wait_for_selector("#start", state="hidden")
    assert viewer.text("#case-facts").startswith(f"{sizes(22, 20, 6)} · ")


def test_a_ct_for_mri_is_told_before_and_beside_the_result(viewer: Viewer) -> None:
    viewer.open().show("mr.nii.gz", nifti_bytes(abs(noise())))
    assert viewer.page.is_hidden("#suitability")
    viewer.show("ct.nii.gz", nifti_bytes(hounsfield()))
    viewer.page.wait_for_selector("#suitability.refused")
    assert "trained on MRI" in viewer.text("#suitability")
    viewer.page.click("#segment")
    assert "trained on MRI" in viewer.message()
    assert viewer.page.is_hidden("#structures-section")
    viewer.page.click(".message.error button:has-text('Segment it all the same')")
    viewer.page.wait_for_selector("#structures tbody tr")
    assert viewer.text("#result-doubts").startswith("Segmented although its values look like")
    viewer.show("mr2.nii.gz", nifti_bytes(abs(noise(seed=2)))).segment()
    assert viewer.page.is_hidden("#result-doubts")


HARMLESS = ["Its voxels are finer than in training.", "It shows less than in training."]


@pytest.mark.parametrize(
    "first",
    [
        None,  # it takes other channels
        {"refusal": "a CT, where MRI was expected", "warnings": [], "doubtful_values": False},
        {"refusal": None, "warnings": ["Its values differ."], "doubtful_values": True},
    ],
    ids=["channels", "modality", "values"],
)
def test_one_grave_misfit_counts_more_than_two_harmless_notes(viewer: Viewer, first: Any) -> None:
    chosen = offered(viewer, first, {"warnings": HARMLESS})
    assert chosen == "pair"


def test_the_chosen_model_stays_where_none_fits_better(viewer: Viewer) -> None:
    assert offered(viewer, {"warnings": HARMLESS}, {"warnings": HARMLESS[:1]}) == "brain"


def offered(viewer: Viewer, *suits: dict[str, Any] | None) -> str:
    """Open an image that suits `brain` and `pair` so; return which of them is chosen."""
    none = {"refusal": None, "warnings": [], "doubtful_values": False}
    pairs = zip(("brain", "pair"), suits, strict=True)
    suitability = [{**none, **suit, "bundle": bundle} for bundle, suit in pairs if suit]

    def answer(route: Any) -> None:
        found = route.fetch()
        route.fulfill(response=found, json={**found.json(), "suitability": suitability})

    viewer.page.route(
        re.compile(r"/api/v1/images$"),
        lambda route: answer(route) if route.request.method == "POST" else route.continue_(),
    )
    viewer.open().show("case.nii.gz", image_bytes(52))
    assert viewer.page.locator("#suitability p").count() == len(HARMLESS)
    return str(viewer.page.input_value("#bundle"))


def test_a_picture_is_upright_and_answered_with_a_mask(viewer: Viewer) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(9).integers(0, 40, (40, 60, 3), dtype=np.uint8)
    pixels[:20, :30] = (250, 0, 0)  # top left
    pixels[20:, 30:] = (0, 0, 250)  # bottom right
    written = io.BytesIO()
    pillow.fromarray(pixels).save(written, "PNG")
    viewer.open().show("photo.png", written.getvalue())
    assert viewer.text("#case-facts").startswith(f"{sizes(60, 40)} pixels")
    assert viewer.page.input_value("#bundle") == "photo"  # the one that takes three channels
    shown = viewer.pixels()
    red, blue = shown[..., 0] - shown[..., 2] > 100, shown[..., 2] - shown[..., 0] > 100
    (red_y, red_x), (blue_y, blue_x) = (np.argwhere(each).mean(axis=0) for each in (red, blue))
    assert red_x < blue_x
    assert red_y < blue_y
    viewer.segment("photo")
    with viewer.page.expect_download() as download:
        viewer.page.click("#downloads button:has-text('PNG mask')")
    assert np.asarray(pillow.open(download.value.path())).shape == (40, 60)
    assert viewer.text("#volume-head") == "pixels"
    assert viewer.text("#result-doubts").startswith("Its intensities lie")
    assert viewer.page.locator("#structures .words").all_inner_texts() == [
        "doubtful: expected Dice 0.93\xa0±\xa00.05",
        "not known",
    ]


def test_what_is_kept_opens_again_and_is_deleted(viewer: Viewer, client: Any) -> None:
    page = viewer.open().show("first.nii.gz", image_bytes(10)).segment().page
    viewer.show("second.nii.gz", image_bytes(11))  # only looked at
    titles = page.locator("#recent > li > .link")
    page.wait_for_selector("#recent > li:has-text('second.nii.gz')")
    assert titles.all_inner_texts()[:2] == ["second.nii.gz", "first.nii.gz"]
    assert re.search(r"\d\d.*kept for 24 h more", viewer.text("#recent > li > .quiet"))
    assert page.locator("#structures-section").is_hidden()
    page.click("#recent > li > .link:has-text('first.nii.gz')")
    page.wait_for_selector("#structures tbody tr")
    assert viewer.text("#case-name") == "first.nii.gz"
    before = len(client.get("/jobs").json())
    # What was made of it stands there once: among the label maps of the image that is open.
    page.wait_for_selector("#recent > li:has([aria-current]):has-text('1 result')")
    assert page.locator("#recent li .link").count() == page.locator("#recent > li").count()
    page.click("#maps li:has([aria-current]) [aria-label^='Delete']")
    page.click(".message.note button:has-text('Delete it')")
    page.wait_for_selector("#structures-section", state="hidden")
    page.wait_for_selector(
        "#recent > li:has([aria-current]):has-text('1 result')", state="detached"
    )
    assert len(client.get("/jobs").json()) == before - 1
    page.click("#recent > li > .link:has-text('second.nii.gz')")
    page.wait_for_selector("#recent [aria-current]:text('second.nii.gz')")
    (second,) = (each["id"] for each in client.get("/images").json() if "second" in each["name"])
    page.click("#recent > li:has([aria-current]) > .close")
    page.wait_for_selector("#start", state="visible")  # nothing of it stays on the screen
    assert client.get(f"/images/{second}").status_code == 404


def test_a_sample_is_there_to_try(viewer: Viewer, client: Any) -> None:
    offered, taken = client.get("/health").json(), client.upload(("small.nii.gz", image_bytes(12)))
    health = {**offered, "sample": False}
    viewer.page.route("**/api/v1/health", lambda route: route.fulfill(json=health))
    viewer.page.route("**/api/v1/sample", lambda route: route.fulfill(json=taken, status=201))
    viewer.open().page.wait_for_load_state("networkidle")
    assert viewer.page.is_hidden("#start-sample")
    health["sample"] = True
    viewer.open().page.click("#start-sample")
    viewer.page.wait_for_selector("#start", state="hidden")
    assert viewer.text("#case-name") == "small.nii.gz"


def test_progress_is_told_and_a_job_cancelled(viewer: Viewer) -> None:
    voxels = np.zeros((40, 40, 1500), dtype=np.int16)
    voxels[10:30, 10:30] = 50
    long = gzip.compress(nib.Nifti1Image(voxels, np.eye(4)).to_bytes())
    viewer.open().show("long.nii.gz", long)
    viewer.page.click("details:has(#mirror) summary")
    viewer.page.check("#mirror")
    viewer.page.click("#segment")
    viewer.page.wait_for_function(
        "() => /^Slice [1-9]\\d* of 1500 · (about \\d+ s|about \\d+ min|a few seconds) left$/"
        ".test(document.getElementById('progress-text').textContent)"
    )
    assert viewer.page.locator("#segment").is_disabled()
    viewer.page.click("#cancel")
    viewer.page.wait_for_selector("#progress", state="hidden")
    assert viewer.text("#status") == "Segmentation cancelled."
    assert viewer.page.locator("#segment").is_enabled()


def test_records_of_older_servers_leave_no_gaps(viewer: Viewer) -> None:
    """What was stored before a field was known, and what the bundle does not know, is not told."""
    optional = ("look", "reason", "expected_dice", "expected_within", "volume_interval_ml")
    shown = {"look": True, "expected_dice": 0.5}  # of one structure, without a reason

    def older(route: Any) -> None:
        answer = route.fetch()
        record = answer.json()
        for job in record if isinstance(record, list) else [record]:
            for n, each in enumerate(job.get("statistics") or []):
                for field in optional:
                    each.pop(field, None)
                each.update(shown if n else {})
        route.fulfill(response=answer, json=record)

    viewer.page.route(re.compile(r"/api/v1/jobs(/[^/]+)?$"), older)
    page = viewer.open().show("case.nii.gz", image_bytes(51)).segment().page
    page.reload()
    page.click("#recent li:first-child .link >> nth=0")
    page.wait_for_selector("#structures tbody tr.trust")
    assert page.locator("#structures tbody tr").count() == 3
    page.click("#structures .trust summary")
    assert "look at this" in page.inner_text("#structures .trust")
    assert "It is likely to be bad." in page.inner_text("#structures .trust")
    with page.expect_download() as saved:
        page.click("#volumes-csv")
    texts = page.inner_text("body"), Path(saved.value.path()).read_text(encoding="utf-8")
    for text in (*texts, page.content().split("</script>")[-1]):
        assert not re.search(r"undefined|NaN|\bnull\b", text)
