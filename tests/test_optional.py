import os
import subprocess
import sys
from pathlib import Path

import pytest

from transunet.errors import ConfigError
from transunet.optional import require


def test_a_package_that_is_there_is_imported() -> None:
    assert require("json", "images").loads("1") == 1


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    with pytest.raises(
        ConfigError, match=r"'no_such_package'.*pip install 'transunet-torch\[images\]'"
    ):
        require("no_such_package", "images")


@pytest.mark.process
def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys; from transunet.optional import require;"
        "require('openvino', 'openvino').Core();"
        "print(sys.modules.get('openvino_telemetry'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"
    assert list(tmp_path.iterdir()) == [], "it keeps who reports in the home folder"
