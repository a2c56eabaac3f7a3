"""`transunet predict`: label maps for images, each on its own grid."""

import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from transunet.cli.notes import raise_failed, say, showing_notes
from transunet.cli.options import ON_THIS_MACHINE, Device, Engine, Precision
from transunet.data.text import some
from transunet.errors import ConfigError, TransUNetError

if TYPE_CHECKING:
    from transunet.batch.run import CaseOutcome, OutputOptions
    from transunet.data.cases import Case
    from transunet.integrations.dicomweb import Address

EXAMPLE = "Example: transunet predict runs/hippocampus/best patient.nii.gz -o labels"

_READ = "What is read"
_WRITTEN = "What is written"
_PROCEDURE = "How it is segmented"
_ALL_TOLD = 5
"""Cases of which every structure's expectation is printed."""


def predict(
    context: typer.Context,
    bundle: Annotated[
        str,
        typer.Argument(
            help="A bundle's folder, its hub id, or an exported file (.onnx, .xml, .pt2)."
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders of images, data sets, patterns ('*.nii'); or a series in a PACS, "
            "dicomweb+https://HOST/PATH/studies/STUDY/series/SERIES.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the label maps.", rich_help_panel=_WRITTEN),
    ],
    format_: Annotated[
        Literal["same", "nifti", "npz", "dicom-seg", "dicom-labelmap"],
        typer.Option(
            "--format",
            help="same: the image's own (PNG for JPEG, NIfTI for DICOM). npz: labels and affine as "
            "arrays. dicom-seg, dicom-labelmap: a DICOM segmentation of a DICOM series, a bit per "
            "voxel and segment, which all viewers know, or a number per voxel, compressed.",
            rich_help_panel=_WRITTEN,
        ),
    ] = "same",
    probabilities: Annotated[
        Literal["npy", "nii"] | None,
        typer.Option(
            help="Also write every class's probability: npy (float16, classes first) or nii "
            "(float32, classes last).",
            rich_help_panel=_WRITTEN,
        ),
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write the entropy of the probabilities, from 0 (certain) to 1.",
            rich_help_panel=_WRITTEN,
        ),
    ] = False,
    view: Annotated[
        bool,
        typer.Option(
            "--view",
            help="Also draw a sheet of slices with the labels on them, sheets/CASE.png.",
            rich_help_panel=_WRITTEN,
        ),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Also write a DICOM report (TID 1500) of each DICOM segmentation: volumes and, "
            "where the bundle knows, their intervals and the expected quality.",
            rich_help_panel=_WRITTEN,
        ),
    ] = False,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Also store the DICOM segmentation, and the report, in the PACS that the series "
            "came from.",
            rich_help_panel=_WRITTEN,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Predict finished cases again, and replace files that stand in the way.",
            rich_help_panel=_WRITTEN,
        ),
    ] = False,
    series: Annotated[
        str | None,
        typer.Option(
            metavar="UID|NUMBER|all",
            help="Of several DICOM series in a folder or zip: this one, or all, each as a case.",
            rich_help_panel=_READ,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Of a data set: its cases of this split (train, validation, test); if not given "
            "the test cases, or all where none is one.",
            rich_help_panel=_READ,
        ),
    ] = None,
    procedure: Annotated[
        Literal["native", "paper", "both"],
        typer.Option(
            help="native: resize the logits to the slice, then label. paper: label at the "
            "network's size and enlarge the labels, as the reference does. both: into two "
            "folders; of a data set, its labelled cases, and what each measures.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = "native",
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror",
            help="Average over mirror images, of what training mirrored: four times the time, of "
            "patches eight.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = False,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUNDLE",
            help="Average with this bundle too (another fold, a 3D network); repeat for more.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = None,
    window: Annotated[
        bool,
        typer.Option(
            "--window",
            help="Slide a window of the network's size over slices much larger than it, at their "
            "own resolution, instead of resizing them.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = False,
    clicks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A JSON file of clicks that say what is at single voxels: the slices (patches) "
            "that hold them are segmented anew. For bundles trained with --set clicks=true.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The label maps that the clicks correct: a folder that predict wrote, or one "
            "image's file; if not given, what the network finds.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = None,
    largest_component: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Keep only this structure's largest piece (26 neighbours); repeat, or say all.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Take the small network that the bundle has (transunet distill --attach), and "
            "int8 where that is possible.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Segment images of another kind than training saw, too, such as a CT with a "
            "bundle for MRI, or (--mirror) mirror images.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = False,
    no_trust: Annotated[
        bool,
        typer.Option(
            "--no-trust",
            help="Tell nothing of what the bundle expects of its own result, which may save a look "
            "at the mirror image, and leave probabilities as the network gives them.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = False,
    fail_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="DICE",
            help="End with 1 where less Dice is expected of a structure, or one is missing that "
            "all held-out cases had; everything is written all the same.",
            rich_help_panel=_PROCEDURE,
        ),
    ] = None,
    device: Device = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Slices (8 if not given) or patches that go through at once.",
            rich_help_panel=ON_THIS_MACHINE,
        ),
    ] = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Load a .pt2 file although that can run any code that is in it.",
            rich_help_panel=ON_THIS_MACHINE,
        ),
    ] = False,
) -> None:
    """Segment images; each label map has the shape, the affine and the units of its image.

    A second run goes on where the first one ended: finished cases are kept. Several processes with
    the same arguments, on one machine or many, share the cases.
    """
    from transunet.backends.engines import own_device
    from transunet.backends.opening import config_of
    from transunet.batch.run import Corrections, OutputOptions, predict_cases
    from transunet.cli.progress import case_bars
    from transunet.data.clicks import read_clicks
    from transunet.data.formats import warn_of_contradictions
    from transunet.data.inputs import find_inputs
    from transunet.inference.predictor import Predictor
    from transunet.integrations.dicomweb import fetched, is_address

    # Mistyped paths first: loading a network may take a minute.
    both = procedure == "both"
    remote = any(map(is_address, inputs))
    if store and not (format_.startswith("dicom-") and remote):
        raise ConfigError(
            "--store puts DICOM segmentations of series in a PACS back there. Give --format "
            "dicom-seg or dicom-labelmap with it, and an input that begins with dicomweb+."
        )
    if previous and not clicks:
        raise ConfigError("--previous names what clicks correct: give --clicks FILE with it.")
    if clicks and fail_below is not None:
        raise ConfigError(
            "--fail-below: what to expect of a result that was corrected by clicks is not known. "
            "Leave it out."
        )
    if fast and (ensemble or clicks):
        raise ConfigError(
            "--fast takes one small network, which neither --ensemble nor --clicks goes with."
        )
    if clicks and engine == "auto":
        engine = "eager"  # which follows clicks: one network for all of it
    if fast:
        bundle, precision = _fast_form(bundle, device, engine, precision)
    config = config_of(bundle, engine)
    channels = len(config.preprocessing.channels)
    with showing_notes():
        paths = [Path(text) for text in inputs]
        if remote:
            origins = context.with_resource(fetched(inputs))  # until the command ends
            paths = list(origins)
        cases = find_inputs(paths, channels, series=series, split=split, labelled=both)
        if remote:
            cases = [_with_origin(case, origins) for case in cases]
        warn_of_contradictions(path for case in cases for path in case.images)
        predictor = Predictor.from_pretrained(
            [bundle, *(ensemble or [])],
            device=own_device(device),
            engine=engine,
            precision=precision,
            trust=trust,
            batch_size=batch_size,
            procedure="native" if both else procedure,
            mirror=mirror,
            window=window,
            largest_component=largest_component or (),
            force=force,
        )
    if both:
        predictor.replace(procedure="paper")  # refused before anything is computed
    corrections = None
    if clicks:
        corrections = Corrections(read_clicks(clicks, [case.name for case in cases]), previous)
        predictor.check_clicks(chain(*corrections.clicks.values()))
        if previous and not previous.is_dir() and (len(cases) > 1 or not previous.is_file()):
            raise ConfigError(
                f"--previous {previous}: expected a folder of label maps, or for a single image "
                "its label map."
            )
    if no_trust:
        predictor = predictor.replace(fitted=None)
    words = [quote(bundle), "DATASET", *(f"--ensemble {quote(other)}" for other in ensemble or [])]
    if fail_below is not None and predictor.fitted is None:
        raise ConfigError(
            "--fail-below needs a bundle that knows what to expect of its results, without "
            "--no-trust; an ensemble, one that was taught as such. Teach it on held-out cases: "
            f"transunet calibrate {' '.join(words)}"
        )
    if ensemble and not (no_trust or predictor.fitted) and config.trust:
        say(
            "What to expect of the results is not known of this ensemble, only of its members. "
            f"Teach it: transunet calibrate {' '.join(words)}",
            "dim",
        )
    options = OutputOptions(format_, probabilities, uncertainty, overwrite, both, view, report)
    say(f"Computing with {predictor.arithmetic}.")
    alone = None if predictor.others else predictor.sampling
    samples = alone.kind if alone else "slices"
    with showing_notes(), stoppable(out):
        with case_bars(len(cases), samples) as (begun, ended):
            outcomes = predict_cases(predictor, cases, out, options, begun, ended, corrections)
        if both and any(outcome.status != "failed" for outcome in outcomes):
            _measure_both(paths, out)
    if store:
        _store(outcomes, cases, out, options)
    _report(outcomes, out, None if both else _next_command(paths, cases, out))
    if fail_below is not None:
        _refuse_below(fail_below, outcomes)


