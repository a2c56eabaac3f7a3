"""A request's files into a folder of their own, which is gone again unless all goes well.

Starlette takes the form apart; here its files go straight to where they stay, under harmless names,
counted while they come.
"""

import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import anyio
import anyio.to_thread
from fastapi import Request, UploadFile
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.database import new_id
from transunet.serve.service import Service
from transunet.serve.uploads.inspection import UPLOAD
from transunet.serve.uploads.quota import remove, size_of

FIELD_BYTES = 1024
"""Of a form field that is no file."""
FIELDS = 20
STALLED_SECONDS = 60.0
"""A client that sends nothing for so long is given up."""
_DRAINED_BYTES = 64 * 2**20
_DRAINED_SECONDS = 10.0
_LONGEST_NAME = 120  # characters; file systems allow 255 bytes, and letters may take four
_NAME_END = 30  # characters at the end that are kept when a name is cut: suffixes
_EXTENDED_NAME = re.compile(rb"""filename\*\s*=\s*"?([\w.-]+)'[^']*'([^\s;"]*)""", re.IGNORECASE)


@dataclass(frozen=True)
class Upload:
    """What a multipart request held."""

    id: str
    folder: Path
    """Its own; the files are in `UPLOAD` in it. It may be moved to where it is kept."""
    files: list[Path] = field(default_factory=list)
    """In the order they came."""
    names: list[str] = field(default_factory=list)
    """What the client calls them, in the same order."""
    fields: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def received(request: Request, service: Service) -> AsyncIterator[Upload]:
    """Yield what a request uploads; in the end its folder is removed.

    Raises:
        ApiError: for an upload that is too large, malformed, stalled, or does not fit on the disk.
    """
    limits, stream = service.limits, request.stream()
    too_large = ApiError(
        "too_large",
        f"The upload is larger than {limits.upload_bytes / 2**20:g} MB, which is all that is "
        "taken.",
        "Send a smaller file, or start with --max-upload.",
    )

    async def counted() -> AsyncGenerator[bytes, None]:
        size = 0
        while True:
            try:
                with anyio.fail_after(STALLED_SECONDS):
                    data = await anext(stream, None)
            except TimeoutError:
                message = f"Nothing arrived for {STALLED_SECONDS:.0f} seconds."
                raise ApiError("too_slow", message, "Send the file again.") from None
            if data is None:
                return
            size += len(data)
            if size > limits.upload_bytes:
                raise too_large
            await anyio.to_thread.run_sync(service.quota.add_arriving, upload.id, len(data))
            yield data

    try:
        async with arriving(service) as upload:
            try:
                declared = request.headers.get("content-length", "")
                if declared.isdigit() and int(declared) > limits.upload_bytes:
                    raise too_large
                service.quota.check()
                (upload.folder / UPLOAD).mkdir(parents=True)
                await _UploadParser(request, counted(), upload, limits.files).receive()
            except (ApiError, OSError) as error:
                code = error.code if isinstance(error, ApiError) else "storage_full"
                if code in ("too_large", "storage_full") and "expect" not in request.headers:
                    await _drain(stream)
                raise
            yield upload
    except ClientDisconnect:
        raise ApiError("malformed", "The client left before the upload ended.") from None


@asynccontextmanager
async def arriving(service: Service) -> AsyncIterator[Upload]:
    """Yield an upload whose folder is still to be made; in the end it is removed."""
    id_ = new_id()
    upload = Upload(id_, service.data / "incoming" / id_)
    try:
        yield upload
    finally:
        service.quota.forget_arriving(id_)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove, upload.folder)


