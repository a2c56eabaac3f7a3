"""What a bundle attends to in an image: maps on the image's grid and a figure, as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from transunet.attention.rollout import Head, Layer, choices_of, every_choice
from transunet.attention.view import At, AttentionMap, AttentionView
from transunet.bundle.io import BundleConfig, from_pretrained
from transunet.data.formats import stem_of, write_volume
from transunet.data.volume import Volume
from transunet.drawing.colours import colour_of
from transunet.drawing.figures import check_figure_path
from transunet.drawing.heat import Heat, HeatMaps, draw_heat
from transunet.drawing.panels import orientation_for, panel_of, tells_space
from transunet.drawing.planes import PLANES, pixel_of, plane, plane_of
from transunet.errors import ConfigError, DataError
from transunet.files import atomic_path, writable_folder
from transunet.inference.postprocessing import classes_named
from transunet.inference.predictor import Predictor
from transunet.inference.read_input import Image, as_volume
from transunet.inference.slice_inference import Progress
from transunet.models.transunet2d.network import TransUNet

MapFormat = Literal["nii", "npy"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network attends to in one image."""

    image: Volume
    labels: Volume
    """What the network segments."""
    maps: tuple[AttentionMap, ...]
    """The layers and heads that were asked for, in the whole volume."""
    slice_maps: tuple[AttentionMap, ...]
    """Every layer, head and mean, and the roll-out, in the slice of the figure."""
    slice_index: int
    """The slice of the figure, counted as preprocessing cuts them."""
    names: dict[int, str]
    asked: str
    """Whose attention, in words."""
    voxel: tuple[int, int, int] | None = None
    oriented: bool = True
    """Whether the file says how the patient lies."""

    def volume(self, layer: Layer = "rollout", head: Head = "mean") -> Volume:
        """Return one of `maps` as float32 (1, X, Y, Z) on the image's grid.

        Raises:
            ConfigError: for a map that was not asked for.
        """
        for one in self.maps:
            if (one.layer, one.head) == (layer, head):
                return one.on(self.image)
        there = ", ".join(_name(one) for one in self.maps)
        raise ConfigError(f"Layer {layer}, head {head} was not asked for; there is {there}.")

    def write(
        self, folder: Path | str, name: str | None = None, format_: MapFormat = "nii"
    ) -> list[Path]:
        """Write the figure NAME.png and each map, NAME_rollout.nii.gz and the like.

        Args:
            folder: made where it is missing.
            name: of the case; the image's if not given.
            format_: `nii` for NIfTI on the image's grid, `npy` for float32 (X, Y, Z).

        Raises:
            ConfigError: without matplotlib, or when the folder cannot be written to.
        """
        folder = writable_folder(Path(folder))
        name = name or stem_of(Path(self.image.name))
        written = [self.draw(folder / f"{name}.png")]
        for one in self.maps:
            suffix = ".nii.gz" if format_ == "nii" else ".npy"
            with atomic_path(path := folder / f"{name}_{_name(one)}{suffix}") as scratch:
                _write_map(one.on(self.image), scratch)
            written.append(path)
        return written

    def draw(self, path: Path | str) -> Path:
        """Draw the slice, the roll-out over it, and every layer and head (.png, .svg, .pdf).

        Raises:
            ConfigError: without matplotlib, or for a path that cannot be written.
        """
        codes = orientation_for(self.oriented)
        grid = self.slice_maps[0].grid
        stored = grid.stored_index(self.slice_index)
        axis, index = plane_of(self.image.grid, codes, grid.slice_axis, stored)
        panel = panel_of(
            self.image.reoriented(codes),
            self.labels.reoriented(codes),
            axis,
            index,
            oriented=self.oriented,
            title="image and labels" if self.labels.array.any() else "image",
        )
        heats = [plane(self._slice_of(one).array[0], axis, 0) for one in self.slice_maps]
        shown = HeatMaps(
            panel,
            rollout=heats[-1],
            layers=self._by_layer(heats[:-1]),
            mark=self.voxel and pixel_of(self.image.grid, codes, grid.slice_axis, self.voxel),
        )
        colours = {self.names.get(v, f"label {v}"): colour_of(v - 1) for v in panel.values}
        return draw_heat(shown, colours, Path(path), self._title(axis, index))

    def _slice_of(self, one: AttentionMap) -> Volume:
        return one.slice_of(self.slice_index).reoriented(orientation_for(self.oriented))

    def _by_layer(self, heats: list[Heat]) -> list[list[Heat]]:
        per_layer = sum(one.layer == 0 for one in self.slice_maps)
        return [heats[start : start + per_layer] for start in range(0, len(heats), per_layer)]

    def _title(self, axis: int, index: int) -> str:
        count = self.slice_maps[0].tokens.shape[0]
        plane = f"{PLANES[axis]} " if self.oriented else ""
        where = f", {plane}slice {index + 1} of {count}" if count > 1 else ""
        return f"{stem_of(Path(self.image.name))}{where}: attention of {self.asked}"


