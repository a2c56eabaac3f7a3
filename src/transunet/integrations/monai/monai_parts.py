"""What a bundle in MONAI's format calls of this package, where MONAI has nothing equal.

MONAI imports this module when it reads such a bundle; nothing else of this package does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, NibabelWriter
from monai.inferers import Inferer
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from transunet.data.formats import nifti, suffix_of
from transunet.data.inputs import find_inputs
from transunet.data.preprocessing import Channel, Preprocessing, planes_first
from transunet.data.sampling.slices import Slices
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.inference.patch_inference import resized_planes
from transunet.inference.predictor import Predictor
from transunet.inference.slice_inference import VolumeSlices, label_planes
from transunet.models.segmentation_network import SegmentationNetwork

_NIFTI = (".nii", ".nii.gz")
_NATIVE_SHAPE = "transunet_native_shape"
"""What MONAI's metadata of a working volume call the size before it was resampled."""


def find_cases(folder: Path | str, channels: int) -> list[dict[str, list[str]]]:
    """Return MONAI's list of data: `{"image": [file of each channel]}` for each case in `folder`.

    Raises:
        ConfigError: when the folder does not exist, or holds no NIfTI files or other images.
        DataError: when a case lacks a channel.
    """
    cases = find_inputs([Path(folder)], channels)
    others = [path for case in cases for path in case.images if suffix_of(path) not in _NIFTI]
    if others:
        raise ConfigError(
            f"{others[0]}: this bundle reads NIfTI (.nii, .nii.gz). Move it out of the folder, or "
            "use `transunet predict`, which reads it."
        )
    return [{"image": [str(path) for path in case.images]} for case in cases]


class Millimetresd(MapTransform):  # type: ignore[misc]
    """Let a NIfTI file have the affine that this package reads from it, in millimetres.

    MONAI takes the sform as it stands: it passes over units, so that the label map of a
    microscope's image would be written a thousand times too large, and over headers that
    contradict themselves.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return `data` with affines in millimetres.

        Raises:
            DataError, GeometryError: for a header that cannot be used.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            affine = nifti.read_grid(Path(out[key].meta["filename_or_obj"])).affine
            out[key] = out[key].clone()
            out[key].affine = torch.tensor(affine)
        return out


class NormaliseChannelsd(MapTransform):  # type: ignore[misc]
    """Normalise each channel of a volume (C, X, Y, Z) in its own way, in double precision.

    Args:
        keys: of the volumes.
        channels: the settings of a `transunet.data.preprocessing.Channel` for each.
        slice_axis: the axis along which the volume is read.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        channels: Sequence[Mapping[str, Any]],
        slice_axis: int = 2,
    ) -> None:
        super().__init__(keys)
        self.slice_axis = slice_axis
        self.preprocessing = Preprocessing(
            channels=tuple(Channel(**channel) for channel in channels),
            orientation=planes_first("RAS", slice_axis),
        )

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return `data` with normalised volumes, float32.

        Raises:
            DataError: for another number of channels, or voxels that are not finite.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            name = str(out[key].meta.get("filename_or_obj", "the image"))
            slices = VolumeSlices(Volume(out[key].numpy(), np.eye(4), name), self.preprocessing)
            array = np.moveaxis(slices[0 : len(slices)], 0, 1 + self.slice_axis)
            out[key] = convert_to_dst_type(array, dst=out[key], dtype=np.float32)[0]
        return out


