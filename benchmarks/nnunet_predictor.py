"""A CT from file to label file by nnU-Net v2's own predictor and by this package, one network.

    pip install -e '.[nnunet]' -c constraints.txt
    python benchmarks/nnunet_predictor.py                # 512 x 512 x 48, nine classes: minutes
    python benchmarks/nnunet_predictor.py --slices 300 --variant UNet3D

The CT of `volume.py`, 0.75 x 0.75 x 2.5 mm, is resampled to 2 x 1.5 x 1.5 mm, goes through the same
3D U-Net with the same random weights in the same patches, which overlap by half, weighted by a
Gaussian, without mirroring; what it says of nine classes is resampled to the CT's own voxels. Each
row is a process of its own, and is told when it is measured. nnU-Net averages logits and resamples
them, this package probabilities, and nnU-Net takes the nearest plane where this package looks at
several, so that labels of random weights differ at many borders; where the CT has the network's
spacing, 94 % are equal. Loading the network is not counted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from volume import SPACING_MM, STRUCTURES, Watched, machine, timed, write_ct

ROWS = ("nnU-Net v2", "eager", "openvino")
PATCH = (32, 128, 128)
WORKING_MM = (2.0, 1.5, 1.5)
LOW, HIGH, MEAN, DEVIATION = -125.0, 275.0, 60.0, 90.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--slices", type=int, default=48, help="slices (default 48)")
    options.add_argument("--size", type=int, default=512, help="in-plane size (default 512)")
    options.add_argument("--variant", default="UNet3D-S")
    options.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.row:
        row, folder = chosen.row[0], Path(chosen.row[1])
        seconds = by_nnunet(folder) if row == ROWS[0] else by_package(folder, row)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "gib": memory}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ct(folder, chosen.size, chosen.slices)
        save_bundle(folder / "bundle", chosen.variant)
        shape = f"{chosen.size} x {chosen.size} x {chosen.slices}"
        print(f"{shape}, {STRUCTURES + 1} classes, {chosen.variant}, {date.today()}, {machine()}\n")
        print("| | seconds | of it network | most memory (GiB) | labels as nnU-Net's |")
        print("|---|---|---|---|---|")
        for row in ROWS:
            command = [sys.executable, __file__, "--row", row, str(folder)]
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "nnUNet_compile": "f"}
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            found = json.loads(done.stdout.splitlines()[-1])
            seconds = found["seconds"]
            cells = [row, f"{seconds['all']:.1f}", f"{seconds['network']:.1f}"]
            cells += [f"{found['gib']:.2f}", f"{equal(folder, row):.2%}"]
            print("|", " | ".join(cells), "|", flush=True)


def save_bundle(folder: Path, name: str) -> None:
    import torch

    import transunet
    from transunet.data.preprocessing import Channel

    torch.manual_seed(0)
    model = transunet.create_model(name, num_classes=STRUCTURES + 1, image_size=PATCH).eval()
    channel = Channel(
        name="CT", normalisation="foreground", low=LOW, high=HIGH, mean=MEAN, deviation=DEVIATION
    )
    config = transunet.BundleConfig(
        architecture=model.config,
        # Rows and columns as SimpleITK has them, which reads for nnU-Net.
        preprocessing=transunet.Preprocessing(
            channels=(channel,), orientation="SAR", spacing_mm=WORKING_MM
        ),
        labels=dict(enumerate(["background", *(f"organ {n + 1}" for n in range(STRUCTURES))])),
    )
    transunet.save_pretrained(model, config, folder)


def by_package(folder: Path, engine: str) -> dict[str, float]:
    import transunet

    predictor = transunet.Predictor.from_pretrained(folder / "bundle", device="cpu", engine=engine)
    seconds: dict[str, float] = {}
    predictor.network = Watched(predictor.network, seconds)
    start = time.perf_counter()
    transunet.predict_file(predictor, folder / "ct.nii.gz", folder / f"{engine}.nii.gz")
    return seconds | {"all": time.perf_counter() - start}


def by_nnunet(folder: Path) -> dict[str, float]:
    import nibabel as nib
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    import transunet

    seconds: dict[str, float] = {}
    model, _ = transunet.from_pretrained(folder / "bundle")

    class Timed(torch.nn.Module):
        """The network, whose seconds are added up."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Return the logits."""
            with timed(seconds, "network"):
                return self.model(images)

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    plans = PlansManager(nnunet_plans())
    labels = dict(zip(["background", *map(str, range(STRUCTURES))], range(99), strict=False))
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    configuration = plans.get_configuration("3d_fullres")
    network, trainer = Timed().eval(), "nnUNetTrainer"
    state = [network.state_dict()]
    predictor.manual_initialization(network, plans, configuration, state, dataset, trainer, None)
    start = time.perf_counter()
    file = nib.load(folder / "ct.nii.gz")
    image = np.asarray(file.dataobj).transpose(2, 1, 0)[None].astype(np.float32)
    found = predictor.predict_single_npy_array(image, {"spacing": list(SPACING_MM[::-1])})
    nib.save(nib.Nifti1Image(found.transpose(2, 1, 0), file.affine), folder / f"{ROWS[0]}.nii.gz")
    return seconds | {"all": time.perf_counter() - start}


def nnunet_plans() -> dict:
    """Return the plans that nnU-Net makes for such a CT, as far as its predictor reads them."""
    resampling: dict[str, object] = {}
    for kind, order in {"data": 3, "seg": 1, "probabilities": 1}.items():
        resampling[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{kind}_kwargs"] = {
            "is_seg": kind == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    intensities = {"mean": MEAN, "std": DEVIATION, "percentile_00_5": LOW, "percentile_99_5": HIGH}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "spacing": list(WORKING_MM),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {},  # the network is given
        **resampling,
    }
    return {
        "dataset_name": "Dataset001_CT",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def equal(folder: Path, row: str) -> float:
    import nibabel as nib

    first, found = (
        np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in (ROWS[0], row)
    )
    return float((first == found).mean())


if __name__ == "__main__":
    main()
