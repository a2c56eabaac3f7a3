"""A corrected label map into the data set of `--dataset`; runs in a parser's process."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transunet.data.additions import (
    Added,
    Classes,
    KnownImageError,
    OtherClassesError,
    add_case,
    case_of,
    check_addable,
    training_cases,
)
from transunet.data.formats import channel_of, read_labels
from transunet.data.volume import Volume
from transunet.errors import ConfigError, TransUNetError
from transunet.serve.api_errors import ApiError, is_full, storage_full
from transunet.serve.bundles import ServedBundle
from transunet.serve.jobs.messages import LABELS
from transunet.serve.uploads.inspection import read_kept


def check_dataset(dataset: Path, bundles: Iterable[ServedBundle]) -> None:
    """Make sure that results of one of the bundles can be added to the data set.

    Raises:
        ConfigError: where it is of other classes or channels than all of them.
        ConfigError, DataError: else as `additions.check_addable`.
    """
    refused: TransUNetError | None = None
    for served in bundles:
        try:
            config = served.config
            check_addable(dataset, Classes(served.channels, config.labels, config.regions))
            return
        except OtherClassesError as error:
            refused = error
    if refused is not None:  # two good things that do not go together
        raise ConfigError(str(refused))


def look_for(dataset: Path, image_folder: Path, metadata: dict[str, Any]) -> tuple[str | None, int]:
    """Return which case of the data set is the image in `image_folder`, and its training cases.

    Args:
        dataset: the data set's folder.
        image_folder: of the image.
        metadata: of the image.

    Raises:
        ApiError: when the data set cannot be used.
    """
    try:
        return case_of(dataset, _image(image_folder, metadata)), training_cases(dataset)
    except TransUNetError as error:
        raise _refused(error) from None


def add_to(
    dataset: Path,
    image_folder: Path,
    metadata: dict[str, Any],
    labels_folder: Path,
    classes: Classes,
) -> Added:
    """Add the image in `image_folder` with a label map to the data set.

    Args:
        dataset: the data set's folder.
        image_folder: of the image.
        metadata: of the image.
        labels_folder: of the label map.
        classes: what its values are called, and the image's channels.

    Raises:
        ApiError: when the data set has the image, is of other classes, or cannot be written to.
    """
    try:
        labels = read_labels(labels_folder / LABELS).array
        numbered = channel_of(metadata["stem"])  # CASE_0000 is the first channel of CASE
        name = numbered[0] if numbered and numbered[1] == 0 else metadata["stem"]
        return add_case(dataset, name, _image(image_folder, metadata), labels, classes)
    except TransUNetError as error:
        raise _refused(error) from None


def _image(folder: Path, metadata: dict[str, Any]) -> Volume:
    return replace(read_kept(folder, metadata), name=metadata["stem"])


def _refused(error: TransUNetError) -> ApiError:
    if is_full(error):
        return storage_full("The disk of the data set is full.")
    if isinstance(error, KnownImageError):
        remedy = "To label it anew, remove that case from the folder before."
        return ApiError("in_dataset", str(error), remedy)
    code = "other_classes" if isinstance(error, OtherClassesError) else "dataset_unusable"
    return ApiError(code, str(error))
