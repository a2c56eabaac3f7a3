"""Published weights into the cache: resumed, checked, and never a wait without a network.

The hub's client says what a file is (its size and SHA-256) and where its bytes are; these
come through a small transfer of our own, because the hub's starts over when it was
interrupted.
"""

import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from transunet import cache
from transunet.cache import Record
from transunet.errors import ConfigError, TransUNetError, WeightsError
from transunet.optional import DISTRIBUTION, own_version
from transunet.weights.catalog import WeightFile
from transunet.weights.content import looks_like

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and the bytes in all (None when the server does not say)."""

ANSWER_SECONDS = 5.0
"""For a server's first answer: without a network this is all that is waited."""
_STALL_SECONDS = 30.0  # without a byte
_PAUSE_SECONDS = 1.0  # before taking up an interrupted transfer
_ATTEMPTS_WITHOUT_PROGRESS = 3
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Remote:
    """What a server says about a file."""

    url: str
    size: int | None
    """None where it does not say."""
    most: int
    """Bytes after which it is not the file."""
    algorithm: str | None = None
    digest: str | None = None
    declared_by: str = "nobody; recorded at download"

    @property
    def identity(self) -> str:
        """What tells whether a partial download belongs to this very file."""
        return f"{self.algorithm}:{self.digest} {self.size}"