def _fast_form(
    bundle: str, device: str | None, engine: str, precision: Precision
) -> tuple[str, Precision]:
    """Return the bundle's small network and the fastest precision for it, and say what was not."""
    from transunet.backends.opening import can_be_int8
    from transunet.bundle.fast import fast_bundle

    small = str(fast_bundle(bundle))
    if small == bundle:
        say(f"{bundle} has no small network (transunet distill --attach); its own is taken.", "dim")
    if precision == "auto" and can_be_int8(small, device, engine):
        precision = "int8"
    return small, precision


def _with_origin(case: "Case", origins: "Mapping[Path, Address | None]") -> "Case":
    """Return a case with the address that it was fetched from."""
    image = case.images[0]
    address = origins.get(image) or origins.get(image.parent)
    return replace(case, origin=str(address)) if address else case


def _store(
    outcomes: "list[CaseOutcome]", cases: "list[Case]", out: Path, options: "OutputOptions"
) -> None:
    """Store what was written for series of a PACS in the study that they are of."""
    from transunet.batch.outputs import label_name
    from transunet.integrations.dicomweb import parse_address, store

    written = {outcome.case for outcome in outcomes if outcome.status in ("done", "kept")}
    for case in cases:
        if case.origin and case.name in written:
            files = [out / label_name(case, options.format)]
            files += [out / "reports" / f"{case.name}.dcm"] if options.report else []
            address = parse_address(case.origin)
            store(address, files)
            what = "segmentation and report" if options.report else "segmentation"
            say(f"{case.name}: {what} stored in {address.base}")


