"""Zip archives from anywhere: everything is checked before the first byte is unpacked."""

import shutil
import stat
import tempfile
import weakref
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

from transunet.data.checks.problems import Problem
from transunet.errors import first_line

MAX_FILES = 100_000  # the largest series have a few thousand
MAX_BYTES = 32 * 2**30  # when unpacked
MAX_RATIO = 100  # how many times larger than the archive its contents may be; scans shrink 2 to 10
MAX_NAME = 1000  # characters of a path in the archive
_SMALL = 2**20  # below this many bytes, any ratio is harmless
# What zipfile raises at damage; RuntimeError at passwords, NotImplementedError at rare methods.
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, KeyError)


class Unpacked:
    """An archive's files in a temporary folder, which is removed with the last reference to this.

    Raises:
        DataError: when the archive is damaged, unsafe or too large; nothing is unpacked then.
    """

    def __init__(self, path: Path) -> None:
        root = Path(tempfile.mkdtemp(prefix="transunet-"))
        self.close = weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        """Remove the files now."""
        self.folder = root / path.name  # so that a message about a file names the archive too
        """Where the files are."""
        try:
            self.folder.mkdir()
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                problem = _problem_of(path, members)
                if problem:
                    raise problem.error()
                for member in members:
                    target = self.folder / member.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # zipfile reads no more than the size that the check has seen.
                    with archive.open(member) as packed, target.open("xb") as file:
                        shutil.copyfileobj(packed, file, 2**20)
        except _DAMAGE as error:
            self.close()
            found = f"it cannot be unpacked ({first_line(error)[:200]})"
            remedy = "The archive is damaged or cut short: copy it again"
            raise Problem("archive", str(path), found, remedy).error() from None
        except BaseException:
            self.close()
            raise


def is_zip(path: Path) -> bool:
    """Whether `path` is called a zip archive (by content, an `.npz` is one as well)."""
    return path.suffix.lower() == ".zip"


def starts(path: Path, size: int) -> dict[str, bytes]:
    """Return the first `size` bytes of the files in an archive, by name, without hidden ones.

    Empty for a damaged archive: unpacking it says how.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                member.filename: archive.open(member).read(size)
                for member in archive.infolist()
                if not member.is_dir()
                and not member.filename.startswith("__MACOSX")
                and not PurePosixPath(member.filename).name.startswith(".")
            }
    except _DAMAGE:
        return {}


def _problem_of(path: Path, members: list[zipfile.ZipInfo]) -> Problem | None:
    """What forbids to unpack an archive, before anything is unpacked."""

    def problem(found: str, remedy: str) -> Problem:
        return Problem("archive", str(path), found, remedy)

    split = "Unpack it yourself and give the series' folder"
    plain = "Pack the series again: plain files with relative paths, without a password"
    if len(members) > MAX_FILES:
        return problem(f"it holds {len(members)} files, more than {MAX_FILES}", split)
    names = Counter(member.filename for member in members)
    for member in members:
        name, mode = member.filename, member.external_attr >> 16
        windows, parts = PureWindowsPath(name), {*PurePosixPath(name).parts}
        absolute = name.startswith(("/", "\\")) or windows.drive or windows.root
        reasons = {
            "has a name that is too long or not printable": len(name) > MAX_NAME
            or not name.isprintable(),
            "has an absolute path": absolute,
            "leads out of the archive": ".." in {*parts, *windows.parts},
            "is a symbolic link": stat.S_ISLNK(mode),
            "is not a plain file": stat.S_IFMT(mode) not in (0, stat.S_IFREG),
            "needs a password": member.flag_bits & 1,
            "occurs twice": names[name] > 1,
        }
        for reason, applies in reasons.items():
            if applies:
                return problem(f"its entry {name[:200]!r} {reason}", plain)
    size = sum(member.file_size for member in members)
    ratio = size / max(1, path.stat().st_size)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if size > MAX_BYTES:
        found = f"it unpacks to {_gigabytes(size)}, more than {_gigabytes(MAX_BYTES)}"
        return problem(found, split)
    if size > _SMALL and ratio > MAX_RATIO:
        return problem(
            f"it unpacks to {ratio:.0f} times its size, more than {MAX_RATIO} times", plain
        )
    if size > free:
        room = f"{tempfile.gettempdir()} has {_gigabytes(free)} left"
        found = f"it unpacks to {_gigabytes(size)}, and {room}"
        return problem(found, "Make room, or set TMPDIR to a larger disk")
    return None


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
