"""Which images a person should look at first: those of whose label maps the least is expected.

A worklist is ordered by what a bundle expects of its own results. One that does not know what to
expect (`transunet calibrate`) orders by soft Dice, which takes its probabilities at their word.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from transunet.batch.case_records import PredictionRecord
from transunet.bundle.trust_config import Trust
from transunet.errors import ConfigError
from transunet.files import read_json, write_json, write_rows
from transunet.settings import Configuration

WORKLIST = "worklist.json"

Order = Literal["expected Dice", "soft Dice"]


class WorklistCase(Configuration):
    """An image to look at."""

    case: str
    images: tuple[Path, ...] = Field(min_length=1)
    """One file per channel, one with all of them, or a DICOM series: a folder or its files."""
    series: str | None = None
    """Of several DICOM series there."""
    dice: float = Field(ge=0, le=1)
    """The expected, or the soft, Dice of the structure that has the least."""
    structure: str
    reasons: tuple[str, ...] = ()
    """In words, what makes it doubtful."""

    @property
    def key(self) -> str:
        """What tells it from other images, in other worklists too."""
        return "|".join([*map(str, self.images), self.series or ""])


class Worklist(Configuration):
    """Images in the order in which they are to be looked at."""

    order: Order
    bundles: tuple[str, ...]
    cases: tuple[WorklistCase, ...]
    """The most doubtful one first."""


def knows_quality(trust: Trust | None) -> bool:
    """Whether a bundle expects a Dice of any of its structures."""
    return trust is not None and any(known.quality for known in trust.structures.values())


def order_by_doubt(
    records: Iterable[PredictionRecord], bundles: Iterable[str], trust: Trust | None
) -> Worklist:
    """Return the predicted cases, the most doubtful one first.

    Args:
        records: of cases that are done.
        bundles: what predicted them.
        trust: what it knows of itself; if it expects no Dice of any structure, the records have
            the soft Dice.
    """
    trust = trust if knows_quality(trust) else None
    cases = []
    for record in records:
        known = _expected(record.structures, trust) if trust else _soft(record.structures)
        dice, structure = min((dice, name) for name, dice in known.items())
        reasons = [
            f"{name}: {figures['reason']}"
            for name, figures in record.structures.items()
            if figures.get("reason")
        ]
        if not any(figures["voxels"] for figures in record.structures.values()):
            reasons = reasons or ["nothing was found"]
        cases.append(
            WorklistCase(
                case=record.case,
                images=tuple(Path(image).absolute() for image in record.images),
                series=record.series or None,
                dice=round(dice, 4),
                structure=structure,
                reasons=(*reasons, *record.warnings),
            )
        )
    cases.sort(key=lambda case: (case.dice, case.case))
    order: Order = "expected Dice" if trust else "soft Dice"
    return Worklist(order=order, bundles=tuple(bundles), cases=tuple(cases))


def _expected(structures: Mapping[str, Mapping[str, Any]], trust: Trust) -> dict[str, float]:
    """Name -> Dice to be expected, as far as it is known.

    What was not found is wrong in as many cases as have it.
    """
    return {
        name: figures.get("expected_dice", 1 - known.present)
        for name, figures in structures.items()
        if (known := trust.structures[name]).quality
    }


def _soft(structures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Name -> soft Dice of what was found; where nothing was, nothing can be relied on."""
    found = {n: figures["soft_dice"] for n, figures in structures.items() if figures["voxels"]}
    return found or dict.fromkeys(structures, 0.0)


def write_worklist(worklist: Worklist, folder: Path) -> Path:
    """Write `worklist.json` and the same as a table, `worklist.csv`; return the former's path.

    Raises:
        ConfigError: when they cannot be written.
    """
    dice = worklist.order.lower().replace(" ", "_")
    rows: list[list[Any]] = [["place", "case", dice, "structure", "reasons", "images"]]
    for place, case in enumerate(worklist.cases, 1):
        reasons, images = "; ".join(case.reasons), " ".join(map(str, case.images))
        rows.append([place, case.case, case.dice, case.structure, reasons, images])
    write_rows(rows, folder / "worklist.csv")
    write_json(worklist.model_dump(mode="json"), folder / WORKLIST)
    return folder / WORKLIST


def read_worklist(path: Path) -> Worklist:
    """Read a worklist; whether its images are still there is not looked at.

    Raises:
        ConfigError: when it is missing or no worklist.
        DataError: when it is no JSON.
    """
    remedy = "Give the worklist.json that transunet queue wrote."
    values = read_json(path, remedy)
    try:
        return Worklist.from_json(values, str(path))
    except ConfigError as error:
        raise ConfigError(f"{str(error).rstrip('.')}. {remedy}") from None
