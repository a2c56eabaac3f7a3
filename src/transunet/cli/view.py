"""`transunet view`: label maps drawn on their images, as sheets of slices."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from transunet.cli.notes import say
from transunet.data.text import some
from transunet.errors import DataError, TransUNetError

if TYPE_CHECKING:
    from transunet.data.cases import Case

EXAMPLE = (
    "Example: transunet view scans labels -o sheets    "
    "(one slice of each case on one page: -o overview.png)"
)


def view(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An image, or a folder of images.")
    ],
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS",
            help="Its label map, or a folder of them or a data set, matched by case name.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A picture (.png, .svg, .pdf): the slices of one case, or one slice of each of "
            "several. Anything else is a folder that gets one sheet per case.",
        ),
    ],
    bundle: Annotated[
        str | None,
        typer.Option(
            help="What the labels are called, and a CT's window: a bundle (folder or hub id) or a "
            "dataset.json. Label maps of `transunet predict` know their names."
        ),
    ] = None,
    axis: Annotated[
        Literal["axial", "coronal", "sagittal"] | None,
        typer.Option(help="The plane of the slices; chosen by shape and spacing if not given."),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Draw each so many-th slice; if not given, up to 20 that hold labels."
        ),
    ] = None,
    slices: Annotated[
        list[int] | None,
        typer.Option("--slice", help="Draw this slice, by the number in its title; repeatable."),
    ] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="Pictures in a row.")] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH", help="Intensities that become black and white, such as -160 240."
        ),
    ] = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="Draw only what lies around the labels.")
    ] = False,
    opacity: Annotated[
        float, typer.Option(min=0, max=1, help="Of the labels' fill; 0 leaves their outlines.")
    ] = 0.3,
) -> None:
    """Draw label maps on their images: outlines and fills, names and colours, which side is which.

    Slices are shown as radiologists look at them, in their true proportions; photographs as they
    are stored. Works for predictions and references alike.
    """
    from transunet.bundle.bundle_config import CONFIG, read_config
    from transunet.cli.progress import progress_bar
    from transunet.data.formats import read_labels, read_volume
    from transunet.drawing.figures import SUFFIXES, check_figure_path
    from transunet.drawing.panels import tells_space
    from transunet.drawing.sheets import SheetOptions, draw_sheet, slices_of

    one_picture = out.suffix.lower() in SUFFIXES
    check_figure_path(out if one_picture else out / "sheet.png")
    cases = _pairs(image, labels)
    is_bundle = bundle and (not Path(bundle).exists() or (Path(bundle) / CONFIG).is_file())
    if window is None and bundle and is_bundle:  # one that all of its images share, as a CT's is
        window = read_config(bundle).preprocessing.channels[0].window
    options = SheetOptions(axis, every, tuple(slices or ()), columns, window, crop, opacity)
    names = _names(bundle, next(iter(cases.values()))[1], labels)
    overview = one_picture and len(cases) > 1
    panels = []  # of the overview: the fullest slice of each case
    with progress_bar("cases") as bar:
        for name, (files, label_file) in bar.track(cases.items(), description="Drawing"):
            volume = read_volume(files)
            label_map = read_labels(label_file, volume.grid)
            oriented = tells_space(files[0])
            if overview:
                panels += slices_of(volume, label_map, options, oriented=oriented, case=name)
            else:
                drawn = slices_of(volume, label_map, options, oriented=oriented)
                sheet = out if one_picture else out / f"{name}.png"
                draw_sheet(drawn, names, sheet, options, title=name)
    if overview:
        draw_sheet(panels, names, out, options, title=f"{len(panels)} cases")
    several = len(cases) > 1 and not one_picture
    say(f"{len(cases)} sheets in {out}" if several else f"Written: {out}")


def _pairs(image: Path, labels: Path) -> dict[str, tuple[Sequence[Path], Path]]:
    """Case name -> image and label map; a single image and label map belong together."""

    def last_name(case: "Case") -> str:
        return Path(case.name).name

    from transunet.data.inputs import find_inputs
    from transunet.data.layouts import open_dataset, recognises
    from transunet.evaluation.pairs import files_in

    if labels.is_dir() and recognises(labels):
        maps = {case.name: case.label for case in open_dataset(labels).cases if case.label}
    else:
        maps = files_in(labels, "label map")
    cases = find_inputs([image], 1)
    # A label map in the folder of its case, or, where they lie side by side, called as its image.
    images = {case.name: case.images for case in cases}
    for name, same in groupby(sorted(cases, key=last_name), last_name):
        first, *others = same
        if others and name in maps:
            raise DataError(
                f"{image} holds several files called {name}: {first.images[0]} and "
                f"{others[0].images[0]}. Give the folder of the images alone."
            )
        images.setdefault(name, first.images)
    if len(cases) == len(maps) == 1 and labels.is_file():
        return {name: (cases[0].images, path) for name, path in maps.items()}
    found = {name: images.get(name, images.get(f"{name}_0000", ())) for name in maps}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        told = f"{len(missing)} of {len(maps)} label maps in {labels} have no image in {image}"
        if len(missing) == len(maps):
            raise DataError(
                f"{told}: {', '.join(missing[:8])}. An image and its label map need the same "
                f"name; found the images {', '.join(sorted(images)[:8])}."
            )
        if image.is_dir():  # of a single image, the others are not asked for
            typer.secho(f"{told} and are left out: {some(missing)}.", fg="yellow", err=True)
    return {name: (paths, maps[name]) for name, paths in found.items() if paths}


def _names(bundle: str | None, label_map: Path, folder: Path) -> Mapping[int, str]:
    """Label value -> name: what the label map's own files tell, else the bundle's."""
    from transunet.bundle.bundle_config import read_config
    from transunet.data.classes import match_classes
    from transunet.data.layouts.masks import LABELS, listed_names
    from transunet.evaluation.structure_names import names_from, names_of

    own = names_of(label_map, folder)
    beside = (above / LABELS for above in label_map.parents[:3])  # in a data set of masks
    if own is None and bundle is None and (file := next(filter(Path.is_file, beside), None)):
        with suppress(TransUNetError):  # it may be somebody else's
            return listed_names(file)
    if bundle is None:
        return own.labels if own else {}
    there = Path(bundle).exists()
    given = names_from(Path(bundle)).labels if there else read_config(bundle).labels
    if own is None or not own.named or match_classes(given, own.labels).in_order:
        return given
    told = f"Labels are called as {own.source} says: {bundle} numbers the classes otherwise."
    typer.secho(told, fg="yellow", err=True)
    return own.labels
