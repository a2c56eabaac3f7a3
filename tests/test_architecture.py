"""The house rules that a reader can rely on: arrows point one way, and only the CLI prints."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "transunet"
FOUNDATION = {"errors", "configuration", "extras", "atomic"}
PARTS = FOUNDATION | {"models"}
ALLOWED = {
    "errors": set(),
    "configuration": {"errors"},
    "extras": {"errors"},
    "atomic": {"errors"},
    "device": {"errors"},
    "models": FOUNDATION,
    "weights": FOUNDATION | {"models", "data"},  # data: which classes are the same by their names
    "data": FOUNDATION,
    "drawing": FOUNDATION | {"data"},
    "evaluation": FOUNDATION | {"data", "drawing"},
    "create": PARTS | {"weights"},
    "hub": FOUNDATION | {"weights"},
    "bundle_config": PARTS | {"data", "hub"},  # without torch; `bundle` adds the weights
    "bundle": PARTS | {"weights", "data", "hub", "bundle_config"},
    # weights: where the cache lies, for converted networks.
    # drawing: a prediction's sheet and the figure of attention are outputs like the label map.
    "inference": PARTS | {"data", "device", "drawing", "bundle", "bundle_config", "weights"},
    "nnunet": FOUNDATION | {"models", "weights"},
    "training": PARTS
    | {"weights", "data", "device", "bundle", "bundle_config", "create", "inference", "evaluation"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("transunet."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part in {"__init__", "__main__", "cli", "serve"}:
        return  # these stand on top of everything
    assert set(imported_parts(path)) <= ALLOWED[part] | {part}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if part_of(path) in {"cli", "__main__"}:
        return
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    exits = {ast.unparse(call) for call in calls if isinstance(call, ast.Attribute)}
    assert not names & {"print", "exit", "quit"}
    assert "sys.exit" not in exits


def test_config_and_catalogue_need_no_torch() -> None:
    for name in (
        "models/config.py",
        "weights/catalog.py",
        "evaluation/metrics.py",
        "bundle_config.py",
    ):
        assert "import torch" not in (SOURCE / name).read_text()
