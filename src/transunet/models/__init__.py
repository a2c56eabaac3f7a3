"""The network: tensors in, logits out. Knows no file, no device and no data set."""
