"""How a working volume (C, D, H, W) meets a network: the one seam between data and networks."""

from typing import Annotated

from pydantic import Field

from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices

Sampling = Annotated[Slices | Patches, Field(discriminator="kind")]
"""What a network takes of a working volume. Both say the same of themselves: `size` and
`input_channels` for the network, `samples_in`, `samples_with`, `cut` and `fit` for training."""
