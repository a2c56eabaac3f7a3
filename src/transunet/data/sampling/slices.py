"""A working volume as its planes: what a network of two dimensions takes."""

from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import PositiveInt

from transunet.settings import Configuration


class Slices(Configuration):
    """Every plane of a working volume is a sample.

    Raises:
        ConfigError: for a size that is not positive.
    """

    kind: Literal["slices"] = "slices"
    size: tuple[PositiveInt, PositiveInt]
    """Height and width in pixels that each plane is resized to for the network."""

    def sample(self, working: NDArray[Any], plane: int) -> NDArray[Any]:
        """Return the sample (C, H, W) of a working volume (C, D, H, W) at `plane`, a view."""
        return working[:, plane]
