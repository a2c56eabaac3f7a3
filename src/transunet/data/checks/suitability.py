"""Whether an image is of the kind that a bundle was trained on: the door before every prediction.

A network marks something in any image. What is known of both sides is compared: the modality (of
DICOM's header, of channel names, of Hounsfield units), intensities, voxel sizes, field of view. A
plain contradiction, such as a CT for MRI, is refused unless it is forced; a doubt is a warning.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from transunet.data.checks.problems import Problem
from transunet.data.formats import FORMATS, suffix_of
from transunet.data.formats.volume_format import Space
from transunet.data.preprocessing import PHOTOGRAPH_CHANNELS, Channel, Preprocessing
from transunet.data.text import extents
from transunet.data.volume import Grid, Volume
from transunet.errors import DataError
from transunet.settings import Configuration

if TYPE_CHECKING:
    from transunet.data.store import StoredCase

MODALITIES: Mapping[str, str] = MappingProxyType(
    {
        "CT": "CT",
        "MR": "MRI",
        "PT": "PET",
        "NM": "scintigraphy or SPECT",
        "US": "ultrasound",
        "DX": "X-ray",
        "XC": "photographs",
    }
)
"""The kinds that are told apart, by DICOM's Modality, and in words."""
_DICOM = {
    **{name: name for name in MODALITIES},
    **dict.fromkeys(("CR", "DX", "MG", "RF", "PX", "IO"), "DX"),
    **dict.fromkeys(("XC", "GM", "SM", "ES", "OP"), "XC"),
    "IVUS": "US",
}
"""DICOM's Modality -> kind. XA, OT and others may be reconstructions of any kind."""
_WORDS = {
    "CT": "ct cta ctp cbct cect ncct ldct mdct hu hounsfield",
    "MR": "mr mri mra fmri t1 t1w t1c t1ce t1gd t1n t1wi t2 t2w t2f t2wi flair dwi adc pd pdw swi "
    "bold dce cine lge bssfp mprage dixon cmr qsm",
    "PT": "pet pt suv suvbw fdg",
    "US": "us ultrasound sonography sonogram",
    "DX": "xray cxr radiograph mammogram mammography",
    "XC": "photo photograph microscopy dermoscopy endoscopy fundus histology "
    + " ".join(PHOTOGRAPH_CHANNELS),
}
_KIND_OF_WORD = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_SCANS = ("CT", "MR", "PT")

FAT_HU = -100.0
"""Hounsfield units of fat, which is in most that a CT shows."""
AIR_HU, MOST_HU = -900.0, 4000.0
"""Hounsfield units below which there is air, or what was put outside the scanner's circle (that may
be -1024, -3024 or -32768); and what hardly anything is above."""
SPACING_FACTOR, VIEW_FACTOR = 2.0, 1.5
"""How many times finer or coarser, smaller or larger than in training goes without a warning."""
UNUSUAL = 1.25
"""How many times makes an image unlike training's, which matters where a prediction is doubtful."""
DEVIATIONS, SHARE = 1.0, 0.5
"""How far percentiles may lie outside those of training: in standard deviations, where each volume
is brought to its own; else as a share of the known range."""
_NARROW = 0.05  # of the known range; values that fill less of it are on another scale
PERCENTILES = (0.5, 50.0, 99.5)
SAMPLES = 200_000
"""Voxels of a channel that percentiles are taken of, evenly spaced."""

Triple = tuple[float, float, float]
Span = tuple[tuple[float, ...], tuple[float, ...]]
"""The smallest and the largest of each of several figures, over the cases of training."""


class ChannelValues(Configuration):
    """Intensities of one channel of one image."""

    minimum: float
    percentiles: Triple
    """`PERCENTILES`."""
    standardised: Triple
    """The same in standard deviations from the mean: comparable whatever the scale is."""

    @property
    def is_hounsfield(self) -> bool:
        """Whether they look like a CT's: there is air, and nothing denser than metal."""
        return self.percentiles[0] <= AIR_HU and self.percentiles[2] <= MOST_HU


class SeenChannel(Configuration):
    """One channel of the images of training."""

    modality: str | None = None
    """One of `MODALITIES`; None where neither the headers nor the channel's name tell."""
    percentiles: Span
    standardised: Span
    """As of `ChannelValues`."""


