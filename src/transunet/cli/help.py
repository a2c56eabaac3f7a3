"""How `--help` and what is said of a wrong option read: in words, as wide as the terminal is."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import cleandoc
from typing import Any

from typer import BadParameter
from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help is broken where the terminal ends, not where the source's lines do."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        paragraphs = cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(text.split()) for text in paragraphs)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments, `--help` too."""
        return [_in_words(parameter) for parameter in super().get_params(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments that are left once the options are taken."""
        with _refusing_in_words():
            return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A group of commands, the same way."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, `--help` too."""
        return [_in_words(parameter) for parameter in super().get_params(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments that are left, the command's name first."""
        with _refusing_in_words():
            return super().parse_args(ctx, args)


@contextmanager
def _refusing_in_words() -> Iterator[None]:
    """Take pydantic's prefix away, which typer shows with what it says of a wrong choice."""
    try:
        yield
    except BadParameter as error:
        error.message = error.message.removeprefix("Value error, ")
        raise


def _in_words(parameter: Any) -> Any:
    """Take the type away that typer shows where it tells nothing: a switch's, and `list[str]`."""
    if parameter.nargs == -1:  # an argument, whose name says what it is
        parameter.display_type_rich = lambda ctx: None
    elif getattr(parameter, "is_flag", False) or getattr(parameter, "multiple", False):
        parameter.display_type_rich = lambda ctx: parameter.metavar
    return parameter
