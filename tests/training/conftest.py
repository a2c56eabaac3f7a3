import json
from pathlib import Path

import numpy as np
import pytest
import torch

_GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden():
    """The reference's figures: golden.json's entries, and its arrays by name."""
    with np.load(_GOLDEN / "golden.npz") as arrays:
        return json.loads((_GOLDEN / "golden.json").read_text()), dict(arrays)


@pytest.fixture(autouse=True)
def _keep_global_randomness():
    with torch.random.fork_rng():
        yield
