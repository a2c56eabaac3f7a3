"""Work spread over processes."""

import time
from functools import partial

import pytest

from transunet.data.processes import spread
from transunet.errors import DataError

pytestmark = pytest.mark.process


def _work(folder, item):
    if item == "bad":
        while not (folder / "begun").exists():
            time.sleep(0.01)
        raise DataError("bad.nii.gz is not readable.")
    (folder / "begun").touch()
    time.sleep(1.0)
    (folder / "done").touch()
    return item


def test_an_error_is_raised_once_no_process_works_on_the_data_any_more(tmp_path):
    with pytest.raises(DataError, match="bad"):
        list(spread(partial(_work, tmp_path), ["bad", "slow"], workers=2))
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_worked_on(workers):
    assert sorted(spread(str.upper, ["a", "b", "c"], workers)) == ["A", "B", "C"]
