"""The trainer classes that nnU-Net v2 finds by name (`-tr nnUNetTrainerTransUNet`).

What differs from nnU-Net's own trainer is the network and its optimiser; patches, augmentation,
loss, schedule, sampling, validation and prediction stay nnU-Net's, so that results compare.
"""

import os
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from transunet.integrations.nnunet.plans import check_2d, config_for_plans
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.load import load_weights

WEIGHTS = "TRANSUNET_WEIGHTS"
"""The environment variable that says which pretrained weights a training starts from."""


class nnUNetTrainerTransUNet(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801
    """Trains the paper's R50-ViT-B_16 on the slices of nnU-Net's `2d` configuration.

    The optimiser is the paper's (section 4.2: SGD, learning rate 0.01, momentum 0.9, weight decay
    1e-4) under nnU-Net's polynomial schedule over the epochs, which has the paper's exponent. There
    is no deep supervision, as in the paper.

    A subclass that is to be predicted with must be found by nnU-Net too: its name is in the
    checkpoint, and the variant is not.

    Raises:
        ConfigError: for a configuration whose patches are volumes.
    """

    variant = "R50-ViT-B_16"

    # nnU-Net stores the arguments under these very names, and makes the trainer anew from them.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        check_2d(PlansManager(plans).get_configuration(configuration).patch_size, configuration)
        self.resumed = bool(plans.get("continue_training"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False
        self.initial_lr = 0.01
        self.momentum = 0.9
        self.weight_decay = 1e-4

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
        return TransUNet(
            config_for_plans(cls.variant, patch_size, num_input_channels, num_output_channels)
        )

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
            # What stands inside DistributedDataParallel and torch.compile.
            network: Any = getattr(self.network, "module", self.network)
            labels = None  # regions overlap, and are numbered otherwise
            if not self.label_manager.has_regions:
                names = {number: name for name, number in self.dataset_json["labels"].items()}
                labels = {number: names[number] for number in self.label_manager.all_labels}
            channels = self.dataset_json.get("channel_names") or self.dataset_json.get("modality")
            report = load_weights(
                getattr(network, "_orig_mod", network),
                source if len(paths) == 1 else paths,
                partial=True,
                labels=labels,
                channels=[str(name) for name in (channels or {}).values()],
            )
            start = str(report)
        self.print_to_log_file(f"TransUNet {self.variant} starts from {start}")

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
