"""From a volume to a label volume on the same grid; memory is bounded by a batch of slices."""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network
from transunet.data.checks.suitability import TrainingData, check_suitability
from transunet.data.preprocessing import Preprocessing
from transunet.data.resize import Edge, resize
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError
from transunet.inference.loading import load_networks
from transunet.inference.logits import (
    argmax,
    as_array,
    enlarge,
    enlarge_nearest,
    softmax,
    uncertainty,
)
from transunet.inference.postprocessing import classes_named, keep_largest
from transunet.inference.prefetch import ahead, behind
from transunet.inference.probability_files import MapFile, map_file
from transunet.inference.read_input import Image, as_volume
from transunet.inference.sliding_window import Windowed
from transunet.inference.tta import Mirrored
from transunet.inference.volume_slices import Slabs

if TYPE_CHECKING:
    import torch

    from transunet.backends.protocol import Logits
    from transunet.models.transunet2d.network import TransUNet

Procedure = Literal["native", "paper"]
PROCEDURES: tuple[Procedure, Procedure] = ("native", "paper")
# fidelity: for some sizes scipy's last row is zeros, and the reference resizes with it.
_EDGE: Mapping[Procedure, Edge] = {"native": "kept", "paper": "scipy"}
_LARGEST = 16384
"""Pixels along a slice that is resized as a whole: the resizing matrix is the square of it."""
Progress = Callable[[int, int], None]
"""Called with the slices done and the slices in all."""
Warn = Callable[[str], object]
"""Called with each sentence about what makes a prediction doubtful."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Maps:
    """What is stored beside the labels, slice by slice."""

    probabilities: MapFile | None = None
    uncertainty: MapFile | None = None

    def __bool__(self) -> bool:
        return self.probabilities is not None or self.uncertainty is not None

    def put(self, part: slice, probabilities: NDArray[np.float32]) -> None:
        """Store what the probabilities (S, classes, H, W) of some slices say."""
        if self.probabilities is not None:
            self.probabilities.put(part, probabilities)
        if self.uncertainty is not None:
            self.uncertainty.put(part, uncertainty(probabilities)[:, None])


class Predictor:
    """Segments volumes slice by slice.

    Two procedures: "native" (the default) resizes the logits to the slice's own size and then takes
    the label; "paper" takes the label at the network's size and enlarges it with nearest neighbour,
    as the reference does, so that published numbers can be reproduced.

    Args:
        model: a model, or any other `Network`.
        preprocessing: how volumes become slices.
        labels: class index -> name.
        device: where the model computes; the best one there is if not given.
        batch_size: slices that go through at once.
        procedure: see above.
        mirror: average the probabilities of four mirror images.
        window: look through overlapping windows of the network's size at the slices' own
            resolution, instead of resizing whole slices to that size.
        largest_component: names of the structures of which only the largest piece is kept, or
            ["all"].
        training_data: what training saw, as the bundle tells it; without it only the channels'
            names tell images of another kind.
        force: segment an image of another kind than training saw, such as a CT for MRI, with a
            warning.

    Raises:
        ConfigError: for a device that is not here, an unknown procedure or structure, or settings
            that exclude each other.
    """

    def __init__(
        self,
        model: "TransUNet | Network",
        preprocessing: Preprocessing,
        labels: Mapping[int, str],
        *,
        device: "str | torch.device | None" = None,
        batch_size: int = 8,
        procedure: Procedure = "native",
        mirror: bool = False,
        window: bool = False,
        largest_component: Collection[str] = (),
        training_data: TrainingData | None = None,
        force: bool = False,
    ) -> None:
        _check(procedure, batch_size, window)
        self.sources: tuple[str, ...] = ()  # the bundles it was loaded from
        self.precision = "fp32"
        self.engine = "eager" if _is_model(model) else type(model).__name__
        self.preprocessing = preprocessing
        self.labels = dict(labels)
        self.batch_size = batch_size
        self.procedure = procedure
        self.mirror, self.window = mirror, window
        self.largest_component = classes_named(largest_component, labels)
        self.training_data, self.force = training_data, force
        network = _network(model, device)
        network = Mirrored(network) if mirror else network
        self.network: Network = Windowed(network, batch_size) if window else network

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
            trust: load `.pt2` files, which can run any code that is in them.
            settings: the constructor's.

        Raises:
            ConfigError, DataError, WeightsError: as `transunet.bundle.io.from_pretrained`.
            ConfigError: when the bundles differ in labels or preprocessing; the message says how.
            ConfigError: for an engine, precision or device that cannot be had.
        """
        sources = [source] if isinstance(source, Path | str) else list(source)
        place = None if device is None else str(device)
        loaded = load_networks(sources, place, engine, precision, trust)
        config = loaded.config
        predictor = cls(
            loaded.network,
            config.preprocessing,
            config.labels,
            training_data=config.training_data,
            **settings,
        )
        predictor.sources = tuple(map(str, sources))
        predictor.engine, predictor.precision = loaded.engine, loaded.precision
        return predictor

    @property
    def device(self) -> str:
        """Where the network computes."""
        return self.network.device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what came with the bundle: weights, architecture, preprocessing, labels."""
        parts = [self.network.fingerprint, self.preprocessing.model_dump_json(), str(self.labels)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that labels depend on."""
        names = [self.labels[index] for index in self.largest_component]
        return {
            "precision": self.precision,
            "procedure": self.procedure,
            "mirror": self.mirror,
            "window": self.window,
            "largest_component": names,
        }

    def __call__(
        self,
        image: "Volume | Path | str | Sequence[Path] | NDArray[Any]",
        progress: Progress | None = None,
        *,
        spacing_mm: Sequence[float] | None = None,
        probabilities: Path | None = None,
        uncertainty: Path | None = None,
        warn: Warn = _log.warning,
    ) -> Volume:
        """Return the label map of `image`, (1, X, Y, Z) unsigned, on its very grid.

        Args:
            image: a volume; a file (or one per channel); or an array (X, Y, Z) or (C, X, Y, Z),
                whose axes run to the right, to the front and up (RAS).
            progress: called with the slices done and the slices in all.
            spacing_mm: the edges of an array's voxels in millimetres, one per axis.
            probabilities: a file to write every class's probability to, `.npy` (float16, classes
                first) or `.nii` (float32, classes last).
            uncertainty: such a file for the normalised entropy, from 0 (certain) to 1.
            warn: called with what makes the image doubtful for this bundle; logs it if not given.

        Raises:
            ConfigError: for an array without its spacing, a spacing without an array, a file that
                does not exist, or maps that cannot be written.
            DataError: for another number of channels, voxels that are not finite, slices too
                large to be resized as a whole, or an image of another kind than training saw.
            GeometryError: for a spacing that is not positive.
        """
        volume = as_volume(image, spacing_mm)
        slices = self._slices(volume, warn)
        with ExitStack() as files:
            wanted = ((probabilities, len(self.labels)), (uncertainty, 1))
            maps = Maps(
                *(
                    files.enter_context(map_file(path, channels, volume, self.preprocessing))
                    for path, channels in wanted
                )
            )
            found = self._label_all(slices, maps, progress, (self.procedure,))
        del slices  # not held while pieces are looked for
        return self._on_grid(found.pop(), volume)

    def by_procedure(
        self, image: Image, progress: Progress | None = None, warn: Warn = _log.warning
    ) -> dict[Procedure, Volume]:
        """Return the label maps of `image` by each procedure, whatever this predictor's own is.

        The network looks once at a slice that both resize to the same pixels. (For some sizes, such
        as 512 to 224, the reference's last row and column are zeros: then it looks twice.)

        Args:
            image: a volume, or its file or files.
            progress: called with the slices done and the slices in all.
            warn: as `__call__`.

        Raises:
            ConfigError: for a predictor that slides a window, which the paper's procedure has not.
            ConfigError, DataError, GeometryError: as `__call__`.
        """
        _check("paper", self.batch_size, self.window)
        volume = as_volume(image)
        slices = self._slices(volume, warn)
        found = self._label_all(slices, Maps(), progress, PROCEDURES)
        del slices
        return {procedure: self._on_grid(found.pop(0), volume) for procedure in PROCEDURES}

    def label_slices(
        self, slices: NDArray[np.float32], progress: Progress | None = None
    ) -> NDArray[Any]:
        """Return the labels (S, H, W), unsigned, of normalised slices (S, C, H, W)."""
        return self._label_all(slices, Maps(), progress, (self.procedure,))[0]

    def _slices(self, volume: Volume, warn: Warn) -> Slabs:
        slices = Slabs(volume, self.preprocessing)
        _check_size(slices, self.network)
        for doubt in check_suitability(self.preprocessing, self.training_data, volume, self.force):
            warn(doubt)
        return slices

    def _on_grid(self, labels: NDArray[Any], volume: Volume) -> Volume:
        found = self.preprocessing.from_slices(labels, volume)
        del labels
        keep_largest(found.array[0], self.largest_component)
        return found

    def _label_all(
        self,
        slices: "NDArray[np.float32] | Slabs",
        maps: Maps,
        progress: Progress | None,
        procedures: Sequence[Procedure],
    ) -> list[NDArray[Any]]:
        dtype = np.uint8 if len(self.labels) <= 256 else np.uint16
        size = slices.shape[2], slices.shape[3]
        found = [np.empty((len(slices), *size), dtype) for _ in procedures]

        def store(computed: "tuple[slice, list[Logits]]") -> slice:
            part, looks = computed
            for labels, logits, procedure in zip(found, looks, procedures, strict=True):
                labels[part] = self._reduce(procedure, part, logits, size, maps)
            return part

        for part in behind(store, self._computed(slices, procedures)):
            if progress is not None:
                progress(part.stop, len(slices))
        return found

    def _computed(
        self, slices: "NDArray[np.float32] | Slabs", procedures: Sequence[Procedure]
    ) -> "Iterator[tuple[slice, list[Logits]]]":
        for part, (images, *others) in ahead(self._prepared(slices, procedures)):
            logits = self.network(images)
            again = (logits if np.array_equal(x, images) else self.network(x) for x in others)
            yield part, [logits, *again]

    def _prepared(
        self, slices: "NDArray[np.float32] | Slabs", procedures: Sequence[Procedure]
    ) -> Iterator[tuple[slice, list[NDArray[np.float32]]]]:
        size = self.network.image_size or (slices.shape[2], slices.shape[3])
        for start in range(0, len(slices), self.batch_size):
            part = slice(start, min(start + self.batch_size, len(slices)))
            native = slices[part]
            yield part, [resize(native, size, order=3, edge=_EDGE[one]) for one in procedures]

    def _reduce(
        self,
        procedure: Procedure,
        part: slice,
        logits: "Logits",
        size: tuple[int, int],
        maps: Maps,
    ) -> NDArray[Any]:
        """Return labels at the slices' own size, and store what else is wanted of the logits."""
        if procedure == "native":
            logits = enlarge(logits, size)
        if maps:
            found = as_array(softmax(logits))
            maps.put(part, enlarge_nearest(found, size))
        return enlarge_nearest(argmax(logits), size)


def _network(model: "TransUNet | Network", device: "str | torch.device | None") -> Network:
    if not _is_model(model):
        return cast("Network", model)
    from transunet.backends.pytorch import TorchNetwork

    return TorchNetwork(cast("TransUNet", model), device)


def _is_model(model: "TransUNet | Network") -> bool:
    return not hasattr(model, "image_size")  # a TransUNet has it in its configuration only


def _check_size(slices: Slabs, network: Network) -> None:
    height, width = slices.shape[2:]
    if network.image_size is not None and max(height, width) > _LARGEST:
        raise DataError(
            f"{slices.name}: its slices are {height} x {width} pixels; expected at most {_LARGEST} "
            "in each direction. Cut or shrink the image, or slide a window over it "
            "(window=True; on the command line --window)."
        )


def _check(procedure: str, batch_size: int, window: bool) -> None:
    if procedure not in PROCEDURES:
        known = ", ".join(PROCEDURES)
        raise ConfigError(f"Unknown procedure {procedure!r}; known: {known}.")
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1.")
    if window and procedure == "paper":
        raise ConfigError(
            "The paper's procedure resizes whole slices; it has no windows. Use procedure='native'."
        )
