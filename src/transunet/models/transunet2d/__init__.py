"""TransUNet (Chen et al. 2021)."""
