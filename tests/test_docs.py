"""What README.md and docs/ tell users to type exists, and their links lead somewhere."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import transunet
from transunet.cli.main import app
from transunet.training.recipe import load_recipe, parse_settings

ROOT = Path(__file__).parents[1]
COMMAND = get_command(app)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^( *)```[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`transunet\s([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_PLACEHOLDER = "key=value"


def commands_of(text):
    """What is typed in `text`: lines of code blocks and code spans that run transunet."""
    for _, block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            # Also behind a prompt, and under torchrun, srun or python.
            if found := re.match(r"\s*(?:\$ )?(?:transunet|.*-m transunet) (.+)", line):
                yield found[1]
    for span in _SPAN.findall(_BLOCK.sub("", text)):
        yield span.replace("\n", " ")


def problem_of(typed):
    """Why `typed` could not be parsed, or None."""
    command, words = COMMAND, _words(typed)
    while words and hasattr(command, "commands"):
        if words[0].startswith("-") or words[0] == "COMMAND":
            break
        if words[0] not in command.commands:
            return f"there is no command {words[0]}"
        command = command.commands[words.pop(0)]
    context = command.context_class(command, **command.context_settings)
    parser = command.make_parser(context)
    try:
        values, _, _ = parser.parse_args(list(words))
        return _wrong_setting(values)
    except Exception as error:  # click's own, which typer may bring along under another name
        return str(getattr(error, "message", error))


def _words(typed):
    lexer = shlex.shlex(typed, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True  # and "#" starts a comment
    words = list(lexer)
    ends = [index for index, word in enumerate(words) if set(word) <= set("|&;<>")]
    return [word for word in words[: ends[0] if ends else None] if word not in ("...", "…")]


def _wrong_setting(values):
    settings = [text for text in values.get("settings") or [] if text != _PLACEHOLDER]
    load_recipe("paper", {"weights": "none", **parse_settings(settings)})


def broken_links(page, text):
    for target in _LINK.findall(_BLOCK.sub("", text)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in _anchors(file):
            yield f"{target}: no such heading"


def _anchors(file):
    headings = _HEADING.findall(_BLOCK.sub("", file.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_parses(page):
    commands = list(commands_of(page.read_text(encoding="utf-8")))
    problems = {typed: why for typed in commands if (why := problem_of(typed))}
    assert problems == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


def test_the_pages_hold_commands():
    assert sum(len(list(commands_of(p.read_text(encoding="utf-8")))) for p in PAGES) > 20


def test_commands_are_found_wherever_they_stand():
    text = (
        "Run `transunet\ncheck DATA`:\n\n```bash\n$ transunet train DATA \\\n    -o RUN  # starts\n"
        "torchrun --standalone -m transunet train DATA -o RUN\nError: transunet knows none\n```\n"
    )
    assert [" ".join(_words(typed)) for typed in commands_of(text)] == [
        "train DATA -o RUN",
        "train DATA -o RUN",
        "check DATA",
    ]


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("trian DATA -o RUN", "no command trian"),
        ("weights fetch R50-ViT-B_16", "no command fetch"),
        ("train DATA --epoch-count 3", "--epoch-count"),
        ("train DATA -o RUN --set learning_rate=3", "learning_rate"),
        ("train DATA -o", "-o"),
    ],
)
def test_a_command_that_would_fail_is_noticed(typed, why):
    assert why in problem_of(typed)


@pytest.mark.parametrize(
    "typed",
    [
        "train DATA -o RUN --set augmentation.rotation=15 --set key=value | tail -3",
        "COMMAND --help",
        "--version",
        "predict BUNDLE INPUT... -o OUT",
    ],
)
def test_a_command_that_works_is_not(typed):
    assert problem_of(typed) is None


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One thing\n", encoding="utf-8")
    text = "[a](page.md#one-thing) [b](page.md#other) [c](gone.md) [d](https://example.org)"
    assert list(broken_links(page, text)) == [
        "page.md#other: no such heading",
        "gone.md: no such file",
    ]


def test_every_public_name_is_described():
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^::: [\w.]*\.(\w+)$", page, re.MULTILINE)) | set(
        re.findall(r"`(\w+)`", page)
    )
    assert set(transunet.__all__) - described == set()


def test_the_site_describes_every_command_and_option():
    hook = runpy.run_path(str(ROOT / "docs/_site/commands.py"))
    page = hook["on_page_markdown"]("# Commands\n\n<!-- commands -->\n")
    commands = get_command(app).commands
    assert {f"## transunet {name}" for name in commands if name != "weights"} <= set(
        page.splitlines()
    )
    for option in (opt for param in commands["predict"].params for opt in param.opts):
        assert option in page or option.upper() in page or option == "inputs"
    assert "| `--procedure`: native · paper · both |" in page
