"""Held-out cases, predicted whole by the real predictor, and their Dice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from transunet.backends.pytorch import FixedNetwork
from transunet.data.sampling import Sampling
from transunet.data.split_rules import classes_in
from transunet.data.store import Store
from transunet.evaluation.metrics import dice_of_masks, dice_per_class
from transunet.inference.predictor import Predictor
from transunet.models.families import optimised
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.training.distributed import ProcessGroup


@dataclass(frozen=True)
class Validation:
    """Dice on the held-out cases. NaN where a class is in no case and predicted in none."""

    cases: Mapping[str, Mapping[str, float]]
    """Case -> name of class or region -> Dice, background left out."""
    present: frozenset[str]
    """Names of the classes or regions that occur in the cases' label maps."""

    @property
    def dice(self) -> dict[str, float]:
        """Class name -> mean over the cases that have it."""
        names = next(iter(self.cases.values()), {})
        return {name: _mean([case[name] for case in self.cases.values()]) for name in names}

    @property
    def mean_dice(self) -> float:
        """The mean of the classes' means."""
        return _mean(list(self.dice.values()))

    @property
    def decisive_dice(self) -> float:
        """The mean over the classes that occur: by what networks are compared.

        Where a class is in no case, its Dice is 0 or NaN, and only tells whether the network
        predicts it anywhere: nothing that could be better or worse.
        """
        return _mean([dice for name, dice in self.dice.items() if name in self.present])


def validate(
    model: SegmentationNetwork,
    store: Store,
    cases: Sequence[str],
    sampling: Sampling,
    device: torch.device,
    world: ProcessGroup,
    batch_size: int | None = None,
) -> Validation:
    """Predict `cases` of `store` with `model`, each process some of them, and measure them all.

    By a copy of the network that is made for predicting. The store's volumes are what the predictor
    makes of the images themselves; the prediction is measured at their own size.

    Args:
        model: the network, which stays as it is.
        store: of the cases.
        cases: their names.
        sampling: how the network takes their volumes.
        device: where it computes.
        world: the processes that share the cases.
        batch_size: samples at once, such as fit into a training step; the predictor's number if not
            given.
    """
    network = FixedNetwork(optimised(model), sampling.size, fingerprint="", device=device)
    predictor = Predictor(
        *(network, store.preprocessing, store.labels),
        regions=store.regions,
        sampling=sampling,
        device=device,
        batch_size=batch_size,
    )
    classes = {index: name for index, name in store.labels.items() if index}
    measured: dict[str, dict[str, float]] = {}
    for case in cases[world.rank :: world.size]:
        label = np.asarray(store.label(case))
        predicted = predictor.label_slices(store.image(case).swapaxes(0, 1))
        if store.ignored is not None:
            predicted = np.where(label == store.ignored, 0, predicted)
        if store.regions:
            masks = ((r.name, r.mask(predicted), r.mask(label)) for r in store.regions)
            measured[case] = {name: dice_of_masks(ours, theirs) for name, ours, theirs in masks}
        else:
            dice = dice_per_class(predicted, label, classes)
            measured[case] = {classes[index]: value for index, value in dice.items()}
    of_all = {case: dice for part in world.gather(measured) for case, dice in part.items()}
    occurring = classes_in(store, cases)
    present = frozenset(classes[index] for index in occurring)
    if store.regions:
        present = frozenset(r.name for r in store.regions if occurring & set(r.members))
    return Validation({case: of_all[case] for case in cases}, present)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
