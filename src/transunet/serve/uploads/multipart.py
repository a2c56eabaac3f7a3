"""Files as they arrive: straight to the disk, counted while they come, gone if they do not end."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import anyio
import anyio.to_thread

from transunet.optional import require
from transunet.serve.api.error_responses import ApiError
from transunet.serve.uploads.file_names import on_disk
from transunet.serve.uploads.quota import telling_of_full_disks

FIELD_BYTES = 1024
"""Of a form field that is no file."""
FIELDS = 20
_EXTENDED_NAME = re.compile(rb"""filename\*\s*=\s*"?([\w.-]+)'[^']*'([^\s;"]*)""", re.IGNORECASE)
STALLED_SECONDS = 60.0
"""A client that sends nothing for so long is given up."""


@dataclass(frozen=True)
class Upload:
    """What a multipart request held."""

    files: list[Path] = field(default_factory=list)
    """In the order they came."""
    names: list[str] = field(default_factory=list)
    """What the client calls them, in the same order."""
    fields: dict[str, str] = field(default_factory=dict)


class Receiver:
    """Takes a multipart body apart and writes its files to `folder`.

    Args:
        content_type: the request's header.
        folder: an empty folder.
        most_files: how many files there may be.
        arrived: called with the size of each piece before it is written; raises to refuse it.

    Raises:
        ApiError: for a body of another type.
    """

    def __init__(
        self, content_type: str, folder: Path, most_files: int, arrived: Callable[[int], None]
    ) -> None:
        self.upload = Upload()
        self._folder, self._most_files, self._arrived = folder, most_files, arrived
        self._file: BinaryIO | None = None
        self._field: str | None = None
        self._text = bytearray()
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        parts = require("python_multipart.multipart", extra="serve")
        self._options: Callable[[bytes], Any] = parts.parse_options_header
        self._form_error: type[Exception] = require(
            "python_multipart.exceptions", extra="serve"
        ).FormParserError
        self._parser = self._parser_for(parts, content_type)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            ApiError: when it is refused, is no multipart body, or does not fit on the disk.
        """
        self._arrived(len(data))
        with telling_of_full_disks():
            try:
                self._parser.write(data)
            except self._form_error as error:
                raise _malformed(f"The upload is no multipart form ({error})") from None

    def finish(self) -> Upload:
        """Return what was received.

        Raises:
            ApiError: when the body ended too early.
        """
        if not self._ended:
            raise _malformed("The upload ended in the middle of a file")
        return self.upload

    def close(self) -> None:
        """Close the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parser_for(self, parts: Any, content_type: str) -> Any:
        kind, options = self._options(content_type.encode("latin-1", "replace"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise _malformed("Expected a multipart/form-data body with a boundary")
        callbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            return parts.MultipartParser(options[b"boundary"], callbacks)
        except self._form_error as error:
            raise _malformed(f"The upload is no multipart form ({error})") from None

    def _begin_part(self) -> None:
        self._headers.clear()

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_content(self) -> None:
        header = self._headers.get(b"content-disposition", b"")
        _, options = self._options(header)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        file_name = file_name_in(header, options)
        if file_name is not None:
            self._open(file_name)
        elif len(self.upload.fields) >= FIELDS:
            raise ApiError("too_large", f"The form has more than {FIELDS} fields.")
        else:
            self._field = name

    def _open(self, name: str) -> None:
        if len(self.upload.files) >= self._most_files:
            message = f"The upload has more than {self._most_files} files."
            raise ApiError("too_large", message, "Send the series as one zip archive.")
        taken = {file.name for file in self.upload.files}
        path = self._folder / on_disk(name, taken)
        self._file = path.open("xb")
        self.upload.files.append(path)
        self.upload.names.append(name)

    def _content(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES:
            message = f"The form's field {self._field!r:.50} is longer than {FIELD_BYTES} bytes."
            raise ApiError("too_large", message)

    def _end_part(self) -> None:
        self.close()
        if self._field is not None:
            self.upload.fields[self._field] = self._text.decode("utf-8", "replace")
        self._field = None
        self._text.clear()

    def _end(self) -> None:
        self._ended = True


def file_name_in(header: bytes, options: Mapping[bytes, bytes]) -> str | None:
    """Return the file name in a Content-Disposition, or None for a field that is no file.

    `filename*` (RFC 5987) goes before `filename`, which clients that send both (.NET's) encode as
    mail does (RFC 2047).

    Args:
        header: the whole of it.
        options: as the multipart library reads them; it passes over `filename*`.
    """
    if extended := _EXTENDED_NAME.search(header):
        charset, name = (part.decode("latin-1") for part in extended.groups())
        try:
            return unquote(name, charset, "replace")
        except LookupError:  # no such charset
            return unquote(name, errors="replace")
    if b"filename" not in options:
        return None
    plain = options[b"filename"].decode("utf-8", "replace")
    if plain.startswith("=?"):
        with suppress(HeaderParseError, LookupError, UnicodeError):
            return str(make_header(decode_header(plain)))
    return plain


async def receive(stream: AsyncIterator[bytes], receiver: Receiver) -> Upload:
    """Feed `receiver` until the stream ends.

    Raises:
        ApiError: as the receiver; or when the client stalls.
    """
    try:
        while True:
            try:
                with anyio.fail_after(STALLED_SECONDS):
                    data = await anext(stream, None)
            except TimeoutError:
                message = f"Nothing arrived for {STALLED_SECONDS:.0f} seconds."
                raise ApiError("too_slow", message, "Send the file again.") from None
            if data is None:
                return receiver.finish()
            if data:
                await anyio.to_thread.run_sync(receiver.feed, data)
    finally:
        receiver.close()


def _malformed(found: str) -> ApiError:
    return ApiError("malformed", f"{found}.", "Send the files as the form field 'files'.")
