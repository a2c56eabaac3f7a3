"""`transunet predict`: label maps for images, each on its own grid."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from transunet.data.cases import Case
    from transunet.inference.predictor import Predictor

EXAMPLE = "Example: transunet predict runs/hippocampus/best patient.nii.gz -o labels"


def predict(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or its hub id.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Images, or folders of images.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the label maps.")],
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the best one if not given.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices that go through at once.")] = 8,
    procedure: Annotated[
        Literal["native", "paper"],
        typer.Option(
            help="native: resize the logits to the slice, then label. paper: label at the "
            "network's size and enlarge the labels, as the reference does."
        ),
    ] = "native",
) -> None:
    """Segment images; each label map has the shape, the affine and the units of its image."""
    from rich.console import Console

    from transunet.atomic import writable_folder
    from transunet.inference.files import find_inputs
    from transunet.inference.predictor import Predictor

    predictor = Predictor.from_pretrained(
        bundle, device=device, batch_size=batch_size, procedure=procedure
    )
    cases = find_inputs(inputs, len(predictor.preprocessing.channels))
    writable_folder(out)
    failed = _predict_all(predictor, cases, out)
    Console(soft_wrap=True).print(f"{len(cases) - len(failed)} label maps in {out}")
    _report_failures(failed, len(cases))


def _predict_all(predictor: "Predictor", cases: list["Case"], out: Path) -> dict[str, str]:
    """Predict every case that can be; return what was wrong with the others."""
    from transunet.cli.progress import progress_bar
    from transunet.errors import ConfigError, TransUNetError
    from transunet.inference.files import predict_file

    failed = {}
    with progress_bar("slices") as bar:
        for case in cases:
            task = bar.add_task(case.name, total=None)
            try:
                predict_file(
                    predictor,
                    case,
                    out,
                    lambda done, total, task=task: bar.update(task, completed=done, total=total),
                )
            except ConfigError:  # wrong for every case alike
                raise
            except TransUNetError as error:
                failed[case.name] = str(error)
    return failed


def _report_failures(failed: dict[str, str], cases: int) -> None:
    from transunet.errors import DataError

    if failed:
        listed = "\n".join(f"  {name}: {message}" for name, message in failed.items())
        raise DataError(f"{len(failed)} of {cases} cases could not be predicted:\n{listed}")
