"""What can be wrong with a data set: listed by a check and raised by reading, in the same words."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from transunet.errors import DataError, GeometryError, TransUNetError

Severity = Literal["error", "warning"]
_SHOWN = 3  # problems of a kind that are logged
_log = logging.getLogger("transunet")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where, and what to do about it."""

    kind: str
    """A short name for the sort of problem, such as "missing-label"."""
    where: str
    """The file or case."""
    found: str
    """What was found and what was expected."""
    remedy: str
    """What to do, as a sentence without its full stop."""
    severity: Severity = "error"
    geometry: bool = False
    """Whether it is grids that contradict each other."""

    @property
    def text(self) -> str:
        """The whole message: where, what was found, what to do."""
        return f"{self.where}: {self.found}. {self.remedy}."

    def error(self) -> TransUNetError:
        """Return the exception that says this."""
        return GeometryProblemError(self) if self.geometry else DataProblemError(self)


def log_warnings(problems: Iterable[Problem]) -> None:
    """Log what is worth a look, the first few of every kind."""
    kinds = defaultdict[str, list[Problem]](list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    for alike in kinds.values():
        for problem in alike[:_SHOWN]:
            _log.warning(problem.text)
        if len(alike) > _SHOWN:
            more = len(alike) - _SHOWN
            _log.warning("%d more like these; transunet check lists them all.", more)


def problem_of(error: TransUNetError, where: str) -> Problem:
    """Return the problem that an error carries, or one that holds its message."""
    if isinstance(error, _ProblemError):
        return error.problem
    geometry = isinstance(error, GeometryError)
    return Problem("unusable", where, str(error).rstrip("."), "See above", geometry=geometry)


class _ProblemError(TransUNetError):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:  # so that it can come from another process
        return type(self), (self.problem,), vars(self)


class DataProblemError(_ProblemError, DataError):
    """A `DataError` that carries its `Problem`."""


class GeometryProblemError(_ProblemError, GeometryError):
    """A `GeometryError` that carries its `Problem`."""
