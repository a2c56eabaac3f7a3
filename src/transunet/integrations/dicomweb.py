"""A PACS over DICOMweb: its series listed (QIDO), fetched (WADO) and results stored (STOW).

Only the address that a user names is asked: no redirect is followed. Credentials come from the
environment or from a netrc file, and stand in no message.
"""

import logging
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from transunet.data.formats.dicom.headers import NO_IMAGES, read_dataset, why_no_slice
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.optional import require

PREFIX = "dicomweb+"
"""What leads the address of a DICOMweb service where a path could stand: dicomweb+https://..."""
USER, PASSWORD, TOKEN = "DICOMWEB_USER", "DICOMWEB_PASSWORD", "DICOMWEB_TOKEN"
"""The environment variables with credentials: a name and a password, or a bearer token."""
TIMEOUT_S = (10, 120)
"""Until the connection stands, and until the next bytes come."""
MOST_LISTED = 50

_PATH = re.compile(r"(?P<base>.*?)(?:/studies/(?P<study>[\d.]+)(?:/series/(?P<series>[\d.]+))?)?/?")
_UID = re.compile(r"[\d.]{1,64}")
_NO_IMAGES = NO_IMAGES | {"SR", "KO", "RTSTRUCT", "RTPLAN", "DOC"}
"""Modalities of what is no image: in a list, it does not show that something has no pixels."""


@dataclass(frozen=True)
class Address:
    """A service, and what of it is meant."""

    base: str
    """http://HOST:PORT/PATH of the service."""
    study: str | None = None
    series: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    """What the series that are meant have, such as Modality. It may name a patient: tell nobody."""

    def __str__(self) -> str:
        study = f"/studies/{self.study}" if self.study else ""
        series = f"/series/{self.series}" if self.series else ""
        return f"{PREFIX}{self.base}{study}{series}"


@dataclass(frozen=True)
class RemoteSeries:
    """One series that a service lists."""

    address: Address
    modality: str
    description: str
    instances: int | None
    """None where the service does not say."""

    def __str__(self) -> str:
        size = "" if self.instances is None else f", {self.instances} images"
        return f"{self.modality} {self.description or '(no description)'!r}{size}, {self.address}"


def is_address(text: str) -> bool:
    """Whether `text` is meant as an address of a DICOMweb service."""
    return text.startswith(PREFIX)


