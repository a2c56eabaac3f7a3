"""pip calls this package `transunet-torch`: `transunet` on PyPI is somebody else's."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from transunet.optional import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = set(PROJECT["optional-dependencies"])
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.*")),
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.py")),
]
_INSTALL = re.compile(r"pip install ([^`#\n]+)")
_OURS = re.compile(r"""(?<![\w./-])(transunet(?:-torch)?|\.)(?:\[([\w,{}]+)\])?(?=["'\s;)\\]|$)""")


def installs(text):
    """What the install lines of `text` take this project's package by: (name, extras)."""
    for line in _INSTALL.findall(text):
        for name, extras in _OURS.findall(line):
            yield name, [extra for extra in extras.split(",") if extra]


def test_the_project_is_called_as_the_code_says():
    assert PROJECT["name"] == DISTRIBUTION == "transunet-torch"
    assert "transunet" in PROJECT["scripts"], "the command keeps its name"


def test_no_install_line_fetches_the_package_of_somebody_else():
    seen = 0
    for file in TEXTS:
        if file == Path(__file__):
            continue
        for name, extras in installs(file.read_text("utf-8")):
            seen += 1
            assert name in (".", DISTRIBUTION), f"{file} installs a stranger's {name}"
            unknown = set(extras) - EXTRAS - {"{extra}"}
            assert not unknown, f"{file} names extras that do not exist: {unknown}"
    assert seen >= 20


def test_what_an_install_line_is_made_of_is_seen():
    assert list(installs("pip install 'transunet[dicom]' -c x")) == [("transunet", ["dicom"])]
    assert list(installs("pip install -c constraints.txt .  # here")) == [(".", [])]
    assert list(installs("pip install transunet monai")) == [("transunet", [])]
    assert list(installs("pip install 'transunet-torch[a,b]'")) == [(DISTRIBUTION, ["a", "b"])]


def test_every_extra_that_a_message_names_exists():
    named = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                second = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "extra")]
                named |= {value.value for value in second if isinstance(value, ast.Constant)}
    assert {"images", "dicom", "serve"} < named
    assert named <= EXTRAS


def test_dependencies_of_the_extras_are_listed_once():
    for extra, packages in PROJECT["optional-dependencies"].items():
        assert len(packages) == len(set(packages)), extra
        assert not [p for p in packages if re.match(r"transunet(?!-torch)", p)], extra


def start(first: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as pip's script does, with `first` before all other packages."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(first), str(ROOT / "src")])}
    code = (
        "import sys; sys.argv = ['transunet', '--version']; import transunet_torch as t; t.main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def stranger(folder: Path) -> Path:
    """What `pip install transunet` leaves in site-packages."""
    (folder / "transunet").mkdir(parents=True, exist_ok=True)
    (folder / "transunet" / "__init__.py").write_text("from transunet.model import TransUNet\n")
    (folder / "transunet" / "model.py").write_text("import tensorflow\n")
    record = folder / "transunet-1.0.3.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: transunet\nVersion: 1.0.3\n")
    (record / "RECORD").write_text("transunet/__init__.py,,\ntransunet/model.py,,\n")
    return folder


@pytest.mark.process
@pytest.mark.parametrize("order", ["alone", "over ours"])
def test_the_command_refuses_to_start_where_the_other_package_shadows_it(tmp_path, order):
    if order == "over ours":
        shutil.copytree(ROOT / "src" / "transunet", tmp_path / "transunet")
    ended = start(stranger(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert "pip uninstall transunet" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.process
def test_a_folder_of_that_name_is_told_apart_from_the_package(tmp_path):
    (tmp_path / "transunet").mkdir()
    (tmp_path / "transunet" / "__init__.py").touch()
    ended = start(tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert str(tmp_path / "transunet") in ended.stderr


@pytest.mark.process
def test_the_command_starts_where_nothing_stands_in_its_way(tmp_path):
    ended = start(tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_the_notebook_installs_the_same():
    notebook = json.loads((ROOT / "examples" / "view_prediction.ipynb").read_text("utf-8"))
    text = "".join(line for cell in notebook["cells"] for line in cell["source"])
    assert list(installs(text)) == [(".", ["notebook"])]
