"""What training starts from when nobody says otherwise: each value with the reason for it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from transunet.data.fingerprint import Fingerprint
from transunet.data.preprocessing import ANISOTROPY, Channel, Preprocessing

Value = TypeVar("Value")

LEAST, MOST, STEP = 64, 512, 32
"""Image sizes in pixels: the least that leaves the transformer a grid, the most, the steps."""
PAPER_SIZE, PAPER_BATCH = 224, 24
ENOUGH = 8
"""Slices per batch below which a smaller image is preferred: the Dice loss needs several."""

# Of R50-ViT-B_16, fp32: measured as what its graph keeps for the backward pass, per pixel of a
# slice (8.1 kB at 224), and 105 million parameters with gradient and two moments of 4 bytes.
BYTES_PER_PIXEL = 8_100
FIXED_BYTES = 105_000_000 * 16
SHARE = 0.8
"""Of the memory at hand; the rest is for the framework, the data and others."""


@dataclass(frozen=True)
class Derived(Generic[Value]):
    """A value and why it is the default."""

    value: Value
    reason: str


@dataclass(frozen=True)
class Defaults:
    """Defaults for training on a data set."""

    image_size: Derived[tuple[int, int]]
    """Height and width in pixels."""
    batch_size: Derived[int]
    """Slices per step."""
    normalisation: Derived[tuple[str, ...]]
    """Per channel."""
    slice_axis: Derived[int]
    """In the preprocessing's orientation."""


def derive_defaults(
    fingerprint: Fingerprint,
    memory_bytes: int,
    preprocessing: Preprocessing | None = None,
    *,
    fixed_bytes: int = FIXED_BYTES,
    bytes_per_pixel: int = BYTES_PER_PIXEL,
) -> Defaults:
    """Derive defaults from what the data set is like and the memory at hand.

    Args:
        fingerprint: the data set's.
        memory_bytes: of the device that trains.
        preprocessing: what the store was prepared with.
        fixed_bytes: what the model's parameters take in training; the paper's model if not given.
        bytes_per_pixel: what a pixel of a slice takes in training; the paper's model if not given.
    """
    used = preprocessing or Preprocessing()
    free = SHARE * memory_bytes - fixed_bytes
    size, why_size = _image_size(fingerprint, free / bytes_per_pixel)
    fits = int(free / bytes_per_pixel / size**2)
    batch = max(1, min(PAPER_BATCH, fits, fingerprint.slices))
    return Defaults(
        image_size=Derived((size, size), why_size),
        batch_size=Derived(batch, _why_batch(batch, fits, memory_bytes, fingerprint)),
        normalisation=Derived(
            tuple(describe(channel) for channel in used.channels),
            "; ".join(dict.fromkeys(_why_normalised(channel) for channel in used.channels)),
        ),
        slice_axis=Derived(used.slice_axis, _why_axis(fingerprint)),
    )


def describe(channel: Channel) -> str:
    """Say in a few words what happens to a channel's intensities."""
    if channel.normalisation == "clip":
        return f"{channel.name}: {channel.low:g}..{channel.high:g} to 0..1, clipped"
    if channel.normalisation == "range":
        return f"{channel.name}: divided by {channel.high:g}"
    return f"{channel.name}: mean 0 and deviation 1 per volume"


def _image_size(fingerprint: Fingerprint, pixels: float) -> tuple[int, str]:
    """Side in pixels: the median slice's longer side, as far as enough slices fit a batch."""
    _, rows, columns = fingerprint.size["median"]
    wanted = min(MOST, max(LEAST, -(-max(rows, columns) // STEP) * STEP))
    size = wanted
    while size > min(wanted, PAPER_SIZE) and pixels / size**2 < ENOUGH:
        size -= STEP
    why = f"the median slice has {rows} x {columns} pixels"
    if size < wanted:
        why += f"; {wanted} would leave room for fewer than {ENOUGH} slices"
    return size, why


def _why_batch(batch: int, fits: int, memory_bytes: int, fingerprint: Fingerprint) -> str:
    if batch == PAPER_BATCH:
        return "the paper's; it fits"
    memory = f"{memory_bytes / (1 << 30):.1f} GiB"
    if fits < 1:
        return f"{memory} may be too little even for one slice: choose a smaller model or image"
    if batch == fits:
        return f"what fits {memory} with the paper's model in single precision"
    return f"there are {fingerprint.slices} slices"


def _why_normalised(channel: Channel) -> str:
    if channel.normalisation == "clip":
        return "CT counts in Hounsfield units; the paper's window for soft tissue"
    if channel.normalisation == "range":
        return "the range of the values is known"
    return "no absolute scale is known, so each volume is brought to its own"


def _why_axis(fingerprint: Fingerprint) -> str:
    spacing = " x ".join(f"{edge:.3g}" for edge in fingerprint.spacing_mm["median"])
    return (
        f"slices, rows and columns lie {spacing} mm apart (median); axial, unless another axis is "
        f"more than {ANISOTROPY:g} times coarser"
    )
