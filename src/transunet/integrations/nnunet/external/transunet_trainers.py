"""What nnU-Net imports from the folder in `nnUNet_extTrainer`: the trainers, and nothing else.

nnU-Net imports every module of that folder by its bare name, so it must not be a package's own.
"""

from transunet.integrations.nnunet.nnunet_trainer import (
    nnUNetTrainerTransUNet,
    nnUNetTrainerTransUNet3D,
    nnUNetTrainerTransUNet3D_Decoder,
    nnUNetTrainerTransUNet3D_Encoder,
    nnUNetTrainerTransUNet3D_S,
    nnUNetTrainerTransUNet3D_UNet,
    nnUNetTrainerTransUNet3D_UNetS,
    nnUNetTrainerTransUNet_R26S,
    nnUNetTrainerTransUNet_R26Ti,
    nnUNetTrainerTransUNet_R50L,
    nnUNetTrainerTransUNet_ViTB,
)

__all__ = [
    "nnUNetTrainerTransUNet",
    "nnUNetTrainerTransUNet3D",
    "nnUNetTrainerTransUNet3D_Decoder",
    "nnUNetTrainerTransUNet3D_Encoder",
    "nnUNetTrainerTransUNet3D_S",
    "nnUNetTrainerTransUNet3D_UNet",
    "nnUNetTrainerTransUNet3D_UNetS",
    "nnUNetTrainerTransUNet_R26S",
    "nnUNetTrainerTransUNet_R26Ti",
    "nnUNetTrainerTransUNet_R50L",
    "nnUNetTrainerTransUNet_ViTB",
]
