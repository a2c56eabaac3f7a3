"""How the weights come about again: the commands, and the proof that steps agree to the bit."""

import json
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

import torch

from transunet.dossier.facts import data_hash
from transunet.dossier.subject import Subject
from transunet.errors import ConfigError
from transunet.training.log import read_log
from transunet.training.loop import Stepped, train
from transunet.training.runs import Run, start

RECIPE, SPLITS = "recipe.json", "splits.json"
"""Files beside the commands that they take."""


def files_to_train_again(subject: Subject) -> dict[str, str]:
    """Return `train_again.sh`, the recipe in effect and the split, by the names of their files.

    Nothing where there is no run.
    """
    run, recipe = subject.run, subject.recipe
    if run is None or recipe is None:
        return {}
    parts = run.record.splits.parts
    whole = all(part.validation for part in parts)  # a file of splits must hold some out
    files = {}
    if whole:
        recipe = recipe.replace(holdout=None)
        pairs = [{"train": part.train, "val": part.validation} for part in parts]
        files[SPLITS] = json.dumps(pairs, indent=1) + "\n"
    files[RECIPE] = recipe.model_dump_json(indent=2) + "\n"
    lines = [
        "#!/bin/sh",
        f"# Trains {run.folder.resolve().name} again, with the versions that wrote it.",
        "set -eu",
        'cd "$(dirname "$0")"',
        f"pip install {' '.join(_pins(subject))}",
        *_commands(subject, whole),
    ]
    return {"train_again.sh": "\n".join(lines) + "\n", **files}


def _pins(subject: Subject) -> list[str]:
    versions = subject.config.versions
    pins = (f"{name}=={version.partition('+')[0]}" for name, version in versions.items())
    return [quote(pin) for pin in pins if not pin.startswith("python=")]


def _commands(subject: Subject, split: bool) -> list[str]:
    run = subject.run
    assert run is not None
    record, splits = run.record, ["--splits", SPLITS] if split else []
    train = ["--recipe", RECIPE, *splits, "-o", "run"]
    if record.dataset != record.store:
        given = {"layout": record.layout, "ignore": record.ignore, "group-by": record.group_by}
        return [_line("train", str(run.dataset), *train, *_options(given))]
    if subject.store is None:
        missing = f"# The store was not there: prepare its data set into {run.store} first."
        return [missing, _line("train", str(run.store), *train)]
    manifest = subject.store.manifest
    preprocessing = manifest.preprocessing
    spacing = preprocessing.spacing_mm or (None, None, None)
    channels = {(c.normalisation, c.low, c.high) for c in preprocessing.channels}
    kind, low, high = channels.pop() if len(channels) == 1 else (None, 0.0, 1.0)
    options = _options(
        {
            "layout": manifest.layout,
            "ignore": manifest.ignore,
            "group-by": manifest.group_by,
            "dimensions": 3 if preprocessing.of_volumes else None,
            "orientation": preprocessing.orientation,
            "slice-axis": 0,
            "normalisation": kind,
            "plane-spacing": spacing[0],
            "seed": manifest.seed,
        }
    )
    if kind == "clip":
        options += ["--window", str(low), str(high)]
    if spacing[1] is not None and spacing[2] is not None:
        options += ["--spacing", str(spacing[1]), str(spacing[2])]
    share = [] if split else ["--fraction", "0"]
    return [
        _line("prepare", manifest.folder, "-o", "store", *options, *splits, *share),
        _line("train", "store", *train),
    ]


def _options(values: dict[str, Any]) -> list[str]:
    given = ((f"--{name}", str(value)) for name, value in values.items() if value is not None)
    return [word for pair in given for word in pair]


def _line(*words: str) -> str:
    return " ".join(["transunet", *map(quote, words)])


def reproduction(
    subject: Subject, steps: int | None, told: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Return what is known of training again; with `steps` that many are done twice, on the CPU.

    Args:
        subject: with its run and store, where `steps` are asked for.
        steps: how many optimiser steps to compare; None proves nothing.
        told: called with the steps done and those in all.

    Raises:
        ConfigError: when steps are asked for and the run or its store is not there.
        TransUNetError: when it cannot be trained here.
    """
    store = subject.store
    known: dict[str, Any] = {
        "proved": False,
        "why": "not asked for (--prove STEPS)",
        "data_sha256": data_hash(store) if store else None,
    }
    if subject.recipe and subject.recipe.minutes:
        known["clock"] = "its budget is time, and the learning rate follows the clock"
    if steps is None:
        return known
    if not subject.trained or store is None:
        raise ConfigError(
            f"--prove trains {steps} steps from a run's recipe and its prepared data: "
            f"{subject.without_store or f'there is no run beside {subject.source}.'}"
        )
    return known | prove(subject.trained[0], steps, told or (lambda done, total: None))


def prove(run: Run, steps: int, told: Callable[[int, int], None]) -> dict[str, Any]:
    """Train the first `steps` of a run twice, from nothing, and compare all weights to the bit.

    On the CPU, in fp32, with as many threads as PyTorch takes here. Where the run itself was
    trained so, its log has the same losses.

    Raises:
        ConfigError: when the run has fewer steps.
        TransUNetError: when it cannot be trained here.
    """
    recipe = run.recipe() or run.record.recipe
    recipe = recipe.replace(precision="fp32", compile=False, loggers=())
    losses, hashes = [], []
    for attempt in range(2):
        with TemporaryDirectory(prefix="transunet-") as folder:
            trainer = start(
                *(Path(folder) / "run", run.store, recipe),
                splits=run.record.splits,
                device="cpu",
            )
            if (trainer.budget.steps or steps) < steps:
                raise ConfigError(
                    f"--prove {steps}: the run has {trainer.budget.steps} steps. Give fewer."
                )
            done: list[float] = []
            with closing(train(trainer)) as events:
                for event in events:
                    if isinstance(event, Stepped):
                        done.append(event.loss)
                        told(attempt * steps + len(done), 2 * steps)
                    if len(done) == steps:
                        break
            losses.append(done)
            hashes.append(_hash_of(trainer.network))
    logged = [entry["loss"] for entry in read_log(run.folder, "train")][:steps]
    apart = [abs(a - b) for a, b in zip(logged, losses[0], strict=False)]
    agree = hashes[0] == hashes[1] and losses[0] == losses[1]
    return {
        "proved": agree,
        "why": f"the first {steps} steps, done twice, "
        f"{'agree' if agree else 'do not agree'} to the bit in all weights and losses"
        + ("; the run's log has the same losses" if logged == losses[0] else ""),
        "steps": steps,
        "run": run.folder.resolve().name,
        "device": "cpu",
        "precision": "fp32",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "weights_sha256": hashes,
        "losses": losses,
        "losses_in_the_log": logged,
        "largest_difference_from_the_log": max(apart, default=None),
    }


def _hash_of(network: torch.nn.Module) -> str:
    digest = sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
