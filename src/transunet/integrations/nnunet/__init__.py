"""TransUNet in nnU-Net's trainer."""
