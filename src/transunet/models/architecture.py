"""What every network's configuration tells, whatever its family. Imports no torch."""

from math import prod
from typing import Any, Self

from pydantic import (
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from transunet.settings import Configuration


class Architecture(Configuration):
    """Base of the configurations of networks: a bundle holds one of them, told by `family`.

    A family sets `family` and `image_size`, defines `stride`, and where its network has attention
    to show, `layers` and `heads`.

    Raises:
        ConfigError: when the parts cannot fit together; the message says what would be possible.
    """

    family: str
    """A key of `families.ARCHITECTURES`; each family declares its own, a literal."""
    name: str = "custom"
    """Name of the variant that this was made from."""
    num_classes: PositiveInt = 2
    """Classes of the logits, background included; or regions, which have none."""
    regions: tuple[tuple[PositiveInt, ...], ...] = ()
    """For classes that overlap: the labels that make up each. Each is then told by its own sigmoid,
    and there is no background among them."""
    in_channels: PositiveInt = 1
    """Channels of the input image."""
    image_size: tuple[PositiveInt, ...]
    """Pixels along each axis of a sample, for which position embeddings are held. One number is the
    length of every side, where the family says how many there are."""
    clicks: bool = False
    """Whether the network also takes guidance: what a person says by clicks (`click_maps`)."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _equal_sides(cls, value: Any) -> Any:
        usual = cls.model_fields["image_size"].default
        return (value,) * len(usual) if isinstance(value, int) and usual else value

    @model_validator(mode="after")
    def _as_many_regions_as_classes(self) -> Self:
        if self.regions and len(self.regions) != self.num_classes:
            raise ValueError(
                f"regions: {len(self.regions)} of them, found num_classes={self.num_classes}; they "
                "must be as many, as there is no background among regions"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out clicks where there are none: files of before stay the same, byte for byte."""
        values: dict[str, Any] = serialise(self)
        if not self.clicks:
            del values["clicks"]
        return values

    @property
    def structures(self) -> int:
        """What a label map can hold beside the background: classes, or the regions."""
        return self.num_classes if self.regions else self.num_classes - 1

    @property
    def guidance_channels(self) -> int:
        """Channels of the guidance: a label map's structures, and clicks for each and for none."""
        return 2 * self.structures + 1

    @property
    def axes(self) -> int:
        """Axes of a sample: 2 for slices, 3 for volumes."""
        return len(self.image_size)

    @property
    def stride(self) -> tuple[int, ...]:
        """Pixels along each axis that one position of the coarsest feature map stands for.

        Samples of other sides than multiples of it are padded by the network.
        """
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, ...]:
        """Positions of the coarsest feature map along each axis, at `image_size`: the tokens."""
        return tuple(side // step for side, step in zip(self.image_size, self.stride, strict=True))

    @property
    def tokens(self) -> int:
        """Positions in `grid`."""
        return prod(self.grid)

    @property
    def layers(self) -> int:
        """Layers whose attention the network returns; 0 where it has none."""
        return 0

    @property
    def heads(self) -> int:
        """Heads of each of those layers."""
        return 0

    @property
    def num_queries(self) -> int:
        """Queries, each with a class and a mask of its own; 0 where the network has none."""
        return 0
