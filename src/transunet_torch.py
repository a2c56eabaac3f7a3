"""The way into the `transunet` command, from outside of the package of that name.

`transunet` on PyPI is somebody else's package. Installed beside `transunet-torch`, it writes its
files over this project's, so what makes sure that the right one answers cannot lie among them.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

OURS, THEIRS = "transunet-torch", "transunet"


def problem() -> str | None:
    """Return what stands in this project's way, and what to do; None where nothing does."""
    spec = find_spec("transunet")
    folders = list(spec.submodule_search_locations or []) if spec else []
    where = ", ".join(folders) or "nowhere"
    if not any(Path(folder, "cli", "main.py").is_file() for folder in folders):
        return (
            f"Python finds another package called transunet, in {where}, in the place of {OURS}. "
            f"If pip installed it: pip uninstall {THEIRS}, and install {OURS} again. Else take "
            "its folder out of PYTHONPATH, or rename it."
        )
    if (version := _version_in(folders)) is not None:
        return (
            f"The package {THEIRS} {version} is installed in the same folder as {OURS} ({where}), "
            f"and each overwrites files of the other. Remove both: pip uninstall {THEIRS} {OURS}; "
            f"then install {OURS} again."
        )
    return None


def _version_in(folders: list[str]) -> str | None:
    """The version of the other distribution, if its modules lie in one of `folders`."""
    beside = [path.name.lower() for folder in folders for path in Path(folder).parent.iterdir()]
    if not any(name.startswith(f"{THEIRS}-") and name.endswith("-info") for name in beside):
        return None
    # Only now, since importing it takes a tenth of the time of `transunet --help`.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        other = distribution(THEIRS)
    except PackageNotFoundError:
        return None
    modules = {Path(str(other.locate_file(file))).parent.resolve() for file in other.files or []}
    return other.version if modules & {Path(folder).resolve() for folder in folders} else None


def main() -> None:
    """Run the command line, or say why it cannot be the right one."""
    if message := problem():
        sys.exit(f"Error: {message}")
    from transunet.cli.main import main as command_line

    command_line()
