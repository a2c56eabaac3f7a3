"""What `transunet train` shows: the recipe, a live line, the validations, the result."""

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial
from math import isnan
from pathlib import Path
from shlex import quote
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from transunet.bundle.bundle_config import read_config, trust_of
from transunet.bundle.trust_config import Trust
from transunet.cli.calibrate import show
from transunet.cli.notes import say
from transunet.cli.progress import count_cases, count_predictions
from transunet.data.planning import patch_decisions
from transunet.data.split_rules import classes_in, split_warnings
from transunet.data.text import counted
from transunet.errors import TransUNetError
from transunet.training.error_messages import explained
from transunet.training.log import read_log
from transunet.training.loop import Stepped, train
from transunet.training.recipe import PRESETS, Recipe, load_recipe, usual_recipe
from transunet.training.run_trust import fit_best, fit_folds
from transunet.training.runs import Run, flat, summarise_folds
from transunet.training.trainer import Trainer
from transunet.weights.catalog import PARTS


def show_recipe(trainer: Trainer, asked: Recipe) -> None:
    """Print the settings that differ from the preset, where every one is, and what came of weights.

    Args:
        trainer: of the first run that is trained.
        asked: its recipe before anything was derived.
    """
    recipe = trainer.recipe
    preset = load_recipe(recipe.name if recipe.name in PRESETS else usual_recipe(recipe.model))
    now, usual = flat(recipe.model_dump(mode="json")), flat(preset.model_dump(mode="json"))
    changed = [key for key in now if now[key] != usual.get(key)]
    but = ", but for" if changed else ""
    say(f"Recipe {recipe.name}{but} (every setting: {trainer.folder / 'recipe.json'})")
    width = max(map(len, changed), default=0)
    for key in changed:
        value, before = ("none" if v is None else v for v in (now[key], usual.get(key)))
        say(f"  {key:{width}}  {value}  (preset: {before})")
    if recipe.axes == 3 and asked.image_size == asked.batch_size == "auto":
        plan = recipe.size, recipe.architecture["poolings"], recipe.batch, recipe.model
        for decision in patch_decisions(trainer.store.fingerprint, *plan):
            say(f"  {decision.name} {decision.value}: {decision.reason}", "dim")
    for note in trainer.beginning.notes if trainer.beginning else ():
        say(note)
    if recipe.model in PARTS and asked.weights == "auto" and recipe.weights == "none":
        say(
            "Training starts from RANDOM weights: the published ones could not be had. The paper's "
            f"results need them: transunet weights download {recipe.model}; --weights "
            "imagenet21k insists on them, --weights none says that you mean it.",
            "yellow",
        )


def show_split(trainer: Trainer) -> None:
    """Print how many cases train and validate by which rule, and what to know before training."""
    split, recipe = trainer.split, trainer.recipe
    if recipe.folds and recipe.fold is not None:
        say(f"Fold {recipe.fold + 1} of {recipe.folds}: {trainer.folder}", "bold")
    step, kind = trainer.state.step, recipe.sampling.kind
    say(
        f"{counted(len(split.train), 'case')} ({len(trainer.dataset)} {kind}) train, "
        f"{len(split.validation)} "
        f"validate, {len(split.test)} are left for testing: "
        f"{trainer.splits.rule_of(recipe.fold or 0)}; on {trainer.device}"
        + (f"; going on after step {step}" if step else "")
    )
    if (value := trainer.store.manifest.ignore) is not None:
        say(f"Voxels that hold {value} count in nothing: nobody labelled them.")
    for warning in split_warnings(trainer.store, split):
        say(f"Warning: {warning}", "yellow")