class Stopped(TransUNetError):  # noqa: N818 - not a fault: what is finished stays
    """Asked to stop (Ctrl-C, SIGTERM)."""

    exit_code = 130


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """Make SIGTERM end as Ctrl-C does: what was half-written is removed on the way out."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(
            f"Stopped; finished cases stay in {out}. Give the same command again to go on."
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _measure_both(inputs: list[Path], out: Path) -> None:
    """Measure what the two procedures give, where the input is a data set."""
    from transunet.cli.evaluate import print_comparison
    from transunet.data.layouts import recognises
    from transunet.evaluation.evaluate import EvaluationRequest

    folders = out / "native", out / "paper"
    if len(inputs) == 1 and inputs[0].is_dir() and recognises(inputs[0]):
        request = EvaluationRequest(references=inputs[0], subset=True)
        print_comparison(*folders, request, out=out)
        return
    native, paper = (quote(str(folder)) for folder in folders)
    say(
        "Not measured: the input is no data set of a known layout. With other references: "
        f"transunet evaluate {native} {paper} REFERENCES"
    )


def _report(outcomes: "list[CaseOutcome]", out: Path, next_command: str | None) -> None:
    """Print what came of it and what to do next; raise an error that lists what failed."""
    count = {"done": 0, "kept": 0, "elsewhere": 0, "failed": 0}
    doubtful: dict[str, list[str]] = {}  # warning -> its cases
    for outcome in outcomes:
        count[outcome.status] += 1
        for warning in outcome.warnings:
            doubtful.setdefault(warning, []).append(outcome.case)
    more = [
        f"{count[status]} {words}"
        for status, words in (("kept", "finished before"), ("elsewhere", "by other processes"))
        if count[status]
    ]
    maps = "label map" if count["done"] == 1 else "label maps"
    say(f"{count['done']} {maps} in {out}" + (f" ({', '.join(more)})" if more else ""))
    _say_expected(outcomes, out)
    with showing_notes():
        for warning, names in doubtful.items():
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            logging.getLogger("transunet").warning("%s%s: %s", names[0], others, warning)
    if next_command and count["failed"] < len(outcomes):
        say(f"Next: {next_command}")
    failed = {outcome.case: outcome.error for outcome in outcomes if outcome.status == "failed"}
    raise_failed(failed, len(outcomes), "predicted")


def _say_expected(outcomes: "list[CaseOutcome]", out: Path) -> None:
    """Print what is expected of each structure: of few cases all, of many what needs a look."""
    from transunet.batch.case_records import needing_a_look

    for outcome in outcomes:
        for name, figures in outcome.structures.items():
            if "look" not in figures or not (figures["look"] or len(outcomes) <= _ALL_TOLD):
                continue
            parts = [f"{name} {millilitres(figures['volume_ml'])} ml"]
            if "volume_interval_ml" in figures:
                low, high = figures["volume_interval_ml"]
                parts[0] += f" [{millilitres(low)}, {millilitres(high)}]"
            if "expected_dice" in figures:
                expected, within = figures["expected_dice"], figures["expected_within"]
                parts.append(f"expected Dice {expected:.2f} ± {within:.2f}")
            elif figures["look"]:
                parts.append(figures["reason"])
            look = "look at this: " if figures["look"] else ""
            say(f"{outcome.case}: {look}{', '.join(parts)}", "yellow" if look else "")
    told = [figures for outcome in outcomes for figures in outcome.structures.values()]
    if len(outcomes) > _ALL_TOLD and any("look" in figures for figures in told):
        cases = [outcome.case for outcome in outcomes if needing_a_look(outcome.structures)]
        names = f": {some(cases)}" if cases else ""
        say(f"{len(cases)} of {len(outcomes)} cases need a look{names} ({out / 'statistics.csv'})")


def millilitres(volume: float) -> str:
    """Four digits, and no fewer before the point than there are: a body has 71,234 ml of muscle."""
    return f"{volume:,.0f}" if volume >= 1000 else f"{volume:#.4g}".rstrip(".")


def _refuse_below(least: float, outcomes: "list[CaseOutcome]") -> None:
    """End with 1 where less than `least` is expected of a structure.

    Raises:
        TransUNetError: naming the cases and structures.
    """
    bad = [
        f"{outcome.case} {name} ({figures.get('expected_dice', 'missing')})"
        for outcome in outcomes
        for name, figures in outcome.structures.items()
        if figures.get("expected_dice", 0 if figures.get("look") else 1) < least
    ]
    if bad:
        raise TransUNetError(
            f"Less than Dice {least:g} is expected of {len(bad)}: {some(bad)}. Their label maps "
            "are written; look at them before they are used."
        )


def _next_command(inputs: list[Path], cases: "list[Case]", out: Path) -> str | None:
    """What measures the label maps of cases with references, or else draws them."""
    source, *others = inputs
    if others or cases[0].origin or not source.exists():  # a pattern, say
        return None
    images, labels = quote(str(source)), quote(str(out))
    if any(case.label for case in cases):
        return f"transunet evaluate {labels} {images} --subset -o REPORT"
    return f"transunet view {images} {labels} -o SHEETS"
