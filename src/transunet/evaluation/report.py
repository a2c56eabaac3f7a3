"""Evaluations and comparisons as plain data: JSON for programs, CSV for spreadsheets."""

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from transunet.evaluation.audit import CONVENTIONS, Audit
from transunet.evaluation.bootstrap import AGGREGATION, INTERVAL
from transunet.evaluation.comparison import TEST, PairedComparison
from transunet.evaluation.expectations import Expectation, JudgedExpectations
from transunet.evaluation.groups import POLICY as GROUPS_POLICY
from transunet.evaluation.groups import GroupedEvaluation
from transunet.evaluation.metrics import BAD_BELOW, ClassMetrics
from transunet.evaluation.records import Evaluation, Metric, MetricSummary, Structure
from transunet.files import write_rows, write_text
from transunet.optional import DISTRIBUTION, version_of

FORMAT_VERSION = 1
_PACKAGES = (DISTRIBUTION, "numpy", "scipy")  # what computes the figures
# Per convention: (in the prediction, in the reference) -> what is written beside the figures.
_ONE_EMPTY = "scored 0, distances are the image's diagonal"
_EMPTY = {
    "honest": {
        (False, False): "both: not counted",
        (False, True): f"prediction: {_ONE_EMPTY}",
        (True, False): f"reference: {_ONE_EMPTY}",
    },
    "official": {
        (False, False): "both: Dice 0, HD95 0",
        (False, True): "prediction: Dice 0, HD95 0",
        (True, False): "reference: Dice 1, HD95 0",
    },
}
_VOLUMES = (("prediction_volume_ml", "prediction_ml"), ("reference_volume_ml", "reference_ml"))
_EXPECTED = ("look", "expected_dice", "expected_within", "volume_low_ml", "volume_high_ml")


def to_json(
    evaluation: Evaluation,
    audit: Audit | None = None,
    grouped: GroupedEvaluation | None = None,
    judged: JudgedExpectations | None = None,
) -> dict[str, Any]:
    """Everything an evaluation found, ready for `json.dumps`; NaN is None.

    Keys carry units; `hd95_mm` is in millimetres, `hd95_official_voxels` in voxels.
    """
    metrics = evaluation.metrics
    expected = {
        key: each.model_dump(exclude_none=True) for key, each in _expectations(judged).items()
    }
    return {
        "kind": "evaluation",
        "format_version": FORMAT_VERSION,
        **provenance(evaluation),
        **_summaries(evaluation.summaries, evaluation),
        "cases": [
            {
                "name": case.name,
                "structures": [
                    _identity(structure)
                    | _figures(metrics, case.metrics[structure.key])
                    | expected.get((case.name, structure.name), {})
                    for structure in evaluation.structures
                ],
            }
            for case in evaluation.cases
        ],
        **({"audit": _audit_to_json(audit)} if audit else {}),
        **({"groups": _groups_to_json(grouped, evaluation)} if grouped else {}),
        **({"expectations": _judged_to_json(judged)} if judged else {}),
    }


def _audit_to_json(audit: Audit) -> dict[str, Any]:
    *structures, mean = map(_plain_fields, audit.structures)
    voxels, mm = map(_plain, audit.hd95_of_both)
    return {
        "conventions": CONVENTIONS,
        "mean_foreground": mean,
        "structures": structures,
        "authors_rules": [_plain_fields(rule) for rule in audit.rules],
        "hd95_where_in_both": {"voxels": voxels, "mm": mm},
        "networks": [_plain_fields(chosen) for chosen in audit.chosen],
        "sentences": list(audit.sentences),
    }


def _groups_to_json(grouped: GroupedEvaluation, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "source": grouped.source,
        "policy": GROUPS_POLICY,
        "not_listed": list(grouped.not_listed),
        "not_measured": list(grouped.not_measured),
        "groupings": [
            {
                "column": grouping.column,
                "is_cut": grouping.is_cut,
                "unknown": list(grouping.unknown),
                "worst": _plain_fields(grouping.worst) if grouping.worst else None,
                "groups": [
                    {
                        "name": group.name,
                        "cases": list(group.cases),
                        "subjects": group.subjects,
                        "too_few_to_tell": not group.is_enough,
                        **_summaries(group.metrics, evaluation),
                    }
                    for group in grouping.groups
                ],
            }
            for grouping in grouped.groupings
        ],
        "sentences": list(grouped.sentences),
    }


def _judged_to_json(judged: JudgedExpectations) -> dict[str, Any]:
    figures = _plain_fields(judged)
    del figures["predictions"]  # they stand with the cases
    return {"bad_below_dice": BAD_BELOW, **figures, "sentences": list(judged.sentences)}


def _expectations(judged: JudgedExpectations | None) -> Mapping[tuple[str, str], Expectation]:
    """What was expected of each case and structure."""
    predictions = judged.predictions if judged else ()
    return {(each.case, each.structure): each.expected for each in predictions}


