"""The whole road on real images in a few minutes: `make demo`.

Brain tissue in the MNI152 T1 template, which nilearn carries: a small TransUNet learns grey and
white matter from some axial slabs, segments slabs that it has not seen, and is measured on them.
Each step is the command that you would type for your own data.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import nibabel
import numpy as np
from nilearn import datasets

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS = {0: "background", 1: "grey matter", 2: "white matter"}
COLOURS = ((0.2, 0.7, 1.0), (1.0, 0.6, 0.1))
SLABS = [(start, start + 6) for start in range(20, 148, 8)]  # mm; gaps keep neighbours apart
BRAIN = (slice(19, 179), slice(23, 213))  # what lies around it teaches nothing


def main(folder: Path, iterations: int = 150) -> None:
    for made in ("run", "labels", "report"):  # of an earlier demo
        shutil.rmtree(folder / made, ignore_errors=True)
    started = time.monotonic()
    unseen = make_dataset(folder)
    run = folder / "run"
    transunet("train", folder / "dataset", "-o", run, "--model", "R26-ViT-Ti_16",
              "--image-size", "144", "--iterations", iterations, "--batch-size", "8",
              "--set", "optimizer=adamw", "--lr", "0.002", "--set", "validations=2",
              "--workers", "0")  # fmt: skip
    transunet("predict", run / "best", folder / "unseen/images", "-o", folder / "labels")
    transunet("evaluate", folder / "labels", folder / "unseen/labels", "-o", folder / "report",
              "--labels", run / "best", "--images", folder / "unseen/images")  # fmt: skip
    overlay(folder, unseen, folder / "overlay.png")
    print(f"Label volumes  {folder / 'labels'}")
    print(f"Overlay        {folder / 'overlay.png'}")
    print(f"Report         {folder / 'report/report.html'}")
    print(f"Bundle         {run / 'best'}")
    print(f"Time           {time.monotonic() - started:.0f} s")


def transunet(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print(f"\n$ transunet {shlex.join(words)}", flush=True)
    if subprocess.run([sys.executable, "-m", "transunet", *words]).returncode:
        sys.exit("The demo stopped at this command.")


def make_dataset(folder: Path) -> list[str]:
    """Write the slabs as a Decathlon data set and, apart from it, those to be predicted."""
    image = datasets.load_mni152_template(resolution=1)
    label = tissue_labels()
    slabs = [(f"slab_{start:03d}", (*BRAIN, slice(start, end))) for start, end in SLABS]
    unseen = slabs[2::3]
    learned = [slab for slab in slabs if slab not in unseen]
    for names, root, sub in (
        (learned, folder / "dataset", ("imagesTr", "labelsTr")),
        (unseen, folder / "unseen", ("images", "labels")),
    ):
        for name, where in names:
            save(root / sub[0] / f"{name}.nii.gz", image.slicer[where])
            save(root / sub[1] / f"{name}.nii.gz", label.slicer[where])
    describe(folder / "dataset", [name for name, _ in learned])
    return [name for name, _ in unseen]


def tissue_labels() -> nibabel.Nifti1Image:
    """Label each voxel by the larger tissue probability; the ready-made masks overlap."""
    grey = datasets.load_mni152_gm_template(resolution=1)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata()
    larger = np.where(grey.get_fdata() >= white, 1, 2)
    tissue = np.maximum(grey.get_fdata(), white) > 0.5
    return nibabel.Nifti1Image((larger * tissue).astype(np.uint8), grey.affine)


def save(path: Path, image: nibabel.Nifti1Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def describe(folder: Path, names: list[str]) -> None:
    description = {
        "name": "MNI152 tissue",
        "modality": {"0": "MRI"},
        "labels": {str(index): name for index, name in LABELS.items()},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2))


def overlay(folder: Path, names: list[str], path: Path) -> None:
    """Draw the middle slice of each unseen slab: image, reference, prediction."""
    figure, axes = plt.subplots(3, len(names), figsize=(2 * len(names), 7), squeeze=False)
    for column, name in zip(axes.T, names, strict=True):
        image, reference, prediction = (
            nibabel.load(folder / sub / f"{name}.nii.gz").get_fdata()[:, :, 3].T
            for sub in ("unseen/images", "unseen/labels", "labels")
        )
        for axis, labels in zip(column, (None, reference, prediction), strict=True):
            axis.imshow(coloured(image, labels), origin="lower")
            axis.set_axis_off()
        column[0].set_title(name, fontsize=9)
    for axis, title in zip(axes[:, 0], ("image", "reference", "prediction"), strict=True):
        axis.text(-0.08, 0.5, title, rotation=90, va="center", transform=axis.transAxes)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def coloured(image: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    grey = np.repeat(image[..., None] / image.max(), 3, axis=2)
    for index, colour in enumerate(COLOURS, start=1):
        if labels is not None:
            grey[labels == index] = 0.45 * grey[labels == index] + 0.55 * np.array(colour)
    return grey


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"), *map(int, sys.argv[2:]))
