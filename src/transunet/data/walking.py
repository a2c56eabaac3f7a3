"""The folders below a folder, those that links lead to among them, each once."""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HIDDEN = (".", "__MACOSX")
"""Names that begin so are passed over: hidden files, and what macOS puts into archives."""

_SHOWN = 5


@dataclass
class Walk:
    """What lies below a folder."""

    folders: list[tuple[Path, list[Path]]] = field(default_factory=list)
    """Every folder, the first one too, by path, and the files in it by name."""
    not_followed: dict[Path, str] = field(default_factory=dict)
    """Links and folders that lead to nothing new, and why."""

    @property
    def files(self) -> list[Path]:
        """The files of all folders."""
        return [file for _, files in self.folders for file in files]

    def __str__(self) -> str:
        told = [f"{path} {why}" for path, why in self.not_followed.items()]
        more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        return "; ".join(told[:_SHOWN]) + more


def walk(root: Path, leave_out: Callable[[Path, list[str]], bool] | None = None) -> Walk:
    """Go through `root` and the folders below, without what is hidden.

    Links to folders are followed. A folder that is reached twice counts once: where it really lies,
    if that is below `root`, else by the first link.

    Args:
        root: where to begin.
        leave_out: told a folder and the names of the folders in it; whether to pass it over.
    """
    walked, links, seen = Walk(), deque([root]), set[Path]()

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        walked.not_followed[path] = f"cannot be opened ({error.strerror})"

    while links:
        # Links wait until the folders that really lie here have been gone through.
        for place, names, files in os.walk(link := links.popleft(), onerror=unreadable):
            folder, real = Path(place), Path(place).resolve()
            if real in seen:
                names.clear()
                if folder == link:
                    walked.not_followed[link] = f"is a link to {real}, which is taken already"
                continue
            if leave_out is not None and leave_out(folder, names):
                names.clear()
                continue
            seen.add(real)
            names[:] = [name for name in names if not name.startswith(HIDDEN)]
            for inner in [folder / name for name in names if (folder / name).is_symlink()]:
                if real.is_relative_to(target := inner.resolve()):
                    walked.not_followed[inner] = f"is a link to {target}, in which it lies"
                else:
                    links.append(inner)
            paths = [folder / name for name in sorted(files) if not name.startswith(HIDDEN)]
            for path in paths:
                if path.is_symlink() and not path.exists():
                    missing = path.readlink()
                    walked.not_followed[path] = f"is a link to {missing}, which is not there"
            walked.folders.append((folder, [path for path in paths if path.is_file()]))
    walked.folders.sort()
    return walked
