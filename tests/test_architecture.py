"""The house rules that a reader can rely on: arrows point one way, and only the CLI prints."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "transunet"
GROUND = {"errors", "settings", "optional", "files", "cache", "colours", "document"}
ALLOWED = {
    "errors": set(),
    "settings": {"errors"},
    "optional": {"errors"},
    "files": {"errors"},
    "cache": {"errors", "files"},
    "colours": set(),
    "document": set(),
    "device": {"errors"},
    "client": set(),
    "logs": set(),
    "models": GROUND,
    "weights": GROUND | {"models", "data"},  # data: which classes are the same by their names
    "create": GROUND | {"models", "weights"},
    "data": GROUND,
    "drawing": GROUND | {"data"},
    "evaluation": GROUND | {"data", "drawing"},
    "bundle": GROUND | {"models", "weights", "data"},
    "backends": GROUND | {"device", "models", "data", "bundle"},
    # drawing: a prediction's sheet and the figure of attention are outputs like the label map.
    "inference": GROUND | {"device", "models", "data", "bundle", "backends"},
    "trust": GROUND | {"device", "models", "data", "evaluation", "bundle", "backends", "inference"},
    "batch": GROUND | {"device", "data", "drawing", "bundle", "backends", "inference", "trust"},
    "export": GROUND
    | {"device", "models", "data", "bundle", "backends", "inference", "batch"}
    | {"integrations"},
    "attention": GROUND
    | {"device", "models", "data", "drawing", "bundle", "backends", "inference", "batch"},
    "integrations": GROUND
    | {"models", "weights", "data", "bundle", "inference", "batch", "training"},
    "training": GROUND
    | {"device", "models", "weights", "create", "data", "bundle"}
    | {"evaluation", "backends", "inference", "trust", "batch"},
    "notebook": GROUND | {"data", "drawing", "evaluation", "inference"},
    "distillation_report": GROUND
    | {"device"}
    | {"data", "bundle", "evaluation", "backends", "inference", "batch", "trust", "training"},
    "dossier": GROUND
    | {"models", "weights", "data", "bundle", "evaluation", "backends", "trust", "training"}
    | {"integrations"},
}
TOP = {"__init__", "__main__", "cli", "serve"}  # these stand on everything
TABLES = {"FORMATS", "ENGINES", "ARCHITECTURES", "FAMILIES"}
"""Registries whose entries name modules as strings."""
RARELY_MET = tuple(
    f"transunet.{part}"
    for part in (
        "data.formats.",
        "data.layouts",
        "data.walking",
        "drawing.",
        "backends.",
        "inference.ensemble",
        "inference.patch_inference",
        "inference.tta",
        "inference.sliding_window",
    )
)
"""What a prediction of one file does without: other formats and engines, folders, pictures. Whoever
meets such a thing imports it there."""
FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every import of the package, as (node, module)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node, inner if inner in MODULES else base
        elif isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)


@cache
def imported_modules(path: Path) -> set[str]:
    """Modules of the package that the file imports, at once or later; not for type checkers."""
    found = {name for _, name in imports(run_time(path)) if name.split(".")[0] == "transunet"}
    return found | registered(path)


@cache
def registered(path: Path) -> set[str]:
    """Modules that a registry of the file names as strings, to import them when they are met."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    names = set[str]()
    for table in parsed(path).body:
        if isinstance(table, ast.AnnAssign) and ast.unparse(table.target) in TABLES:
            texts = [node.value for node in ast.walk(table) if isinstance(node, ast.Constant)]
            names |= {f"{package}.{str(text).partition(':')[0]}" for text in texts}
    return names & MODULES.keys()


@cache
def imported_at_top(path: Path) -> set[str]:
    """Modules that the file imports when it is imported itself."""
    tree = run_time(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    return {name for _, name in imports(tree)}


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_at_top(path)}


def run_time(path: Path) -> ast.Module:
    """The file without what stands under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return tree


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part in TOP:
        return
    parts = {name.split(".")[1] for name in imported_modules(path) if "." in name}
    assert parts <= ALLOWED[part] | {part}


def test_the_parts_stand_on_each_other_without_a_circle() -> None:
    done: list[str] = []
    left = dict(ALLOWED)
    while left:
        free = [part for part, below in left.items() if below <= set(done)]
        assert free, f"a circle among {sorted(left)}"
        done += free
        left = {part: below for part, below in left.items() if part not in free}


def test_no_module_imports_itself_through_others() -> None:
    """Wherever the imports stand: one inside a function hides a circle, and does not open it."""
    left = {name: imported_modules(path) & MODULES.keys() for name, path in MODULES.items()}
    left = {name: others - {name} for name, others in left.items() if name != "transunet"}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"a circle among {', '.join(sorted(left))}"


def test_an_import_inside_a_function_spares_torch_or_what_is_rarely_met() -> None:
    """`--help` and exported files do without torch; nothing else may hide an import of ours."""
    heavy = {name for name, path in MODULES.items() if "torch" in imported_packages(path)}
    grown = True
    while grown:
        before = len(heavy)
        heavy |= {name for name, path in MODULES.items() if heavy & imported_at_top(path)}
        grown = len(heavy) > before
    for name, path in MODULES.items():
        if part_of(path) in {"__init__", "__main__", "cli"}:
            continue
        inside = imported_modules(path) - imported_at_top(path) - registered(path)
        inside -= {module for module in inside if module.startswith(RARELY_MET)}
        assert inside <= heavy, f"{name}: {', '.join(sorted(inside - heavy))}"


def test_a_name_occurs_once() -> None:
    """Searching for a module or a class finds it.

    The parts of a network are called alike in every family's folder.
    """
    named = [path for path in FILES if part_of(path) != "cli" and path.stem != "__init__"]
    networks = {path: path.parent.parent.name == "models" for path in named}
    modules = Counter({path.stem for path in named if networks[path]})
    modules.update(path.stem for path in named if not networks[path])
    classes = Counter(
        node.name
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
    )
    twice = [name for name, times in (modules + classes).items() if times > 1]
    assert not twice


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if part_of(path) in {"cli", "__main__"}:
        return
    calls = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    exits = {ast.unparse(call) for call in calls if isinstance(call, ast.Attribute)}
    assert not names & {"print", "exit", "quit"}
    assert "sys.exit" not in exits


def test_config_and_catalogue_need_no_torch() -> None:
    for name in (
        "models/architecture.py",
        "models/transunet2d/config.py",
        "models/transunet3d/config.py",
        "models/variants.py",
        "weights/catalog.py",
        "evaluation/metrics.py",
        "bundle/bundle_config.py",
    ):
        assert "import torch" not in (SOURCE / name).read_text()


def test_predicting_needs_nothing_of_prepared_data() -> None:
    files = {module_of(path): path for path in FILES}
    reached, waiting = set[str](), ["transunet.inference.predictor", "transunet.batch.run"]
    while waiting:
        name = waiting.pop()
        if name in files and name not in reached:
            reached.add(name)
            waiting += imported_at_top(files[name])
    assert len(reached) > 20
    unused = ("store", "prepare", "planning", "splits", "split_rules", "fingerprint")
    assert not reached & {f"transunet.data.{name}" for name in unused}