def parse_address(text: str) -> Address:
    """Return the address that `text` is.

    Args:
        text: dicomweb+http[s]://HOST[:PORT]/PATH[/studies/STUDY[/series/SERIES]][?KEYWORD=VALUE].

    Raises:
        ConfigError: when it is none, or holds a password.
    """
    expected = (
        f"Expected {PREFIX}https://HOST:PORT/PATH, and for one series /studies/STUDY/series/SERIES "
        "behind it"
    )
    try:
        parts = urlsplit(text.removeprefix(PREFIX))
        parts.port  # noqa: B018 - raises for one that is no number
    except ValueError as error:
        raise ConfigError(f"An address of DICOMweb is malformed ({error}). {expected}.") from None
    if parts.username is not None:
        raise ConfigError(
            "An address with a name or a password in it would stand in shell histories and logs. "
            f"Leave them out and set {USER} and {PASSWORD}, or {TOKEN}, or use a netrc file."
        )
    path = _PATH.fullmatch(parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or path is None:
        raise ConfigError(f"{text.partition('?')[0]} is no address of DICOMweb. {expected}.")
    if "/studies" in path["base"] or "/series" in path["base"]:
        raise ConfigError(f"{text.partition('?')[0]}: a UID has digits and dots only. {expected}.")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    base = f"{parts.scheme}://{parts.netloc}{path['base']}"
    return Address(base, path["study"], path["series"], query)


def parse_service(text: str) -> Address:
    """Return the address of a service as a whole, with or without `PREFIX`.

    Raises:
        ConfigError: without dicomweb-client, or for an address that is none or has more in it.
    """
    for module in ("dicomweb_client", "highdicom"):
        require(module, extra="pacs")
    address = parse_address(text)
    if address.study or address.query:
        raise ConfigError(f"{address} is a part of a PACS. Give {PREFIX}{address.base}.")
    return address


def list_series(address: Address) -> list[RemoteSeries]:
    """Return the series of images that a service has at an address, `MOST_LISTED` at most.

    Raises:
        ConfigError: without dicomweb-client, or when the service refuses what was asked.
        DataError: when it cannot be reached, or its answer is no DICOM.
    """
    pydicom = require("pydicom", extra="pacs")
    if unknown := [word for word in address.query if not pydicom.datadict.tag_for_keyword(word)]:
        raise ConfigError(
            f"{', '.join(unknown)} is no keyword of DICOM, such as PatientID, Modality, StudyDate "
            "or SeriesDescription; a service would leave it out and list what was not asked for."
        )
    with _asking(address):
        answers = _client(address).search_for_series(
            address.study,
            limit=MOST_LISTED,
            fields=["SeriesDescription", "NumberOfSeriesRelatedInstances", "StudyInstanceUID"],
            search_filters=dict(address.query) or None,
        )
        listed = []
        for answer in answers:
            series = pydicom.Dataset.from_json(answer)
            instances = series.get("NumberOfSeriesRelatedInstances")
            study = str(series.get("StudyInstanceUID") or address.study)
            listed.append(
                RemoteSeries(
                    replace(address, study=study, series=str(series.SeriesInstanceUID), query={}),
                    str(series.get("Modality") or "?"),
                    str(series.get("SeriesDescription") or ""),
                    None if instances is None else int(instances),
                )
            )
    return [series for series in listed if series.modality not in _NO_IMAGES]


def one_series(address: Address) -> Address:
    """Return the address of the one series that is meant.

    Raises:
        ConfigError: when there are several, with the list of them; and as `list_series`.
        DataError: when there is none; and as `list_series`.
    """
    if address.series:
        return address
    listed = list_series(address)
    if not listed:
        asked = " with what was asked for" if address.query else ""
        raise DataError(f"{address} has no series of images{asked}. Check the address.")
    if len(listed) == 1:
        return listed[0].address
    most = f" (the first {MOST_LISTED})" if len(listed) == MOST_LISTED else ""
    lines = "\n".join(f"  {number}. {series}" for number, series in enumerate(listed, 1))
    raise ConfigError(
        f"{address} has {len(listed)} series{most}:\n{lines}\nGive the address of one of them."
    )


def fetch_series(
    address: Address, folder: Path, arrived: Callable[[int], object] = lambda _: None
) -> None:
    """Fetch the images of a series into `folder`, which is made for them.

    Args:
        address: of the series.
        folder: where they go.
        arrived: called with the bytes of each image that came.

    Raises:
        ConfigError: without dicomweb-client, or when the service refuses what was asked.
        DataError: when it cannot be reached, there is no such series, it holds no images, or not
            all of it came.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _asking(address):
        client = _client(address)
        answers = client.search_for_instances(address.study, address.series)
        listed = {str(answer["00080018"]["Value"][0]) for answer in answers}
        if not listed:
            raise DataError(f"{address} has no images. Check the address.")
        # As they are stored: compressed images stay compressed.
        media_types = (("application/dicom", "*"),)
        for dataset in client.iter_series(address.study, address.series, media_types):
            uid = str(dataset.SOPInstanceUID)
            if dataset.SeriesInstanceUID != address.series or not _UID.fullmatch(uid):
                raise DataError(f"{address}: the service sent something of another series.")
            file = folder / f"{uid}.dcm"
            dataset.save_as(file, enforce_file_format=True)
            arrived(file.stat().st_size)
    if missing := listed - {file.stem for file in folder.iterdir()}:
        raise DataError(
            f"{address}: {len(missing)} of its {len(listed)} images did not arrive. Try again."
        )
    kinds = Counter(why_no_slice(file) for file in folder.iterdir())
    if not kinds[None]:
        others = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise DataError(f"{address} holds no slices of a volume; found: {others}.")


@contextmanager
def fetched(texts: Sequence[str]) -> Iterator[dict[Path, Address | None]]:
    """Give the paths of inputs, of which addresses are fetched; what was fetched is removed again.

    Errors as `parse_address`, `one_series` and `fetch_series`.
    """
    addresses = {text: parse_address(text) for text in texts if is_address(text)}
    with tempfile.TemporaryDirectory(prefix="transunet-") as folder:
        paths: dict[Path, Address | None] = {}
        for text in texts:
            if text in addresses:
                address = one_series(addresses[text])
                path = Path(folder) / str(address.series)
                fetch_series(address, path)
                paths[path] = address
            else:
                paths[Path(text)] = None
        yield paths


def store(address: Address, files: Sequence[Path]) -> None:
    """Store DICOM files in the study of an address.

    Raises:
        ConfigError: without dicomweb-client, or when the service refuses what was asked.
        DataError: when it cannot be reached, or does not take all files.
    """
    datasets = [read_dataset(file, pixels=True) for file in files]
    with _asking(address):
        answer = _client(address).store_instances(datasets, address.study)
        failed = answer.get("FailedSOPSequence") or ()
        if failed:
            reasons = {f"{int(item.get('FailureReason') or 0):04X}" for item in failed}
            raise DataError(
                f"{address.base} took {len(files) - len(failed)} of {len(files)} files (failure "
                f"reason {', '.join(sorted(reasons))}). Ask its administrator."
            )


def _client(address: Address) -> Any:
    """A client that keeps to the address, waits for a while only, and asks once."""
    dicomweb_client = require("dicomweb_client", extra="pacs")
    for name in ("dicomweb_client", "retrying", "urllib3"):
        # They log what is asked for, which may name a patient; what fails is told by `_asking`.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    session = require("requests", extra="pacs").Session()
    session.max_redirects = 0
    if token := os.environ.get(TOKEN):
        session.headers["Authorization"] = f"Bearer {token}"
    elif user := os.environ.get(USER):
        session.auth = (user, os.environ.get(PASSWORD, ""))
    client = dicomweb_client.DICOMwebClient(
        address.base, session, permissive_uid=True, timeout=TIMEOUT_S
    )
    client.set_http_retry_params(retry=False)
    return client


@contextmanager
def _asking(address: Address) -> Iterator[None]:
    """Turn what a conversation with a service raises into one error, without what was asked for."""
    requests = require("requests", extra="pacs")
    no_dicomweb = (
        f"{address.base}: its answer is not that of DICOMweb. Check the address: what stands "
        "before /studies is often /dicom-web, or the like."
    )
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (TransUNetError, MemoryError):
        raise
    except requests.exceptions.JSONDecodeError:
        raise DataError(no_dicomweb) from None
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ConfigError(
                f"{address.base} wants other credentials (HTTP {status}). Set {USER} and "
                f"{PASSWORD}, or {TOKEN}, or write them into a netrc file."
            ) from None
        if status == 404:
            raise DataError(
                f"{address} is not there (HTTP 404). Check the address and its UIDs."
            ) from None
        reason = str(error.response.reason)[:80]
        raise DataError(f"{address.base} refuses (HTTP {status} {reason}).") from None
    except requests.exceptions.TooManyRedirects:
        raise ConfigError(
            f"{address.base} redirects elsewhere. Give the address that it redirects to."
        ) from None
    except requests.exceptions.Timeout:
        raise DataError(
            f"{address.base} did not answer within {TIMEOUT_S[0]} s, or stopped for "
            f"{TIMEOUT_S[1]} s. Try again, or ask its administrator."
        ) from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise DataError(f"{address.base}: the connection broke off. Try again.") from None
    except requests.exceptions.SSLError:
        raise DataError(
            f"{address.base}: its certificate is not trusted. Name the authority's certificate in "
            "REQUESTS_CA_BUNDLE."
        ) from None
    except requests.exceptions.ConnectionError:
        raise DataError(
            f"{address.base} cannot be reached. Check host and port, and that the service runs."
        ) from None
    except requests.exceptions.RequestException as error:
        raise DataError(f"{address.base}: {type(error).__name__}. Check the address.") from None
    except OSError:  # of a file
        raise
    except Exception:  # whatever an answer that is no DICOM makes of parsers
        raise DataError(no_dicomweb) from None
