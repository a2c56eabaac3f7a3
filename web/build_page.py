"""Build the page of `transunet serve` if it is not up to date and Node is there; say so if not.

Used by `make`, by the build of the package (`hatch_build.py`) and by the tests. Needs no package.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
PAGE = WEB.parent / "src" / "transunet" / "serve" / "page"
SOURCES = ("package.json", "package-lock.json", "build.mjs", "src", "licences")
"""What decides the result; `build.mjs` hashes the same files in the same way."""
SKIP = "TRANSUNET_PAGE"
"""Set to `skip`, this environment variable leaves the page as it is."""

_INSTALL = "npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error"
_SECONDS = 600


def sources_hash(web: Path = WEB) -> str:
    """Return the hash over everything that the page is built from."""
    paths = [path for name in SOURCES for path in _files(web / name)]
    lines = [
        f"{path.relative_to(web).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in paths
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def is_current(page: Path = PAGE, web: Path = WEB) -> bool:
    """Return whether `page` was built from the sources in `web`."""
    try:
        manifest = json.loads((page / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(manifest.get("sources") == sources_hash(web))


def bring_up_to_date() -> str | None:
    """Build the page unless it is current; return why that was not possible, or None."""
    if os.environ.get(SKIP) == "skip" or is_current():
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "Node (with npm) is not installed"
    for command in (_INSTALL, "npm run build --loglevel=error"):
        try:
            done = subprocess.run(
                [npm, *command.split()[1:]],
                cwd=WEB,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"`{command}` failed: {error}"
        if done.returncode:
            return f"`{command}` failed:\n{done.stdout.strip()}"
    return None


def explain(problem: str) -> str:
    """Return what to tell when the page could not be built."""
    older = " An older one is used." if (PAGE / "index.html").is_file() else ""
    return (
        f"The page of `transunet serve` was not built: {problem}.{older}\n"
        "Everything else works, the API of `transunet serve` too. For the page, install Node 20 or "
        "newer (https://nodejs.org) and run `make web`."
    )


def _files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]


if __name__ == "__main__" and (found := bring_up_to_date()):
    print(explain(found), file=sys.stderr)
