"""What a bundle attends to in an image: maps on the image's grid and a figure, as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from transunet.attention.patch_attention import QueryMask, query_masks
from transunet.attention.rollout import Head, Layer, layers_and_heads
from transunet.attention.token_grid import TokenGrid
from transunet.attention.view import AttentionMap, AttentionView, Query
from transunet.bundle.io import BundleConfig, from_pretrained
from transunet.colours import colour_of
from transunet.data.classes import classes_named
from transunet.data.formats import stem_of, write_volume
from transunet.data.volume import Volume
from transunet.drawing.figures import check_figure_path
from transunet.drawing.heat import Heat, HeatMaps, draw_heat, draw_masks
from transunet.drawing.panels import (
    PLANES,
    Panel,
    orientation_for,
    panel_of,
    pixel_of,
    plane,
    plane_of,
    tells_space,
)
from transunet.errors import ConfigError, DataError
from transunet.files import atomic_path, writable_folder, write_rows
from transunet.inference.predictor import Image, Predictor, as_volume
from transunet.inference.slice_inference import Progress
from transunet.models.segmentation_network import SegmentationNetwork

if TYPE_CHECKING:
    from transunet.models.transunet3d.network import TransUNet3D

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
    query_masks: tuple[QueryMask, ...]
    """What each query of a transformer decoder sees in the whole volume; empty where there is
    none."""
    grid: TokenGrid
    """Where tokens lie."""
    slice_index: int
    """The slice of the figure, counted as preprocessing cuts them."""
    names: dict[int, str]
    asked: str
    """Whose attention, in words."""
    voxel: tuple[int, int, int] | None = None
    oriented: bool = True
    """Whether the file says how the patient lies."""

    def __repr__(self) -> str:
        return f"Explanation({self.asked} in {self.image})"

    def volume(self, layer: Layer = "rollout", head: Head = "mean") -> Volume:
        """Return one of `maps` as float32 (1, X, Y, Z) on the image's grid.

        Raises:
            ConfigError: for a map that was not asked for.
        """
        for attention in self.maps:
            if (attention.layer, attention.head) == (layer, head):
                return attention.on(self.image)
        there = ", ".join(attention.name for attention in self.maps)
        raise ConfigError(f"Layer {layer}, head {head} was not asked for; there is {there}.")

    def write(
        self, folder: Path | str, name: str | None = None, format_: MapFormat = "nii"
    ) -> list[Path]:
        """Write the figure NAME.png and each map, NAME_rollout.nii.gz and the like.

        Of a network with queries also NAME_queries.png, each mask, NAME_query00.nii.gz and the
        like, and NAME_queries.csv, which tells their classes.

        Args:
            folder: made where it is missing.
            name: of the case; the image's if not given.
            format_: `nii` for NIfTI on the image's grid, `npy` for float32 (X, Y, Z).

        Raises:
            ConfigError: without matplotlib, or when the folder cannot be written to.
        """
        folder = writable_folder(Path(folder))
        name = name or stem_of(Path(self.image.name))
        written = []
        if self.maps:
            written.append(self.draw(folder / f"{name}.png"))
        if self.query_masks:
            written.append(self.draw_queries(folder / f"{name}_queries.png"))
            rows = [(query.number, query.label, f"{query.share:.3f}") for query in self.query_masks]
            written.append(folder / f"{name}_queries.csv")
            write_rows([("query", "label", "share"), *rows], written[-1])
        shown: list[AttentionMap | QueryMask] = [*self.maps, *self.query_masks]
        for shown_map in shown:
            values = shown_map.on(self.image)
            suffix = ".nii.gz" if format_ == "nii" else ".npy"
            with atomic_path(path := folder / f"{name}_{shown_map.name}{suffix}") as scratch:
                if format_ == "npy":
                    np.save(scratch, values.array[0])
                else:
                    write_volume(values, scratch)
            written.append(path)
        return written

    def draw(self, path: Path | str) -> Path:
        """Draw the slice, the roll-out over it, and every layer and head (.png, .svg, .pdf).

        Raises:
            ConfigError: without matplotlib, or for a path that cannot be written.
        """
        panel, colours, title = self._figure_slice
        heats = [self._drawn(attention) for attention in self.slice_maps]
        per_layer = sum(attention.layer == 0 for attention in self.slice_maps)
        layers = range(0, len(heats) - 1, per_layer)  # the last one is the roll-out
        heat_maps = HeatMaps(
            panel,
            rollout=heats[-1],
            layers=[heats[start : start + per_layer] for start in layers],
            mark=self.voxel
            and pixel_of(
                self.image.grid,
                orientation_for(self.oriented),
                self.grid.slice_axis,
                self.voxel,
            ),
        )
        return draw_heat(heat_maps, colours, Path(path), f"{title}: attention of {self.asked}")

    def draw_queries(self, path: Path | str) -> Path:
        """Draw the slice and every query's mask in it, with its class (.png, .svg, .pdf).

        Raises:
            ConfigError: without matplotlib, or for a path that cannot be written.
        """
        panel, colours, title = self._figure_slice
        masks = {
            f"query {query.number}: {query.label}, {query.share:.0%}": self._drawn(query)
            for query in self.query_masks
        }
        return draw_masks(panel, masks, colours, Path(path), f"{title}: what each query sees")

    @property
    def _figure_slice(self) -> tuple[Panel, dict[str, str], str]:
        """The slice of the figures, its labels' names with their colours, and its title."""
        codes = orientation_for(self.oriented)
        stored = self.grid.stored_index(self.slice_index)
        axis, index = plane_of(self.image.grid, codes, self.grid.slice_axis, stored)
        panel = panel_of(
            self.image.reoriented(codes),
            self.labels.reoriented(codes),
            axis,
            index,
            oriented=self.oriented,
            title="image and labels" if self.labels.array.any() else "image",
        )
        colours = {self.names.get(v, f"label {v}"): colour_of(v - 1) for v in panel.values}
        title, count = stem_of(Path(self.image.name)), self.grid.shape[0]
        if count > 1:
            plane_name = f"{PLANES[axis]} " if self.oriented else ""
            title += f", {plane_name}slice {index + 1} of {count}"
        return panel, colours, title

    def _drawn(self, shown: AttentionMap | QueryMask) -> Heat:
        """Return the slice of the figures of a map, (H, W) as it is drawn."""
        codes = orientation_for(self.oriented)
        axis, _ = plane_of(self.image.grid, codes, self.grid.slice_axis, 0)
        return plane(shown.slice_of(self.slice_index).reoriented(codes).array[0], axis, 0)


