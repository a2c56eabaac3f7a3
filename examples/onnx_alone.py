"""Segment with an exported bundle, onnxruntime and numpy alone: the labels of `transunet predict`.

    transunet export runs/liver/best -o liver.onnx
    python examples/onnx_alone.py liver.onnx image.npy labels.npy

`image.npy` is (X, Y, Z) or (C, X, Y, Z) in RAS. How it is prepared stands in the file. This does it
for a 2D network of classes that takes each slice at its own spacing, as `plan` has it for most.
"""

import json
import sys

import numpy as np
import onnxruntime


def spline(length, new, degree):
    """Weights (new, length) that resize an axis, linear or cubic, its ends mirrored and aligned."""

    def basis(distance):
        d = np.abs(distance)
        cubic = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.maximum(2 - d, 0) ** 3 / 6)
        return np.maximum(1 - d, 0) if degree == 1 else cubic

    knots = np.arange(-2, length + 2)
    mirrored = np.eye(length)[length - 1 - np.abs(length - 1 - np.abs(knots))]
    at = {
        n: basis(np.linspace(0, length - 1, n)[:, None] - knots) @ mirrored for n in (length, new)
    }
    return at[new] @ np.linalg.inv(at[length])


def normalised(values, channel):
    """Intensities as the network was trained on them."""
    kind, low, high = (channel[name] for name in ("normalisation", "low", "high"))
    if kind == "zscore":
        return (values - values.mean()) / (values.std() or 1)
    return {"clip": (np.clip(values, low, high) - low) / (high - low), "range": values / high}[kind]


def segment(path, image):
    """Label map (X, Y, Z) of `image`, (X, Y, Z) or (C, X, Y, Z) in RAS."""
    session = onnxruntime.InferenceSession(path)
    config = json.loads(session.get_modelmeta().custom_metadata_map["transunet.config"])
    preprocessing, sampling = config["preprocessing"], config["sampling"]
    known = preprocessing["orientation"] == "SRA" and not preprocessing["spacing_mm"]
    if not known or sampling["kind"] != "slices" or sampling["context"] or config.get("regions"):
        sys.exit(f"{path}: another preparation than this example's: {preprocessing}, {sampling}")
    channels = image if image.ndim == 4 else image[None]
    pairs = zip(channels.astype(float), preprocessing["channels"], strict=True)
    planes = np.stack([normalised(values, channel) for values, channel in pairs])
    planes, sides, size = np.moveaxis(planes, -1, 0), planes.shape[1:3], sampling["size"]
    rows, columns = (spline(side, new, 3) for side, new in zip(sides, size, strict=True))
    larger, wider = (spline(new, side, 1) for side, new in zip(sides, size, strict=True))
    labels = []
    for plane in planes:
        given = (rows @ plane @ columns.T)[None].astype(np.float32)
        (logits,) = session.run(["logits"], {"images": given})
        labels.append((larger @ logits[0] @ wider.T).argmax(0))
    return np.stack(labels, -1).astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    network, source, target = sys.argv[1:]
    np.save(target, segment(network, np.load(source)))
