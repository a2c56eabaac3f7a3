"""A PACS: its series listed, fetched and predicted, and results stored; what services do wrong."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dicom_made import PATIENT_ID, STUDY, complete, ramp, save, series_of
from orthanc import PASSWORD, USER, running_orthanc
from prediction import tiny_bundle
from transunet.cli.main import app
from transunet.data.formats import read_volume
from transunet.data.formats.dicom.segmentation import read_seg
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.integrations import dicomweb
from transunet.integrations.dicomweb import (
    Address,
    fetch_series,
    list_series,
    one_series,
    parse_service,
    store,
)

pydicom = pytest.importorskip("pydicom", reason="needs the extra [pacs]")
pytest.importorskip("dicomweb_client", reason="needs the extra [pacs]")
pytest.importorskip("highdicom", reason="needs the extra [pacs]")

SERIES = STUDY + ".1"


@pytest.fixture(autouse=True)
def without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in (dicomweb.USER, dicomweb.PASSWORD, dicomweb.TOKEN):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), channels_named=["CT"])


def predict(*arguments: object) -> Result:
    typed = ["predict", "--engine", "eager", "--device", "cpu", *map(str, arguments)]
    return CliRunner().invoke(app, typed)


# --- Orthanc -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as address:
        yield address


def test_a_result_stands_beside_its_series(
    orthanc: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Address(orthanc, STUDY, SERIES)
    source = save(tmp_path / "series", series_of(ramp(), edit=complete))
    with pytest.raises(ConfigError, match=rf"HTTP 401.*{dicomweb.USER}"):
        list_series(Address(orthanc))
    monkeypatch.setenv(dicomweb.USER, USER)
    monkeypatch.setenv(dicomweb.PASSWORD, PASSWORD)
    store(address, sorted(source.iterdir()))
    out = tmp_path / "out"
    asked = f"dicomweb+{orthanc}?PatientID={PATIENT_ID}&Modality=CT"
    result = predict(bundle, asked, "-o", out, "--format", "dicom-seg", "--report", "--store")
    assert result.exit_code == 0, result.output
    assert "segmentation and report stored in" in result.output
    image, expected = read_volume(source), tmp_path / "expected.nii.gz"
    assert predict(bundle, source, "-o", tmp_path / "local").exit_code == 0
    (tmp_path / "local" / "series.nii.gz").rename(expected)
    labels = read_volume(expected).on_grid(image)

    # What the service has now, fetched anew.
    client = dicomweb._client(address)
    listed = client.search_for_series(STUDY, fields=["Modality"])
    uid_of = {each["00080060"]["Value"][0]: each["0020000E"]["Value"][0] for each in listed}
    assert sorted(uid_of) == ["CT", "SEG", "SR"]
    assert [series.address for series in list_series(Address(orthanc, STUDY))] == [address]
    (seg,) = client.retrieve_series(STUDY, uid_of["SEG"])
    (report,) = client.retrieve_series(STUDY, uid_of["SR"])
    seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert labels is not None
    assert labels.array.any()
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", image).array, labels.array)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {item.SeriesInstanceUID for item in evidence} == {SERIES, uid_of["SEG"]}

    told = result.output + "".join(file.read_text() for file in out.rglob("*.json"))
    assert str(address) in told  # in the manifest
    for secret in (PASSWORD, PATIENT_ID, "Test^Case"):
        assert secret not in told
    again = predict(bundle, address, "-o", out, "--format", "dicom-seg", "--report")
    assert "0 label maps" in again.output
    assert "1 finished before" in again.output
    assert len(client.search_for_series(STUDY)) == 3  # stored only where it is asked for
    store(address, [tmp_path / "seg.dcm"])  # there already, which is no fault
    (tmp_path / "none").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}")
    monkeypatch.delenv(dicomweb.USER)
    assert one_series(Address(orthanc, STUDY)) == address


def test_several_series_are_listed_and_none_is_taken(
    orthanc: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dicomweb.USER, USER)
    monkeypatch.setenv(dicomweb.PASSWORD, PASSWORD)
    study = STUDY + ".50"
    for number in (1, 2):
        made = series_of(ramp(3), uid=f"{study}.{number}")
        for dataset in made:
            dataset.StudyInstanceUID = study
        store(Address(orthanc, study), sorted(save(tmp_path / str(number), made).iterdir()))
    address = Address(orthanc, study)
    result = predict(bundle, address, "-o", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    for number in (1, 2):
        line = f"CT 'made', 3 images, dicomweb+{orthanc}/studies/{study}/series/{study}.{number}"
        assert line in str(result.exception)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="no series of images with what was asked for"):
        one_series(Address(orthanc, study, query={"Modality": "MR"}))
    with pytest.raises(DataError, match="has no images"):
        fetch_series(Address(orthanc, study, "1.2.3"), tmp_path)


# --- Services that answer wrongly ----------------------------------------------------------------


def instances(count: int) -> list[bytes]:
    encoded = []
    for dataset in series_of(ramp(count)):
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        encoded.append(buffer.getvalue())
    return encoded


def related(parts: list[bytes]) -> bytes:
    each = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part for part in parts]
    return b"\r\n".join(each) + b"\r\n--b--"


@pytest.fixture
def service() -> Iterator[Callable[..., Address]]:
    """Start a service that lists three images and answers the fetching as it is told."""
    listing = [{"00080018": {"vr": "UI", "Value": [f"{SERIES}.{n}"]}} for n in (1, 2, 3)]
    servers = []

    def start(
        body: bytes,
        kind: str = "multipart/related; type=application/dicom; boundary=b",
        *,
        status: int = 200,
        listed: object = listing,
        cut: int = 0,
        **headers: str,
    ) -> Address:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                if self.path.endswith("/instances"):
                    data, media, code = json.dumps(listed).encode(), "application/dicom+json", 200
                else:
                    data, media, code = body, kind, status
                self.send_response(code)
                self.send_header("Content-Type", media)
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[: len(data) - cut] if data is body else data)

            do_GET = do_POST = answer  # noqa: N815 - so http.server wants them called

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return Address(f"http://127.0.0.1:{server.server_port}/dicom-web", STUDY, SERIES)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_whole_answer_is_taken(service: Callable[..., Address], tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    fetch_series(service(related(instances(3))), folder)
    assert sorted(file.stem for file in folder.iterdir()) == [f"{SERIES}.{n}" for n in (1, 2, 3)]
    np.testing.assert_array_equal(read_volume(folder).array[0], ramp(3).transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("answer", "error", "expected"),
    [
        ({"body": related(instances(2))}, DataError, "1 of its 3 images did not arrive"),
        ({"body": related(instances(3)), "cut": 90}, DataError, "broke off"),
        ({"body": b"<html>Hello</html>", "kind": "text/html"}, DataError, "not that of DICOMweb"),
        ({"body": related([b"no dicom"] * 3)}, DataError, "not that of DICOMweb"),
        ({"body": b"", "listed": []}, DataError, "has no images"),
        ({"body": b"", "listed": {"error": 1}}, DataError, "not that of DICOMweb"),
        ({"body": b"", "status": 401}, ConfigError, "HTTP 401.*netrc"),
        ({"body": b"", "status": 403}, ConfigError, "HTTP 403.*netrc"),
        ({"body": b"", "status": 404}, DataError, f"{SERIES} is not there.*HTTP 404"),
        ({"body": b"", "status": 500}, DataError, "HTTP 500"),
        ({"body": b"", "status": 302, "Location": "http://127.0.0.1:9/x"}, ConfigError, "redirect"),
    ],
)
def test_what_services_do_wrong_is_told(
    service: Callable[..., Address],
    tmp_path: Path,
    answer: dict[str, Any],
    error: type[TransUNetError],
    expected: str,
) -> None:
    with pytest.raises(error, match=expected):
        fetch_series(service(**answer), tmp_path)


def test_images_of_another_series_are_refused(
    service: Callable[..., Address], tmp_path: Path
) -> None:
    other = series_of(ramp(1), uid="1.2.3")[0]
    buffer = BytesIO()
    other.save_as(buffer, enforce_file_format=True)
    with pytest.raises(DataError, match="another series"):
        fetch_series(service(related([buffer.getvalue()])), tmp_path)


def test_what_is_no_volume_is_refused(service: Callable[..., Address], tmp_path: Path) -> None:
    (report,) = series_of(ramp(1))
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient"):
        delattr(report, keyword)
    report.Modality, report.SOPClassUID = "SR", "1.2.840.10008.5.1.4.1.1.88.22"
    buffer = BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    listed = [{"00080018": {"vr": "UI", "Value": [f"{SERIES}.1"]}}]
    with pytest.raises(DataError, match="no slices of a volume; found: 1 SR"):
        fetch_series(service(related([buffer.getvalue()]), listed=listed), tmp_path)


def test_files_that_are_not_taken_are_told(service: Callable[..., Address], tmp_path: Path) -> None:
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}
    files = sorted(save(tmp_path / "s", series_of(ramp(2))).iterdir())
    address = service(json.dumps(failed).encode(), "application/dicom+json")
    with pytest.raises(DataError, match=r"took 1 of 2 files \(failure reason 0110\)"):
        store(address, files)


def test_a_service_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(dicomweb, "TIMEOUT_S", (0.2, 0.2))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = Address(f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web", STUDY, SERIES)
        with pytest.raises(DataError, match="cannot be reached"):
            fetch_series(address, tmp_path)
        silent.listen()
        with pytest.raises(DataError, match="did not answer") as told:
            list_series(Address(address.base, query={"PatientID": "Muster"}))
    assert "Muster" not in caplog.text + str(told.value)


# --- What is typed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dicomweb+http://me:word@host/dicom-web", "would stand in shell histories"),
        ("dicomweb+ftp://host/dicom-web", "no address of DICOMweb"),
        ("dicomweb+http://", "no address of DICOMweb"),
        ("dicomweb+http://host:x/dicom-web", "malformed"),
        ("dicomweb+http://host/dicom-web/studies/abc", "digits and dots only"),
        ("dicomweb+http://host/dicom-web/studies/1.2/series/x", "digits and dots only"),
        ("dicomweb+http://host/dicom-web?Patient=7", "Patient is no keyword of DICOM"),
    ],
)
def test_a_mistyped_address_is_refused(
    bundle: Path, tmp_path: Path, text: str, expected: str
) -> None:
    result = predict(bundle, text, "-o", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert expected in str(result.exception)
    assert "word" not in str(result.exception).replace("password", "").replace("keyword", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [("scan.nii.gz", "--format", "dicom-seg"), ("dicomweb+http://host/dicom-web",)],
)
def test_only_segmentations_of_a_pacs_are_stored(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = predict(bundle, *arguments, "-o", tmp_path / "out", "--store")
    assert isinstance(result.exception, ConfigError)
    assert "--format dicom-seg or dicom-labelmap" in str(result.exception)


def test_a_server_is_told_a_whole_service() -> None:
    assert parse_service("https://host/dicom-web").base == "https://host/dicom-web"
    assert parse_service("dicomweb+http://host:80/x/").base == "http://host:80/x"
    for text in ("ftp://host/x", "http://me:word@host/x", f"http://host/x/studies/{STUDY}"):
        with pytest.raises(ConfigError):
            parse_service(text)
    with pytest.raises(ConfigError, match="https://HOST:PORT/PATH, and for one series"):
        parse_service("pacs")
