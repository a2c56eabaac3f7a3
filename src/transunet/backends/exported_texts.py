"""Reading the texts that an exported file carries, without loading the network itself."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from transunet.backends import openvino
from transunet.backends.exported_metadata import KEYS, Metadata, unpack
from transunet.errors import ConfigError, DataError

_LONGEST = 1 << 24  # bytes of texts; a configuration takes a few thousand
_METADATA_PROPS = 14  # of ModelProto; in each: 1 the key, 2 the value (onnx.proto)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def read_metadata(path: Path) -> Metadata:
    """Return what the exported file at `path` says of itself.

    Raises:
        ConfigError: when there is no such file, or none that `transunet export` wrote.
        DataError: when it is damaged.
    """
    if not path.is_file():
        raise ConfigError(f"There is no exported network {path}. Check the path.")
    if path.suffix not in READERS:
        raise ConfigError(f"{path}: exported networks end in {', '.join(READERS)}.")
    try:
        texts = READERS[path.suffix](path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path}: is damaged ({error}). Export the bundle anew.") from None
    return unpack(texts, path)


def _onnx_texts(path: Path) -> dict[str, str]:
    found = {}
    with path.open("rb") as file:
        size = path.stat().st_size
        for start, end in _fields(file, _METADATA_PROPS, 0, size):
            if end - start > _LONGEST:
                raise ValueError("a text is too long")
            key, value = (_text(file, number, start, end) for number in (1, 2))
            found[key] = value
    return found


def _text(file: BinaryIO, number: int, start: int, end: int) -> str:
    for first, last in _fields(file, number, start, end):
        file.seek(first)
        return file.read(last - first).decode()
    return ""


def _fields(file: BinaryIO, number: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the fields called `number` of a protobuf message begin and end."""
    while start < end:
        file.seek(start)
        field, kind = divmod(_varint(file), 8)
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind in (_VARINT, _BYTES):
            value = _varint(file)
            length = value if kind == _BYTES else 0
        elif not length:
            raise ValueError("not an ONNX file")
        start = file.tell() + length
        if start > end:
            raise EOFError("it ends too early")
        if field == number and kind == _BYTES:
            yield start - length, start


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends too early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("not an ONNX file")


def _program_texts(path: Path) -> dict[str, str]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            _, _, name = entry.filename.partition("/extra/")
            if name in KEYS:
                if entry.file_size > _LONGEST:
                    raise ValueError("a text is too long")
                found[name] = archive.read(entry).decode()
    return found


READERS: Mapping[str, Callable[[Path], Mapping[str, str]]] = MappingProxyType(
    {".onnx": _onnx_texts, ".xml": openvino.texts_of, ".pt2": _program_texts}
)
"""Suffix of an exported file -> who reads its texts."""
