"""What every layout goes through, and how a new one is added: a module and an entry."""

from types import ModuleType

import numpy as np
import pytest

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import LAYOUTS, open_dataset, recognises
from transunet.data.prepare import prepare
from transunet.errors import DataError


@pytest.fixture
def toy(monkeypatch):
    """The layout `toy`: scan_NAME.nii and truth_NAME.nii side by side."""

    def open_toy(folder):
        images = sorted(folder.glob("scan_*.nii"))
        labels = [folder / path.name.replace("scan", "truth") for path in images]
        cases = tuple(
            Case(path.stem[-1], (path,), label) for path, label in zip(images, labels, strict=True)
        )
        return DataSet("toys", folder, "toy", cases, {0: "background", 1: "toy"}, ("MRI",))

    module = ModuleType("toy")
    module.SHAPE = "scan_NAME.nii and truth_NAME.nii"
    module.recognises = lambda folder: any(folder.glob("scan_*.nii"))
    module.open = open_toy
    monkeypatch.setitem(LAYOUTS, "toy", module)


@pytest.mark.usefixtures("toy")
def test_a_layout_from_outside_is_recognised_checked_and_prepared(tmp_path, save):
    image = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    for name in "ab":
        save(tmp_path / f"set/scan_{name}.nii", image)
        save(tmp_path / f"set/truth_{name}.nii", (image > 30).astype(np.uint8))
    assert recognises(tmp_path / "set")
    data = open_dataset(tmp_path / "set")
    assert (data.layout, [case.name for case in data.cases]) == ("toy", ["a", "b"])
    assert prepare(data, tmp_path / "store").labels[1] == "toy"


@pytest.mark.usefixtures("toy")
def test_a_folder_of_no_layout_is_told_the_new_one_too(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=r"toy: scan_NAME"):
        open_dataset(tmp_path / "set")
    with pytest.raises(DataError, match=r"no cases; expected scan_NAME"):
        open_dataset(tmp_path / "set", "toy")
