"""What a model card says, as plain data: everything is read from a run, a bundle and evaluations.

What is not known is None.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.trust_config import Trust
from transunet.data.checks.suitability import MODALITIES
from transunet.data.layouts.description import description_of
from transunet.data.planning import describe
from transunet.data.store import Store
from transunet.dossier.subject import Subject
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.evaluation.bootstrap import Interval, summarise
from transunet.evaluation.metrics import BAD_BELOW
from transunet.files import read_json, sha256_of
from transunet.models.families import build
from transunet.training.log import read_log
from transunet.training.recipe import Recipe
from transunet.training.runs import Run
from transunet.weights.catalog import SOURCES, files_for
from transunet.weights.origin import local_origin

Facts = dict[str, Any]
_SAID_OF_DATA = ("description", "reference", "licence", "license", "release")
"""What a data set's dataset.json may say of itself, as Decathlon's do."""


def gather(subject: Subject, evaluations: Iterable[Path], purpose: str, licence: str) -> Facts:
    """Return all facts of a model card but what follows from them.

    Args:
        subject: what the card is about.
        evaluations: folders that `transunet evaluate` wrote, or their JSON files.
        purpose: what the model is for, in the user's words; "" where nobody said.
        licence: of the data, likewise.

    Raises:
        ConfigError: for an evaluation that is none, or of other structures.
        DataError: for an evaluation or a record that cannot be read.
    """
    with _whole(f"the log of {subject.source}", "Restore its log.jsonl."):
        training = [training_facts(run) for run in subject.trained]
        validation = validation_figures(subject)
    return {
        "purpose": purpose or None,
        "model": model_facts(subject),
        "data": data_facts(subject, licence),
        "split": split_facts(subject),
        "training": training,
        "recipe": subject.recipe.model_dump(mode="json") if subject.recipe else None,
        "starting_weights": starting_weights(subject.recipe),
        "validation": validation,
        "evaluations": [evaluation_figures(path, subject.config) for path in evaluations],
        "trust": trust_facts(subject.trust),
    }


def model_facts(subject: Subject) -> Facts:
    """What the network is, what it takes and what it tells."""
    config = subject.config
    with torch.device("meta"):  # to count, without drawing weights
        network = build(config.architecture)
    return {
        "name": config.architecture.name,
        "family": config.architecture.family,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "networks": len(subject.networks),
        "architecture": config.architecture.model_dump(mode="json"),
        "channels": [describe(channel) for channel in config.preprocessing.channels],
        "orientation": config.preprocessing.orientation,
        "spacing_mm": config.preprocessing.spacing_mm,
        "sampling": config.sampling.model_dump(mode="json"),
        "structures": {str(number): name for number, name in config.structures.items()},
        "regions": [region.model_dump(mode="json") for region in config.regions],
        "weights": [
            {
                "file": os.path.relpath(file.resolve(), subject.folder.resolve()),
                "bytes": file.stat().st_size,
                "sha256": sha256_of(file),
            }
            for file in subject.weight_files
        ],
        "written_with": dict(config.versions),
        "begun_with": subject.run.record.transunet if subject.run else None,
    }


def data_facts(subject: Subject, licence: str) -> Facts:
    """What the network was trained on: of the prepared data, else what the bundle kept of it."""
    seen, store = subject.config.training_data, subject.store
    facts: Facts = {
        "name": None,
        "cases": seen.cases if seen else None,
        "modality": [_words(channel.modality) for channel in seen.channels] if seen else None,
        "licence": licence or None,
        "said": {},
        "without_store": subject.without_store or None,
    }
    if seen:  # (smallest, largest)
        facts["spacing_mm"] = dict(zip(("minimum", "maximum"), seen.spacing_mm, strict=True))
        facts["percentiles"] = [channel.percentiles for channel in seen.channels]
    if store is None:
        return facts
    manifest, fingerprint = store.manifest, store.fingerprint
    with suppress(TransUNetError):  # other layouts have no such file, or the data are elsewhere
        told = description_of(Path(manifest.folder))
        facts["said"] = {key: str(told[key]) for key in _SAID_OF_DATA if told.get(key)}
    return facts | {
        "name": manifest.dataset or Path(manifest.folder).name,
        "cases": fingerprint.cases,
        "layout": manifest.layout,
        "slices": fingerprint.slices,
        "spacing_mm": fingerprint.spacing_mm,
        "size": fingerprint.size,
        "orientations": fingerprint.orientations,
        "intensities": [each.model_dump(mode="json") for each in fingerprint.intensities],
        "classes": {
            name: {
                "voxels": fingerprint.voxels.get(index, 0),
                "cases": fingerprint.cases_with.get(index, 0),
            }
            for index, name in store.labels.items()
        },
        "files": sum(len(case.hashes) for case in store.cases.values()),
        "sha256": data_hash(store),
    }


def licence_of_data(facts: Facts) -> str | None:
    """Return the licence of the data: as its user states it, else as the data set itself does."""
    data, said = facts["data"], facts["data"]["said"]
    licence: str | None = data["licence"] or said.get("licence") or said.get("license")
    return licence


def data_hash(store: Store) -> str:
    """Return one SHA-256 of all files that the cases were made from, by case, of their hashes."""
    lines = [
        f"{name} {file} {digest}"
        for name, case in sorted(store.cases.items())
        for file, digest in sorted(case.hashes.items())
    ]
    return sha256("\n".join(lines).encode()).hexdigest()


def split_facts(subject: Subject) -> Facts | None:
    """Which cases trained and validated, and how that was decided."""
    if subject.run is None:
        return None
    record = subject.run.record
    fold = record.recipe.fold or 0
    parts = record.splits.parts if subject.run.has_folds else record.splits.parts[fold : fold + 1]
    groups = {case.group for case in subject.store.cases.values()} if subject.store else set()
    return {
        "rule": record.splits.rule if subject.run.has_folds else record.splits.rule_of(fold),
        "grouped": record.group_by or bool(groups - {None}),
        "parts": [asdict(part) for part in parts],
    }


def training_facts(run: Run) -> Facts:
    """How far a run has come."""
    steps, end = read_log(run.folder, "train"), read_log(run.folder, "end")
    validations = read_log(run.folder, "validation")
    best = [entry["step"] for entry in validations if entry["best"]]
    return {
        "run": run.folder.name,
        "ended": bool(end),
        "steps": max((entry["step"] for entry in steps), default=0),
        "progress": steps[-1]["progress"] if steps else 0.0,
        "seconds": (end or steps or [{"seconds": None}])[-1]["seconds"],
        "epochs": steps[-1]["epoch"] if steps else 0,
        "best_step": best[-1] if best else None,
        "validations": [
            {key: entry[key] for key in ("step", "mean_dice", "dice")} for entry in validations
        ],
    }


def starting_weights(recipe: Recipe | None) -> Facts | None:
    """Where training began: the published files, a file of one's own, or random weights."""
    if recipe is None:
        return None
    if recipe.weights in SOURCES:
        files = files_for(recipe.model, recipe.weights)
        return {
            "kind": recipe.weights,
            "files": [
                {"address": f.address, "licence": f.licence, "sha256": f.sha256} for f in files
            ],
        }
    if recipe.weights in ("none", "auto"):
        return {"kind": "random", "files": []}
    digest = None
    with suppress(TransUNetError, OSError):  # it may be gone by now
        if origin := local_origin(recipe.weights):
            digest = sha256_of(origin.file)
    told = {"address": recipe.weights, "licence": None, "sha256": digest}
    return {"kind": "file", "files": [told]}


