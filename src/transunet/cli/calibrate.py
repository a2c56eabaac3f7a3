"""`transunet calibrate`: teach a bundle on held-out cases how far to trust it."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from transunet.cli.notes import say, showing_notes
from transunet.cli.options import Device, Engine, Ignore, Layout

if TYPE_CHECKING:
    from transunet.bundle.trust_config import Trust

EXAMPLE = "Example: transunet calibrate runs/hippocampus/best held_out"


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder, such as RUN/best.")],
    dataset: Annotated[
        Path, typer.Argument(help="Labelled cases that the bundle was not trained on.")
    ],
    layout: Layout = None,
    split: Annotated[
        str | None, typer.Option(help="Only the data set's cases of this split, such as test.")
    ] = None,
    ignore: Ignore = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what images are worsened by.")] = 0,
    device: Device = None,
    engine: Engine = "auto",
) -> None:
    """Learn from held-out cases how sure, how good and how large a bundle's results are.

    Each case is predicted as it is and, from ten cases on, three times worsened on purpose. What is
    learned is written into the bundle's config.json, and `predict` tells it with every result. The
    validation cases of a run will do, though the best network was chosen by them.
    """
    from transunet.backends.engines import own_device
    from transunet.bundle.bundle_config import keep_trust, read_config
    from transunet.cli.progress import progress_bar
    from transunet.data.layouts import open_dataset
    from transunet.inference.predictor import Predictor
    from transunet.trust.fitting import fit_trust
    from transunet.trust.held_out import held_out_cases

    config = read_config(bundle)
    cases, ignored = held_out_cases(open_dataset(dataset, layout, ignore), config, split)
    with showing_notes():
        predictor = Predictor.from_pretrained(
            bundle, device=own_device(device), engine=engine, force=True
        )
    with progress_bar("predictions") as bar:
        task = bar.add_task("Predicting", total=None)
        trust = fit_trust(
            predictor,
            cases,
            ignored,
            seed,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    keep_trust(bundle, trust)
    show(trust)
    say(f"Written into {bundle / 'config.json'}")
    say(f"Next: transunet predict {quote(str(bundle))} INPUT... -o OUT")


def show(trust: "Trust") -> None:
    """Print what was learned, and what could not be."""
    table = Table("structure", "expected Dice is off by", "its interval holds", "the volume's")
    for name, structure in trust.structures.items():
        quality, volume = structure.quality, structure.volume
        table.add_row(
            name,
            f"{quality.error:.3f}" if quality else "not known",
            f"{quality.coverage:.0%}" if quality else "",
            f"{volume.coverage:.0%}" if volume else "not known",
        )
    Console().print(table)
    if trust.calibration is not None:
        before, after = trust.calibration.ece
        temperature = trust.calibration.temperature
        say(f"Probabilities: temperature {temperature:.2f}, ECE {before:.3f} -> {after:.3f}")
    if trust.mirrored_look:
        say("Expected quality looks at the mirror image too: a prediction takes twice as long.")
    if not any(structure.quality for structure in trust.structures.values()):
        say(
            f"With {trust.cases} held-out cases it cannot be known how good a result is; ten are "
            "the least."
        )
