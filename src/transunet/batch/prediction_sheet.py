"""A sheet of slices beside a case's label map, for `predict --view`."""

from collections.abc import Mapping
from pathlib import Path

from transunet.data.preprocessing import Preprocessing
from transunet.data.volume import Volume
from transunet.drawing.panels import tells_space
from transunet.drawing.sheets import SheetOptions, draw_sheet, slices_of


def write_sheet(
    image: Volume,
    labels: Volume,
    names: Mapping[int, str],
    preprocessing: Preprocessing,
    path: Path,
) -> Path:
    """Draw a prediction's label map on its image and return `path`.

    Args:
        image: what was segmented, named by its file.
        labels: its label map.
        names: class index -> name.
        preprocessing: a CT is drawn in the window that the network sees.
        path: `.png`, called like the case.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    channel = preprocessing.channels[0]
    window = (channel.low, channel.high) if channel.normalisation == "clip" else None
    options = SheetOptions(window=window)
    panels = slices_of(image, labels, options, oriented=tells_space(Path(image.name)))
    return draw_sheet(panels, names, path, options, title=path.stem)
