"""The PACS of a server: series are listed and fetched, results stored beside them when asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_made import PATIENT_ID, STUDY, complete, ramp, save, series_of
from orthanc import PASSWORD, USER, running_orthanc
from serving import Client, fake_server, nifti_bytes, nifti_of, until
from transunet.batch.outputs import write_labels
from transunet.data.volume import Volume
from transunet.integrations import dicomweb
from transunet.integrations.dicomweb import Address, store
from transunet.serve.jobs.messages import LABELS

pytest.importorskip("dicomweb_client", reason="needs the extra [pacs]")
pytest.importorskip("highdicom", reason="needs the extra [pacs]")

SERIES = STUDY + ".1"
WANTED = {"study": STUDY, "series": SERIES}
BRAIN, ADA = {"bundle": "brain"}, {"author": "Ada Example"}
BY_A_PERSON = "corrected by a person"
CORRECTED, GIVEN = f"TransUNet segmentation, {BY_A_PERSON}", "Segmentation given as a file"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A PACS with one series, to which this process and those it starts have credentials."""
    folder = tmp_path_factory.mktemp("pacs")
    with (
        pytest.MonkeyPatch.context() as environment,
        running_orthanc(tmp_path_factory.mktemp("orthanc")) as base,
    ):
        environment.setenv(dicomweb.USER, USER)
        environment.setenv(dicomweb.PASSWORD, PASSWORD)
        address = Address(base, STUDY, SERIES)
        store(address, sorted(save(folder, series_of(ramp(), edit=complete)).iterdir()))
        yield address


@pytest.fixture(scope="module")
def served(
    pacs: Address, bundles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Any]]:
    data = tmp_path_factory.mktemp("data")
    with fake_server(data, bundles / "brain", pacs=Address(pacs.base)) as running:
        yield running


def segmented(served: tuple[Client, Any], image: str) -> str:
    """The id of a job whose result is the left, everywhere."""
    client, service = served
    id_ = client.submit(image)["id"]
    (future,) = until(lambda: [future for job, future, _ in service.worker.asked if job == id_])
    folder = service.database.job_folder(id_)
    folder.mkdir(exist_ok=True)
    affine = np.array(client.get(f"/images/{image}").json()["affine"])
    ones = Volume(np.ones((1, 7, 6, 5), np.uint8), affine)
    write_labels(ones, folder / LABELS)
    measured = {"voxels": 210, "slices": 5, "mean_intensity": [0.0], "color": "#4fc3f7"}
    left = {"index": 1, "name": "left", "volume_ml": 0.2, **measured}
    right = {"index": 2, "name": "right", "volume_ml": 0.0, **measured}
    future.set_result({"statistics": [left, right], "slices": 5, "warnings": []})
    assert client.wait(id_)["status"] == "done"
    return str(id_)


