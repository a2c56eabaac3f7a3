"""From image files to label files: which files make a case, where its label map goes."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from transunet.atomic import atomic_path
from transunet.data.cases import Case
from transunet.data.formats import FORMATS, read_volume, stem_of, suffix_of, write_volume
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor, Progress

_CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's CASE_0000, CASE_0001


def find_inputs(paths: Sequence[Path], channels: int) -> list[Case]:
    """Return the cases in `paths`, files or folders of files, each with one file per channel.

    Files called CASE_0000, CASE_0001, ... are the channels of one case, as in nnU-Net.

    Args:
        paths: Image files, or folders whose image files are taken.
        channels: How many channels the bundle was trained on.

    Raises:
        ConfigError: for a path that does not exist, is no image, or holds none.
        DataError: when a case lacks a channel, or two cases have one name.
    """
    files = [file for path in paths for file in _files_at(path)]
    cases = _joined(files, channels) if _has_channel_names(files, channels) else _alone(files)
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"Several inputs are called {', '.join(twice)}, and their label maps would overwrite "
            "each other. Predict them into different folders."
        )
    return cases


def predict_file(
    predictor: Predictor, case: Case, folder: Path, progress: Progress | None = None
) -> Path:
    """Segment one case and write its label map to `folder`; return the file.

    The label map has the image's format, shape, affine and units. It appears when it is complete.

    Raises:
        DataError, GeometryError: when the image cannot be used.
        ConfigError: when the folder cannot be written to.
    """
    image = read_volume(case.images)
    labels = predictor(image, progress)
    path = folder / f"{case.name}{suffix_of(case.images[0])}"
    with atomic_path(path) as scratch:
        write_volume(labels, scratch)
    return path


def _files_at(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(f"There is no image {path}. Check the path.")
    if not path.is_dir():
        if suffix_of(path) is None:
            raise ConfigError(f"{path} is not an image that can be read: {', '.join(FORMATS)}.")
        return [path]
    files = [file for file in sorted(path.iterdir()) if _is_image(file)]
    if not files:
        raise ConfigError(f"The folder {path} holds no images ({', '.join(FORMATS)}).")
    return files


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and suffix_of(path) is not None


def _has_channel_names(files: Iterable[Path], channels: int) -> bool:
    # With one channel, only if all end in _0000: scan_0001, scan_0002 may be patients.
    found = [_CHANNEL.fullmatch(stem_of(file)) for file in files]
    if channels == 1:
        return all(match is not None and match[2] == "0000" for match in found)
    return any(found)


def _alone(files: Iterable[Path]) -> list[Case]:
    return [Case(stem_of(file), (file,), None) for file in files]


def _joined(files: Iterable[Path], channels: int) -> list[Case]:
    grouped: dict[str, dict[int, Path]] = {}
    for file in files:
        match = _CHANNEL.fullmatch(stem_of(file))
        name, index = (match[1], int(match[2])) if match else (stem_of(file), 0)
        grouped.setdefault(name, {})[index] = file
    for name, parts in grouped.items():
        if sorted(parts) not in ([0], list(range(channels))):
            raise DataError(
                f"Case {name} has the channel files "
                f"{', '.join(part.name for part in parts.values())}; "
                f"expected {channels}, numbered from _0000."
            )
    return [
        Case(name, tuple(parts[index] for index in sorted(parts)), None)
        for name, parts in grouped.items()
    ]
