"""Two checkouts of this project against each other: time and peak memory of what users wait for.

    python benchmarks/checkouts.py OLD NEW [--bundle DIR] [--image FILE] [--dataset DIR]

Each is a working tree (`git worktree add ../old 7cd2793`). What is measured runs in a process of
its own, by turns and several times, with this Python and its packages; the least time of each
counts, since whatever disturbs a run makes it longer. Bundle, image and data set are the demo's
(`make demo`) where none are given; OLD has to know every setting of the bundle. A figure above 1
says that NEW needs more.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("old", type=Path)
    options.add_argument("new", type=Path)
    options.add_argument("--bundle", type=Path, default=Path("demo/run/best"))
    options.add_argument("--image", type=Path)
    options.add_argument("--dataset", type=Path, default=Path("demo/dataset"))
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--row", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.row:
        print(json.dumps(measured(json.loads(chosen.row))))
        return
    image = chosen.image or sorted((chosen.dataset / "imagesTr").glob("*.nii.gz"))[0]
    rows = {
        "import transunet": ["-c", "import transunet"],
        "transunet --help": ["-m", "transunet", "--help"],
        "predict one NIfTI": [
            *("-m", "transunet", "predict", str(chosen.bundle.resolve()), str(image.resolve())),
            *("-o", "OUT", "--engine", "eager", "--device", "cpu"),
        ],
        f"train {chosen.steps} steps": [
            *("-m", "transunet", "train", str(chosen.dataset.resolve()), "-o", "OUT"),
            *("--model", "R26-ViT-Ti_16", "--image-size", "96", "--batch-size", "8"),
            *("--iterations", str(chosen.steps), "--weights", "none", "--device", "cpu"),
        ],
    }
    print(f"{'':<20} {'old s':>8} {'new s':>8} {'ratio':>6} {'old MiB':>8} {'new MiB':>8} ratio")
    for name, arguments in rows.items():
        runs: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
        for _ in range(chosen.repeats):
            for which, tree in (("old", chosen.old), ("new", chosen.new)):
                row = json.dumps({"tree": str(tree.resolve()), "arguments": arguments})
                command = [sys.executable, __file__, str(chosen.old), str(chosen.new), "--row", row]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                runs[which].append(json.loads(done.stdout))
        old, new = (
            {key: min(run[key] for run in runs[which]) for key in ("seconds", "mib")}
            for which in ("old", "new")
        )
        print(
            f"{name:<20} {old['seconds']:8.2f} {new['seconds']:8.2f} "
            f"{new['seconds'] / old['seconds']:6.2f} {old['mib']:8.0f} {new['mib']:8.0f} "
            f"{new['mib'] / old['mib']:5.2f}"
        )


def measured(row: dict) -> dict[str, float]:
    """Run the command of one row in its tree; seconds, and the most memory of any process of it."""
    folder = tempfile.mkdtemp(prefix="transunet-checkouts-")
    arguments = [folder + "/out" if part == "OUT" else part for part in row["arguments"]]
    environment = os.environ | {"PYTHONPATH": row["tree"] + "/src"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    if done.returncode:
        sys.exit(f"{row['tree']}: {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": seconds, "mib": kib / 1024}


if __name__ == "__main__":
    main()
