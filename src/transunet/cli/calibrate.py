"""`transunet calibrate`: teach a bundle on held-out cases how far to trust it, and its int8."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from transunet.cli.notes import say, showing_notes
from transunet.cli.options import Device, Engine, Ignore, Layout
from transunet.data.text import counted

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
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="BUNDLE", help="Teach its ensemble with this bundle too; repeat for more."
        ),
    ] = None,
    device: Device = None,
    engine: Engine = "auto",
) -> None:
    """Learn from held-out cases how sure, how good and how large a bundle's results are.

    Each case is predicted as it is and, from ten cases on, three times worsened on purpose. What is
    learned is written into the bundle's config.json, and `predict` tells it with every result. The
    validation cases of a run will do, though the best network was chosen by them; recipes with
    `calibrate = true` take them by themselves. An ensemble is taught as such. So that `predict
    --precision int8` needs no images, each bundle keeps how large its activations get.
    """
    from transunet.backends.engines import own_device
    from transunet.bundle.bundle_config import (
        keep_ensemble_trust,
        keep_ranges,
        keep_trust,
        read_config,
    )
    from transunet.cli.progress import count_predictions
    from transunet.data.layouts import open_dataset
    from transunet.inference.predictor import Predictor
    from transunet.trust.fitting import fit_trust
    from transunet.trust.held_out import held_out_cases
    from transunet.trust.integers import measure_ranges

    bundles = [bundle, *(ensemble or [])]
    configs = [read_config(folder) for folder in bundles]
    cases = held_out_cases(open_dataset(dataset, layout, ignore), configs[0].labels, split)
    with showing_notes():
        predictor = Predictor.from_pretrained(
            bundles, device=own_device(device), engine=engine, force=True
        )
    ranges = [measure_ranges(folder, cases, own_device(device)) for folder in bundles]
    with count_predictions() as progress:
        trust = fit_trust(predictor, cases, seed, progress)
    if ensemble:
        keep_ensemble_trust(bundles, trust)
    else:
        keep_trust(bundle, trust)
    for folder, each in zip(bundles, ranges, strict=True):
        keep_ranges(folder, each)
    show(trust, bundle)
    say(f"Written into {', '.join(str(folder / 'config.json') for folder in bundles)}")
    words = " --ensemble ".join(quote(str(folder)) for folder in bundles)
    say(f"Next: transunet predict {words} INPUT... -o OUT")


def show(trust: "Trust", bundle: Path) -> None:
    """Print what was learned, and what could not be; draw how reliable probabilities are."""
    from transunet.bundle.bundle_config import read_config
    from transunet.bundle.trust_config import ENOUGH
    from transunet.drawing.reliability import draw_reliability
    from transunet.optional import version_of

    if any(each.quality or each.volume for each in trust.structures.values()):
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
        if version_of("matplotlib"):
            bins = trust.calibration.bins_before, trust.calibration.bins
            say(f"Drawn: {draw_reliability(*bins, bundle / 'reliability.png')}")
    ranges = read_config(bundle).ranges
    if ranges is not None and ranges.fidelity is not None:
        fits = "" if ranges.fidelity.is_enough else "; too little, so that fp32 is taken instead"
        say(f"In int8: {ranges.fidelity}{fits}")
    if trust.mirrored_look:
        say("Expected quality looks at the mirror image too: a prediction takes twice as long.")
    if not any(structure.quality for structure in trust.structures.values()):
        cases = counted(trust.cases, "held-out case")
        if trust.cases >= ENOUGH:
            cases += ", in which no structure was found in ten patients,"
        say(f"With {cases} it cannot be known how good a result is; ten are the least.")
