"""A DICOM series is read like any other image: a folder or an archive instead of a file."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dicom_made import ramp, save, series_of
from transunet.data.formats import read_grid, read_volume, stem_of

pytest.importorskip("pydicom", reason="needs the extra [dicom]")


def test_a_folder_and_an_archive_are_the_same_volume(tmp_path: Path) -> None:
    folder = tmp_path / "patient.7"
    save(folder, series_of(ramp()))
    shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
    volume, zipped = read_volume(folder), read_volume(tmp_path / "zipped.zip")
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(zipped.array, volume.array)
    np.testing.assert_array_equal(read_grid(folder).affine, volume.affine)
    assert stem_of(folder) == "patient.7"
