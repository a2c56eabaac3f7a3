"""From a volume to a label volume on the same grid.

Memory is bounded by a batch of slices, or by the depth of a patch.
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from transunet.backends.opening import Opened, config_of, is_exported, open_network
from transunet.backends.processor import integer_unit
from transunet.backends.protocol import Network
from transunet.bundle.bundle_config import trust_of
from transunet.bundle.trust_config import Trust
from transunet.data.checks.suitability import TrainingData, check_suitability
from transunet.data.classes import classes_named
from transunet.data.formats import read_volume
from transunet.data.preprocessing import Preprocessing
from transunet.data.regions import Region, structures_in
from transunet.data.sampling import Sampling
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices
from transunet.data.text import extents
from transunet.data.volume import Volume, same_grid
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.inference.logits import decided, enlarge, entropy, probabilities_of, tempered
from transunet.inference.postprocessing import keep_largest, keep_largest_regions
from transunet.inference.probability_files import probability_file
from transunet.inference.slice_inference import (
    PROCEDURES,
    Procedure,
    Progress,
    StoreProbabilities,
    VolumeSlices,
    label_planes,
    label_slices,
    slice_logits,
)

if TYPE_CHECKING:
    import torch

    from transunet.backends.protocol import Logits
    from transunet.data.clicks import Click
    from transunet.inference.tta import WatchMembers
    from transunet.models.segmentation_network import SegmentationNetwork

_VOXELS_AT_ONCE = 128**3
"""Of the patches that go through at once where nobody says how many."""
_OF_ALL = ("procedure", "mirror", "window", "batch_size", "force")
"""Settings that an ensemble's members have in common."""
_LARGEST_SIDE = 16384
"""Pixels along a slice that is resized as a whole: the resizing matrix is the square of it."""
Image = Volume | Path | str | Sequence[Path] | NDArray[Any]
Warn = Callable[[str], object]
"""Called with each sentence about what makes a prediction doubtful."""
_log = logging.getLogger(__name__)


