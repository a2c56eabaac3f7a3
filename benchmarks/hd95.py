"""HD95 of two 512 x 512 x 150 masks: as the package computes it, and the straightforward way.

    python benchmarks/hd95.py              # about a minute
    python benchmarks/hd95.py --size 128   # a quick look

Both run in this process on the same masks: a wavy organ of about 2 litres, and another with other
waves a little aside. The straightforward method takes each mask's surface with an erosion of the
whole volume, the distance transform of the whole volume to the other's surface, both ways, and the
percentile of the pooled distances. The table shows both values, both times (the package's: the
shortest of five) and their ratio.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from datetime import date

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from transunet.evaluation.metrics import case_metrics

SPACING = (0.75, 0.75, 2.0)
REPEATS = 5

Mask = NDArray[np.bool_]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=512, help="in-plane size (default 512)")
    size = options.parse_args().size
    shape = (size, size, max(size * 150 // 512, 8))
    prediction, reference = organ(shape, seed=0), organ(shape, seed=1, shift=0.02)
    labels = prediction.astype(np.uint8), reference.astype(np.uint8)
    slow, slow_time = timed(lambda: straightforward(prediction, reference), repeats=1)
    fast, fast_time = timed(lambda: case_metrics(*labels, SPACING, [1])[1].hd95, REPEATS)
    assert abs(slow - fast) <= 1e-9 * max(slow, 1), (slow, fast)
    report(
        shape, [("straightforward", slow, slow_time), ("transunet, all metrics", fast, fast_time)]
    )


def organ(shape: tuple[int, ...], seed: int, shift: float = 0.0) -> Mask:
    """An ellipsoid with a wavy surface, a third of the image wide."""
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    waves = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    bumps = sum(np.sin(9 * axis + wave) for axis, wave in zip(grid, waves, strict=True))
    radius = sum(((a - shift) / r) ** 2 for a, r in zip(grid, (0.4, 0.33, 0.6), strict=True))
    return radius + 0.06 * bumps <= 1


def straightforward(
    prediction: Mask, reference: Mask, spacing: tuple[float, ...] = SPACING
) -> float:
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    far = [ndimage.distance_transform_edt(~one, sampling=spacing) for one in surfaces]
    pooled = np.concatenate([far[1][surfaces[0]], far[0][surfaces[1]]])
    return float(np.percentile(pooled, 95))


def timed(measure: Callable[[], float], repeats: int) -> tuple[float, float]:
    """The value and the shortest of `repeats` times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = measure()
        times.append(time.perf_counter() - start)
    return value, min(times)


def report(shape: tuple[int, ...], results: list[tuple[str, float, float]]) -> None:
    size = " x ".join(map(str, shape))
    table = Table(title=f"HD95 of two {size} masks, {date.today()}, {machine()}")
    for column in ("method", "HD95 (mm)", "seconds", "times faster"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, value, seconds in results:
        table.add_row(name, f"{value:.9f}", f"{seconds:.2f}", f"{results[0][2] / seconds:.0f}")
    Console().print(table)


def machine() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {name}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