def is_offline() -> bool:
    """Whether TRANSUNET_OFFLINE or HF_HUB_OFFLINE asks for no network."""
    values = (os.environ.get(name, "") for name in ("TRANSUNET_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() in {"1", "true", "yes", "on"} for value in values)


def fetch(
    file: WeightFile, *, offline: bool | None = None, progress: Progress | None = None
) -> Path:
    """Return the path of `file` in the cache, downloading it first where it is not there.

    Several processes may ask at once: one downloads, the others wait for it.

    Args:
        file: What to fetch.
        offline: Use no network; None follows TRANSUNET_OFFLINE and HF_HUB_OFFLINE.
        progress: Told about every piece that arrives.

    Raises:
        WeightsError: when it cannot be had, or is damaged; the message says what to do.
        ConfigError: when the cache folder cannot be written to.
    """
    path = cache.place(file)
    if cache.is_cached(file):
        return cache.checked(file)
    if offline or (offline is None and is_offline()):
        raise WeightsError(
            f"{file.key} is not in the cache, and offline mode is on.{_advice(file)}"
        )
    cache.writable_cache_folder(path.parent)
    with cache.cache_lock(path):
        if not path.is_file():
            _download(file, path, progress or (lambda done, total: None))
    return cache.checked(file)


def address_of(file: WeightFile) -> str:
    """Return where `file` is fetched from, a mirror named by HF_ENDPOINT included."""
    mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if not mirror:
        return file.address
    return f"{mirror}/{file.repo}/resolve/main/{file.filename}"


def _download(file: WeightFile, path: Path, progress: Progress) -> None:
    remote = _ask_hub(file)
    part = path.with_name(f"{path.name}.part")
    _keep_only_if_same(part, remote)
    _check_space(file, remote, part)
    _transfer(file, remote, part, progress)
    record = _verified(file, remote, part)
    try:
        cache.remember(file, record)
        part.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    _identity_note(part).unlink(missing_ok=True)


def _ask_hub(file: WeightFile) -> Remote:
    from huggingface_hub import get_hf_file_metadata  # 0.2 s that an offline use need not pay

    try:
        found = get_hf_file_metadata(address_of(file), timeout=ANSWER_SECONDS)
    except Exception as error:  # its HTTP client changed twice; the errors share no base class
        raise _unreachable(file, error) from error
    digest = found.etag if re.fullmatch(r"[0-9a-f]{64}", found.etag or "") else None
    most = found.size or 2 * file.about_bytes
    if digest is None:
        return Remote(found.location, found.size, most)
    return Remote(found.location, found.size, most, "sha256", digest, "the hub")


def _keep_only_if_same(part: Path, remote: Remote) -> None:
    """Drop a partial download of something else, and note what this one will be."""
    note = _identity_note(part)
    noted = note.read_text(encoding="utf-8") if note.is_file() else ""
    if remote.digest is None or noted != remote.identity:
        part.unlink(missing_ok=True)
    try:
        note.write_text(remote.identity, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(note, error) from error


def _check_space(file: WeightFile, remote: Remote, part: Path) -> None:
    needed = (remote.size or file.about_bytes) - _size(part)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise ConfigError(
            f"{part.parent}: {needed / 1e6:.0f} MB are needed for {file.key}, {free / 1e6:.0f} MB "
            "are free. Make room, or set TRANSUNET_CACHE to a folder on another disk."
        )


def _transfer(file: WeightFile, remote: Remote, part: Path, progress: Progress) -> None:
    """Fill `part`, taking up after what it holds, until it is whole or nothing more comes."""
    fruitless = 0
    while True:
        before = _size(part)
        problem: Exception | None = None
        try:
            ended = before == remote.size or _read_on(remote, part, progress)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise _unreachable(file, error) from error
            # What is here is longer than what the server has: start over.
            part.unlink(missing_ok=True)
            ended, problem = False, error
        except (OSError, http.client.HTTPException) as error:
            ended, problem = False, error
        if ended and remote.size in (None, _size(part)) and _size(part) <= remote.most:
            return
        if _size(part) > remote.most:
            raise _too_much(file, remote, part)
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == _ATTEMPTS_WITHOUT_PROGRESS:
            if what := _what_came(part):
                raise _another(file, part, what)
            raise _interrupted(file, remote, part, problem)
        time.sleep(_PAUSE_SECONDS)


def _read_on(remote: Remote, part: Path, progress: Progress) -> bool:
    """Append to `part` what the server sends from there on; True when the server had no more."""
    start = _size(part)
    headers = {"Range": f"bytes={start}-"} if start else {}
    with _open(_request(remote.url, headers=headers), _STALL_SECONDS) as answer:
        resumed = answer.status == 206 and _starts_at(answer, start)
        done = start if resumed else 0
        with part.open("ab" if resumed else "wb") as stream:
            while chunk := answer.read(_CHUNK):
                _write(stream, chunk, part)
                done += len(chunk)
                progress(done, remote.size)
                if done > remote.most:
                    break  # a server that errs shall not fill the disk
    return True


def _starts_at(answer: Any, start: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _write(stream: Any, chunk: bytes, part: Path) -> None:
    try:
        stream.write(chunk)
    except OSError as error:  # the disk's fault, not the network's: trying again would not help
        raise _cannot_write(part, error) from error


def _verified(file: WeightFile, remote: Remote, part: Path) -> Record:
    if not (remote.digest or file.sha256):
        _check_content(file, part)
    found = cache.digests(part, sorted({"sha256", remote.algorithm or "sha256"}))
    expected = [(remote.algorithm, remote.digest, remote.declared_by)] if remote.algorithm else []
    if file.sha256:
        expected.append(("sha256", file.sha256, "the catalogue"))
    for algorithm, digest, source in expected:
        if found[str(algorithm)] != digest:
            if what := _what_came(part):
                raise _another(file, part, what)
            _delete(part)
            raise WeightsError(
                f"{file.key}: what came from {address_of(file)} is damaged, or not the published "
                f"file: its {algorithm} is {found[str(algorithm)]}, {source} says {digest}. "
                f"It was deleted: try again.{_advice(file)}"
            )
    source = expected[-1][2] if expected else remote.declared_by
    return Record(found["sha256"], _size(part), source)


def _check_content(file: WeightFile, part: Path) -> None:
    """Make sure that what came is the file, where nobody has declared a checksum of it.

    A mirror, or a proxy that asks for a login, may answer anything with a page and the status 200.
    """
    from safetensors import SafetensorError, safe_open  # imports no torch unless tensors are read

    try:
        with safe_open(part, "np") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        numbers = sum(map(prod, shapes))
    except (SafetensorError, OSError):
        numbers = 0
    if abs(numbers - file.parameters) > file.parameters / 10:
        raise _another(file, part, _what_came(part) or "something else, or cut short")


def _what_came(part: Path) -> str | None:
    """Return what `part` is instead of weights, where its beginning tells."""
    if not part.is_file():
        return None
    with part.open("rb") as stream:
        return looks_like(stream.read(512))


def _another(file: WeightFile, part: Path, what: str) -> WeightsError:
    size = _size(part)
    _delete(part)
    return WeightsError(
        f"{file.key}: what {address_of(file)} sent is not the published file of about "
        f"{file.about_bytes / 1e6:.0f} MB but {size} bytes of {what}. Nothing was kept. Is a login "
        f"page or a proxy in between, or does HF_ENDPOINT name a wrong address?{_advice(file)}"
    )


def _delete(part: Path) -> None:
    part.unlink(missing_ok=True)
    _identity_note(part).unlink(missing_ok=True)


def _interrupted(
    file: WeightFile, remote: Remote, part: Path, problem: Exception | None
) -> WeightsError:
    here, total = _size(part), remote.size
    share = f"{here} of {total} bytes" if total is not None else f"{here} bytes"
    return WeightsError(
        f"{file.key}: the download from {address_of(file)} broke off with {share} here"
        f"{f' ({_reason(problem)})' if problem else ''}. They are kept: do the same again to "
        f"resume.{_advice(file)}"
    )


def _too_much(file: WeightFile, remote: Remote, part: Path) -> WeightsError:
    _delete(part)
    which = "that it declared" if remote.size else "that the file could have"
    return WeightsError(
        f"{file.key}: {address_of(file)} sends more than the {remote.most} bytes {which}. "
        f"What came was deleted: try again.{_advice(file)}"
    )


def _unreachable(file: WeightFile, error: Exception) -> TransUNetError:
    return WeightsError(
        f"{file.key}: {address_of(file)} does not give the file ({_reason(error)}).{_advice(file)}"
    )


def _advice(file: WeightFile) -> str:
    return (
        f"\nWhat to do: on a machine with a connection, fetch {address_of(file)} "
        f"(about {file.about_bytes / 1e6:.0f} MB) and put it at {cache.place(file)}, or anywhere "
        f'and give its path: weights="path/to/{file.filename}".'
    )


def _reason(error: Exception) -> str:
    text = str(getattr(error, "reason", "") or error).strip().splitlines()
    status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
    return status + (text[0] if text else type(error).__name__)


def _cannot_write(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be written: {error.strerror or error}. Make room and do the same again to "
        f"resume, or set the environment variable {cache.VARIABLE} to another folder."
    )


def _request(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
    everything = {
        "User-Agent": f"{DISTRIBUTION}/{own_version()}",
        "Accept-Encoding": "identity",
        **(headers or {}),
    }
    return urllib.request.Request(url, method=method, headers=everything)


def _open(request: Any, timeout: float) -> Any:
    return urllib.request.urlopen(request, timeout=timeout, context=_certificates())


def _certificates() -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:  # python.org's Python on macOS comes without certificates; the hub's client brings some
        import certifi
    except ModuleNotFoundError:
        return context
    context.load_verify_locations(certifi.where())
    return context


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _identity_note(part: Path) -> Path:
    return part.with_name(f"{part.name}.txt")
