"""An exported network in ONNX Runtime, on the CPU. Needs no torch."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.exported_metadata import INPUT, OUTPUT
from transunet.backends.threads import spinning, threads
from transunet.errors import DataError, first_sentence
from transunet.optional import require


class OnnxNetwork:
    """A network read from an `.onnx` file.

    Args:
        path: the file. Weights beside it are read from its own folder only.
        image_size: height and width of the slices it will get.
        fingerprint: SHA-256 of what its results depend on.

    Raises:
        ConfigError: without the package onnxruntime.
        DataError: when the file is damaged or holds another kind of network.
    """

    device = "cpu"

    def __init__(self, path: Path, image_size: tuple[int, int], fingerprint: str = "") -> None:
        self.path, self.image_size, self.fingerprint = path, image_size, fingerprint
        self._session = _session(path, image_size)
        _check_tensors(self._session, path)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of `images`.

        Raises:
            MemoryError: when there is not enough memory.
            DataError: when the network cannot be computed.
        """
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(images)})
        except Exception as error:  # its errors share no base class but this
            raise _failed(error, self.path) from error
        return np.asarray(logits, dtype=np.float32)


def _session(path: Path, image_size: tuple[int, int]) -> Any:
    runtime = require("onnxruntime", "onnx")
    runtime.disable_telemetry_events()  # on Windows it would report its use to Microsoft
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads() or 0
    options.log_severity_level = 3  # errors, which are raised anyway
    if not spinning():
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Of a network for any size, one for this size: shapes are computed once, not at every image.
    for name, side in zip(("height", "width"), image_size, strict=True):
        options.add_free_dimension_override_by_name(name, side)
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class but this
        raise DataError(
            f"{path}: ONNX Runtime {runtime.__version__} cannot read it: {first_sentence(error)} "
            "Export the bundle anew."
        ) from error


def _check_tensors(session: Any, path: Path) -> None:
    found = [tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())]
    if found != [INPUT, OUTPUT]:
        raise DataError(
            f"{path}: its inputs and outputs are called {', '.join(found)}; expected {INPUT} and "
            f"{OUTPUT}. Export the bundle anew."
        )


def _failed(error: Exception, path: Path) -> Exception:
    text = str(error)
    if "allocate memory" in text or "bad_alloc" in text:
        return MemoryError(text)
    return DataError(f"{path}: ONNX Runtime could not compute it: {first_sentence(error)}")
