"""What a model's figures do not support, said of these figures and not in general."""

from collections.abc import Iterator
from typing import Any

from transunet.data.split_rules import split_warnings
from transunet.data.splits import Split
from transunet.data.text import extents, some
from transunet.dossier.facts import Facts
from transunet.dossier.subject import Subject
from transunet.evaluation.metrics import BAD_BELOW

FEW = 10
"""Cases below which a bootstrap interval is too narrow, and a class hardly known."""


def limits_of(subject: Subject, facts: Facts) -> list[str]:
    """Return sentences, the gravest first."""
    return [
        *_of_training(subject, facts),
        *_of_figures(facts),
        *_of_data(subject, facts),
        *_of_trust(facts),
    ]


def _of_training(subject: Subject, facts: Facts) -> Iterator[str]:
    if subject.run is None:
        yield (
            "There is no run beside these weights: how they were trained, on which cases and with "
            "which figures is not known here."
        )
        return
    for training in facts["training"]:
        if not training["ended"]:
            best = training["best_step"]
            kept = f"; the network is that of step {best}" if best is not None else ""
            yield (
                f"The training of {training['run']} has not ended: step {training['steps']}, "
                f"{training['progress']:.0%} of its budget{kept}."
            )
    folds = subject.run.record.recipe.folds
    if subject.run.has_folds and len(subject.folds) < (folds or 0):
        yield f"Only {len(subject.folds)} of {folds} folds of the cross-validation have a network."


def _of_figures(facts: Facts) -> Iterator[str]:
    validation, evaluations = facts["validation"], facts["evaluations"]
    if validation is None and not evaluations and facts["trust"] is None:
        yield "No result on a case that training did not see is known: nothing supports its use."
    elif validation and not evaluations:
        yield (
            f"It has been measured on the {validation['cases']} validation cases alone, by which "
            "it was also chosen among its own checkpoints: its figures flatter."
        )
    split = facts["split"]
    seen = {name for part in split["parts"] for name in part["train"]} if split else set()
    chosen_by = {name for part in split["parts"] for name in part["validation"]} if split else set()
    for figures in evaluations:
        where = f"The evaluation against {figures['name']}"
        if trained := sorted(seen & set(figures["dice"])):
            remedy = "It counts only where each was predicted by the fold that held it out."
            yield (
                f"{where} holds {len(trained)} cases called as those of training: {some(trained)}. "
                f"{remedy if len(split['parts']) > 1 else 'It says nothing of new cases.'}"
            )
        if known := sorted((chosen_by - seen) & set(figures["dice"])):
            yield f"{where} holds {len(known)} cases by which it was chosen: {some(known)}."
        if figures["convention"] != "honest":
            yield f"{where} is in the authors' convention: {figures['policy']}"
        for name, cases in figures["missed"].items():
            yield f"{where}: {name} was missed entirely in {len(cases)} cases: {some(cases)}."
        for name, cases in figures["spurious"].items():
            yield f"{where}: {name} was marked in {len(cases)} cases without it: {some(cases)}."
    sets: list[tuple[str, Any]] = [("of validation", validation)] if validation else []
    sets += [(f"against {figures['name']}", figures) for figures in evaluations]
    for where, figures in sets:
        if figures["cases"] < FEW:
            yield (
                f"The figures {where} are of {figures['cases']} cases: intervals over fewer than "
                "ten are too narrow."
            )
        for name, structure in figures["structures"].items():
            bad = structure["bad"]
            if not structure["counted"]:
                yield f"{name} occurs in no case {where}: how well it is found is not known."
            elif bad:
                worst = min(bad, key=bad.__getitem__)
                yield (
                    f"{name} has a Dice below {BAD_BELOW} in {len(bad)} of {structure['counted']} "
                    f"cases {where}, the least {bad[worst]:.2f} ({worst})."
                )


def _of_data(subject: Subject, facts: Facts) -> Iterator[str]:
    data, split = facts["data"], facts["split"]
    if data["without_store"]:
        yield (
            "The prepared data are not where the run says, so that their fingerprint is the "
            f"bundle's short one ({data['without_store']})"
        )
    if subject.store is not None and split is not None:
        parts = [Split(**part) for part in split["parts"]]
        yield from dict.fromkeys(w for part in parts for w in split_warnings(subject.store, part))
        fewest = min(len(part.train) for part in parts)
        if fewest < 2 * FEW:
            yield f"It was trained on {fewest} cases."
    for name, occurrence in data.get("classes", {}).items():
        if occurrence["cases"] < FEW:
            yield f"{name} is in {occurrence['cases']} of {data['cases']} cases of the data."
    spacing = data.get("spacing_mm")
    if spacing and list(spacing["minimum"]) == list(spacing["maximum"]):
        size = extents(spacing["minimum"], "g")
        yield f"All training images have voxels of {size} mm; other voxel sizes are untried."
    if split is not None and not split["grouped"]:
        yield (
            "Cases were split one by one. Where a patient has several, they may be on both sides, "
            "and the figures flatter; --group-by keeps them together."
        )


def _of_trust(facts: Facts) -> Iterator[str]:
    trust = facts["trust"]
    if trust is None:
        yield (
            "It does not know how far to trust a single result, and its probabilities are not "
            "calibrated: nothing was fitted on held-out cases (transunet calibrate)."
        )
        return
    unknown = [
        name for name, each in trust["structures"].items() if each["expected_dice_error"] is None
    ]
    if unknown:
        yield (
            f"How good a single result of {some(unknown)} is cannot be told: {trust['cases']} "
            "held-out cases were too few."
        )
