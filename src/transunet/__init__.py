"""TransUNet for medical image segmentation (Chen et al. 2021; Medical Image Analysis 2024).

Names are imported when they are first used, so that `import transunet` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transunet.bundle import from_pretrained, push_to_hub, save_pretrained
    from transunet.bundle_config import BundleConfig
    from transunet.create import create_model
    from transunet.data.formats import read_volume, write_volume
    from transunet.data.preprocessing import Preprocessing
    from transunet.data.volume import Volume
    from transunet.errors import (
        ConfigError,
        DataError,
        GeometryError,
        TransUNetError,
        WeightsError,
    )
    from transunet.inference.attention.explain import explain
    from transunet.inference.predictor import Predictor
    from transunet.inference.runs.files import predict_file
    from transunet.models.config import VARIANTS, TransUNetConfig
    from transunet.models.transunet import TransUNet

_HOME = {
    "BundleConfig": "bundle_config",
    "ConfigError": "errors",
    "DataError": "errors",
    "GeometryError": "errors",
    "Predictor": "inference.predictor",
    "Preprocessing": "data.preprocessing",
    "TransUNet": "models.transunet",
    "TransUNetConfig": "models.config",
    "TransUNetError": "errors",
    "VARIANTS": "models.config",
    "Volume": "data.volume",
    "WeightsError": "errors",
    "create_model": "create",
    "explain": "inference.attention.explain",
    "from_pretrained": "bundle",
    "predict_file": "inference.runs.files",
    "push_to_hub": "bundle",
    "read_volume": "data.formats",
    "save_pretrained": "bundle",
    "write_volume": "data.formats",
}

__all__ = [
    "VARIANTS",
    "BundleConfig",
    "ConfigError",
    "DataError",
    "GeometryError",
    "Predictor",
    "Preprocessing",
    "TransUNet",
    "TransUNetConfig",
    "TransUNetError",
    "Volume",
    "WeightsError",
    "create_model",
    "explain",
    "from_pretrained",
    "predict_file",
    "push_to_hub",
    "read_volume",
    "save_pretrained",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'transunet' has no attribute {name!r}")
    return getattr(import_module(f"transunet.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