class TrainingData(Configuration):
    """What training saw, for the bundle to carry."""

    cases: int
    space: Space = "known"
    channels: tuple[SeenChannel, ...]
    spacing_mm: Span
    """From slice to slice, row to row, column to column, as the network saw them."""
    view_mm: Span
    """Height and width of the slices."""
    mirror_axes: tuple[int, ...] | None = None
    """Axes of a sample, from 0 on, along which mirror images were seen too; None if not told."""

    @property
    def unmirrored(self) -> bool:
        """Whether training is known to have shown no mirror images."""
        return self.mirror_axes == ()

    @classmethod
    def of(
        cls,
        cases: "Iterable[StoredCase]",
        preprocessing: Preprocessing,
        mirror_axes: tuple[int, ...] | None = None,
    ) -> Self:
        """Summarise the cases of a store, at least one, and along which axes they are mirrored."""
        stored = list(cases)
        channels = []
        for index, channel in enumerate(preprocessing.channels):
            measured = [case.fingerprint.intensities[index] for case in stored]
            # The first channel's header is kept.
            headers = {case.fingerprint.modality for case in stored} if index == 0 else set()
            by_header = headers.pop() if len(headers) == 1 else None
            standardised = [_standardised(v.percentiles, v.mean, v.deviation) for v in measured]
            channels.append(
                SeenChannel(
                    modality=by_header or modality_of_name(channel.name),
                    percentiles=_span([values.percentiles for values in measured]),
                    standardised=_span(standardised),
                )
            )
        return cls(
            cases=len(stored),
            space=_space(stored[0].images[0]),
            channels=tuple(channels),
            spacing_mm=_span([case.spacing_mm for case in stored]),
            view_mm=_span([_view_of(case, preprocessing) for case in stored]),
            mirror_axes=mirror_axes,
        )


