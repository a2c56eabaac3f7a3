"""OpenVINO, on the CPU: computing `.xml` and `.onnx` files, without torch, and writing `.xml`."""

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.exported import INPUT, KEYS, OUTPUT, PREFIX, check_tensors, pack
from transunet.backends.protocol import PrecisionError
from transunet.backends.threads import threads
from transunet.bundle.bundle_config import BundleConfig
from transunet.errors import DataError, last_sentence
from transunet.models.families import exportable, optimised
from transunet.optional import require

if TYPE_CHECKING:
    from transunet.models.segmentation_network import SegmentationNetwork

_TYPES: Mapping[str, str] = MappingProxyType({"fp32": "f32", "bf16": "bf16", "fp16": "f16"})
"""Our names of precisions -> OpenVINO's. An int8 network computes the rest of itself in fp32."""


class OpenVinoNetwork:
    """A network read from an `.xml` file with its `.bin` beside it, or from an `.onnx` file.

    Args:
        path: the file.
        image_size: sides of the samples that it will get.
        fingerprint: SHA-256 of what its results depend on.
        device: "cpu".
        precision: "fp32", "bf16", "fp16"; "int8" for a file that holds such a network.

    Raises:
        ConfigError: without the package openvino.
        PrecisionError: for a precision that this processor lacks.
        DataError: when the file is damaged or holds another kind of network.
    """

    def __init__(
        self,
        path: Path | str,
        image_size: tuple[int, ...],
        fingerprint: str = "",
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.path, self.image_size, self.fingerprint = path, image_size, fingerprint
        self.device, self.precision = device, precision
        check_precision(precision)
        # Precision: said, since it takes bf16 by itself where the processor has it.
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _TYPES.get(precision, "f32"),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if (count := threads()) is not None:
            settings["INFERENCE_NUM_THREADS"] = count
        model = _read(Path(path))
        # Of patches one at a time: with all lengths known OpenVINO takes three quarters of the time
        # or less, and half of the memory. Slices gain nothing by it, and a decoder of queries in
        # int8 it compiles for any batch only.
        self._one_by_one = len(image_size) == 3
        for batch in (1, -1) if self._one_by_one else (-1,):
            try:
                channels = model.input(INPUT).get_partial_shape()[1]
                model.reshape({INPUT: [batch, channels, *image_size]})
                self._compiled = core().compile_model(model, "CPU", settings)
                break
            except RuntimeError as error:
                if batch == -1:
                    raise DataError(
                        f"{path}: OpenVINO cannot compute it: {last_sentence(error)} Export the "
                        "bundle anew."
                    ) from error
        self._lock = threading.Lock()  # a compiled network holds one image's memory

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of `images`.

        Raises:
            MemoryError: when there is not enough memory.
            DataError: when the network cannot be computed.
        """
        if self._one_by_one and len(images) > 1:
            return np.concatenate([self(image[None]) for image in images])
        try:
            with self._lock:
                tensors = self._compiled({INPUT: np.ascontiguousarray(images)})
        except RuntimeError as error:
            if any(sign in str(error) for sign in ("bad_alloc", "out of memory", "annot allocate")):
                raise MemoryError(str(error)) from error
            raise DataError(
                f"{self.path}: OpenVINO could not compute it: {last_sentence(error)}"
            ) from error
        return np.asarray(tensors[OUTPUT], dtype=np.float32)


@cache
def core() -> Any:
    """Return OpenVINO's core, the only one of this process and never given up.

    A core puts a stack for signal handlers in place of the one that it finds, and puts that back at
    its end. Of two that end in the order in which they began, the later one puts back a stack that
    is gone, and the next signal (a child's end is enough) kills the process.

    Raises:
        ConfigError: without the package openvino.
    """
    return require("openvino", "openvino").Core()


def check_precision(precision: str) -> None:
    """Refuse a precision that this processor lacks.

    Raises:
        ConfigError: without the package openvino.
        PrecisionError: saying so.
    """
    able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision in ("bf16", "fp16") and precision.upper() not in able:
        raise PrecisionError(
            f"This processor does not compute in {precision}; OpenVINO would take fp32. "
            "Leave the precision out."
        )


def texts_of(path: Path) -> dict[str, str]:
    """Return our metadata in the `.xml` or `.onnx` file at `path`, by their keys.

    Raises:
        ConfigError: without the package openvino.
        DataError: when the file is damaged.
    """
    model = _read(path)
    # What ONNX files carry, OpenVINO keeps below "framework" when it reads them.
    places = {key: ["framework", key] if path.suffix == ".onnx" else _place(key) for key in KEYS}
    return {
        key: model.get_rt_info(place).astype(str)
        for key, place in places.items()
        if model.has_rt_info(place)
    }


def _place(key: str) -> list[str]:
    return [PREFIX, key.partition(".")[2]]


def _read(path: Path) -> Any:
    """Return OpenVINO's model of the file at `path`."""
    try:
        # It would try the file as a network of every other kind it knows, and say much about each.
        with path.open("rb") as file:
            if path.suffix == ".xml" and not file.read(5).startswith(b"<?xml"):
                raise RuntimeError("It is not XML.")
        model = core().read_model(path)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path}: OpenVINO cannot read it: {last_sentence(error)} Export the bundle anew."
        ) from error
    names = [tensor.get_names() for tensor in (*model.inputs, *model.outputs)]  # of each a set
    check_tensors([min(known & {INPUT, OUTPUT} or known or {"nothing"}) for known in names], path)
    return model


def write(
    model: "SegmentationNetwork",
    config: BundleConfig,
    path: Path,
    precision: str = "fp32",
) -> None:
    """Write an OpenVINO IR, `path` (`.xml`) and its weights (`.bin`), for any batch.

    Height and width are the bundle's: shapes known beforehand are faster there.

    Args:
        model: the network.
        config: its bundle's, which the file carries; for int8 with ranges.
        path: the `.xml` file.
        precision: what it will be computed in: "fp32", "bf16", "fp16" or "int8".

    Raises:
        ConfigError: without the package openvino.
        PrecisionError: for a precision that this processor lacks.
    """
    import torch

    from transunet.backends.pytorch import quiet
    from transunet.models.network_fingerprint import fingerprint_of
    from transunet.models.quantised import quantised

    ov = require("openvino", "openvino")
    check_precision(precision)
    if precision == "int8":
        assert config.ranges is not None  # whoever asks for int8 has looked
        module = quantised(model, config.ranges.ends)
    else:
        # The GroupNorm of `exportable`, made of several operators, rounds after each: in bf16 its
        # logits lie four times as far from fp32's as those of PyTorch's own, which OpenVINO
        # computes in one operator and which keeps to 1e-2 of the logits' scale.
        module = exportable(model) if precision == "fp32" else optimised(model)
    size = model.config.in_channels, *model.config.image_size
    with quiet():
        # A program of torch.export takes three times as long to convert. Of patches one is traced,
        # since that computes it; no batch is written down for that.
        example = torch.zeros(2 if model.config.axes == 2 else 1, *size)
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        network = ov.convert_model(traced)
    network.reshape([-1, *size])
    network.inputs[0].set_names({INPUT})
    network.outputs[0].set_names({OUTPUT})
    if precision == "int8":
        # Weights are stored as integers, too.
        require(
            "openvino._offline_transformations", "openvino"
        ).compress_quantize_weights_transformation(network)
    stored = precision if precision == "int8" else "fp32"  # of the weights
    for key, text in pack(config, fingerprint_of(model), stored).items():
        network.set_rt_info(text, _place(key))
    ov.save_model(network, path, compress_to_fp16=False)
