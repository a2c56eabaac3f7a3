"""A label map that is not on its image's grid, but can be put there without guessing.

- One whose axes are flipped or swapped against the image's is turned, voxel by voxel.
- One whose header is less than a voxel off, or holds no geometry, takes the image's affine.
"""

from dataclasses import replace

from transunet.data.volume import Volume, corner_distance

HEADER_DRIFT = 1.0
"""In voxels: a label map whose corners lie less far off the image's takes the image's affine."""


def placed(image: Volume, label: Volume) -> tuple[Volume, str] | None:
    """Return `label` on the grid of `image` and what was done to it, or None where that is a guess.

    Args:
        image: where it belongs.
        label: a label map on another grid.
    """
    turned = label.on_grid(image)
    if turned is not None:
        return turned, f"turned to {image.orientation}"
    if label.spatial_shape != image.spatial_shape:
        return None
    drift = HEADER_DRIFT * min(image.spacing_mm)
    near = image.orientation == label.orientation and corner_distance(image, label) < drift
    placeless = label.doubt is not None and label.doubt.placeless
    if near or placeless:
        return replace(label, affine=image.affine), "the image's affine taken"
    return None