def test_a_result_is_stored_beside_its_series_when_asked(
    served: tuple[Client, Any], pacs: Address, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    api = served[0]
    assert api.get("/health").json()["pacs"]
    listed = api.post("/pacs/series", json={"patient_id": PATIENT_ID, "modality": "CT"}).json()
    assert listed == [{**WANTED, "modality": "CT", "description": "made", "images": 5}]
    assert api.post("/pacs/series", json={"patient_id": "nobody"}).json() == []
    answer = api.post("/pacs/images", json=WANTED)
    assert answer.status_code == 201, answer.text
    image = answer.json()
    assert (image["name"], image["shape"], image["from_pacs"]) == ("made", [7, 6, 5], True)
    assert api.http.get(answer.headers["Location"]).json() == image
    view = nifti_of(api.get(f"/images/{image['id']}/volume.nii.gz").content)
    np.testing.assert_array_equal(view.get_fdata(), ramp().transpose(2, 1, 0))
    job = segmented(served, image["id"])
    client = dicomweb._client(pacs)
    assert len(client.search_for_series(STUDY)) == 1  # nothing is stored by itself
    stored = api.post(f"/jobs/{job}/pacs")
    assert stored.status_code == 200, stored.text
    found = {
        each["00080060"]["Value"][0]: client.search_for_instances(
            STUDY, each["0020000E"]["Value"][0]
        )
        for each in client.search_for_series(STUDY)
    }
    assert sorted(found) == ["CT", "SEG", "SR"]
    for modality, uid in (("SEG", "segmentation"), ("SR", "report")):
        (instance,) = found[modality]
        assert instance["00080018"]["Value"] == [stored.json()[uid]]
    assert api.post(f"/jobs/{job}/pacs").json() == stored.json()
    assert len(client.search_for_series(STUDY)) == 3  # the same once more
    assert PASSWORD not in caplog.text
    assert PATIENT_ID not in caplog.text


def test_what_no_job_made_is_stored_as_that(served: tuple[Client, Any], pacs: Address) -> None:
    """What it says of how it was made, and what its own report measures."""
    api, client = served[0], dicomweb._client(pacs)
    image = api.post("/pacs/images", json=WANTED).json()
    job, mine = segmented(served, image["id"]), np.zeros((7, 6, 5), np.uint8)
    mine[2:4, 1:4, 2:4] = 2
    file = ("labels.nii.gz", nifti_bytes(mine, image["affine"]))
    given = api.post(f"/images/{image['id']}/labels", files={"file": file}, data=BRAIN).json()
    for kind, fields, how, by, described in (
        ("corrections", {"parent": job, **ADA}, "SEMIAUTOMATIC", ["TransUNet"], CORRECTED),
        ("corrections", {**BRAIN, **ADA}, "MANUAL", [], "Segmentation by a person"),  # of nothing
        ("labels", BRAIN, "MANUAL", [], f"{GIVEN}, not computed here"),
        ("corrections", {"parent": given["id"], **ADA}, "MANUAL", [], f"{GIVEN}, {BY_A_PERSON}"),
    ):
        answer = api.post(f"/images/{image['id']}/{kind}", files={"file": file}, data=fields)
        drawn = answer.json()
        stored = api.post(f"/labels/{drawn['id']}/pacs")
        assert stored.status_code == 200, stored.text
        objects = {}
        for each in client.search_for_series(STUDY):
            for instance in client.retrieve_series(STUDY, each["0020000E"]["Value"][0]):
                objects[instance.SOPInstanceUID] = instance
        segmentation, report = (objects[stored.json()[w]] for w in ("segmentation", "report"))
        right = segmentation.SegmentSequence[1]
        assert (right.SegmentLabel, right.SegmentAlgorithmType) == ("right", how)
        assert segmentation.SeriesDescription == described
        assert segmentation.ContentCreatorName == fields.get("author", "")
        told = [item for item in report.ContentSequence if "ContentSequence" in item]
        groups = told[-1].ContentSequence
        volumes, algorithms = [], []
        for group in groups:
            for item in group.ContentSequence:
                meaning = item.ConceptNameCodeSequence[0].CodeMeaning
                if meaning == "Volume":
                    volumes.append(float(item.MeasuredValueSequence[0].NumericValue))
                if meaning == "Algorithm Name":
                    algorithms.append(item.TextValue)
        assert volumes == pytest.approx([0, 12 * abs(np.linalg.det(image["affine"])) / 1000])
        assert sorted(set(algorithms)) == by
        assert api.post(f"/labels/{drawn['id']}/pacs").json() == stored.json()


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({**WANTED, "series": "1.2.3"}, 502, "pacs_failed"),
        ({**WANTED, "series": "../x"}, 422, "invalid_request"),
        ({"series": SERIES}, 422, "invalid_request"),
        ({**WANTED, "part": "7"}, 422, "no_such_series"),
    ],
)
def test_what_cannot_be_fetched_is_told(
    served: tuple[Client, Any], wanted: dict[str, str], status: int, code: str
) -> None:
    answer = served[0].post("/pacs/images", json=wanted)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_only_what_came_from_the_pacs_is_stored_there(
    served: tuple[Client, Any], tmp_path: Path
) -> None:
    files = sorted(save(tmp_path, series_of(ramp(), edit=complete)).iterdir())
    job = segmented(served, served[0].upload(*files)["id"])
    image = served[0].get(f"/images/{served[0].job(job)['image']}").json()
    drawn = ("mine.nii.gz", nifti_bytes(np.ones((7, 6, 5), np.uint8), image["affine"]))
    given = served[0].post(f"/images/{image['id']}/labels", files={"file": drawn}).json()
    for path in (f"/jobs/{job}", f"/labels/{given['id']}"):
        answer = served[0].post(f"{path}/pacs")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "format_not_fitting")


def test_a_server_without_a_pacs_says_so(bundles: Path, tmp_path: Path) -> None:
    with fake_server(tmp_path, bundles / "brain") as (client, _):
        assert not client.get("/health").json()["pacs"]
        for path, body in (("/pacs/series", {}), ("/pacs/images", WANTED)):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_pacs")
