"""Volumes that were sent in a zip archive; one of DICOM slices is read by `dicom`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transunet.data.checks.problems import Problem
from transunet.data.formats.archive import Unpacked, is_zip, starts
from transunet.data.formats.file_format import FileFormat
from transunet.data.formats.kinds import FORMATS, SLICES, channel_of, stem_of, suffix_of


def holds_volume(path: Path) -> bool:
    """Whether an archive holds NIfTI, NRRD or MetaImage files, and no DICOM, which comes first."""
    return bool(_volumes(path))


def volumes_in_zip(path: Path) -> list[str]:
    """Return which files in an archive are its volume, one or one per channel; none for DICOM.

    Raises:
        DataError: for several that are not the channels of one case.
    """
    names = _volumes(path)
    channels = [channel_of(stem_of(Path(name))) for name in names]
    cases = {channel[0] if channel else None for channel in channels}
    if len(names) > 1 and (None in cases or len(cases) > 1):
        found = f"it holds {len(names)} images ({', '.join(names[:3])}, ...); expected one"
        remedy = "Unpack it and give its folder, or send one of the files"
        raise Problem("archive", str(path), found, remedy).error()
    return names


@contextmanager
def unzipped(path: Path) -> Iterator[list[Path]]:
    """The volume's files in the archive that `path` is, for a while; none for any other file."""
    names = volumes_in_zip(path) if path.is_file() and is_zip(path) else []
    if not names:
        yield []
        return
    unpacked = Unpacked(path)
    try:
        yield [unpacked.folder / name for name in names]
    finally:
        unpacked.close()


def _volumes(path: Path) -> list[str]:
    holds = starts(path, 132)
    if any(start[128:] == b"DICM" or suffix_of(Path(n)) in SLICES for n, start in holds.items()):
        return []
    names = [name for name in holds if _is_volume(FORMATS.get(suffix_of(Path(name)) or ""))]
    return sorted(name for name in names if not name.lower().endswith((".hdr", ".hdr.gz")))


def _is_volume(known: FileFormat | None) -> bool:
    return known is not None and known.space == "known" and known.stands_alone
