"""Evaluations and comparisons as HTML pages to read; what they look like stands in templates/."""

from collections.abc import Mapping
from functools import partial
from math import isnan
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from transunet.colours import colour_of
from transunet.evaluation import table
from transunet.evaluation.audit import CONVENTIONS, Audit
from transunet.evaluation.bootstrap import bootstrap_interval, nanmean
from transunet.evaluation.charts import Point, box_plots, difference_plot, scatter_plot
from transunet.evaluation.comparison import TEST, PairedComparison
from transunet.evaluation.expectations import JudgedExpectations
from transunet.evaluation.groups import POLICY as GROUPS_POLICY
from transunet.evaluation.groups import GroupedEvaluation
from transunet.evaluation.metrics import BAD_BELOW
from transunet.evaluation.pictures import CasePicture
from transunet.evaluation.records import Evaluation
from transunet.evaluation.report import provenance


def report_page(
    evaluation: Evaluation,
    pictures: Mapping[str, CasePicture | None],
    no_pictures: str = "",
    audit: Audit | None = None,
    grouped: GroupedEvaluation | None = None,
    judged: JudgedExpectations | None = None,
) -> str:
    """Return the report of an evaluation as one HTML file that needs no other.

    Args:
        evaluation: what to report.
        pictures: the cases that are shown one by one, the worst of all, each with its picture.
        no_pictures: why there are no pictures, where there are none.
        audit: the same label maps by other conventions, where that is told too.
        grouped: the same figures group by group, likewise.
        judged: what was expected of the label maps against what is true, likewise.
    """
    names = [structure.name for structure in evaluation.structures]
    cases = [case.name for case in evaluation.cases]
    charts = []
    for metric in evaluation.metrics:
        text = partial(table.number, metric=metric)
        share = metric.field not in ("hd95", "assd")
        note = "higher is better" if metric.higher_is_better else "lower is better"
        drawing = box_plots(names, cases, evaluation.values(metric), text, share)
        charts.append((metric.title, note, drawing))
    errors = evaluation.volume_errors()
    means = [(float(nanmean(column, 0)), *bootstrap_interval(column)) for column in errors.T]
    note = "prediction minus reference; the diamond is the mean, the bar its 95 % interval"
    drawing = difference_plot(names, cases, errors, means, "{:+.3g} ml".format)
    charts.append(("Volume error (ml)", note, drawing))
    ranked = evaluation.ranked()
    return _rendered(
        "report.html.j2",
        evaluation,
        title="Segmentation report",
        charts=charts,
        ranked=ranked,
        shown=[(case, mean, pictures[case.name]) for case, mean in ranked if case.name in pictures],
        no_pictures=no_pictures,
        audit=audit,
        conventions=CONVENTIONS,
        grouped=grouped,
        groups_policy=GROUPS_POLICY,
        judged=judged,
        judged_charts=_scatter(judged) if judged and judged.compared else (),
    )


def _scatter(judged: JudgedExpectations) -> list[tuple[str, str, Markup]]:
    points = [
        Point(f"{each.case} {each.structure}", told.expected_dice, each.dice, bool(told.look))
        for each in judged.predictions
        if (told := each.expected).expected_dice is not None and not isnan(each.dice)
    ]
    note = (
        "a dot is a structure of a case, a coloured one was to be looked at; on the line it is as "
        f"good as expected; dashed is Dice {BAD_BELOW:g}"
    )
    return [("True Dice over expected Dice", note, scatter_plot(points, BAD_BELOW))]


def comparison_page(comparison: PairedComparison) -> str:
    """Return the report of a comparison as one HTML file that needs no other."""
    names = [structure.name for structure in comparison.structures]
    cases = [case.name for case in comparison.first.cases]
    charts = []
    for metric in comparison.metrics:
        means = [(t.mean_difference, *t.interval_95) for t in comparison.tests[metric.key]]
        text = partial(table.signed, metric=metric)
        drawing = difference_plot(names, cases, comparison.differences(metric), means, text)
        side = "right" if metric.higher_is_better else "left"
        charts.append((f"{metric.title}: A minus B", f"A is better {side} of 0", drawing))
    dice = comparison.metrics[0]
    first, second, differences = (
        nanmean(values, 1).tolist()
        for values in (
            comparison.first.values(dice),
            comparison.second.values(dice),
            comparison.differences(dice),
        )
    )
    rows = zip(cases, first, second, differences, strict=True)
    return _rendered(
        "comparison.html.j2",
        comparison.first,
        title="Two predictions compared",
        charts=charts,
        comparison=comparison,
        cases=sorted(rows, key=lambda row: (isnan(row[-1]), row[-1])),
        test_policy=TEST,
    )


def page_environment(*packages: str) -> Environment:
    """Return what renders the templates of `packages`, and those of evaluations."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "transunet.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _rendered(template: str, evaluation: Evaluation, **content: Any) -> str:
    environment = page_environment()
    environment.globals |= {"colour_of": colour_of, "audit_columns": table.AUDIT_COLUMNS}
    environment.filters |= {
        "number": table.number,
        "interval": table.interval,
        "signed": table.signed,
        "signed_interval": partial(table.interval, text=table.signed),
        "p_text": table.p_text,
        "audit_figures": table.audit_figures,
        "millilitres": lambda ml: f"{ml:.{0 if ml >= 100 else 1 if ml >= 10 else 2}f}",
    }
    return environment.get_template(template).render(
        evaluation=evaluation, made=provenance(evaluation), **content
    )
