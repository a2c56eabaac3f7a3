"""From bundles and exported files to one network, whatever computes it."""

from collections.abc import Sequence
from pathlib import Path

from transunet.backends.opening import Opened, open_network
from transunet.errors import ConfigError
from transunet.inference.tta import Ensemble


def load_networks(
    sources: Sequence[Path | str],
    device: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    trust: bool = False,
) -> Opened:
    """Load bundles or exported files as one network, the mean of them where there are several.

    Args:
        sources: folders, hub ids, `.onnx`, `.xml` or `.pt2` files.
        device: where they compute; the best one there is if not given.
        engine: one of `engines.ENGINES`; "auto" takes the fastest installed.
        precision: "auto" is fp32, or what an exported file was written for.
        trust: load `.pt2` files, which can run any code that is in them.

    Raises:
        ConfigError: without sources, when they differ in labels, preprocessing or image size, or
            for an engine, precision or device that cannot be had.
        ConfigError, DataError, WeightsError: for a source that is missing or damaged.
    """
    if not sources:
        raise ConfigError("No bundle was given; expected at least one.")
    opened = [open_network(source, device, engine, precision, trust) for source in sources]
    first = opened[0]
    if len(opened) == 1:
        return first
    for source, other in zip(sources[1:], opened[1:], strict=True):
        for what, expected, found in (
            ("labels", first.config.labels, other.config.labels),
            ("preprocessing", first.config.preprocessing, other.config.preprocessing),
            ("context", first.config.sampling.context, other.config.sampling.context),
            ("image_size", first.network.image_size, other.network.image_size),
        ):
            if expected != found:
                raise ConfigError(
                    f"The bundles of an ensemble must agree, but their {what} differ: "
                    f"{sources[0]} has {expected}, {source} has {found}. Leave one of them out."
                )
    return Opened(
        Ensemble([each.network for each in opened]),
        first.config,
        ", ".join(dict.fromkeys(each.engine for each in opened)),
        ", ".join(dict.fromkeys(each.precision for each in opened)),
    )
