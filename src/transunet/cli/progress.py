"""The progress bars that every long command shows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(unit: str) -> Progress:
    """Return a bar that counts `unit`, on the error stream so that results can be piped."""
    return _progress(TextColumn(unit))


@contextmanager
def count_cases(
    description: str, *, at_once: bool = True
) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar, `at_once` or with the first case.

    Yields:
        What is to be called with the cases done, all cases and the last one's name.
    """
    with progress_bar("cases") as bar:
        task = bar.add_task(description, total=None, visible=at_once)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, visible=True)


@contextmanager
def count_predictions() -> Iterator[Callable[[int, int], None]]:
    """Show a bar of predictions; yield what is to be called with those done and those in all."""
    with progress_bar("predictions") as bar:
        task = bar.add_task("Learning how far to trust it", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def case_bars(
    count: int,
    samples: str = "slices",
) -> Iterator[tuple[Callable[[str], Callable[[int, int], None]], Callable[[object], None]]]:
    """Show how many of `count` cases have ended, and how far the present one is.

    Yields:
        What to call with the name of a case that begins, which returns what is told of its samples;
        and what to call when one has ended.
    """
    with _progress(TextColumn("{task.fields[unit]}")) as bars:
        every = bars.add_task("all", total=count, unit="cases")
        present: list[TaskID] = []

        def begun(name: str) -> Callable[[int, int], None]:
            while present:
                bars.remove_task(present.pop())
            present.append(task := bars.add_task(name, total=None, unit=samples))
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield begun, lambda _: bars.advance(every)


def _progress(unit: TextColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        unit,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
