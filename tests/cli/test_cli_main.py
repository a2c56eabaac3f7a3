import io
import os
import subprocess
import sys

import click
import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import transunet.cli.main
from transunet.cli.main import app
from transunet.cli.notes import hanging

HEAVY = ("torch", "numpy", "scipy", "nibabel", "pydantic", "huggingface_hub", "matplotlib")


def commands(command: click.Command, name: str = "transunet") -> list[tuple[str, ...]]:
    """Every command's words, sub-commands included."""
    children = getattr(command, "commands", None)
    if children is None:
        return [(name,)]
    return [(name, *words) for key, child in children.items() for words in commands(child, key)]


COMMANDS = [words[1:] for words in commands(get_command(app))]


@pytest.mark.process
def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, transunet.cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.process
def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, transunet; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.process
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000 PASSIVE"),
        ({"GOMP_SPINCOUNT": "5"}, "5 PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
    ids=str,
)
def test_waiting_threads_soon_sleep_unless_told_otherwise(given: dict, expected: str) -> None:
    code = (
        "import os, sys, transunet.cli.main;"
        "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'));"
        "assert os.environ['OPENBLAS_NUM_THREADS'] == '1' and 'numpy' not in sys.modules"
    )
    told = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if name not in told}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={**clean, **given},
    )  # fmt: skip
    assert found.stdout.strip() == expected


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_commands_help_shows_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"], terminal_width=200)
    assert result.exit_code == 0
    assert f"Example: transunet {' '.join(words)}" in result.output


def test_an_error_is_one_message_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["transunet", "train", "/no/such/dataset", "-o", "/tmp/run"])
    with pytest.raises(SystemExit) as caught:
        transunet.cli.main.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("Error: ")
    assert "/no/such/dataset" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("predict", "b", "i", "-o", "o", "--format", "dcm"),
            "'dcm' is not one of 'same', 'nifti'",
        ),
        (("evaluate", "p", "r", "--convention", "x"), "'x' is not one of 'honest', 'official'"),
    ],
)
def test_a_wrong_choice_is_told_in_our_words_alone(words: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(app, words, terminal_width=200)
    assert result.exit_code == 2
    assert told in result.output
    assert "Value error" not in result.output


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.strip()[0].isdigit()


@pytest.mark.parametrize("words", [(), ("weights",), *COMMANDS], ids=" ".join)
def test_help_is_words(words: tuple[str, ...]) -> None:
    help_text = CliRunner().invoke(app, [*words, "--help"], terminal_width=200).output
    assert "<list" not in help_text
    assert "<bool" not in help_text
    command = get_command(app)
    for word in words:
        command = command.commands[word]
    assert [option.name for option in command.params if not getattr(option, "help", None)] == []


def test_commands_are_listed_in_the_order_of_the_work() -> None:
    lines = CliRunner().invoke(app, ["--help"], terminal_width=80).output.splitlines()
    listed = [line.strip("│ ").split(" ")[0] for line in lines if line.startswith("│ ")]
    first = [listed.index(name) for name in ("check", "train", "predict", "evaluate", "serve")]
    assert first == sorted(first)
    panels = [line.strip("╭─╮ ") for line in lines if line.startswith("╭─")]
    assert panels[:2] == ["Options", "Data"]
    assert "Commands" not in panels  # each is in a panel of its own subject


def test_paragraphs_of_help_are_as_wide_as_the_terminal() -> None:
    lines = CliRunner().invoke(app, ["predict", "--help"], terminal_width=80).output.splitlines()
    start = next(i for i, line in enumerate(lines) if "A second run goes on" in line)
    assert lines[start + 1].strip().startswith("Several processes with the same arguments")


def test_the_shell_completes_commands_options_and_values() -> None:
    completed = {
        "transunet pre": ["prepare", "predict"],
        "transunet predict --eng": ["--engine"],
        "transunet predict --engine o": ["openvino", "onnxruntime"],
    }
    for typed, expected in completed.items():
        shell = {"_TRANSUNET_COMPLETE": "complete_bash", "COMP_WORDS": typed}
        result = CliRunner().invoke(
            app, prog_name="transunet", env=shell | {"COMP_CWORD": str(len(typed.split()) - 1)}
        )
        assert result.output.split() == expected, typed


def test_a_hanging_indent_where_a_terminal_ends_and_one_line_elsewhere() -> None:
    text = "scans/case_with_a_long_name.nii.gz: two words"
    terminal = Console(file=io.StringIO(), force_terminal=True, width=40)
    assert hanging(terminal, text, 8) == ("scans/case_with_a_long_name.nii.gz:\n        two words")
    assert hanging(Console(file=io.StringIO(), width=40), text, 8) == text