class WorkingVolumed(MapTransform):  # type: ignore[misc]
    """Normalise and resample a volume (C, D, H, W) that has its orientation, for a 3D network.

    Args:
        keys: of the volumes.
        preprocessing: the settings of a `transunet.data.preprocessing.Preprocessing`.
    """

    def __init__(self, keys: str | Sequence[str], preprocessing: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.preprocessing = Preprocessing(**preprocessing)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return `data` with working volumes, float32; their affine stays the image's.

        Raises:
            DataError: for another number of channels, voxels that are not finite, or an absurd size
                after resampling.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            name = str(out[key].meta.get("filename_or_obj", "the image"))
            volume = Volume(out[key].numpy(), np.asarray(out[key].affine, np.float64), name)
            planes = VolumeSlices(volume, self.preprocessing)
            array = np.ascontiguousarray(planes[0 : len(planes)].swapaxes(0, 1))
            out[key] = convert_to_dst_type(array, dst=out[key], dtype=np.float32)[0]
            out[key].meta[_NATIVE_SHAPE] = np.asarray(volume.spatial_shape)
        return out


class LabelMapd(MapTransform):  # type: ignore[misc]
    """Bring probabilities (K, D, H, W) to the oriented image's size, and label each voxel.

    Args:
        keys: of the probabilities.
        orig_keys: of the working volume, which tells that size.
    """

    def __init__(self, keys: str | Sequence[str], orig_keys: str) -> None:
        super().__init__(keys)
        self.orig_keys = orig_keys

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return `data` with label maps (1, D, H, W)."""
        out = dict(data)
        for key in self.key_iterator(out):
            depth, height, width = map(int, out[self.orig_keys].meta[_NATIVE_SHAPE])
            shape = depth, height, width
            planes = out[key].detach().cpu().numpy().swapaxes(0, 1)
            resized = resized_planes([planes], len(planes), shape)
            labels = label_planes(resized, shape, planes.shape[1])
            dtype = np.uint8 if labels.dtype == np.uint8 else np.int32  # MONAI knows no uint16
            out[key] = convert_to_dst_type(labels[None], dst=out[key], dtype=dtype)[0]
        return out


class LabelWriter(NibabelWriter):  # type: ignore[misc]
    """Writes label maps (1, X, Y, Z) as X x Y x Z, on the grid that they carry.

    MONAI's own takes a single slice for a plane without a place in space, and fails on its affine.
    """

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **_: Any
    ) -> None:
        """Take the label map that is to be written."""
        self.data_obj = np.ascontiguousarray(data_array[0])

    def set_metadata(self, meta_dict: Mapping[str, Any], resample: bool = False, **_: Any) -> None:
        """Take the grid that it lies on."""
        self.affine = np.asarray(meta_dict["affine"], dtype=np.float64)


class SliceBySlice(Inferer):  # type: ignore[misc]
    """Labels of normalised volumes, as `transunet.inference.predictor.Predictor` finds them.

    Args:
        slice_axis: the axis along which slices are cut.
        spacing_mm: the in-plane spacing to which they are resampled, if any.
        settings: the predictor's: `batch_size`, `context`, `procedure`, `mirror`, `window`.
    """

    def __init__(
        self,
        slice_axis: int = 2,
        spacing_mm: Sequence[float] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.slice_axis, self.spacing_mm = slice_axis, spacing_mm
        self.settings = settings

    def __call__(
        self, inputs: torch.Tensor, network: SegmentationNetwork, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return label maps (B, 1, X, Y, Z) of volumes (B, C, X, Y, Z), on their device.

        Raises:
            DataError: for another number of channels, or voxels that are not finite.
        """
        if self.spacing_mm is not None and not isinstance(inputs, MetaTensor):
            raise ConfigError("Resampling needs volumes that carry their affine (MetaTensor).")
        as_it_is = Channel(normalisation="range", high=1.0)  # the transforms have normalised
        context = self.settings.get("context", 0)
        planes = Slices(size=network.config.image_size, context=context).input_channels(1)
        preprocessing = Preprocessing(
            channels=(as_it_is,) * (network.config.in_channels // planes),
            orientation=planes_first("RAS", self.slice_axis),
            spacing_mm=self.spacing_mm and (None, *self.spacing_mm),
        )
        names = {index: str(index) for index in range(network.config.num_classes)}
        predictor = Predictor(network, preprocessing, names, device=inputs.device, **self.settings)
        affines = np.broadcast_to(np.eye(4), (len(inputs), 4, 4))
        if isinstance(inputs, MetaTensor):
            affines = np.asarray(inputs.affine, dtype=np.float64).reshape(-1, 4, 4)
        labels = []
        for array, affine in zip(inputs.detach().cpu().numpy(), affines, strict=True):
            spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
            labels.append(predictor(Volume(array, np.diag([*spacing_mm, 1.0]))).array)
        dtype = np.uint8 if labels[0].dtype == np.uint8 else np.int32  # MONAI knows no uint16
        return convert_to_dst_type(np.stack(labels), dst=inputs, dtype=dtype)[0]  # type: ignore[no-any-return]
