"""An exported network in OpenVINO, on the CPU. Needs no torch."""

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.exported_metadata import INPUT, KEYS, OUTPUT, PREFIX
from transunet.backends.threads import threads
from transunet.errors import ConfigError, DataError, last_sentence
from transunet.optional import require

TYPES: Mapping[str, str] = MappingProxyType({"fp32": "f32", "bf16": "bf16", "fp16": "f16"})
"""Our names of precisions -> OpenVINO's. An int8 network computes the rest of itself in fp32."""


class PrecisionError(ConfigError):
    """A precision that was asked for and that this processor does not have."""


class OpenVinoNetwork:
    """A network read from an `.xml` file with its `.bin` beside it, or from an `.onnx` file.

    Args:
        path: the file.
        image_size: height and width of the slices it will get.
        fingerprint: SHA-256 of what its results depend on.
        precision: "fp32", "bf16", "fp16"; "int8" for a file that holds such a network.

    Raises:
        ConfigError: without the package openvino.
        PrecisionError: for a precision that this processor lacks.
        DataError: when the file is damaged or holds another kind of network.
    """

    device = "cpu"

    def __init__(
        self,
        path: Path,
        image_size: tuple[int, int],
        fingerprint: str = "",
        precision: str = "fp32",
    ) -> None:
        self.path, self.image_size, self.fingerprint = path, image_size, fingerprint
        check_precision(precision)
        model = read(path)
        try:
            channels = model.input(INPUT).get_partial_shape()[1]
            model.reshape({INPUT: [-1, channels, *image_size]})
            self._compiled = core().compile_model(model, "CPU", _settings(precision))
        except RuntimeError as error:
            raise DataError(
                f"{path}: OpenVINO cannot compute it: {last_sentence(error)} Export the "
                "bundle anew."
            ) from error
        self._one_at_a_time = threading.Lock()  # a compiled network holds one image's memory

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of `images`.

        Raises:
            MemoryError: when there is not enough memory.
            DataError: when the network cannot be computed.
        """
        try:
            with self._one_at_a_time:
                found = self._compiled({INPUT: np.ascontiguousarray(images)})
        except RuntimeError as error:
            if any(sign in str(error) for sign in ("bad_alloc", "out of memory", "annot allocate")):
                raise MemoryError(str(error)) from error
            raise DataError(
                f"{self.path}: OpenVINO could not compute it: {last_sentence(error)}"
            ) from error
        return np.asarray(found[OUTPUT], dtype=np.float32)


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


def read(path: Path) -> Any:
    """Return the network that the file `path` holds.

    Raises:
        DataError: when it is damaged or holds another kind of network.
    """
    try:
        _check_start(path)
        model = core().read_model(path)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path}: OpenVINO cannot read it: {last_sentence(error)} Export the bundle anew."
        ) from error
    found = [*map(_name, model.inputs), *map(_name, model.outputs)]
    if found != [INPUT, OUTPUT]:
        raise DataError(
            f"{path}: its inputs and outputs are called {', '.join(found)}; expected {INPUT} and "
            f"{OUTPUT}. Export the bundle anew."
        )
    return model


def texts_of(path: Path) -> dict[str, str]:
    """Return the texts that the `.xml` file at `path` carries, by their keys.

    Raises:
        ConfigError: without the package openvino.
        DataError: when the file is damaged.
    """
    model = read(path)
    places = {key: [PREFIX, key.partition(".")[2]] for key in KEYS}
    return {
        key: model.get_rt_info(place).astype(str)
        for key, place in places.items()
        if model.has_rt_info(place)
    }


def _check_start(path: Path) -> None:
    # It would try the file as a network of every other kind it knows, and say much about each.
    with path.open("rb") as file:
        if path.suffix == ".xml" and not file.read(5).startswith(b"<?xml"):
            raise RuntimeError("It is not XML.")


def _settings(precision: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        # Said, since it takes bf16 by itself where the processor has it.
        "INFERENCE_PRECISION_HINT": TYPES.get(precision, "f32"),
        "PERFORMANCE_HINT": "LATENCY",
    }
    if (count := threads()) is not None:
        settings["INFERENCE_NUM_THREADS"] = count
    return settings


def _name(tensor: Any) -> str:
    names = tensor.get_names()
    return next((name for name in (INPUT, OUTPUT) if name in names), min(names, default="nothing"))
