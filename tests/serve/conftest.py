"""One server as a user starts it, for all tests that need no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `brain` (one channel), `pair` (two) and `photo` (three).

    `pair` trusts what it says of the left and not of the right; `photo` finds every image unlike
    those of training, and does not know how good the right is; `brain` knows nothing of itself.
    """
    from prediction import tiny_bundle
    from transunet.bundle.bundle_config import keep_trust
    from transunet.bundle.trust_config import (
        Calibration,
        ExpectedQuality,
        Likeness,
        StructureTrust,
        Trust,
        VolumeInterval,
    )
    from transunet.trust.measures import MEASURES

    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate(("brain", "pair", "photo")):
        colours = ("red", "green", "blue") if name == "photo" else ()
        tiny_bundle(folder / name, seed, channels=seed + 1, channels_named=colours)

    def of_dice(expected: float) -> ExpectedQuality:
        count = len(MEASURES)
        return ExpectedQuality(
            means=(0,) * count,
            deviations=(1,) * count,
            weights=(0,) * count,
            intercept=expected,
            spread=0.6,
            error=0.03,
            coverage=0.9,
            predictions=80,
        )

    volume = VolumeInterval(spread=0.4, coverage=0.9, cases=20)
    left = StructureTrust(present=1, quality=of_dice(0.93), volume=volume)
    right = StructureTrust(present=1, quality=of_dice(0.61), volume=volume)
    calibration = Calibration(temperature=2, ece=(0.1, 0.02), brier=(0.2, 0.1), bins=())
    likeness = Likeness(quantiles=((9.0,) * 33,) * 3, distances=(1.0,))
    trust = Trust(cases=20, structures={"left": left, "right": right}, calibration=calibration)
    keep_trust(folder / "pair", trust)
    unsure = {"left": left, "right": StructureTrust(present=1)}
    keep_trust(
        folder / "photo", trust.model_copy(update={"structures": unsure, "likeness": likeness})
    )
    return folder


@pytest.fixture(scope="session")
def server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """`transunet serve` with the three bundles, a queue of 64 and 4 MB per upload."""
    from serving import command

    data = tmp_path_factory.mktemp("data")
    with command(
        *(bundles / name for name in ("brain", "pair", "photo")),
        *("--data", data, "--queue", 64, "--max-upload", 4, "--device", "cpu"),
    ) as running:
        running.data = data
        yield running
        assert "Traceback" not in running.said


@pytest.fixture
def client(server: object) -> object:
    """Its client."""
    return server.client  # type: ignore[attr-defined]
