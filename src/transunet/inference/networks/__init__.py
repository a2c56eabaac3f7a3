"""What computes slices: PyTorch, ONNX Runtime, OpenVINO; from bundles and from exported files."""