def validation_figures(subject: Subject) -> Facts | None:
    """Dice on the held-out cases, by which the network was chosen; of all folds together."""
    kept = subject.validations()
    rows = {case: dice for entry in kept for case, dice in entry["cases"].items()}
    if not rows:
        return None
    return {"steps": [entry["step"] for entry in kept], **_figures(rows)}


def evaluation_figures(path: Path, config: BundleConfig) -> Facts:
    """Return what an evaluation by `transunet evaluate` found.

    Raises:
        ConfigError: when it is none, or tells of other structures than the bundle's.
        DataError: when it cannot be read.
    """
    file = path / "metrics.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"--evaluation {path}: there is no {file}. Make it with: transunet evaluate LABELS "
            f"REFERENCES -o {path}"
        )
    told = read_json(file, "Evaluate again.")
    if not isinstance(told, dict) or told.get("kind") != "evaluation":
        raise ConfigError(
            f"--evaluation {file} does not hold what `transunet evaluate` writes of predictions "
            "against references. Give the folder of its -o."
        )
    with _whole(str(file), "Evaluate again."):
        return _evaluated(told, path, config)


def _evaluated(told: Facts, path: Path, config: BundleConfig) -> Facts:
    names = [structure["name"] for structure in told["structures"]]
    known = config.structures.values()
    if not set(names) & set(known):
        raise ConfigError(
            f"--evaluation {path} tells of {', '.join(names)}; the bundle finds "
            f"{', '.join(known)}. Give an evaluation of this network."
        )
    dice = "dice" if told["convention"] == "honest" else "dice_official"
    measured = [(case["name"], each) for case in told["cases"] for each in case["structures"]]
    rows: dict[str, dict[str, float | None]] = {case["name"]: {} for case in told["cases"]}
    for case, each in measured:
        rows[case][each["name"]] = each[dice]

    def cases_where(present: str, absent: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for case, each in measured:
            if each[present] and not each[absent]:
                found.setdefault(each["name"], []).append(case)
        return found

    return {
        "name": Path(told["references"]).name,
        "predictions": told["predictions"],
        "references": told["references"],
        "convention": told["convention"],
        "policy": told["policy"],
        "interval": told["interval"],
        "created": told["created"],
        "missed": cases_where("reference_volume_ml", "prediction_volume_ml"),
        "spurious": cases_where("prediction_volume_ml", "reference_volume_ml"),
        "of_groups": told.get("groups", {}).get("sentences", []),
        "of_audit": told.get("audit", {}).get("sentences", []),
        "mean_of_metrics": told["mean_foreground"],
        "metrics": {
            each["name"]: {key: each[key] for key in told["mean_foreground"]}
            for each in told["structures"]
        },
        **_figures(rows),
    }


def trust_facts(trust: Trust | None) -> Facts | None:
    """What was fitted on held-out cases, without what only a prediction needs."""
    if trust is None:
        return None
    calibration = trust.calibration
    return {
        "cases": trust.cases,
        "structures": {name: each.held_out_figures for name, each in trust.structures.items()},
        "temperature": calibration.temperature if calibration else None,
        "ece": list(calibration.ece) if calibration else None,
        "brier": list(calibration.brier) if calibration else None,
    }


def _figures(rows: Mapping[str, Mapping[str, float | None]]) -> Facts:
    """Summarise case -> structure -> Dice, None where it does not count."""
    names = list(next(iter(rows.values())))
    # None becomes NaN
    values = np.array([[row[name] for name in names] for row in rows.values()], dtype=np.float64)
    summaries, mean, interval = summarise(values)
    return {
        "cases": len(rows),
        "mean_dice": _number(mean),
        "mean_dice_interval_95": _interval(interval),
        "structures": {
            name: {
                "counted": summary.counted,
                "mean": _number(summary.mean),
                "interval_95": _interval(summary.interval_95),
                "median": _number(summary.median),
                "least": _number(float(np.nanmin(column))) if summary.counted else None,
                "bad": {
                    case: dice
                    for case, dice in zip(rows, column.tolist(), strict=True)
                    if dice < BAD_BELOW
                },
            }
            for name, summary, column in zip(names, summaries, values.T, strict=True)
        },
        "dice": {case: dict(row) for case, row in rows.items()},
    }


@contextmanager
def _whole(what: str, remedy: str) -> Iterator[None]:
    """Turn what a record that lacks something raises into one error."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{what} is damaged ({type(error).__name__}: {error}). {remedy}") from None


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _interval(interval: Interval) -> list[float] | None:
    return list(interval) if all(map(isfinite, interval)) else None


def _words(modality: str | None) -> str | None:
    return MODALITIES.get(modality or "", modality)
