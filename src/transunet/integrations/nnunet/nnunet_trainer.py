"""The trainer classes that nnU-Net v2 finds by name (`-tr nnUNetTrainerTransUNet`).

What differs from nnU-Net's own trainer is the network, its optimiser in 2D, and its loss where it
has queries; patches, augmentation, schedule, sampling, validation and prediction stay nnU-Net's, so
that results compare.
"""

import os
from collections.abc import Mapping, Sequence
from math import log
from types import MappingProxyType
from typing import Any, cast

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from transunet.errors import ConfigError
from transunet.integrations.nnunet.plans import check_axes, config_for_plans
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.transunet3d.network import QueryOutputs, TransUNet3D
from transunet.models.variants import variant
from transunet.training.losses3d import TransUNet3DLoss
from transunet.weights.load import load_weights

WEIGHTS = "TRANSUNET_WEIGHTS"
"""The environment variable that says which pretrained weights a training starts from."""


class _VariantTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Trains a variant of this package's.

    A subclass that is to be predicted with must be found by nnU-Net too: its name is in the
    checkpoint, and the variant is not.

    Raises:
        ConfigError: for a configuration whose patches have another number of axes; for regions
            where the network has queries: nnU-Net's prediction does not tell a network whether it
            has classes or regions.
    """

    variant: str
    settings: Mapping[str, Any] = MappingProxyType({})
    """What differs from nnU-Net's own attributes."""

    # nnU-Net stores the arguments under these very names, and makes the trainer anew from them.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        patch_size = PlansManager(plans).get_configuration(configuration).patch_size
        config = variant(self.variant)
        if config.num_queries and PlansManager(plans).get_label_manager(dataset_json).has_regions:
            raise ConfigError(
                f"The data set has regions, and {self.variant} has queries, which nnU-Net cannot "
                "predict regions with. Train nnUNetTrainerTransUNet3D_Encoder or _UNet, or use "
                "`transunet train`."
            )
        check_axes(patch_size, config.axes, configuration)
        self.resumed = bool(plans.get("continue_training"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in self.settings.items():
            setattr(self, name, value)

    def initialize(self) -> None:
        """Build network, optimiser and loss, and load the weights that `TRANSUNET_WEIGHTS` names.

        Raises:
            ConfigError: for weights that are not there.
            WeightsError: for weights that are damaged or belong to another network.
        """
        super().initialize()
        if self.resumed:  # the checkpoint brings the weights
            return
        start = f"random weights (no {WEIGHTS})"
        if source := os.environ.get(WEIGHTS):
            paths = source.split(os.pathsep)
            labels = None  # regions overlap, and are numbered otherwise
            if not self.label_manager.has_regions:
                names = {number: name for name, number in self.dataset_json["labels"].items()}
                labels = {number: names[number] for number in self.label_manager.all_labels}
            channels = self.dataset_json.get("channel_names") or self.dataset_json.get("modality")
            report = load_weights(
                self._plain_network,
                source if len(paths) == 1 else paths,
                partial=True,
                labels=labels,
                channels=[str(name) for name in (channels or {}).values()],
            )
            start = str(report)
        self.print_to_log_file(f"TransUNet {self.variant} starts from {start}")

    @property
    def _plain_network(self) -> Any:
        """What stands inside DistributedDataParallel and torch.compile."""
        network = getattr(self.network, "module", self.network)
        return getattr(network, "_orig_mod", network)


class nnUNetTrainerTransUNet(_VariantTrainer):  # noqa: N801
    """Trains the paper's R50-ViT-B_16 on the slices of nnU-Net's `2d` configuration.

    The optimiser is the paper's (section 4.2: SGD, learning rate 0.01, momentum 0.9, weight decay
    1e-4) under nnU-Net's polynomial schedule over the epochs, which has the paper's exponent. There
    is no deep supervision, as in the paper.
    """

    variant = "R50-ViT-B_16"
    settings = MappingProxyType(
        {
            "enable_deep_supervision": False,
            "initial_lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
        }
    )

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> TransUNet:
        """Return the network for these plans; nnU-Net calls this for training and prediction.

        Raises:
            ConfigError: when the patches are volumes.
        """
        patch_size = configuration_manager.patch_size
        config = config_for_plans(cls.variant, patch_size, num_input_channels, num_output_channels)
        return TransUNet(cast("TransUNetConfig", config))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return the paper's optimiser and nnU-Net's schedule."""
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing: the network has one output."""


class nnUNetTrainerTransUNet_R50L(nnUNetTrainerTransUNet):  # noqa: N801
    """R50-ViT-L_16, the paper's larger hybrid."""

    variant = "R50-ViT-L_16"


class nnUNetTrainerTransUNet_ViTB(nnUNetTrainerTransUNet):  # noqa: N801
    """ViT-B_16, without a ResNet and without skips (the paper's "ViT" encoder)."""

    variant = "ViT-B_16"


class nnUNetTrainerTransUNet_R26S(nnUNetTrainerTransUNet):  # noqa: N801
    """R26-ViT-S_16, a quarter of the parameters."""

    variant = "R26-ViT-S_16"


class nnUNetTrainerTransUNet_R26Ti(nnUNetTrainerTransUNet):  # noqa: N801
    """R26-ViT-Ti_16, for a laptop or a first look."""

    variant = "R26-ViT-Ti_16"


class PlannedTransUNet3D(TransUNet3D):
    """The network as nnU-Net's loop wants it; its weights have the same names.

    While `deep_supervision` is set, `forward` returns what the loss takes, the logits at full size
    first: logits of each supervised stage, or with queries the logits (None while it is trained, as
    nobody asks for them) and the queries' outputs. Else the logits alone.
    """

    deep_supervision = False

    def forward(
        self, x: Tensor, return_attention: bool = False, guidance: Tensor | None = None
    ) -> Any:
        """Return logits (B, num_classes, D, H, W), or the outputs for the loss; see above."""
        if not self.deep_supervision:
            return self._logits(x)
        outputs = self.training_outputs(x, nn.ModuleList())
        if isinstance(outputs, QueryOutputs):
            return (None if self.training else self._logits(x)), outputs
        return outputs

    def _logits(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        # nnU-Net averages logits of windows and mirror images as they are: where the logarithm of a
        # score had no lower end, one window would overrule all others.
        return logits.clamp_min(log(torch.finfo().eps)) if self.config.queries else logits


class _QueriesLoss(nn.Module):
    """The loss of a network with queries for the batches of nnU-Net."""

    def __init__(self, loss: TransUNet3DLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: tuple[Any, QueryOutputs], target: Sequence[Tensor]) -> Tensor:
        """Return the scalar loss; `target` holds labels (B, 1, *spatial), the finest first."""
        loss: Tensor = self.loss(output[1], target[0][:, 0].long())
        return loss


class nnUNetTrainerTransUNet3D(_VariantTrainer):  # noqa: N801
    """Trains 3D TransUNet on the patches of nnU-Net's `3d_fullres` (or `3d_lowres`).

    Stages, strides and kernels are those that nnU-Net planned. The optimiser is nnU-Net's, which is
    the paper's for one GPU. Without queries the loss is nnU-Net's with its deep supervision; with
    them it is the loss of a set.
    """

    variant = "TransUNet3D"

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> PlannedTransUNet3D:
        """Return the network for these plans; nnU-Net calls this for training and prediction.

        Raises:
            ConfigError: when the patches are slices, or the plans cannot be followed.
        """
        stages = configuration_manager.network_arch_init_kwargs
        config = config_for_plans(
            *(cls.variant, configuration_manager.patch_size),
            *(num_input_channels, num_output_channels),
            *(stages["strides"], stages["kernel_sizes"]),
        )
        network = PlannedTransUNet3D(cast("TransUNet3DConfig", config))
        network.deep_supervision = enable_deep_supervision
        return network

    def _build_loss(self) -> Any:
        network = self._plain_network
        if not network.config.queries:
            return super()._build_loss()
        return _QueriesLoss(
            TransUNet3DLoss(
                network.config,
                batch_dice=self.configuration_manager.batch_dice,
                ignored=self.label_manager.ignore_label,
            )
        )

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Let the network return what the loss takes, or logits alone."""
        self._plain_network.deep_supervision = enabled


class nnUNetTrainerTransUNet3D_Encoder(nnUNetTrainerTransUNet3D):  # noqa: N801
    """The transformer in the encoder alone."""

    variant = "TransUNet3D-encoder"


class nnUNetTrainerTransUNet3D_Decoder(nnUNetTrainerTransUNet3D):  # noqa: N801
    """The queries alone."""

    variant = "TransUNet3D-decoder"


class nnUNetTrainerTransUNet3D_UNet(nnUNetTrainerTransUNet3D):  # noqa: N801
    """Neither: the 3D U-Net that they are built on."""

    variant = "UNet3D"


class nnUNetTrainerTransUNet3D_S(nnUNetTrainerTransUNet3D):  # noqa: N801
    """Both, small, for a laptop or a first look."""

    variant = "TransUNet3D-S"


class nnUNetTrainerTransUNet3D_UNetS(nnUNetTrainerTransUNet3D):  # noqa: N801
    """The U-Net, small."""

    variant = "UNet3D-S"