@contextmanager
def kept_at(folder: Path, upload: Upload, service: Service) -> Iterator[int]:
    """Move an upload to where it is kept, back again where its record cannot be; yields its bytes.

    Raises:
        ApiError: when it does not fit into the quota with what was written beside the files.
    """
    size = size_of(upload.folder)
    service.quota.forget_arriving(upload.id)
    service.quota.add_arriving(upload.id, size)
    shutil.move(upload.folder, folder)
    try:
        yield size
    except BaseException:
        shutil.move(folder, upload.folder)  # to where it is removed
        raise


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Take a little more of a refused body: a client that still sends does not see the answer."""
    size = 0
    with anyio.move_on_after(_DRAINED_SECONDS):
        async for data in stream:
            size += len(data)
            if size > _DRAINED_BYTES:
                return


class _UploadParser(MultiPartParser):
    """Starlette's parser of forms, but a file is written to where it stays."""

    def __init__(
        self, request: Request, stream: AsyncGenerator[bytes, None], upload: Upload, most_files: int
    ) -> None:
        unlimited = float("inf")  # what is too much is told below, with its code
        super().__init__(request.headers, stream, max_files=unlimited, max_fields=unlimited)
        self._upload, self._most_files = upload, most_files
        self._taken: set[str] = set()  # names of files
        self._ended = False

    async def receive(self) -> None:
        """Take the form apart into `upload`.

        Raises:
            ApiError: for what is no form, or has too much in it.
        """
        try:
            if not self.headers.get("content-type", "").startswith("multipart/form-data"):
                raise MultiPartException("Expected a multipart/form-data body with a boundary.")
            form = await self.parse()
            if not self._ended:
                raise MultiPartException("The upload ended in the middle of a file.")
        except (MultiPartException, FormParserError) as error:
            remedy = "Send the files as the form field 'files'."
            raise ApiError("malformed", f"The upload is no form: {error}", remedy) from None
        finally:
            for file in self._files_to_close_on_error:
                file.close()
        fields = {name: text for name, text in form.multi_items() if isinstance(text, str)}
        self._upload.fields.update(fields)

    def on_headers_finished(self) -> None:
        part, upload = self._current_part, self._upload
        extended = _EXTENDED_NAME.search(part.content_disposition or b"")
        if extended and part.content_disposition:  # the parser passes over `filename*`
            part.content_disposition += b'; filename=""'
        super().on_headers_finished()
        if part.file is None:
            if self._current_fields > FIELDS:
                raise ApiError("too_large", f"The form has more than {FIELDS} fields.")
            return
        if self._current_files > self._most_files:
            message = f"The upload has more than {self._most_files} files."
            raise ApiError("too_large", message, "Send the series as one zip archive.")
        name = decoded_name(part.file.filename or "", extended)
        upload.files.append(upload.folder / UPLOAD / name_on_disk(name, self._taken))
        self._taken.add(upload.files[-1].name)
        upload.names.append(name)
        file = upload.files[-1].open("xb")
        self._files_to_close_on_error[-1].close()  # the parser's, which nothing was written to
        self._files_to_close_on_error[-1] = file  # type: ignore[call-overload]
        part.file = _KeptFile(file)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is None and len(part.data) + end - start > FIELD_BYTES:
            message = (
                f"The form's field {part.field_name!r:.50} is longer than {FIELD_BYTES} bytes."
            )
            raise ApiError("too_large", message)
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self._ended = True


class _KeptFile(UploadFile):
    """A file that the parser turns to its beginning when it is complete."""

    async def seek(self, offset: int) -> None:
        await self.close()  # a series has more files than a process may have open


def decoded_name(plain: str, extended: re.Match[bytes] | None) -> str:
    """Return a file name as a Content-Disposition tells it.

    `filename*` (RFC 5987) goes before `filename`, which clients that send both (.NET's) encode as
    mail does (RFC 2047).
    """
    if extended:
        charset, name = (part.decode("latin-1") for part in extended.groups())
        try:
            return unquote(name, charset, "replace")
        except LookupError:  # no such charset
            return unquote(name, errors="replace")
    if plain.startswith("=?"):
        with suppress(HeaderParseError, LookupError, UnicodeError):
            return str(make_header(decode_header(plain)))
    return plain


def shown_name(name: str) -> str:
    """Return the last part of a client's path without what cannot be printed; never empty."""
    last = PurePosixPath(name.replace("\\", "/")).name
    text = "".join(letter for letter in last if letter.isprintable() and letter != "\ufffd")
    return text.strip()[-_LONGEST_NAME:] or "unnamed"


def name_on_disk(name: str, taken: Collection[str]) -> str:
    """Return a harmless file name that ends like `name` and is not one of `taken`."""
    text = re.sub(r"[^\w.+=@()-]", "_", shown_name(name), flags=re.ASCII).lstrip(".-") or "unnamed"
    if len(text) > _LONGEST_NAME:
        text = text[: _LONGEST_NAME - _NAME_END] + text[-_NAME_END:]
    number, free = 2, text
    while free in taken:
        number, free = number + 1, f"{number}_{text}"
    return free
