"""Published weights in the cache: downloaded by the hub's client, checked, and remembered.

Without a network this fails within seconds, saying where a browser finds the file and where to put
it.
"""

import json
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from transunet import cache
from transunet.errors import ConfigError, WeightsError, first_line, is_full_disk
from transunet.files import sha256_of, write_json
from transunet.weights.catalog import WeightFile
from transunet.weights.content import looks_like


@dataclass(frozen=True)
class DownloadRecord:
    """What is remembered beside a cached file, as `FILE.json`."""

    sha256: str
    size: int
    checksum_from: str
    """Who said what the checksum has to be: see `docs/reference/weights.md`."""


def cached_path(file: WeightFile) -> Path:
    """Return where `file` lies in the cache, or would."""
    return cache.cache_folder() / "weights" / file.key / file.filename


def is_cached(file: WeightFile) -> bool:
    """Whether `file` lies in the cache, complete; its checksum is looked at when it is used."""
    try:
        return cached_path(file).is_file()
    except OSError:  # in a folder that this user may not look into
        return False


def record_of(file: WeightFile) -> DownloadRecord | None:
    """Return what is remembered about the cached `file`, or None."""
    try:
        return DownloadRecord(**json.loads(_note(cached_path(file)).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # absent, or not what we wrote: checked as if new
        return None


def address_of(file: WeightFile) -> str:
    """Return where `file` is fetched from, a mirror named by HF_ENDPOINT included."""
    mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return f"{mirror}/{file.repo}/resolve/main/{file.filename}" if mirror else file.address


def fetch(file: WeightFile, *, offline: bool | None = None) -> Path:
    """Return the path of `file` in the cache, downloading it first where it is not there.

    Several processes may ask at once: one downloads, the others wait for it.

    Args:
        file: What to fetch.
        offline: Use no network; None follows TRANSUNET_OFFLINE and HF_HUB_OFFLINE.

    Raises:
        WeightsError: when it cannot be had, or is damaged; the message says what to do.
        ConfigError: when the cache folder cannot be written to.
    """
    path = cached_path(file)
    if is_cached(file):
        return _checked(file)
    if offline or (offline is None and cache.is_offline()):
        raise WeightsError(
            f"{file.key} is not in the cache, and offline mode is on.{_advice(file)}"
        )
    cache.writable_cache_folder(path.parent)
    with cache.cache_lock(path):
        if not path.is_file():
            _download(file, path)
            return path  # checked on its way: hundreds of megabytes are not read once more
    return _checked(file)


def _download(file: WeightFile, path: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download  # 0.2 s to import

    try:
        metadata = get_hf_file_metadata(address_of(file), timeout=cache.ANSWER_SECONDS)
        needed, free = metadata.size or file.about_bytes, shutil.disk_usage(path.parent).free
        if needed > free:
            raise ConfigError(
                f"{path.parent}: {needed / 1e6:.0f} MB are needed for {file.key}, {free / 1e6:.0f} "
                "MB are free. Make room, or set TRANSUNET_CACHE to a folder on another disk."
            )
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as folder:
            endpoint = os.environ.get("HF_ENDPOINT") or None
            part = Path(
                hf_hub_download(file.repo, file.filename, local_dir=folder, endpoint=endpoint)
            )
            _remember(file, _verified(file, part, metadata.etag or ""))
            part.replace(path)
    except (ConfigError, WeightsError):
        raise
    except Exception as error:  # the hub's client raises what its HTTP library raises, too
        if is_full_disk(error):
            raise ConfigError(
                f"{path}: cannot be written: the disk is full. Make room and do the same again, or "
                f"set the environment variable {cache.VARIABLE} to another folder."
            ) from error
        raise WeightsError(
            f"{file.key}: {address_of(file)} does not give the file ({first_line(error)}). Nothing "
            f"was kept: do the same again to download it anew.{_advice(file)}"
        ) from error


def _verified(file: WeightFile, part: Path, etag: str) -> DownloadRecord:
    """Check the digest of `part` against the hub's (its etag, where that is one) and ours."""
    digest = sha256_of(part)
    expected = {"the hub": etag} if re.fullmatch(r"[0-9a-f]{64}", etag) else {}
    if file.sha256:
        expected["the catalogue"] = file.sha256
    for source, declared in expected.items():
        if digest != declared:
            with part.open("rb") as stream:
                what = looks_like(stream.read(512))
            raise WeightsError(
                f"{file.key}: what came from {address_of(file)} is damaged, or not the published "
                f"file: {f'it holds {what}; ' if what else ''}its sha256 is {digest}, {source} "
                f"says {declared}. It was deleted: try again. Is a login page or a proxy in "
                f"between, or does HF_ENDPOINT name a wrong address?{_advice(file)}"
            )
    checksum_from = list(expected)[-1] if expected else "nobody; recorded at download"
    return DownloadRecord(digest, part.stat().st_size, checksum_from)


def _checked(file: WeightFile) -> Path:
    """Return the path of the cached `file` after checking its checksum.

    A file that was put there by hand is checked against the catalogue if that knows its checksum,
    and remembered as it is where the folder can be written to.
    """
    path = cached_path(file)
    record = record_of(file)
    expected = file.sha256 or (record.sha256 if record else None)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}). Make it readable for this user, "
            f"or set the environment variable {cache.VARIABLE} to another folder."
        ) from None
    if expected is not None and digest != expected:
        damaged = path.with_name(f"{path.name}.damaged")
        try:
            path.replace(damaged)
            _note(path).unlink(missing_ok=True)
            remedy = f"It was moved to {damaged}; do the same again to download it anew."
        except OSError:
            remedy = f"Remove it, or set the environment variable {cache.VARIABLE} to another one."
        raise WeightsError(
            f"{path}: the file changed since it was downloaded: its SHA-256 is {digest}, expected "
            f"{expected}. {remedy}"
        )
    if record is None:
        source = "the catalogue" if file.sha256 else "its first use (put there by hand)"
        # An administrator's folder is used as it is: without a note it is as if new every time.
        with suppress(ConfigError, OSError):
            _remember(file, DownloadRecord(digest, path.stat().st_size, source))
    return path


def _remember(file: WeightFile, record: DownloadRecord) -> None:
    write_json(asdict(record), _note(cached_path(file)))


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _advice(file: WeightFile) -> str:
    return (
        f"\nWhat to do: on a machine with a connection, fetch {address_of(file)} "
        f"(about {file.about_bytes / 1e6:.0f} MB) and put it at {cached_path(file)}, or anywhere "
        f'and give its path: weights="path/to/{file.filename}".'
    )
