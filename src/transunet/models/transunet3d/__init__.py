"""3D TransUNet: a U-Net with a vision transformer, queries, or both (Chen et al. 2024)."""