def explain(
    bundle: Path | str,
    image: Image,
    *,
    layer: int | str = "rollout",
    head: int | str = "mean",
    at: At | str = None,
    spacing_mm: Sequence[float] | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Explanation:
    """Look at what a bundle's network attends to in an image.

    Args:
        bundle: a folder or a hub id.
        image: a volume, a file (or one per channel), or an array with its spacing.
        layer: a layer as the state dict numbers them, from 0; "rollout"; or "all".
        head: a head, from 0; "mean"; or "all". The roll-out is always of the mean.
        at: whose attention: of the token that contains this voxel (three indices), of the tokens
            where this structure (a label's name) was segmented or that this mask covers, each by
            its share of it; of all tokens alike if not given.
        spacing_mm: the edges of an array's voxels.
        device: where the model computes; the best one there is if not given.
        progress: called with the slices done and the slices in all.
        force: take an image of another kind than training saw.

    Raises:
        ConfigError: for a layer, head, voxel, structure or file that there is not.
        DataError: for an image that cannot be segmented, or a structure that is not found in it.
        WeightsError: when the bundle's weights are damaged.
    """
    model, config = from_pretrained(bundle)
    return explain_with(
        model, config, as_volume(image, spacing_mm), layer=layer, head=head, at=at,
        device=device, progress=progress, force=force,
    )  # fmt: skip


def explain_with(
    model: TransUNet,
    config: BundleConfig,
    image: Volume,
    *,
    layer: int | str = "rollout",
    head: int | str = "mean",
    at: At | str = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Explanation:
    """Do as `explain` with a model that is loaded, for many images.

    Raises:
        As `explain`.
    """
    choices = choices_of(layer, head, config.architecture)
    _check_name(at, config)
    view = AttentionView(model, config.preprocessing, device)
    voxel = _voxel(at)
    if voxel is not None:
        view.grid_of(image).place(voxel)  # refused before anything is computed
    predictor = Predictor(
        model,
        config.preprocessing,
        config.labels,
        device=view.place,
        training_data=config.training_data,
        force=force,
    )
    labels = predictor(image)
    asked = _mask(at, labels, config) if isinstance(at, str) else at
    shown = _slice_to_show(asked, labels, view)
    every = view.maps(image, every_choice(config.architecture), asked, slices=[shown])
    return Explanation(
        image=image,
        labels=labels,
        maps=tuple(view.maps(image, choices, asked, progress=progress)),
        slice_maps=tuple(every),
        slice_index=shown,
        names=dict(config.labels),
        asked=_in_words(at),
        voxel=voxel,
        oriented=tells_space(Path(image.name)),
    )


def check_writable(folder: Path) -> None:
    """Find out before the work whether its result can be written.

    Raises:
        ConfigError: without matplotlib, or when the folder cannot be written to.
    """
    check_figure_path(folder / "figure.png")
    writable_folder(folder)


def _check_name(at: Any, config: BundleConfig) -> None:
    if isinstance(at, str):
        classes_named([at], config.labels)


def _voxel(at: Any) -> tuple[int, int, int] | None:
    if at is None or isinstance(at, str | Volume):
        return None
    return tuple(int(index) for index in at)  # type: ignore[return-value]


def _mask(name: str, labels: Volume, config: BundleConfig) -> Volume:
    mask = np.isin(labels.array, classes_named([name], config.labels))
    if not mask.any():
        raise DataError(
            f"{labels.name}: the network finds no {name} in it, so there is nothing to look from. "
            "Choose another structure or a voxel."
        )
    return labels.with_array(mask.astype(np.uint8))


def _slice_to_show(asked: At, labels: Volume, view: AttentionView) -> int:
    """The slice of a voxel, or the one with most of the structure or of all labels."""
    if asked is not None and not isinstance(asked, Volume):
        return view.grid_of(labels).place(asked)[0]
    counted = labels if asked is None else asked
    across = view.grid_of(labels).slice_axis
    others = tuple(1 + axis for axis in range(3) if axis != across)
    counts = np.count_nonzero(counted.array[:1], axis=(0, *others))
    stored = int(counts.argmax()) if counts.any() else len(counts) // 2
    return view.grid_of(labels).stored_index(stored)  # turning an index there and back is the same


def _in_words(at: At | str) -> str:
    if at is None:
        return "all tokens alike"
    if isinstance(at, str):
        return f"the tokens of {at}"
    if isinstance(at, Volume):
        return "the tokens of a mask"
    return f"the token of voxel {', '.join(str(int(index)) for index in at)}"


def _name(one: AttentionMap) -> str:
    if one.layer == "rollout":
        return "rollout"
    head = "mean" if one.head == "mean" else f"head{one.head:02d}"
    return f"layer{one.layer:02d}_{head}"


def _write_map(values: Volume, path: Path) -> None:
    if path.suffix == ".npy":
        np.save(path, values.array[0])
    else:
        write_volume(values, path)