def watch(trainer: Trainer) -> None:
    """Train, showing how it goes: a live line, and one line that stays per validation."""
    console = Console(stderr=True)
    with Progress(
        # One line of 80 columns, and not in red, which is for errors.
        BarColumn(6, complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
        console=console,
        disable=not trainer.world.first,
    ) as progress:
        fold = ""
        if (recipe := trainer.recipe).folds and recipe.fold is not None:
            fold = f"fold {recipe.fold + 1} of {recipe.folds} "
        begun = f"{fold}step {trainer.state.step}"
        task = progress.add_task("Training", total=1.0, numbers=begun, visible=False)
        started, slices, first = monotonic(), 0, None
        loss = dice = None
        # What a dying data worker interrupts may be the display.
        with explained(trainer), closing(train(trainer)) as events:
            for event in events:
                if isinstance(event, Stepped):
                    loss = event.loss if loss is None else loss + 0.05 * (event.loss - loss)
                    slices += event.slices
                    first = event.progress if first is None else first
                    seconds, left = max(monotonic() - started, 1e-3), "-:--:--"
                    if event.progress > first:  # from what this session has done of the budget
                        share = (1 - event.progress) / (event.progress - first)
                        left = str(timedelta(seconds=int(seconds * share)))
                    numbers = (
                        f"{fold}step {event.step} loss {_number(loss)} Dice {_number(dice)} "
                        f"{slices / seconds:.1f} {trainer.recipe.sampling.kind}/s {left} left"
                    )
                    progress.update(task, completed=event.progress, numbers=numbers, visible=True)
                elif trainer.world.first:
                    dice = event.outcome.mean_dice
                    classes = "  ".join(f"{k} {_number(v)}" for k, v in event.outcome.dice.items())
                    is_measured = not isnan(event.outcome.decisive_dice)
                    best = "  (best so far)" if event.is_best and is_measured else ""
                    line = f"step {event.step}  mean Dice {_number(dice)}{best}  {classes}"
                    progress.console.print(line, highlight=False)


def show_result(trainer: Trainer) -> None:
    """Print the Dice of the best network and where everything is."""
    best_bundle = trainer.folder / "best"
    entries = read_log(trainer.folder, "validation")
    best = [entry for entry in entries if entry["step"] == trainer.state.best_step]
    if trainer.split.validation and not classes_in(trainer.store, trainer.split.validation):
        say("No held-out case holds a structure to measure: the best is the last.")
    elif best and best[-1]["mean_dice"] is not None:
        held_out = counted(len(trainer.split.validation), "held-out case")
        table = Table(title=f"Dice on {held_out}, best network")
        table.add_column("class")
        table.add_column("Dice", justify="right")
        for name, dice in best[-1]["dice"].items():
            table.add_row(name, _number(dice))
        say(table)
        say(f"mean foreground Dice {best[-1]['mean_dice']:.3f}")
    for end in read_log(trainer.folder, "end")[-1:]:
        if "data_share" in end:  # runs that ended earlier do not tell it
            say(
                f"trained for {timedelta(seconds=int(end['seconds']))}; of the time "
                f"{end['data_share']:.1%} went by until batches were there, "
                f"{end['validation_share']:.1%} with validation"
            )
    say(f"best bundle: {best_bundle} (step {trainer.state.best_step})")
    say(f"last bundle: {trainer.folder / 'last'} (step {trainer.state.step})")
    say(log_line(trainer.folder))
    say(f"Predict with: transunet predict {quote(str(best_bundle))} INPUT... -o OUT")


def log_line(folder: Path) -> str:
    """Say where the log is, and its picture; or what that picture needs."""
    if (folder / "curves.png").exists():
        return f"log and curves: {folder}"
    return f"log: {folder} (curves.png needs matplotlib: pip install 'transunet-torch[train]')"


def teach_best(trainer: Trainer) -> None:
    """Let the best network learn how far to trust it, where it has not yet."""
    run, best = Run.reopen(trainer.folder), trainer.folder / "best"
    if read_config(best).trust is None:
        _teach(partial(fit_best, run, str(trainer.device)), [best])


def teach_folds(parent: Run, device: str) -> None:
    """Let the folds' networks and their ensemble learn it, where they have not yet."""
    bundles = [fold / "best" for fold in parent.folds]
    if trust_of([read_config(bundle) for bundle in bundles]) is None:
        _teach(partial(fit_folds, parent, device), bundles)


def _teach(
    fit: Callable[[Callable[[int, int], None]], Trust | None], bundles: Sequence[Path]
) -> None:
    """Fit, with a bar, and show what came of it; training is complete whatever comes of it."""
    words = quote(str(bundles[0])), "DATASET", *(f"--ensemble {quote(str(b))}" for b in bundles[1:])
    later = f"Teach it with held-out cases: transunet calibrate {' '.join(words)}"
    say("Learning from the held-out cases how far to trust it; Ctrl-C leaves what was trained.")
    started = monotonic()
    try:
        with count_predictions() as progress:
            trust = fit(progress)
    except TransUNetError as error:
        say(f"Warning: how far to trust it could not be learned. {error} {later}", "yellow")
        return
    if trust is None:
        say(f"No case was held out to learn from how far to trust it. {later}")
    else:
        show(trust, bundles[0])
        say(f"Learned in {timedelta(seconds=int(monotonic() - started))}.")


def report_folds(parent: Run, device: str) -> None:
    """Predict every case by the fold that did not see it and report all metrics, once."""
    # Imported here: reports take a third of a second, which other trainings are spared.
    from transunet.evaluation.table import summary_table
    from transunet.training.held_out_maps import FOLDER, report_held_out

    report = parent.folder / FOLDER / "report.html"
    if not report.is_file():
        try:
            with count_cases("Predicting held-out cases") as progress:
                result, _ = report_held_out(parent, device, progress)
        except TransUNetError as error:
            say(
                f"Warning: the held-out cases' label maps and report could not be made. {error} "
                f"Then go on with: transunet train --resume {parent.folder}",
                "yellow",
            )
            return
        say(summary_table(result.evaluation))
    say(f"label maps of all held-out cases: {parent.folder / FOLDER / 'labels'}")
    say(f"report of all metrics: {report}")


def show_folds(parent: Run) -> bool:
    """Print the summary of a cross-validation and return True, or that folds are still missing."""
    summary = summarise_folds(parent)
    if summary is None:
        say(
            "Other folds are not finished yet. When they are, see all of them with: "
            f"transunet train --resume {parent.folder}"
        )
        return False
    once = summary.held_out == len(summary.cases)
    often = "each held out once" if once else f"held out {summary.held_out} times together"
    table = Table(title=f"Dice on all {len(summary.cases)} cases, {often}")
    for name in ("class", "mean", "SD"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, mean in summary.mean.items():
        table.add_row(name, _number(mean), _number(summary.deviation[name]))
    say(table)
    say("folds: " + "  ".join(_number(dice) for dice in summary.folds))
    say(f"mean foreground Dice {_number(summary.mean_dice)}")
    say(f"summary: {parent.folder / 'folds.json'}")
    return True


def _number(value: float | None) -> str:
    return "-" if value is None or isnan(value) else f"{value:.3f}"
