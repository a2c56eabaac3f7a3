"""Work spread over processes."""

import time
from functools import partial
from types import SimpleNamespace

import pytest

from transunet.data.processes import spread
from transunet.errors import DataError

pytestmark = pytest.mark.process


def named(*names):
    return [SimpleNamespace(name=name) for name in names]


def _upper(item):
    return item.name.upper()


def _work(folder, item):
    if item.name == "bad":
        while not (folder / "begun").exists():
            time.sleep(0.01)
        raise DataError("bad.nii.gz is not readable.")
    (folder / "begun").touch()
    time.sleep(1.0)
    (folder / "done").touch()
    return item


def test_an_error_is_raised_once_no_process_works_on_the_data_any_more(tmp_path):
    with pytest.raises(DataError, match="bad"):
        spread(partial(_work, tmp_path), named("bad", "slow"), workers=2)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_worked_on(workers):
    progress = []
    results = spread(_upper, named(*"abc"), workers, lambda *told: progress.append(told))
    assert results == ["A", "B", "C"]
    assert [told[:2] for told in progress] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(name for *_, name in progress) == ["a", "b", "c"]
