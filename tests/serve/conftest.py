"""One server as a user starts it, for all tests that need no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `brain` (one channel), `pair` (two) and `photo` (three).

    `brain` takes clicks, and answers each with what it finds in its plane without.
    `pair` trusts what it says of the left and not of the right; `photo` finds every image unlike
    those of training, and does not know how good the right is; `brain` knows nothing of itself.
    """
    from prediction import tiny_bundle, tiny_trust, with_clicks
    from transunet.bundle.bundle_config import keep_trust
    from transunet.bundle.trust_config import Likeness

    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate(("brain", "pair", "photo")):
        colours = ("red", "green", "blue") if name == "photo" else ()
        tiny_bundle(folder / name, seed, channels=seed + 1, channels_named=colours)

    with_clicks(folder / "brain", folder / "brain")
    keep_trust(folder / "pair", tiny_trust(left=0.93, right=0.61))
    likeness = Likeness(quantiles=((9.0,) * 33,) * 3, distances=(1.0,))
    unlike = tiny_trust(left=0.93, right=None).model_copy(update={"likeness": likeness})
    keep_trust(folder / "photo", unlike)
    return folder


@pytest.fixture(scope="session")
def server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """`transunet serve` with the three bundles, a queue of 64 and 4 MB per upload.

    It adds to the data set `dataset`, and leads through two images and one that is gone.
    """
    from prediction import noise, save_nifti
    from serving import command
    from transunet.batch.worklist import Worklist, WorklistCase, write_worklist

    data, learned = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("learned")
    for seed, name in enumerate(("most", "less"), 1001):
        save_nifti(learned / f"{name}.nii.gz", noise(seed=seed))
    cases = [
        WorklistCase(
            case=name,
            images=(learned / f"{name}.nii.gz",),
            dice=dice,
            structure="left",
            reasons=("right: not found",) if name == "most" else (),
        )
        for name, dice in (("most", 0.31), ("less", 0.72), ("gone", 0.9))
    ]
    listed = write_worklist(
        Worklist(order="expected Dice", bundles=("brain",), cases=tuple(cases)), learned
    )
    with command(
        *(bundles / name for name in ("brain", "pair", "photo")),
        *("--data", data, "--queue", 64, "--max-upload", 4, "--device", "cpu"),
        *("--dataset", learned / "Dataset001_Brain", "--worklist", listed),
    ) as running:
        running.data, running.learned = data, learned
        yield running
        assert "Traceback" not in running.said


@pytest.fixture
def client(server: object) -> object:
    """Its client."""
    return server.client  # type: ignore[attr-defined]