def explain(
    bundle: Path | str,
    image: Image,
    *,
    layer: int | str = "rollout",
    head: int | str = "mean",
    at: Query | str = None,
    spacing_mm: Sequence[float] | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Explanation:
    """Look at what a bundle's network attends to in an image.

    Args:
        bundle: a folder or a hub id.
        image: a volume, a file (or one per channel), or an array with its spacing.
        layer: a layer as the state dict numbers them, from 0; "rollout"; or "all". Of a network
            that has queries and no vision transformer, only the queries' masks are shown.
        head: a head, from 0; "mean"; or "all". The roll-out is always of the mean.
        at: whose attention: of the token that contains this voxel (three indices), of the tokens
            where this structure (a label or region) was segmented or that this mask covers, each by
            its share of it; of all tokens alike if not given. The masks of queries are shown whole.
        spacing_mm: the edges of an array's voxels.
        device: where the model computes; the best one there is if not given.
        progress: called with the slices or patches done, and those in all.
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
    model: SegmentationNetwork,
    config: BundleConfig,
    image: Volume,
    *,
    layer: int | str = "rollout",
    head: int | str = "mean",
    at: Query | str = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Explanation:
    """Look at what a loaded model attends to, for many images; as `explain` in all else.

    Raises:
        ConfigError: for a layer, head, voxel or structure that there is not.
        DataError: for an image that cannot be segmented, or a structure that is not found in it.
    """
    choices = layers_and_heads(layer, head, config.architecture)
    sampling = config.sampling
    view = AttentionView(model, config.preprocessing, device, sampling=sampling)
    grid = view.grid_of(image)
    voxel: tuple[int, int, int] | None = None
    structure: tuple[int, ...] = ()
    # What there is not is refused before anything is computed.
    if at is None:
        asked = "all tokens alike"
    elif isinstance(at, str):
        members = {region.label: region.members for region in config.regions}
        numbers = classes_named([at], config.structures)
        structure = tuple(label for number in numbers for label in members.get(number, (number,)))
        asked = f"the tokens of {at}"
    elif isinstance(at, Volume):
        asked = "the tokens of a mask"
    else:
        grid.token_at(at)
        voxel = int(at[0]), int(at[1]), int(at[2])
        asked = f"the token of voxel {', '.join(map(str, voxel))}"
    predictor = Predictor(
        model,
        config.preprocessing,
        config.labels,
        regions=config.regions,
        sampling=sampling,
        device=view.device,
        training_data=config.training_data,
        force=force,
    )
    labels = predictor(image)
    query: Query
    if isinstance(at, str):
        query = labels.with_array(np.isin(labels.array, structure).astype(np.uint8))
        if not query.array.any():
            raise DataError(
                f"{labels.name}: the network finds no {at} in it, so there is nothing to look "
                "from. Choose another structure or a voxel."
            )
    else:
        query = at
    if voxel is not None:
        slice_index = grid.token_at(voxel)[0]
    else:  # the slice with most of what is asked about, or of all labels
        counted = query if isinstance(query, Volume) else labels
        others = tuple(axis for axis in range(3) if axis != grid.slice_axis)
        counts = np.count_nonzero(counted.array[0], axis=others)
        slice_index = grid.stored_index(int(counts.argmax()) if counts.any() else len(counts) // 2)
    every = layers_and_heads("all", "all", config.architecture) if choices else []
    queries: list[QueryMask] = []
    if view.patches and config.architecture.num_queries:
        queries = query_masks(
            cast("TransUNet3D", model),
            view.device,
            view.planes_of(image),
            view.patches,
            [region.name for region in config.regions]
            or [name for _, name in sorted(config.labels.items())],
            grid,
            None if choices else progress,
        )
    return Explanation(
        image=image,
        labels=labels,
        maps=tuple(view.maps(image, choices, query, progress=progress) if choices else ()),
        slice_maps=tuple(view.maps(image, every, query, slices=[slice_index]) if every else ()),
        query_masks=tuple(queries),
        grid=grid,
        slice_index=slice_index,
        names=dict(config.labels),
        asked=asked,
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
