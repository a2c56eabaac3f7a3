"""ONNX Runtime, on the CPU: computing an `.onnx` file, which needs no torch, and writing one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.exported import AXES, INPUT, OUTPUT, check_tensors, pack
from transunet.backends.threads import spinning, threads
from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.integer_ranges import IntegerRanges
from transunet.errors import DataError, first_sentence
from transunet.models.families import exportable
from transunet.optional import require

if TYPE_CHECKING:
    from transunet.models.segmentation_network import SegmentationNetwork

OPSET = 20
"""Of ONNX files: the first with Gelu as one operator."""
_LARGEST_FILE = 1_900_000_000
"""Bytes of weights that one ONNX file holds; protobuf ends at 2 GiB. More lie beside it."""


class OnnxNetwork:
    """A network read from an `.onnx` file.

    Args:
        path: the file. Weights beside it are read from its own folder only.
        image_size: sides of the samples that it will get.
        fingerprint: SHA-256 of what its results depend on.
        device: "cpu".
        precision: the file's own, "fp32" or "int8".

    Raises:
        ConfigError: without the package onnxruntime.
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
        self._session = _unused.pop(_identity(path), None) or _session(path)
        tensors = (*self._session.get_inputs(), *self._session.get_outputs())
        check_tensors([tensor.name for tensor in tensors], Path(path))

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of `images`.

        Raises:
            MemoryError: when there is not enough memory.
            DataError: when the network cannot be computed.
        """
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(images)})
        except Exception as error:  # its errors share no base class but this
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise DataError(
                f"{self.path}: ONNX Runtime could not compute it: {first_sentence(error)}"
            ) from error
        return np.asarray(logits, dtype=np.float32)


def texts_of(path: Path) -> dict[str, str]:
    """Return the metadata that the `.onnx` file at `path` carries.

    Raises:
        ConfigError: without the package onnxruntime.
        DataError: when the file is damaged.
    """
    session = _unused.get(_identity(path)) or _session(path)
    _unused.clear()
    _unused[_identity(path)] = session
    return dict(session.get_modelmeta().custom_metadata_map)


_unused: dict[tuple[object, ...], Any] = {}
"""The session that metadata were read from, until a network takes it: opening one takes seconds."""


def _identity(path: Path | str) -> tuple[object, ...]:
    try:
        status = Path(path).stat()
    except OSError:  # said when it is read
        return ()
    return Path(path), status.st_mtime_ns, status.st_size


def _session(path: Path | str) -> Any:
    runtime = require("onnxruntime", "onnx")
    runtime.disable_telemetry_events()  # on Windows it would report its use to Microsoft
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads() or 0
    options.log_severity_level = 3  # errors, which are raised anyway
    if not spinning():
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class but this
        raise DataError(
            f"{path}: ONNX Runtime {runtime.__version__} cannot read it: {first_sentence(error)} "
            "Export the bundle anew."
        ) from error


def write(
    model: "SegmentationNetwork",
    config: BundleConfig,
    path: Path,
    precision: str = "fp32",
) -> None:
    """Write an ONNX file for any batch; of slices for any size, of patches for the bundle's.

    Weights of more than 1.9 GB lie beside it in `<name>.data`.

    Args:
        model: the network.
        config: its bundle's, which the file carries; for int8 with ranges.
        path: the file.
        precision: "fp32" or "int8".

    Raises:
        ConfigError: without the packages onnx and onnxscript.
    """
    # torch is needed for writing only
    from transunet.models.network_fingerprint import fingerprint_of

    onnx = require("onnx", "onnx")
    proto = _traced(onnx, model, config.ranges if precision == "int8" else None)
    onnx.helper.set_model_props(proto, pack(config, fingerprint_of(model), precision))
    outside = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > _LARGEST_FILE
    location = {"location": f"{path.name}.data", "size_threshold": 1024} if outside else {}
    onnx.save_model(proto, path, save_as_external_data=outside, **location)


def _traced(onnx: Any, model: "SegmentationNetwork", ranges: IntegerRanges | None) -> Any:
    """Return the ONNX model of `model`, in int8 if there are ranges; free axes have plain names."""
    import torch
    from torch.export import Dim

    from transunet.backends.pytorch import quiet
    from transunet.models.quantised import quantised

    require("onnxscript", "onnx")
    stride, axes = model.config.stride, AXES[-model.config.axes :]
    any_size = model.config.axes == 2  # patches have one
    # One token would be a number in the graph; what is traced with two fits one as well.
    sides = {
        number: step * Dim(f"{axis}_steps", min=2) if step > 1 else Dim(axis, min=2)
        for number, (axis, step) in enumerate(zip(axes, stride, strict=True), 2)
        if any_size
    }
    # Sides differ, and are not the model's own, so that no length stands for another.
    other_size = [2 * number * step for number, step in enumerate(stride, 2)]
    example = other_size if any_size else model.config.image_size
    if ranges is None:
        module = exportable(model, any_size)
    else:
        module = quantised(model, ranges.ends, any_size, as_integers=True)
    with quiet():
        program = torch.onnx.export(
            module,
            (torch.zeros(2, model.config.in_channels, *example),),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: Dim("batch"), **sides},),
        )
    assert program is not None
    proto = program.model_proto
    if any_size and max(stride) > 1:
        _pad_to_strides(onnx, proto, stride)
    for tensor in (*proto.graph.input, *proto.graph.output):
        lengths = tensor.type.tensor_type.shape.dim
        for axis, dim in zip(("batch", "channels", *axes), lengths, strict=True):
            if not dim.HasField("dim_value"):
                dim.dim_param = axis
    del proto.graph.value_info[:]  # each runtime works out the lengths in between
    return proto


def _pad_to_strides(onnx: Any, proto: Any, stride: tuple[int, ...]) -> None:
    """Have an ONNX network for whole strides take any size, as the model does.

    Images are padded with zeros at the end of each axis, and the logits cropped to their size. This
    is added to the graph, since torch.export cannot follow a size that is rounded up.
    """
    graph, whole, padded = proto.graph, "logits_of_whole_strides", "images_in_whole_strides"
    for node in graph.node:
        node.input[:] = [padded if name == INPUT else name for name in node.input]
        node.output[:] = [whole if name == OUTPUT else name for name in node.output]
    for name, values in (
        ("stride", list(stride)),
        ("no_pads", [0] * (len(stride) + 4)),  # before every axis, and after batch and channels
        ("first_corner", [0] * len(stride)),
        ("spatial_axes", [*range(2, len(stride) + 2)]),
    ):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
    make = onnx.helper.make_node
    first = [
        make("Shape", [INPUT], ["size"], start=2),
        make("Neg", ["size"], ["minus_size"]),
        make("Mod", ["minus_size", "stride"], ["missing"]),
        make("Concat", ["no_pads", "missing"], ["pads"], axis=0),
        make("Pad", [INPUT, "pads"], [padded]),
    ]
    for node in reversed(first):
        graph.node.insert(0, node)
    graph.node.append(make("Slice", [whole, "first_corner", "size", "spatial_axes"], [OUTPUT]))