class Predictor:
    """Segments volumes slice by slice, or with a network of three axes patch by patch.

    Two procedures: "native" (the default) resizes the logits to the slice's own size and then takes
    the label; "paper" takes the label at the network's size and enlarges it with nearest neighbour,
    as the reference does, so that published numbers can be reproduced. Patches lie at the working
    volume's own resolution and overlap; their mean probabilities are resized to the image's grid,
    which is all that "native" means for them.

    Args:
        model: a model, or any other `Network`.
        preprocessing: how volumes become working volumes.
        labels: class index -> name; with `regions` label value -> name.
        regions: where the network tells regions apart, each in the order in which they are written:
            those that are likelier than not, one over the other.
        sampling: how the network takes those; if not given, by its image size: with three sides
            patches, else slices.
        context: without `sampling`, the neighbours on each side that the network sees with each
            slice (2.5D).
        device: where the model computes; the best one there is if not given.
        batch_size: slices or patches that go through at once; if not given 8 slices, or as many
            patches, at most 8, as make up 128 x 128 x 128 voxels, by OpenVINO one.
        procedure: see above.
        mirror: average the probabilities of mirror images, along the axes that training mirrored:
            four of a slice, eight of a patch, where it was all of them or is not told.
        window: look through overlapping windows of the network's size at the slices' own
            resolution, instead of resizing whole slices to that size.
        largest_component: names of the structures of which only the largest piece is kept, or
            ["all"].
        training_data: what training saw, as the bundle tells it; without it only the channels'
            names tell images of another kind.
        force: segment an image of another kind than training saw, such as a CT for MRI, with a
            warning.
        others: further members of an ensemble, which see volumes in their own way: other patches,
            spacings or axes. All probabilities are averaged on the volume's own grid.
        fitted: what was fitted on held-out cases; probabilities are tempered by it, labels stay.
        sources: the bundles that it was loaded from.
        engine: what computes the network, for records of what was done.
        precision: of the network, for records too.

    Raises:
        ConfigError: for a device that is not here, an unknown procedure or structure, or settings
            that exclude each other.
    """

    def __init__(
        self,
        model: "SegmentationNetwork | Network",
        preprocessing: Preprocessing,
        labels: Mapping[int, str],
        *,
        regions: Sequence[Region] = (),
        sampling: Sampling | None = None,
        context: int = 0,
        device: "str | torch.device | None" = None,
        batch_size: int | None = None,
        procedure: Procedure = "native",
        mirror: bool = False,
        window: bool = False,
        largest_component: Collection[str] = (),
        training_data: TrainingData | None = None,
        force: bool = False,
        others: "Sequence[Predictor]" = (),
        fitted: Trust | None = None,
        sources: Sequence[Path | str] = (),
        engine: str | None = None,
        precision: str = "fp32",
    ) -> None:
        if procedure not in PROCEDURES:
            known = ", ".join(PROCEDURES)
            raise ConfigError(f"Unknown procedure {procedure!r}; known: {known}.")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1.")
        if window and procedure == "paper":
            raise ConfigError(
                "The paper's procedure resizes whole slices; it has no windows. Use "
                "procedure='native'."
            )
        torch = sys.modules.get("torch")  # where it was never imported, nobody has a model
        if torch is not None and isinstance(model, torch.nn.Module):
            from transunet.backends.pytorch import TorchNetwork

            self._plain_network: Network = TorchNetwork(model, device)
            own_engine = "eager"
        else:
            self._plain_network, own_engine = cast("Network", model), type(model).__name__
        self.device = self._plain_network.device
        self.preprocessing, self.labels = preprocessing, dict(labels)
        self.regions = tuple(regions)
        size = self._plain_network.image_size
        if sampling is None and size is not None and len(size) == 3:
            sampling = Patches(size=size)
        if sampling is not None and size not in (None, sampling.size):
            raise ConfigError(
                f"sampling gives {sampling.kind} of {sampling.size}, the network takes {size}."
            )
        if sampling is not None and context not in (0, sampling.context):
            raise ConfigError(
                f"context={context} contradicts sampling, {sampling.kind} with "
                f"{sampling.context} neighbours. Leave context out."
            )
        self.sampling = sampling
        self.context = sampling.context if sampling else context
        at_once = 8
        if isinstance(sampling, Patches):
            at_once = max(1, min(at_once, _VOXELS_AT_ONCE // prod(sampling.size)))
            if engine == "openvino":  # which is no faster with several, and holds them all
                at_once = 1
            if procedure == "paper" or window:
                asked = "window=True (--window)" if window else "procedure='paper' (--procedure)"
                raise ConfigError(
                    f"{asked} is for slices; this network takes patches of "
                    f"{extents(sampling.size)} voxels, which overlap already and have only "
                    "procedure='native'. Leave it out."
                )
        self.batch_size, self.procedure = batch_size or at_once, procedure
        self.mirror, self.window = mirror, window
        self.largest_component = (
            classes_named(largest_component, self.structures) if largest_component else ()
        )
        self.training_data, self.force = training_data, force
        self.others = tuple(others)
        for other in self.others:
            if (other.labels, other.regions) != (self.labels, self.regions):
                raise ConfigError(
                    "The members of an ensemble must have the same labels; found "
                    f"{self.structures} and {other.structures}."
                )
        if self.others and procedure == "paper":
            raise ConfigError(
                "procedure='paper' labels slices at the network's size; members of several sizes, "
                "spacings or axes are averaged at the image's. Use procedure='native'."
            )
        self.fitted = fitted
        self.sources = tuple(map(str, sources))
        self.engine, self.precision = engine or own_engine, precision
        self.network: Network = self._plain_network
        if mirror:
            from transunet.inference.tta import MirrorTTA

            if training_data and training_data.unmirrored and not force:
                raise ConfigError(
                    "mirror=True (--mirror) averages over mirror images, and training showed the "
                    "network none: it would label them badly. Leave it out; where left and right "
                    "mean the same, train with --set augmentation.p_mirror=0.5; or force it "
                    "(--force)."
                )
            axes = training_data.mirror_axes if training_data else None
            self.network = MirrorTTA(self.network, bool(self.regions), axes or None)
        if window:
            from transunet.inference.sliding_window import SlidingWindow

            self.network = SlidingWindow(self.network, self.batch_size)

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str | Sequence[Path | str],
        *,
        device: "str | torch.device | None" = None,
        engine: str = "auto",
        precision: str = "auto",
        trust: bool = False,
        **settings: Any,
    ) -> Self:
        """Load a bundle (a folder or a hub id), or several whose probabilities are averaged.

        Args:
            source: one bundle or exported file (`.onnx`, `.xml`, `.pt2`), or those of an ensemble.
            device: as the constructor's.
            engine: what computes: "eager", "compiled", "onnxruntime", "openvino", or "auto" for the
                fastest at hand. A bundle is converted for the latter two once, into the cache.
            precision: "fp32", "bf16", "fp16" or "int8"; "auto" is fp32, or an exported file's own.
                "int8" needs a bundle that was calibrated, and gives way to fp32 where it changes
                too many labels or is no faster.
            trust: load `.pt2` files, which can run any code that is in them.
            settings: the constructor's.

        Raises:
            ConfigError: when there is no such bundle or its configuration cannot work, when the
                bundles differ in labels or preprocessing, or for an engine, precision or device
                that cannot be had.
            DataError: when a configuration or an exported file is not readable.
            WeightsError: when weights are damaged or belong to another architecture.
        """
        sources = [source] if isinstance(source, Path | str) else list(source)
        loaded = load_networks(
            sources, None if device is None else str(device), engine, precision, trust
        )

        def predictor(member: Opened, **more: Any) -> Any:
            return cls(
                *(member.network, member.config.preprocessing, member.config.labels),
                regions=member.config.regions,
                sampling=member.config.sampling,
                training_data=member.config.training_data,
                **({"engine": member.engine} | settings | more),
            )

        first, *others = loaded
        configs = [config_of(source, engine) for source in sources[1:]]  # some share a network
        configs = [first.config, *configs]
        ensemble: Self = predictor(
            first,
            fitted=trust_of(configs),
            others=[predictor(other) for other in others],
            sources=sources,
            engine=", ".join(dict.fromkeys(member.engine for member in loaded)),
            precision=", ".join(dict.fromkeys(member.precision for member in loaded)),
        )
        return ensemble

    def replace(self, **settings: Any) -> Self:
        """Return a predictor with other settings of the constructor's, which shares the network.

        The other members of an ensemble get those that are not about one network alone.

        Raises:
            ConfigError: for settings that exclude each other or an unknown structure.
        """
        own: dict[str, Any] = {
            **self.settings,
            "regions": self.regions,
            "sampling": self.sampling,
            "context": self.context,
            "batch_size": self.batch_size,
            "training_data": self.training_data,
            "force": self.force,
            "fitted": self.fitted,
            "others": [
                other.replace(**{name: settings[name] for name in _OF_ALL if name in settings})
                for other in self.others
            ],
            "sources": self.sources,
            "engine": self.engine,
        }
        return type(self)(self._plain_network, self.preprocessing, self.labels, **(own | settings))

    def __repr__(self) -> str:
        size = self.sampling.size if self.sampling else self.network.image_size
        samples = self.sampling.kind if self.sampling else "slices"
        channels = ", ".join(channel.name for channel in self.preprocessing.channels)
        return (
            f"Predictor({' + '.join(self.sources) or 'a network'}: finds "
            f"{', '.join(self.structures.values())} in {channels}, by {samples} of "
            f"{extents(size) if size else 'any size'}, with {self.arithmetic})"
        )

    @property
    def arithmetic(self) -> str:
        """What computes, in words: "openvino in int8 (AMX) on cpu"."""
        unit = integer_unit() if "int8" in self.precision else ""
        return f"{self.engine} in {self.precision}{f' ({unit})' if unit else ''} on {self.device}"

    @property
    def structures(self) -> dict[int, str]:
        """Number -> name of what is found: classes, or regions by the label that is written."""
        return structures_in(self.labels, self.regions)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what came with the bundle: weights, preprocessing, sampling, labels."""
        parts = [self.network.fingerprint, self.preprocessing.model_dump_json(), str(self.labels)]
        parts += [region.model_dump_json() for region in self.regions]
        if isinstance(self.sampling, Patches):
            parts.append(self.sampling.model_dump_json())
        elif self.context:
            parts.append(f"context {self.context}")
        parts += [other.fingerprint for other in self.others]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that labels depend on."""
        return {
            "precision": self.precision,
            "procedure": self.procedure,
            "mirror": self.mirror,
            "window": self.window,
            "largest_component": [self.structures[index] for index in self.largest_component],
        }

    def __call__(
        self,
        image: Image,
        progress: Progress | None = None,
        *,
        spacing_mm: Sequence[float] | None = None,
        probabilities: Path | None = None,
        uncertainty: Path | None = None,
        observers: Sequence[StoreProbabilities] = (),
        watch_members: "WatchMembers | None" = None,
        warn: Warn = _log.warning,
    ) -> Volume:
        """Return the label map of `image`, (1, X, Y, Z) unsigned, on its very grid.

        Args:
            image: a volume; a file (or one per channel); or an array (X, Y, Z) or (C, X, Y, Z),
                whose axes run to the right, to the front and up (RAS).
            progress: called with the slices or patches done, and those in all.
            spacing_mm: the edges of an array's voxels in millimetres, one per axis.
            probabilities: a file to write every class's or region's probability to, `.npy`
                (float16, classes first) or `.nii` (float32, classes last).
            uncertainty: such a file for the normalised entropy, from 0 (certain) to 1.
            observers: called with which planes, and their probabilities as the network gives them.
            watch_members: of an ensemble, called with what each member decides of some samples or
                planes, and what all do together (`logits.decided`).
            warn: called with what makes the image doubtful for this bundle; logs it if not given.

        Raises:
            ConfigError: for an array without its spacing, a spacing without an array, a file that
                does not exist, or maps that cannot be written.
            DataError: for another number of channels, voxels that are not finite, slices too
                large to be resized as a whole, a single plane for a network that takes patches, or
                an image of another kind than training saw.
            GeometryError: for a spacing that is not positive.
        """
        volume = as_volume(image, spacing_mm)
        slices: dict[Preprocessing, VolumeSlices] = {}  # members that see it alike share them
        doubts: dict[str, None] = {}
        for member in (self, *self.others):
            if member.preprocessing not in slices:
                slices[member.preprocessing] = VolumeSlices(volume, member.preprocessing)
            doubts |= dict.fromkeys(member._doubts(volume, slices[member.preprocessing]))
        for doubt in doubts:
            warn(doubt)
        maps: list[StoreProbabilities] = []
        with ExitStack() as files:
            if probabilities is not None:
                channels = len(self.regions or self.labels)
                file = probability_file(probabilities, channels, volume, self.preprocessing)
                maps.append(files.enter_context(file))
            if uncertainty is not None:
                store = files.enter_context(
                    probability_file(uncertainty, 1, volume, self.preprocessing)
                )
                regions = bool(self.regions)
                maps.append(lambda part, values: store(part, entropy(values, regions)[:, None]))

            def store_tempered(part: slice, values: NDArray[np.float32]) -> None:
                values = self._tempered(values)
                for store_map in maps:
                    store_map(part, values)

            stores = [*observers, *([store_tempered] if maps else [])]
            native = self.preprocessing.native_shape(volume)
            if watch_members is not None and not self.others:
                from transunet.inference.tta import watching_members

                files.enter_context(watching_members(self.network, watch_members))
            if self.others:
                labels = self._labels_of_all(slices, volume, progress, stores, watch_members)
            else:
                labels = self.label_slices(slices[self.preprocessing], progress, stores, native)
        del slices  # not held while pieces are looked for
        label_map = self.preprocessing.from_working(labels, volume)
        del labels
        if self.largest_component:
            if self.regions:
                chosen = [r for r in self.regions if r.label in self.largest_component]
                keep_largest_regions(label_map.array[0], chosen, self.regions)
            else:
                keep_largest(label_map.array[0], self.largest_component)
        return replace(label_map, label_names=self.labels)

    def correct(
        self,
        image: Image,
        clicks: "Sequence[Click]",
        previous: Volume | None = None,
        *,
        applied: int = 0,
        slices: VolumeSlices | None = None,
        warn: Warn = _log.warning,
    ) -> Volume:
        """Return the label map of `image` corrected by what a person says of single voxels.

        Only what holds clicks is computed anew: planes, or of a network of three axes patches
        around them. The rest is the previous label map's. It is computed without mirror images or
        windows.

        Args:
            image: as of a call.
            clicks: all that were given so far: the network sees those in the same plane or patch.
            previous: the label map that they correct; what a call returns if not given.
            applied: how many of the clicks, from the first, `previous` shows already.
            slices: of the image, where they are at hand.
            warn: as of a call.

        Raises:
            ConfigError: for a bundle that was not trained for clicks, an ensemble, the paper's
                procedure, or an unknown structure.
            DataError: for a click outside the image; and as a call.
            GeometryError: for a previous label map on another grid.
        """
        from transunet.inference.correction import Corrector

        model, volume = self.model_for_clicks, as_volume(image)
        structures = self.structures
        placed = [(click.voxel_in(volume), click.label_in(structures)) for click in clicks]
        if previous is not None and (differing := same_grid(previous, volume)):
            raise GeometryError(
                f"{previous.name}: the label map that is corrected does not lie on the grid of "
                f"{volume.name}: {differing}. Give one of this very image."
            )
        slices = slices or VolumeSlices(volume, self.preprocessing)
        if previous is None:
            previous = self(volume, warn=warn)
        else:
            for doubt in self._doubts(volume, slices):
                warn(doubt)
        height, width = model.config.image_size[-2:]
        corrector = Corrector(
            *(model, self.device, self.preprocessing),
            sampling=self.sampling or Slices(size=(height, width), context=self.context),
            structures=tuple(r.label for r in self.regions) or tuple(sorted(structures)),
            regions=self.regions,
        )
        corrected = corrector.correct(volume, slices, previous, placed, applied)
        return replace(corrected, label_names=self.labels)

    def check_clicks(self, clicks: "Iterable[Click]") -> None:
        """Make sure that clicks can be followed, before any work.

        Raises:
            ConfigError: for a bundle that was not trained for clicks, an ensemble, windows, the
                paper's procedure, or an unknown structure.
        """
        _ = self.model_for_clicks
        for click in clicks:
            click.label_in(self.structures)

    @cached_property
    def model_for_clicks(self) -> "SegmentationNetwork":
        """The model that clicks are told to: PyTorch's, also where an engine predicts.

        Raises:
            ConfigError: for a bundle that was not trained for clicks, or what has no such model.
        """
        from transunet.backends.pytorch import model_of
        from transunet.bundle.io import from_pretrained

        if self.others or len(self.sources) > 1:
            raise ConfigError("Clicks are for one bundle, not for an ensemble: give one.")
        if self.procedure == "paper":
            raise ConfigError(
                "The paper's procedure labels whole slices and takes no clicks. Use "
                "procedure='native'."
            )
        if self.window:
            raise ConfigError("Clicks are seen with whole slices; leave out window (--window).")
        name = self.sources[0] if self.sources else "This network"
        model = model_of(self._plain_network)
        if model is None and self.sources and not is_exported(name):
            model = from_pretrained(name, self.device)[0]
        if model is None or not model.config.clicks:
            raise ConfigError(
                f"{name}: takes no clicks, since it was not trained to follow them. Give a bundle "
                "that was: transunet train DATASET -o RUN --set clicks=true"
            )
        return model

    def _tempered(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the probabilities are by the bundle's held-out cases."""
        if self.fitted is None or self.fitted.calibration is None:
            return probabilities
        temperature = self.fitted.calibration.temperature
        if not self.regions:
            return tempered(probabilities, temperature)
        either = np.stack([probabilities, 1 - probabilities])
        return np.asarray(tempered(either, temperature, axis=0)[0])

    def _doubts(self, volume: Volume, slices: VolumeSlices) -> list[str]:
        """Refuse what this network cannot segment; return what makes the rest doubtful."""
        height, width = slices.shape[2:]
        if isinstance(self.sampling, Patches):
            if min(volume.spatial_shape) == 1:
                shape, patch = map(extents, (volume.spatial_shape, self.sampling.size))
                raise DataError(
                    f"{volume.name}: is a picture or a single plane ({shape} voxels); this "
                    f"bundle's network takes patches of volumes, {patch} voxels each. "
                    "Give the whole volume, or segment the plane with a bundle of a 2D network."
                )
        elif self.network.image_size is not None and max(height, width) > _LARGEST_SIDE:
            raise DataError(
                f"{volume.name}: its slices are {height} x {width} pixels; expected at most "
                f"{_LARGEST_SIDE} in each direction. Cut or shrink the image, or slide a window "
                "over it (window=True; on the command line --window)."
            )
        return check_suitability(self.preprocessing, self.training_data, volume, self.force)

    def _labels_of_all(
        self,
        slices: Mapping[Preprocessing, VolumeSlices],
        volume: Volume,
        progress: Progress | None,
        stores: Sequence[StoreProbabilities],
        watch_members: "WatchMembers | None",
    ) -> NDArray[Any]:
        """Return the labels (D, H, W) that this predictor and the others find together."""
        from transunet.inference.ensemble import mean_planes, shared_progress

        members, shape = (self, *self.others), self.preprocessing.native_shape(volume)
        told = shared_progress(progress, shape[0], len(members))
        planes = []
        for member, tell in zip(members, told, strict=True):
            own = member.preprocessing
            planes.append((own, member._planes(slices[own], own.native_shape(volume), tell)))
        written = [region.label for region in self.regions]

        def watch(alone: "list[Logits]", together: "Logits") -> None:
            assert watch_members is not None
            *each, all_of_them = (decided(p, bool(written), 0.5) for p in (*alone, together))
            watch_members(each, all_of_them)

        channels = len(self.regions or self.labels)
        watched = watch if watch_members is not None else None
        with closing(mean_planes(planes, volume, channels, watched)) as mean:
            return label_planes(mean, shape, len(self.labels), written, stores)

    def _planes(
        self,
        slices: NDArray[np.float32] | VolumeSlices,
        shape: tuple[int, int, int],
        progress: Progress | None,
    ) -> "Iterator[Logits]":
        """Yield some planes' probabilities (B, classes, H, W) at a time, at the size of `shape`."""
        regions = bool(self.regions)
        if isinstance(self.sampling, Patches):
            from transunet.inference.patch_inference import blended_planes, resized_planes

            blended = blended_planes(
                self.network, slices, self.sampling, self.batch_size, progress, regions
            )
            yield from resized_planes(blended, len(slices), shape)
            return
        for part, logits in slice_logits(
            self.network, slices, context=self.context, batch_size=self.batch_size
        ):
            yield probabilities_of(enlarge(logits, shape[1:]), regions)
            if progress is not None:
                progress(part.stop, len(slices))

    def by_procedure(
        self, image: Image, progress: Progress | None = None, warn: Warn = _log.warning
    ) -> dict[Procedure, Volume]:
        """Return the label maps of `image` by each procedure, whatever this predictor's own is.

        Args:
            image: a volume, or its file or files.
            progress: called with the slices done and the slices in all, from 0 for each procedure.
            warn: called with what makes the image doubtful for this bundle; logs it if not given.

        Raises:
            ConfigError: for a predictor that slides a window, which the paper's procedure has not,
                or a file that does not exist.
            DataError, GeometryError: when the image cannot be used.
        """
        native, paper = (self.replace(procedure=procedure) for procedure in PROCEDURES)
        volume = as_volume(image)
        return {
            "native": native(volume, progress, warn=warn),
            "paper": paper(volume, progress, warn=lambda _: None),  # it was told already
        }

    def label_slices(
        self,
        slices: NDArray[np.float32] | VolumeSlices,
        progress: Progress | None = None,
        stores: Sequence[StoreProbabilities] = (),
        shape: tuple[int, int, int] | None = None,
    ) -> NDArray[Any]:
        """Return the labels (S, H, W), unsigned, of the normalised slices (S, C, H, W) of a volume.

        From patches come labels of `shape` if it is given: their probabilities are resized to it.
        """
        written = [region.label for region in self.regions]
        if isinstance(self.sampling, Patches):
            depth, _, height, width = slices.shape
            shape = shape or (depth, height, width)
            planes = self._planes(slices, shape, progress)
            return label_planes(planes, shape, len(self.labels), written, stores)
        return label_slices(
            self.network,
            slices,
            len(self.labels),
            regions=written,
            context=self.context,
            batch_size=self.batch_size,
            procedure=self.procedure,
            progress=progress,
            stores=stores,
        )


def as_volume(image: Image, spacing_mm: Sequence[float] | None = None) -> Volume:
    """Return `image` as a volume, reading or wrapping it.

    Raises:
        ConfigError: for an array without its spacing, a spacing without an array, or a path that
            does not exist or is of no known format.
        DataError: for an array that does not hold real numbers, or a damaged file.
        GeometryError: for channels on different grids, or an affine that is singular.
    """
    if isinstance(image, np.ndarray):
        if spacing_mm is None or len(spacing_mm) != 3:
            raise ConfigError(
                "An array needs spacing_mm, the three edges of a voxel in millimetres; found "
                f"{spacing_mm}."
            )
        if image.dtype.kind not in "buif":
            raise DataError(f"The array's voxels are of type {image.dtype}; expected real numbers.")
        channels = image[None] if image.ndim == 3 else image
        affine = np.diag([*map(float, spacing_mm), 1.0])
        return Volume(np.asarray(channels, dtype=np.float32), affine, "array")
    if spacing_mm is not None:
        raise ConfigError("spacing_mm is for arrays; a volume or a file brings its own.")
    if isinstance(image, Volume):
        return image
    return read_volume(Path(image) if isinstance(image, str) else image)


def load_networks(
    sources: Sequence[Path | str],
    device: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    trust: bool = False,
) -> list[Opened]:
    """Load bundles or exported files: as one network where they are given the same samples.

    Such an ensemble is the mean of its members' probabilities wherever it is called. Members of
    other preprocessing, sampling or mirrored axes stay by themselves.

    Args:
        sources: folders, hub ids, `.onnx`, `.xml` or `.pt2` files.
        device: where they compute; the best one there is if not given.
        engine: one of `engines.ENGINES`; "auto" takes the fastest installed.
        precision: "auto" is fp32, or what an exported file was written for.
        trust: load `.pt2` files, which can run any code that is in them.

    Raises:
        ConfigError: without sources, when they differ in labels, regions or channels, or for an
            engine, precision or device that cannot be had.
        ConfigError, DataError, WeightsError: for a source that is missing or damaged.
    """
    if not sources:
        raise ConfigError("No bundle was given; expected at least one.")
    opened = [open_network(source, device, engine, precision, trust) for source in sources]
    configs = [member.config for member in opened]
    channels = [[channel.name for channel in each.preprocessing.channels] for each in configs]
    for source, config, names in zip(sources, configs, channels, strict=True):
        for what, expected, found in (
            ("labels", dict(configs[0].labels), dict(config.labels)),
            ("regions", configs[0].regions, config.regions),
            ("channels", channels[0], names),
        ):
            if expected != found:
                raise ConfigError(
                    f"The bundles of an ensemble must agree, but their {what} differ: "
                    f"{sources[0]} has {expected}, {source} has {found}. Leave one of them out."
                )
    axes = [config.training_data and config.training_data.mirror_axes for config in configs]
    seen = [(c.preprocessing, c.sampling, a) for c, a in zip(configs, axes, strict=True)]
    if len(opened) == 1 or any(other != seen[0] for other in seen):
        return opened
    from transunet.inference.tta import Ensemble

    return [
        Opened(
            Ensemble([each.network for each in opened], bool(configs[0].regions)),
            configs[0],
            ", ".join(dict.fromkeys(each.engine for each in opened)),
            ", ".join(dict.fromkeys(each.precision for each in opened)),
        )
    ]
