"""TransUNet for medical image segmentation."""
