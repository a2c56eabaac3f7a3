"""Beginning from weights: what a run takes from a file, and what from its bundle besides.

A bundle decides on model, image size and preprocessing unless somebody says otherwise; its classes
and channels are matched by name.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from transunet.bundle.bundle_config import read_config
from transunet.data.cases import DataSet
from transunet.data.planning import describe, grids_of, preprocessing_like
from transunet.data.prepare import labelled
from transunet.data.preprocessing import Preprocessing
from transunet.data.store import Store
from transunet.errors import ConfigError, WeightsError, first_line
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.variants import variant
from transunet.training.checkpoint import read_checkpoint
from transunet.training.recipe import Recipe
from transunet.weights.catalog import PARTS, SOURCES, files_for
from transunet.weights.download import fetch
from transunet.weights.load import LoadedWeights, load_weights, network_settings
from transunet.weights.origin import CHECKPOINT, Origin, about_hub, local_origin

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """What a run began from."""

    loaded: LoadedWeights
    origin: Origin | None
    notes: tuple[str, ...]
    """What was taken and what was not, in a few lines."""

    def fill_heads(self, heads: nn.Module) -> None:
        """Give the `heads` of deep supervision the classes that a run's checkpoint has for them."""
        if self.origin is None or self.origin.file.name != CHECKPOINT or self.loaded.rows is None:
            return
        saved: dict[str, Tensor] = read_checkpoint(self.origin.file).get("model", {})
        for name, parameter in heads.named_parameters(prefix="heads"):
            if name in saved and saved[name].shape[1:] == parameter.shape[1:]:
                parameter.data.copy_(self.loaded.rows.of(saved[name], parameter))


def begin_from_weights(
    model: SegmentationNetwork, recipe: Recipe, store: Store
) -> Beginning | None:
    """Load what `recipe` starts from into `model`; None where it starts from random weights.

    Raises:
        ConfigError, WeightsError: when the weights cannot be had, are damaged or do not fit.
    """
    if recipe.weights == "none":
        return None
    names = [channel.name for channel in store.preprocessing.channels]
    regions = {number: region.name for number, region in enumerate(store.regions, 1)}
    labels = regions or store.labels
    loaded = load_weights(model, recipe.weights, partial=True, labels=labels, channels=names)
    origin = local_origin(recipe.weights)
    notes = str(loaded).splitlines()
    if origin and origin.bundle:
        used, bundled = store.preprocessing, read_config(origin.bundle).preprocessing
        rows = [
            ("orientation", used.orientation, bundled.orientation),
            ("spacing_mm", str(used.spacing_mm), str(bundled.spacing_mm)),
        ]
        here, there = (", ".join(map(describe, each.channels)) for each in (used, bundled))
        rows.append(("intensities", here, there))
        others = [
            f"{name} {here} (weights: {there})" for name, here, there in rows if here != there
        ]
        notes.append(
            "  preprocessing: the data set's, which is not that of the weights' data in: "
            f"{'; '.join(others)}"
            if others
            else "  preprocessing: as of the weights' own data"
        )
    return Beginning(loaded, origin, tuple(notes))


def check_weights(recipe: Recipe) -> None:
    """Make sure that the weights are there and of the recipe's network, before any work.

    Published ones are downloaded.

    Raises:
        ConfigError: when there are none, or they are of another variant, other skip connections or
            other poolings and kernels.
        WeightsError: when they, or their bundle's configuration, cannot be read or downloaded.
    """
    weights, origin = recipe.weights, local_origin(recipe.weights)
    known = network_settings(origin) if origin else {}
    if known.get("model") not in (None, recipe.model):
        raise ConfigError(
            f"The weights {weights} are of {known['model']}, and the recipe asks for "
            f"{recipe.model}. Leave out --model (or model in the recipe's file), or give weights "
            f"of {recipe.model}."
        )
    asked = getattr(variant(recipe.model, n_skip=recipe.n_skip), "n_skip", None)
    if known.get("n_skip") not in (None, asked):
        raise ConfigError(
            f"The weights {weights} are of a network with n_skip={known['n_skip']}, and the "
            f"recipe asks for n_skip={asked}. Leave n_skip out, or --set n_skip={known['n_skip']}."
        )
    plan = known.get("architecture", {})
    for name in ("poolings", "kernels"):
        there, here = (
            [list(steps) for steps in of.get(name, ())] for of in (plan, recipe.architecture)
        )
        if there and here and there != here:
            raise ConfigError(
                f"The weights {weights} are of a network with {name} {there}, and the recipe asks "
                f"for {here}. Leave architecture.{name} out, since what was learned belongs to its "
                "plan; or start from --weights none."
            )
    if weights in SOURCES:
        try:
            for file in files_for(recipe.model, weights):
                fetch(file)
        except WeightsError as error:
            raise WeightsError(f"{error}\nOr start from random weights: --weights none.") from None
    elif weights not in ("auto", "none") and not Path(weights).expanduser().exists():
        raise ConfigError(
            f"There are no weights {weights!r}: no such file or bundle. Known besides: "
            f"{', '.join(SOURCES)}, auto, none.{about_hub(weights)}"
        )


def with_weights_chosen(recipe: Recipe) -> Recipe:
    """Return `recipe` with the weights that "auto" stands for, downloaded if need be.

    The published ones where there are any; "none" where they cannot be had, so that a machine
    without a network trains all the same. RUN/recipe.json says which.
    """
    if recipe.weights != "auto":
        return recipe
    if recipe.model not in PARTS:
        return recipe.replace(weights="none")
    try:
        for file in files_for(recipe.model, "imagenet21k"):
            fetch(file)
    except (WeightsError, ConfigError) as error:  # no network, no room, a cache that is read-only
        _log.warning("The published weights cannot be had: %s", first_line(error))
        return recipe.replace(weights="none")
    return recipe.replace(weights="imagenet21k")


def preprocessing_from_weights(recipe: Recipe, data: DataSet) -> Preprocessing | None:
    """Return how `data` is to be prepared for weights of a bundle; None for other weights."""
    origin = local_origin(recipe.weights)
    if origin is None or origin.bundle is None:
        return None
    bundled = read_config(origin.bundle).preprocessing
    return preprocessing_like(bundled, data, grids_of(labelled(data)))