class ImageFacts(Configuration):
    """What is known of an image that is to be segmented; small enough to be kept as JSON."""

    modality: str | None = None
    """One of `MODALITIES`, where the image's header tells it."""
    space: Space = "known"
    colour: bool = False
    """Whether it is a picture with three channels that differ."""
    white: float | None = None
    """The number of full brightness in a picture, which other depths are compared by."""
    channels: tuple[ChannelValues, ...]
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, float, float, float], ...]

    @property
    def hounsfield(self) -> tuple[bool, ...]:
        """Whether each channel is a CT: by the header, which is the first one's, or its values."""
        told = self.modality == "CT" if self.modality else self.channels[0].is_hounsfield
        return (told, *(channel.is_hounsfield for channel in self.channels[1:]))

    @classmethod
    def of(cls, volume: Volume) -> Self:
        """Measure a volume whose voxels are finite."""
        space, array = _space(volume.name), volume.array
        channels = []
        for channel in array:
            values = channel.ravel("K")
            sample = values[:: max(1, values.size // SAMPLES)].astype(np.float64)
            low, middle, high = np.percentile(sample, PERCENTILES).tolist()
            channels.append(
                ChannelValues(
                    minimum=float(values.min()),
                    percentiles=(low, middle, high),
                    standardised=_standardised((low, middle, high), sample.mean(), sample.std()),
                )
            )
        return cls(
            modality=modality_of_header(volume.header),
            space=space,
            colour=space == "pixels" and len(array) == 3 and not (array[0] == array[1]).all(),
            white=volume.white,
            channels=tuple(channels),
            shape=volume.spatial_shape,
            affine=tuple(map(tuple, volume.affine.tolist())),
        )


class Mismatch(NamedTuple):
    """What speaks against segmenting an image with a bundle."""

    contradiction: str | None
    """What the image is and what training saw, where the two exclude each other."""
    doubts: tuple[str, ...]
    of_values: bool = False
    """Whether the intensities are doubtful, and not voxels and field of view alone."""

    def problem(self, name: str) -> Problem:
        """Return the contradiction as what is wrong with the image `name`."""
        remedy = (
            "Choose a model for such images; to segment it all the same, force it (--force, in "
            'Python force=True, of the server "force": true)'
        )
        return Problem("wrong-modality", name, str(self.contradiction), remedy)


def check_suitability(
    preprocessing: Preprocessing, training: TrainingData | None, image: Volume, force: bool
) -> list[str]:
    """Return what is doubtful about segmenting `image`, in sentences.

    Args:
        preprocessing: the bundle's.
        training: what its training saw, if it tells.
        image: its voxels are finite.
        force: return a contradiction as a doubt, too.

    Raises:
        DataError: for an image of another kind than training saw, such as a CT for MRI.
    """
    against = mismatch(preprocessing, training, ImageFacts.of(image))
    if against.contradiction is None:
        return list(against.doubts)
    if not force:
        raise against.problem(image.name).error()
    return [f"Segmented although {against.contradiction}.", *against.doubts]


def mismatch(
    preprocessing: Preprocessing, training: TrainingData | None, image: ImageFacts
) -> Mismatch:
    """Compare an image with what a bundle was trained on.

    Args:
        preprocessing: the bundle's; its channels' names may tell modalities.
        training: what its training saw, if it tells.
        image: with as many channels as the bundle; else nothing is compared.
    """
    if len(image.channels) != len(preprocessing.channels):
        return Mismatch(None, ())
    doubts: list[str] = []
    grid = Grid(image.shape, np.array(image.affine))
    of_grid = _doubtful_grid(preprocessing, training, grid, image.space)
    pictures = image.colour and not (training and training.space == "pixels")
    channels = zip(preprocessing.channels, image.channels, strict=True)
    for index, (channel, values) in enumerate(channels):
        seen = training.channels[index] if training else None
        trained = seen.modality if seen else modality_of_name(channel.name)
        by_header = image.modality if index == 0 else None  # the first channel's header is kept
        if trained and by_header != trained:
            other = _contradiction(trained, channel, seen, values, by_header, pictures)
            if other:
                but = f"but the model was trained on {MODALITIES[trained]}"
                return Mismatch(f"{other}, {but} (channel {channel.name!r})", tuple(of_grid))
        of = f" of channel {channel.name!r}" if image.channels[1:] else ""
        if by_header and trained and by_header != trained:
            doubts.append(
                f"It is {MODALITIES[by_header]} by its DICOM header, though without air; the "
                f"model was trained on {MODALITIES[trained]}."
            )
        elif not (by_header and trained):
            doubts += [
                f"The values{of} {d}." for d in _doubtful_sign(trained, channel, seen, values)
            ]
        if seen:
            doubtful = _doubtful_range(channel, seen, values, image.white)
            doubts += [f"The values{of} {doubt}." for doubt in doubtful]
    return Mismatch(None, (*doubts, *of_grid), of_values=bool(doubts))


def modality_of_name(name: str) -> str | None:
    """Return the modality that a channel's name tells ("T1ce" is MR), or None."""
    words = re.findall(r"[a-z]+\d?[a-z]*", name.lower().replace("x-ray", "xray"))
    kinds = {_KIND_OF_WORD[word] for word in words if word in _KIND_OF_WORD}
    return kinds.pop() if len(kinds) == 1 else None


def modality_of_header(header: Any) -> str | None:
    """Return the modality that a reader kept of a file's header (DICOM's has one), or None."""
    return _DICOM.get(str(getattr(header, "modality", "")).upper())


def _contradiction(
    trained: str,
    channel: Channel,
    seen: SeenChannel | None,
    values: ChannelValues,
    by_header: str | None,
    pictures: bool,
) -> str | None:
    """What a channel is, where it excludes what the bundle was `trained` on."""
    # Programs that write DICOM of any volume say CT; a CT of anybody holds air somewhere.
    if by_header and not (by_header == "CT" and values.minimum > AIR_HU):
        return f"it is {MODALITIES[by_header]} by its DICOM header"
    if trained in _SCANS and pictures:
        return "it is a colour picture"
    if trained != "CT" and values.is_hounsfield:
        low, _, high = values.percentiles
        return f"its values look like a CT's Hounsfield units (from {low:.0f} to {high:.0f})"
    expects_air = seen.percentiles[1][0] < 0 if seen else _keeps_negative(channel)
    if trained == "CT" and values.minimum >= 0 and expects_air:
        return (
            "none of its values is below 0, so that they are no Hounsfield units (air is "
            "-1000, fat -100)"
        )
    return None


def _doubtful_sign(
    trained: str | None, channel: Channel, seen: SeenChannel | None, values: ChannelValues
) -> Iterator[str]:
    """Say where values lie below 0, as a CT's do and, as far as is known, none of training."""
    below = seen is not None and seen.percentiles[0][0] < 0
    if trained == "CT" or below or _keeps_negative(channel):
        return
    low, _, high = values.percentiles
    if trained is None:
        if values.is_hounsfield:
            unknown = "whether the model was trained on CT is not known"
            yield f"look like a CT's Hounsfield units; {unknown}"
    # Further below 0 than normalising brings them, and more of them than interpolation does.
    elif values.minimum <= FAT_HU and low < -_NARROW * abs(high):
        none = f"{MODALITIES[trained]} has none"
        yield f"reach below 0 (to {values.minimum:.4g}), as a CT's do; {none}"


def _doubtful_range(
    channel: Channel, seen: SeenChannel, values: ChannelValues, white: float | None
) -> Iterator[str]:
    if channel.per_volume:  # of any scale
        if _outside(values.standardised, seen.standardised, shift=DEVIATIONS):
            yield (
                "are distributed otherwise than in any image of training: it may be another kind "
                "of image, or prepared otherwise"
            )
        return
    if channel.window:  # as a share of it
        channel = channel.replace(normalisation="clip")
    (own,) = channel.for_white(white).normalise(np.array([values.percentiles])).tolist()
    least, most = channel.normalise(np.array(seen.percentiles)).tolist()
    if own[-1] - own[0] < _NARROW or _outside(own, (least, most), shift=SHARE):
        reach = f"from {values.percentiles[0]:.4g} to {values.percentiles[2]:.4g}"
        seen_reach = f"from {seen.percentiles[0][0]:.4g} to {seen.percentiles[1][2]:.4g}"
        yield f"reach {reach}; in training they reached {seen_reach}"


def unusual_grid(
    preprocessing: Preprocessing, training: TrainingData | None, image: Volume
) -> list[str]:
    """Return what of voxels and field of view lies outside of all of training by a quarter.

    In sentences; nothing where they lie so far outside that `check_suitability` says it.
    """
    compared = preprocessing, training, image.grid, _space(image.name)
    return [] if _doubtful_grid(*compared) else _doubtful_grid(*compared, (UNUSUAL, UNUSUAL))


def _doubtful_grid(
    preprocessing: Preprocessing,
    training: TrainingData | None,
    grid: Grid,
    space: Space,
    factors: tuple[float, float] = (SPACING_FACTOR, VIEW_FACTOR),
) -> list[str]:
    if training is None or "unknown" in (space, training.space):
        return []
    if space != training.space:
        if space == "pixels":
            return ["It is a picture without voxel sizes; training saw images that tell them."]
        return ["It is an image with voxel sizes; training saw pictures, which have none."]
    try:
        spacing = preprocessing.working_spacing_mm(grid)
        view = _view(preprocessing.working_shape(grid)[1:], spacing)
    except DataError as error:  # prediction refuses it in the same words
        return [str(error)]
    unit, doubts = ("pixels" if space == "pixels" else "mm"), []
    if _outside(spacing, training.spacing_mm, factor=factors[0]):
        doubts.append(
            f"Slices, rows and columns lie {extents(spacing, '.3g')} {unit} apart; in training "
            f"{_from_to(training.spacing_mm)} {unit}."
        )
    if _outside(view, training.view_mm, factor=factors[1]):
        doubts.append(
            f"A slice shows {extents(view, '.3g')} {unit}; in training "
            f"{_from_to(training.view_mm)} {unit}."
        )
    return doubts


def _keeps_negative(channel: Channel) -> bool:
    return channel.window is not None and channel.low < 0


def _standardised(percentiles: Triple, mean: float, deviation: float) -> Triple:
    low, middle, high = (float((value - mean) / (deviation or 1)) for value in percentiles)
    return low, middle, high


def _space(name: str) -> Space:
    known = FORMATS.get(suffix_of(Path(name)) or "")
    return known.space if known else "known"


def _view(size: Sequence[int], spacing: Sequence[float]) -> tuple[float, float]:
    return size[0] * spacing[1], size[1] * spacing[2]


def _view_of(case: "StoredCase", preprocessing: Preprocessing) -> tuple[float, float]:
    """Height and width of a case in mm; also where the store holds less of it."""
    if not preprocessing.is_cropped:
        return _view(case.size, case.spacing_mm)
    own, wanted = (
        ["RLAPSI".index(code) // 2 for code in codes]
        for codes in (case.fingerprint.orientation, preprocessing.orientation)
    )
    measured = case.fingerprint
    edges = [n * mm for n, mm in zip(measured.shape, measured.spacing_mm, strict=True)]
    return edges[own.index(wanted[1])], edges[own.index(wanted[2])]


def _span(rows: Sequence[Sequence[float]]) -> Span:
    values = np.array(rows, dtype=np.float64)
    return tuple(values.min(axis=0).tolist()), tuple(values.max(axis=0).tolist())


def _outside(values: Sequence[float], seen: Span, shift: float = 0.0, factor: float = 1.0) -> bool:
    """Whether a value lies further outside of what was seen than by `shift`, or by `factor`."""
    return any(
        not low / factor - shift <= value <= high * factor + shift
        for value, low, high in zip(values, *seen, strict=True)
    )


def _from_to(span: Span) -> str:
    low, high = (extents(end, ".3g") for end in span)
    return low if low == high else f"{low} to {high}"