def _summaries(metrics: Mapping[str, MetricSummary], evaluation: Evaluation) -> dict[str, Any]:
    """The means over the structures, and every structure's."""
    return {
        "mean_foreground": {
            key: {"mean": _plain(s.mean_foreground), "interval_95": _plain(s.interval_95)}
            for key, s in metrics.items()
        },
        "structures": [
            _identity(structure)
            | {key: _plain_fields(summary.structures[i]) for key, summary in metrics.items()}
            for i, structure in enumerate(evaluation.structures)
        ],
    }


def comparison_to_json(comparison: PairedComparison) -> dict[str, Any]:
    """Everything a comparison found, ready for `json.dumps`; NaN is None."""
    about = provenance(comparison.first)
    del about["predictions"]
    return {
        "kind": "comparison",
        "format_version": FORMAT_VERSION,
        "a": comparison.first.predictions,
        "b": comparison.second.predictions,
        **about,
        "test": TEST,
        "mean_of_structures": {k: _plain_fields(test) for k, test in comparison.overall.items()},
        "structures": [
            _identity(structure)
            | {m.key: _plain_fields(comparison.tests[m.key][i]) for m in comparison.metrics}
            for i, structure in enumerate(comparison.structures)
        ],
        "cases": [
            {"name": name, "structure": structure} | figures
            for name, structure, figures in _sides(comparison)
        ],
    }


def provenance(evaluation: Evaluation) -> dict[str, Any]:
    """How the figures were made: what every report must say beside them."""
    honest = evaluation.convention == "honest"
    versions = {package: version_of(package) or "unknown" for package in _PACKAGES}
    return {
        "convention": evaluation.convention,
        "policy": evaluation.policy,
        "notes": list(evaluation.notes),
        "aggregation": AGGREGATION,
        "interval": INTERVAL,
        "tolerance_mm": evaluation.tolerance_mm if honest else None,
        "predictions": evaluation.predictions,
        "references": evaluation.references,
        "references_without_prediction": list(evaluation.left_out),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**versions, "python": platform.python_version()},
    }


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write what `to_json` returned, all of it or nothing.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def write_csv(evaluation: Evaluation, path: Path, judged: JudgedExpectations | None = None) -> None:
    """Write one row per case and structure; what does not count is left empty.

    Args:
        evaluation: what is written.
        path: `.csv`.
        judged: what was expected, for further columns.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    keys = [metric.key for metric in evaluation.metrics] + [key for key, _ in _VOLUMES]
    keys += _EXPECTED if judged else ()
    expectations = _expectations(judged)
    rows: list[list[Any]] = [["case", "labels", "structure", "convention", "empty", *keys]]
    for case in evaluation.cases:
        for structure in evaluation.structures:
            measured = case.metrics[structure.key]
            present = measured.prediction_ml > 0, measured.reference_ml > 0
            empty = "" if all(present) else _EMPTY[evaluation.convention][present]
            row = [case.name, structure.key, structure.name, evaluation.convention, empty]
            figures: list[Any] = [*_figures(evaluation.metrics, measured).values()]
            if judged:
                told = expectations.get((case.name, structure.name), Expectation())
                bounds = told.volume_interval_ml or (None, None)
                figures += [told.look, told.expected_dice, told.expected_within, *bounds]
            rows.append([*row, *figures])
    write_rows(rows, path)


def write_comparison_csv(comparison: PairedComparison, path: Path) -> None:
    """Write A's and B's figures of each case and structure side by side.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    keys = [f"{metric.key}_{side}" for metric in comparison.metrics for side in "ab"]
    rows: list[list[Any]] = [["case", "structure", "convention", *keys]]
    for name, structure, figures in _sides(comparison):
        rows.append([name, structure, comparison.first.convention, *figures.values()])
    write_rows(rows, path)


def _sides(comparison: PairedComparison) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Case, structure, and both sides' figures by their names in files."""
    for first, second in zip(comparison.first.cases, comparison.second.cases, strict=True):
        for structure in comparison.structures:
            figures = {
                f"{metric.key}_{side}": _plain(getattr(case.metrics[structure.key], metric.field))
                for metric in comparison.metrics
                for side, case in (("a", first), ("b", second))
            }
            yield first.name, structure.name, figures


def _plain(value: Any) -> Any:
    """A figure or an interval for JSON, which knows neither NaN nor infinity: None for them."""
    if isinstance(value, tuple):
        figures = [_plain(figure) for figure in value]
        return None if None in figures else figures
    return None if isinstance(value, float) and not isfinite(value) else value


def _plain_fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass's instance, for JSON."""
    return {key: _plain(value) for key, value in asdict(record).items()}


def _identity(structure: Structure) -> dict[str, Any]:
    return {"labels": list(structure.values), "name": structure.name}


def _figures(metrics: tuple[Metric, ...], measured: ClassMetrics) -> dict[str, float | None]:
    named = [(metric.key, metric.field) for metric in metrics] + list(_VOLUMES)
    return {key: _plain(getattr(measured, field)) for key, field in named}
