"""Beginning from weights: what a run takes from a file, and what from its bundle besides.

A bundle decides on model, image size and preprocessing unless somebody says otherwise; its classes
and channels are matched by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.data.layouts import open_dataset
from transunet.data.planning import describe, preprocessing_for
from transunet.data.prepare import grids_of, labelled
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.models.transunet2d.config import variant
from transunet.models.transunet2d.network import TransUNet
from transunet.training.checkpoint import read_checkpoint
from transunet.training.recipe import Recipe
from transunet.training.runs import is_store
from transunet.training.supervision import DeeplySupervised
from transunet.weights.load import LoadedWeights, load_weights, network_settings
from transunet.weights.origin import CHECKPOINT, Origin, local_origin


@dataclass(frozen=True)
class Beginning:
    """What a run began from."""

    loaded: LoadedWeights
    origin: Origin | None
    notes: tuple[str, ...]
    """What was taken and what was not, in a few lines."""

    def fill_heads(self, network: DeeplySupervised) -> None:
        """Give the heads of deep supervision the classes that a run's checkpoint has for them."""
        if self.origin is None or self.origin.file.name != CHECKPOINT or self.loaded.rows is None:
            return
        theirs: dict[str, Tensor] = read_checkpoint(self.origin.file).get("model", {})
        for name, ours in network.heads.named_parameters(prefix="heads"):
            if name in theirs and theirs[name].shape[1:] == ours.shape[1:]:
                ours.data.copy_(self.loaded.rows.of(theirs[name], ours))


def begin_from_weights(model: TransUNet, recipe: Recipe, store: Store) -> Beginning | None:
    """Load what `recipe` starts from into `model`; None where it starts from random weights.

    Raises:
        ConfigError, WeightsError: when the weights cannot be had, are damaged or do not fit.
    """
    if recipe.weights == "none":
        return None
    names = [channel.name for channel in store.preprocessing.channels]
    loaded = load_weights(model, recipe.weights, partial=True, labels=store.labels, channels=names)
    origin = local_origin(recipe.weights)
    notes = str(loaded).splitlines()
    if origin and origin.bundle:
        notes.append(f"  {_about_preprocessing(store.preprocessing, read_config(origin.bundle))}")
    return Beginning(loaded, origin, tuple(notes))


def check_agreement(recipe: Recipe) -> None:
    """Make sure that `recipe` asks for the network that its weights are of.

    Raises:
        ConfigError: for another variant, or other skip connections; or when there are no weights.
        WeightsError: when the weights, or their bundle's configuration, cannot be read.
    """
    origin = local_origin(recipe.weights)
    known = network_settings(origin) if origin else {}
    if known.get("model") not in (None, recipe.model):
        raise ConfigError(
            f"The weights {recipe.weights} are of {known['model']}, and the recipe asks for "
            f"{recipe.model}. Leave out --model (or model in the recipe's file), or give weights "
            f"of {recipe.model}."
        )
    asked = variant(recipe.model, n_skip=recipe.n_skip).n_skip
    if known.get("n_skip") not in (None, asked):
        raise ConfigError(
            f"The weights {recipe.weights} are of a network with n_skip={known['n_skip']}, and the "
            f"recipe asks for n_skip={asked}. Leave n_skip out, or --set n_skip={known['n_skip']}."
        )


def preprocessing_from_weights(
    recipe: Recipe, dataset: Path, layout: str | None = None
) -> Preprocessing | None:
    """Return how `dataset` is to be prepared for weights of a bundle.

    As the bundle's data were, but for channels that are of another kind, and for pictures that
    would be cut into lines. None where there is no bundle, or the data are prepared already.
    """
    origin = local_origin(recipe.weights)
    if origin is None or origin.bundle is None or is_store(dataset):
        return None
    data = open_dataset(dataset, layout)
    grids = grids_of(labelled(data))
    own = preprocessing_for(data, grids)
    theirs = read_config(origin.bundle).preprocessing
    if any(min(theirs.native_size(grid)) == 1 for grid in grids):  # pictures, cut on edge
        theirs = theirs.replace(orientation=own.orientation, slice_axis=own.slice_axis)
    return theirs.replace(channels=_channels(own.channels, theirs.channels))


def _channels(ours: Sequence[Channel], theirs: Sequence[Channel]) -> tuple[Channel, ...]:
    """Return `ours`, normalised as their counterparts among `theirs`: by name, else by position."""
    by_name = {channel.name.casefold(): channel for channel in theirs}
    as_many = len(ours) == len(theirs)
    return tuple(
        _normalised_as(
            channel, by_name.get(channel.name.casefold()), theirs[index] if as_many else None
        )
        for index, channel in enumerate(ours)
    )


def _normalised_as(ours: Channel, namesake: Channel | None, neighbour: Channel | None) -> Channel:
    theirs = namesake or neighbour
    # What range the files' values lie in is a fact about them, whatever another data set had.
    if theirs is None or "range" in (ours.normalisation, theirs.normalisation):
        return ours
    if namesake is None and theirs.normalisation != ours.normalisation:
        return ours
    return theirs.replace(name=ours.name)


def _about_preprocessing(used: Preprocessing, bundle: BundleConfig) -> str:
    theirs = bundle.preprocessing
    rows = [
        (name, str(getattr(used, name)), str(getattr(theirs, name)))
        for name in ("orientation", "slice_axis", "spacing_mm")
    ]
    rows.append(("intensities", _intensities(used), _intensities(theirs)))
    others = "; ".join(
        f"{name} {ours} (weights: {other})" for name, ours, other in rows if ours != other
    )
    if not others:
        return "preprocessing: as of the weights' own data"
    return f"preprocessing: the data set's, which is not that of the weights' data in: {others}"


def _intensities(preprocessing: Preprocessing) -> str:
    return ", ".join(describe(channel) for channel in preprocessing.channels)
