"""Writing a network for other programs: ONNX, OpenVINO, torch.export, int8, a MONAI bundle."""
