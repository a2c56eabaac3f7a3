"""nnU-Net v2 at the minutes of `six_networks.py`, beside its networks: hippocampus, 2d and 3d.

    pip install -e '.[nnunet]' -c constraints.txt
    python benchmarks/nnunet.py -o six_networks          # after six_networks.py; 1 core

nnU-Net plans, preprocesses, augments, trains (on the same 120 cases) and predicts (mirrored) by its
own commands. Two things are told: batches, cut to what a processor can take many steps of, and the
number of iterations, from the pace of a short rehearsal. `six_networks.py --only table` shows the
rows with the others.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from real_data import run, write_json
from six_networks import NNUNETS

NAME = "Dataset004_Hippocampus"
EPOCHS = 20
TRAINER = '''
import json
import os
import time

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerBudget(nnUNetTrainer):
    """nnU-Net's own training in as many iterations as told, of which the pace is written down."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["ITERATIONS"]) // self.num_epochs
        self.num_val_iterations_per_epoch = 1

    def perform_actual_validation(self, save_probabilities=False):
        """Nothing: the test cases are predicted instead."""
        size = sum(parameter.numel() for parameter in self.network.parameters())
        with open(os.environ["PACE"], "w") as file:
            json.dump({"seconds": time.process_time() - self.begun, "parameters": size}, file)

    def on_train_start(self):
        super().on_train_start()
        self.begun = time.process_time()
'''


@dataclass(frozen=True)
class Configuration:
    """A configuration of nnU-Net, the batch it is cut to, and the steps of the rehearsal."""

    name: str
    batch_size: int
    rehearsal: int = 10


CONFIGURATIONS = dict(
    zip(NNUNETS, (Configuration("2d", 12), Configuration("3d_fullres", 2)), strict=True)
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("six_networks"))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rows", nargs="+", choices=NNUNETS, default=NNUNETS)
    options = parser.parse_args()
    folder = (options.out / "hippocampus").resolve()
    work = folder / "nnunet"
    _set_environment(work)
    plan(folder, work)
    for row in options.rows:
        measure(row, folder, work, options.minutes)


def plan(folder: Path, work: Path) -> None:
    """Copy the cases into nnU-Net's layout, let it plan, and give it the split of the store."""
    planned = work / "preprocessed" / NAME
    if (planned / "splits_final.json").is_file():
        return
    raw, source = work / "raw" / NAME, folder / "development"
    for kind, ending in {"imagesTr": "_0000", "labelsTr": ""}.items():
        (raw / kind).mkdir(parents=True, exist_ok=True)
        for path in (source / kind).iterdir():
            shutil.copyfile(path, raw / kind / path.name.replace(".nii", f"{ending}.nii"))
    (work / "test").mkdir(exist_ok=True)
    for path in (folder / "test" / "imagesTr").iterdir():
        shutil.copyfile(path, work / "test" / path.name.replace(".nii", "_0000.nii"))
    described = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    labels = {name: int(value) for value, name in described["labels"].items()}
    count = len(list((raw / "labelsTr").iterdir()))
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": count}
    write_json(raw / "dataset.json", content | {"file_ending": ".nii.gz"})
    os.environ |= {"nnUNet_n_proc_DA": "1"}  # planning cannot do with none
    run("nnunet", "nnUNetv2_plan_and_preprocess", "-d", 4, "-c", "2d", "3d_fullres", "-np", 1, 1)
    os.environ |= {"nnUNet_n_proc_DA": "0"}
    for configuration in CONFIGURATIONS.values():
        _cut_batch(planned / "nnUNetPlans.json", configuration)
    store = json.loads((folder / "store-3d" / "manifest.json").read_text(encoding="utf-8"))
    split = store["splits"][0]
    split = {"train": split["train"], "val": split["validation"]}
    write_json(planned / "splits_final.json", [split])


def measure(row: str, folder: Path, work: Path, minutes: float) -> None:
    """Rehearse, train for the minutes, segment the tested cases and measure the label maps."""
    configuration = CONFIGURATIONS[row]
    (folder / row).mkdir(exist_ok=True)
    if not (folder / row / "spent.json").is_file():
        rehearsed = train(configuration.name, work, epochs=1, iterations=configuration.rehearsal)
        steps = int(60 * minutes / rehearsed["seconds"] * configuration.rehearsal) // EPOCHS
        spent = train(configuration.name, work, EPOCHS, steps * EPOCHS)
        write_json(
            folder / row / "spent.json",
            spent | {"steps": steps * EPOCHS, "minutes": spent["seconds"] / 60},
        )
    labels = folder / f"labels {row}"
    if not labels.is_dir():
        model = ("-d", 4, "-c", configuration.name, "-f", 0, "-tr", "nnUNetTrainerBudget")
        place = ("-i", work / "test", "-o", labels, "-device", "cpu", "-npp", 1, "-nps", 1)
        run("nnunet", "nnUNetv2_predict", *place, *model)
    measured = ("--tolerance-mm", 1, "-o", folder / f"report {row}")
    run("evaluate", labels, folder / "test", *measured)


def train(configuration: str, work: Path, epochs: int, iterations: int) -> dict[str, float]:
    """Run nnU-Net's training, and return what it took and how large the network is."""
    told = {"EPOCHS": epochs, "ITERATIONS": iterations, "PACE": work / "pace.json"}
    os.environ |= {name: str(value) for name, value in told.items()}
    words = (4, configuration, 0, "-tr", "nnUNetTrainerBudget", "-device", "cpu")
    spent = run("nnunet", "nnUNetv2_train", *words)
    return spent | json.loads((work / "pace.json").read_text(encoding="utf-8"))


def _set_environment(work: Path) -> None:
    """nnU-Net's folders, no process beside its own, and the trainer where nnU-Net looks for it."""
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed"}
    names |= {"nnUNet_results": "results", "nnUNet_extTrainer": "trainers"}
    for variable, name in names.items():
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ |= {variable: str(work / name)}
    os.environ |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
    os.environ |= {"OMP_NUM_THREADS": "1"}
    (work / "trainers" / "budget_trainer.py").write_text(TRAINER, encoding="utf-8")


def _cut_batch(plans: Path, configuration: Configuration) -> None:
    content = json.loads(plans.read_text(encoding="utf-8"))
    content["configurations"][configuration.name]["batch_size"] = configuration.batch_size
    write_json(plans, content)


if __name__ == "__main__":
    main()
