"""A label map that was sent or drawn, checked and kept; runs in a parser's process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transunet.batch.outputs import write_labels
from transunet.colours import colour_of
from transunet.data.classes import match_classes
from transunet.data.formats import read_labels
from transunet.data.regions import Region, members_of_structures, structures_in
from transunet.data.volume import Grid, Volume, same_grid
from transunet.errors import GeometryError, TransUNetError
from transunet.evaluation.measure import Settings, renumbered, values_in, white_mask
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.jobs.messages import LABELS, OVERLAY
from transunet.serve.jobs.reference import only_label_map, own_names
from transunet.serve.uploads.inspection import read_kept, write_view


def keep_given(
    files: Sequence[Path],
    image_folder: Path,
    metadata: dict[str, Any],
    folder: Path,
    names: Mapping[int, str],
    regions: Sequence[Region],
    most_voxels: int,
    room: int,
) -> dict[str, Any]:
    """Write a label map that was sent, in any format, to `folder`, as a job's lie in its own.

    Args:
        files: of the label map, which lies on the image's grid.
        image_folder: of its image.
        metadata: of the image.
        folder: where it is kept.
        names: label value -> name of the bundle whose classes it may hold; by name where it has
            names, else by number. Empty for none.
        regions: the bundle's, where it tells regions apart.
        most_voxels: that it may have.
        room: bytes that an archive may unpack to.

    Returns:
        `names`, `regions` and `structures`, columns of its record.

    Raises:
        ApiError: when it is no label map, lies on another grid, or the disk is full.
    """
    try:
        path = only_label_map(files, most_voxels, room)
        image = read_kept(image_folder, metadata)
        labels = image.with_array(_on_grid(read_labels(path, image.grid), image.grid))
        if len(names) <= 1 and white_mask(labels, Settings(white=True)):
            labels = labels.with_array((labels.array > 127).astype(np.uint8))
        if own := own_names(path):
            matched = match_classes({0: "background", **own}, {0: "background", **names})
            if matched.first_only:  # other structures than the bundle's
                names, regions = own, ()
            else:
                labels = renumbered(labels, matched.numbers)
        nameless = values_in(labels) - {0, *names}
        names = {**names, **{value: f"label {value}" for value in sorted(nameless)}}
        return _write(labels, names, regions, metadata, folder)
    except TransUNetError as error:
        raise _refused(error, files) from None


def keep_correction(
    files: Sequence[Path],
    image_folder: Path,
    metadata: dict[str, Any],
    folder: Path,
    names: Mapping[int, str],
    regions: Sequence[Region],
    most_voxels: int,
    room: int,
    parent: Path | None,
) -> dict[str, Any]:
    """Write a label map that a person corrected or drew to `folder`.

    Args:
        files: of the label map, which lies on the grid of the image's view.
        image_folder: of its image.
        metadata: of the image.
        folder: where it is kept.
        names: label value -> name of all that it may hold.
        regions: what is measured, where these are regions.
        most_voxels: that it may have.
        room: bytes that an archive may unpack to.
        parent: the folder of the label map that was corrected; None where it was drawn from
            nothing.

    Returns:
        As `keep_given`, and `changed_voxels`, against the parent.

    Raises:
        ApiError: as `keep_given`, and for a label without a name.
    """
    try:
        path = only_label_map(files, most_voxels, room)
        view = Grid(tuple(metadata["shape"]), np.array(metadata["affine"]), "the image")
        drawn = _on_grid(read_labels(path, view), view)
        if parent is None:
            before = read_kept(image_folder, metadata)
            before = before.with_array(np.zeros((1, *before.spatial_shape), np.uint8))
        else:
            before = read_labels(parent / LABELS)
        labels = before.with_array(drawn)
        if nameless := sorted(values_in(labels) - {0, *names}):
            listed = ", ".join(f"{value} {name}" for value, name in sorted(names.items()))
            message = f"It holds the label {nameless[0]}; expected 0 background, {listed}."
            raise ApiError("invalid_request", message, "Name it in the form field 'names'.")
        changed = int(np.count_nonzero(drawn != before.array))
        return {**_write(labels, names, regions, metadata, folder), "changed_voxels": changed}
    except TransUNetError as error:
        raise _refused(error, files) from None


def _on_grid(labels: Volume, grid: Grid) -> Any:
    """Return the voxels in the order of `grid`; a `GeometryError` when they lie elsewhere."""
    ordered = labels.on_grid(grid)
    if ordered is None:
        raise GeometryError(
            f"{labels.name}: it does not lie on the image's grid: {same_grid(labels, grid)}. "
            "Send a label map of this image, resampled to it with nearest neighbour if need be."
        )
    return ordered.array


def _write(
    labels: Volume,
    names: Mapping[int, str],
    regions: Sequence[Region],
    metadata: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    write_labels(labels, folder / LABELS, {0: "background", **names})
    write_view(labels.array, np.array(metadata["affine"]), folder / OVERLAY)
    most, voxels = max(names, default=0) + 1, np.zeros(max(names, default=0) + 1, np.int64)
    for plane in labels.array[0]:  # counting needs 8 bytes per voxel, which are not taken whole
        voxels += np.bincount(plane.ravel(), minlength=most)
    members = members_of_structures(names, regions)
    counts = {index: int(voxels[list(values)].sum()) for index, values in members.items()}
    structures = [
        {
            "index": index,
            "name": name,
            "color": colour_of(index - 1),
            "members": list(members[index]),
            "voxels": counts[index],
            "volume_ml": counts[index] * labels.voxel_ml,
        }
        for index, name in sorted(structures_in(names, regions).items())
    ]
    return {
        "names": {str(value): name for value, name in names.items()},
        "regions": [region.model_dump(mode="json") for region in regions],
        "structures": structures,
    }


def _refused(error: TransUNetError, files: Sequence[Path]) -> ApiError:
    code = "wrong_grid" if isinstance(error, GeometryError) else "unreadable"
    return api_error(error, files[0].parent, code)
