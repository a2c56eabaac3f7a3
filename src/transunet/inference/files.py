"""From image files to label files: which files make a case, and one file to another."""

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transunet.data.cases import Case
from transunet.data.formats import FORMATS, SLICES, stem_of, suffix_of
from transunet.data.formats.dicom_files import series_folders
from transunet.errors import ConfigError, DataError
from transunet.inference.faults import FAULTS, in_words
from transunet.inference.images import read_image
from transunet.inference.outputs import write_labels
from transunet.inference.predictor import Predictor, Progress

_CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's CASE_0000, CASE_0001


def find_inputs(paths: Sequence[Path], channels: int) -> list[Case]:
    """Return the cases in `paths`: files, folders of files, patterns; each with its channels.

    Files called CASE_0000, CASE_0001, ... are the channels of one case, as in nnU-Net.

    Args:
        paths: Image files, folders whose image files are taken, or patterns such as `in/*.nii`. A
            DICOM series is a folder or a `.zip`; of a folder of patients, each is a case.
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
    bundle: Predictor | Path | str | Sequence[Path | str],
    image: Path | str | Sequence[Path | str],
    output: Path | str,
    *,
    progress: Progress | None = None,
    probabilities: Path | None = None,
    uncertainty: Path | None = None,
    **settings: Any,
) -> Path:
    """Segment an image file and write its label map to `output`; return that path.

    The label map has the image's shape, affine and units. It appears when it is complete.

    Args:
        bundle: a predictor (many files: make it once), a bundle, or the bundles of an ensemble.
        image: a file, or one file per channel.
        output: the label map's file; its suffix chooses the format (or `.npz`).
        progress: called with the slices done and the slices in all.
        probabilities: as `Predictor.__call__`.
        uncertainty: as `Predictor.__call__`.
        settings: the predictor's, where it is made here.

    Raises:
        DataError, GeometryError: when the image cannot be used.
        ConfigError: for a path that does not exist, settings that cannot work, or an output that
            cannot be written.
    """
    if not isinstance(bundle, Predictor):
        bundle = Predictor.from_pretrained(bundle, **settings)
    elif settings:
        raise ConfigError(
            f"A predictor was given, which has its own settings; found {', '.join(settings)} too."
        )
    output = Path(output)
    if output.suffix != ".npz" and suffix_of(output) is None:
        raise ConfigError(f"{output}: label maps are written as .npz, {', '.join(FORMATS)}.")
    paths = [Path(path) for path in ([image] if isinstance(image, Path | str) else image)]
    try:
        volume = read_image(paths)
        labels = bundle(volume, progress, probabilities=probabilities, uncertainty=uncertainty)
    except FAULTS as error:
        raise in_words(error, paths[0]) from None
    write_labels(labels, output, bundle.labels)
    return output


def _files_at(path: Path) -> list[Path]:
    if not path.exists():
        return _matching(path)
    if not path.is_dir():
        if suffix_of(path) is None:
            raise ConfigError(f"{path} is not an image that can be read: {', '.join(FORMATS)}.")
        return [path]
    files = [file for file in sorted(path.iterdir()) if _is_image(file)] or series_folders(path)
    if not files:
        raise ConfigError(f"The folder {path} holds no images ({', '.join(FORMATS)}).")
    return files


def _matching(path: Path) -> list[Path]:
    """The images that a pattern stands for, where the shell did not say."""
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - may be absolute
    if not found:
        raise ConfigError(f"There is no image {path}. Check the path.")
    return [file for match in found for file in _files_at(match)]


def _is_image(path: Path) -> bool:
    hidden, suffix = path.name.startswith("."), suffix_of(path)
    # A folder's DICOM files are the slices of one image, not an image each.
    return path.is_file() and not hidden and suffix is not None and suffix not in SLICES


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
