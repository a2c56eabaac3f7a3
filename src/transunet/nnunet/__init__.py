"""TransUNet as a trainer of nnU-Net v2: its data, plans and evaluation, with this network."""
