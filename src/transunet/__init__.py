"""TransUNet for medical image segmentation (Chen et al. 2021; Medical Image Analysis 2024).

Names are imported when they are first used, so that `import transunet` stays fast.
"""

from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transunet.attention.explain import explain
    from transunet.batch.run import predict_file
    from transunet.bundle.bundle_config import BundleConfig
    from transunet.bundle.io import from_pretrained, push_to_hub, save_pretrained
    from transunet.create import create_model
    from transunet.data.clicks import Click
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
    from transunet.inference.predictor import Predictor
    from transunet.models.transunet2d.config import TransUNetConfig
    from transunet.models.transunet2d.network import TransUNet
    from transunet.models.variants import VARIANTS
    from transunet.notebook import view

_HOME = {
    "BundleConfig": "bundle.bundle_config",
    "Click": "data.clicks",
    "ConfigError": "errors",
    "DataError": "errors",
    "GeometryError": "errors",
    "Predictor": "inference.predictor",
    "Preprocessing": "data.preprocessing",
    "TransUNet": "models.transunet2d.network",
    "TransUNetConfig": "models.transunet2d.config",
    "TransUNetError": "errors",
    "VARIANTS": "models.variants",
    "Volume": "data.volume",
    "WeightsError": "errors",
    "create_model": "create",
    "explain": "attention.explain",
    "from_pretrained": "bundle.io",
    "predict_file": "batch.run",
    "push_to_hub": "bundle.io",
    "read_volume": "data.formats",
    "save_pretrained": "bundle.io",
    "view": "notebook",
    "write_volume": "data.formats",
}

__all__ = [
    "VARIANTS",
    "BundleConfig",
    "Click",
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
    "view",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'transunet' has no attribute {name!r}")
    value = getattr(import_module(f"transunet.{_HOME[name]}"), name)
    if isinstance(value, type | FunctionType):
        value.__module__ = __name__  # so help() calls it by the name that is known
    return value


def __dir__() -> list[str]:
    return __all__
