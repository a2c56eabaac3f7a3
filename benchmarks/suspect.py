"""Labels corrupted on purpose: how many of them `transunet check --suspect` puts first.

    transunet predict RUN/best test/imagesTr -o maps        # cases that the network never saw
    python benchmarks/suspect.py test maps -o suspect [--draws 8]

In each draw ten cases of the data set (Decathlon, NIfTI, two structures) get a wrong label map,
each wrong in another way, and all cases are ranked by their most suspect structure. The table tells
where the corrupted cases stand, over the draws; below it, how many of the ten are among the first
ten and the first twenty cases, and among the first twenty structures. The last draw's data set and
its CSV and pictures stay in the output folder.
"""

import argparse
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from transunet.evaluation.evaluate import EvaluationRequest, evaluate
from transunet.evaluation.suspects import rank_suspects, reasons, worst_of_each_case, write_suspects

Labels = NDArray[np.uint8]


def moved(label: Labels, voxels: tuple[int, int, int]) -> Labels:
    return ndimage.shift(label, voxels, order=0)


def without_slices(label: Labels, which: slice) -> Labels:
    changed = label.copy()
    changed[:, np.flatnonzero(label.any(axis=(0, 2)))[which]] = 0
    return changed


def anothers(label: Labels, other: Labels) -> Labels:
    changed = np.zeros_like(label)
    shared = tuple(slice(0, min(sizes)) for sizes in zip(label.shape, other.shape, strict=True))
    changed[shared] = other[shared]
    return changed


FAULTS: dict[str, Callable[[Labels, Labels], Labels]] = {
    "structures swapped": lambda label, _: np.choose(label, [0, 2, 1]).astype(np.uint8),
    "moved by 2 voxels": lambda label, _: moved(label, (2, 0, 0)),
    "moved by 3 voxels": lambda label, _: moved(label, (0, 0, 3)),
    "one structure deleted": lambda label, _: np.where(label == 2, 0, label).astype(np.uint8),
    "each third slice missing": lambda label, _: without_slices(label, slice(None, None, 3)),
    "last fifth missing": lambda label, _: without_slices(label, slice(-7, None)),
    "dilated by a voxel": lambda label, _: np.where(
        label, label, ndimage.grey_dilation(label, (3, 3, 3))
    ),
    "eroded by a voxel": lambda label, _: np.where(ndimage.binary_erosion(label), label, 0).astype(
        np.uint8
    ),
    "another patient's": anothers,
    "mirrored": lambda label, _: label[::-1],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("maps", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=8)
    options = parser.parse_args()
    places: dict[str, list[int]] = defaultdict(list)
    met: list[list[int]] = []
    for draw in range(options.draws):
        corrupted = corrupt(options.dataset, options.out / "dataset", draw)
        result = evaluate(options.maps, EvaluationRequest(options.out / "dataset", subset=True))
        suspects = rank_suspects(result)
        firsts = worst_of_each_case(suspects)
        order = [suspect.case for suspect in firsts]
        for fault, case in corrupted.items():
            places[fault].append(order.index(case) + 1)
        rows = [suspect.case for suspect in suspects[:20]]
        met.append(
            [len({*seen} & {*corrupted.values()}) for seen in (order[:10], order[:20], rows)]
        )
    write_suspects(result, suspects, reasons(result, firsts[:10]), options.out / "suspects")
    table = Table("corrupted label map", "rank: median", "worst")
    for fault, ranks in places.items():
        table.add_row(fault, f"{np.median(ranks):g}", str(max(ranks)))
    Console().print(table)
    ten, twenty, of_structures = np.mean(met, axis=0)
    print(
        f"{len(FAULTS)} of {len(firsts)} cases corrupted, {options.draws} draws: {ten:.1f} of them "
        f"are among the first 10 cases, {twenty:.1f} among the first 20; {of_structures:.1f} among "
        f"the first 20 of {len(suspects)} structures"
    )


def corrupt(dataset: Path, copy: Path, draw: int) -> dict[str, str]:
    """Copy a data set with ten label maps wrong; return fault -> case."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(dataset, copy)
    files = sorted((copy / "labelsTr").glob("*.nii.gz"))
    drawn = np.random.default_rng(draw).permutation(len(files))
    spared = np.asarray(nib.load(files[drawn[len(FAULTS)]]).dataobj, np.uint8)
    corrupted = {}
    for index, (fault, change) in zip(drawn, FAULTS.items(), strict=False):
        image = nib.load(files[index])
        label = change(np.asarray(image.dataobj, np.uint8), spared)
        nib.save(nib.Nifti1Image(label, image.affine, image.header), files[index])
        corrupted[fault] = files[index].name.removesuffix(".nii.gz")
    return corrupted


if __name__ == "__main__":
    main()
