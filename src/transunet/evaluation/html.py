"""An evaluation as a page to read: figures, box plots, and the worst cases with their pictures."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isnan

from transunet.drawing.colours import colour_of
from transunet.evaluation import html_page
from transunet.evaluation.bootstrap import Values, bootstrap_interval, nanmean
from transunet.evaluation.charts import Rows, box_plots, difference_plot
from transunet.evaluation.html_page import Content, Markup, tag
from transunet.evaluation.overlay import legend
from transunet.evaluation.records import CaseRecord, Evaluation, Metric
from transunet.evaluation.report import provenance
from transunet.evaluation.table import number

DEFINITIONS: Mapping[str, tuple[str, str]] = {
    "dice": ("Dice", "2 |P ∩ R| / (|P| + |R|): shared voxels of prediction and reference, 0 to 1."),
    "iou": ("IoU", "Shared voxels over the voxels of either, 0 to 1; Dice = 2 IoU / (1 + IoU)."),
    "hd95": (
        "HD95",
        "Distances from each surface voxel of the one to the nearest of the other, both ways in "
        "one pool; its 95th percentile. Surface: voxels with a face neighbour outside.",
    ),
    "assd": ("ASSD", "The mean of the same pool of distances."),
    "nsd": ("NSD", "The share of the same pool within the tolerance, 0 to 1."),
}
"""Per field of `ClassMetrics`, its name and how it is defined."""


def report_page(evaluation: Evaluation, figures: Mapping[str, Markup]) -> str:
    """Return the whole report.

    Args:
        evaluation: what to report.
        figures: case name -> picture, from `overlay.figure`, for the worst cases.
    """
    body = [
        *_head(evaluation),
        _structures(evaluation),
        _charts(evaluation),
        *_worst(evaluation, figures),
        _all_cases(evaluation),
        method(evaluation),
    ]
    return html_page.page("Segmentation report", body)


def method(evaluation: Evaluation, more: Sequence[tuple[str, str]] = ()) -> Markup:
    """How the figures were made: the policy, each metric, what made them and when."""
    made = provenance(evaluation)
    terms = [DEFINITIONS[metric.field] for metric in evaluation.metrics]
    terms += [
        ("Empty structures", made["policy"]),
        ("Means", made["aggregation"]),
        ("Intervals", made["interval"]),
        *more,
    ]
    versions = ", ".join(f"{name} {one}" for name, one in made["versions"].items())
    return tag(
        "section",
        html_page.section("How these figures are made", "", html_page.definitions(terms)),
        tag("footer", f"Made {made['created']} by {versions}."),
    )


def banner(evaluation: Evaluation) -> list[Markup]:
    """Return what must be read before any figure: how both were made alike, what is left out."""
    parts = [tag("p", note, class_="warning") for note in evaluation.notes]
    if evaluation.convention == "official":
        parts.append(
            tag("p", tag("strong", "Official convention. "), evaluation.policy, class_="warning")
        )
    if evaluation.left_out:
        listed = ", ".join(evaluation.left_out[:12])
        more = ", …" if len(evaluation.left_out) > 12 else ""
        count = len(evaluation.left_out)
        text = f"References without a prediction, left out as asked ({count}): {listed}{more}"
        parts.append(tag("p", text, class_="warning"))
    return parts


def interval_text(low: float, high: float, metric: Metric) -> str:
    """An interval as text, empty where there is none."""
    return "" if isnan(low) else f"{number(low, metric)} to {number(high, metric)}"


def _head(evaluation: Evaluation) -> list[Markup]:
    subject = tag(
        "p",
        tag("span", evaluation.predictions, class_="path"),
        " against ",
        tag("span", evaluation.references, class_="path"),
        class_="soft",
    )
    return [tag("h1", "Segmentation report"), subject, *banner(evaluation), _tiles(evaluation)]


def _tiles(evaluation: Evaluation) -> Markup:
    shown = [m for m in evaluation.metrics if m.field in ("dice", "hd95", "nsd")]
    found = [(metric, evaluation.summaries[metric.key]) for metric in shown]
    figures = [
        html_page.tile(
            f"Mean foreground {metric.title}",
            number(one.mean_foreground, metric),
            _ranged("95 % interval ", interval_text(*one.interval_95, metric)),
            lead=index == 0,
        )
        for index, (metric, one) in enumerate(found)
    ]
    uncounted = sum(one.not_counted for one in found[0][1].structures)
    many = len(evaluation.structures)
    note = f"{many} structure{'s' if many > 1 else ''}"
    if evaluation.convention == "honest":
        note += f"; empty in both, not counted: {uncounted}"
    return html_page.tiles(*figures, html_page.tile("Cases", str(len(evaluation.cases)), note))


def _ranged(label: str, interval: str) -> str:
    return label + interval if interval else ""


def _structures(evaluation: Evaluation) -> Markup:
    head = ["Structure", "Cases counted", *(metric.title for metric in evaluation.metrics)]
    rows: list[list[Content]] = []
    for index, structure in enumerate(evaluation.structures):
        found = [(m, evaluation.summaries[m.key].structures[index]) for m in evaluation.metrics]
        counted = f"{found[0][1].counted} of {len(evaluation.cases)}"
        rows.append(
            [
                _named(index, structure.name),
                counted,
                *(
                    html_page.value_with_range(
                        _spread(one.mean, one.sd, metric), interval_text(*one.interval_95, metric)
                    )
                    for metric, one in found
                ),
            ]
        )
    return html_page.section(
        "Structures",
        "Mean ± standard deviation over cases; below it the 95 % interval of the mean.",
        html_page.table(head, rows, _foreground_row(evaluation)),
    )


def _foreground_row(evaluation: Evaluation) -> list[Content]:
    found = [(metric, evaluation.summaries[metric.key]) for metric in evaluation.metrics]
    return [
        "Mean of the structures",
        "",
        *(
            html_page.value_with_range(
                number(one.mean_foreground, metric), interval_text(*one.interval_95, metric)
            )
            for metric, one in found
        ),
    ]


def _spread(mean: float, sd: float, metric: Metric) -> str:
    text = number(mean, metric)
    return text if isnan(sd) else f"{text} ± {number(sd, metric)}"


def _charts(evaluation: Evaluation) -> Markup:
    drawn = [_box_plots(evaluation, metric) for metric in evaluation.metrics]
    intro = (
        "A dot is a case; point at it for its name. The box holds the middle half of the cases, "
        "the thick line is the median, whiskers reach the last case within 1.5 box lengths. A "
        "triangle at the edge is a case far off the axis."
    )
    charts = tag("div", *drawn, _volume_chart(evaluation), class_="charts")
    return html_page.section("Spread over cases", intro, charts)


def _box_plots(evaluation: Evaluation, metric: Metric) -> Markup:
    drawing = box_plots(
        _rows(evaluation, evaluation.values(metric)),
        partial(number, metric=metric),
        share=metric.field not in ("hd95", "assd"),
    )
    note = "higher is better" if metric.higher_is_better else "lower is better"
    return html_page.chart(metric.title, note, drawing)


def _volume_chart(evaluation: Evaluation) -> Markup:
    errors = evaluation.volume_errors()
    means = [(float(nanmean(column, 0)), *bootstrap_interval(column)) for column in errors.T]
    drawing = difference_plot(_rows(evaluation, errors), means, "{:+.3g} ml".format)
    note = "prediction minus reference; the diamond is the mean, the bar its 95 % interval"
    return html_page.chart("Volume error (ml)", note, drawing)


def _rows(evaluation: Evaluation, values: Values) -> Rows:
    names = [one.name for one in evaluation.structures]
    return Rows(names, [case.name for case in evaluation.cases], values)


def _worst(evaluation: Evaluation, figures: Mapping[str, Markup]) -> list[Markup]:
    shown = [(case, mean) for case, mean in evaluation.ranked() if case.name in figures]
    if not shown:
        return []
    cards = [_card(evaluation, case, mean, figures[case.name]) for case, mean in shown]
    intro = (
        "By mean Dice of the case's structures. Each picture is the slice in which most voxels are "
        "wrong; solid lines are the reference, dashed and filled the prediction."
    )
    if len(shown) < len(evaluation.cases):
        intro += f" The {len(shown)} worst of {len(evaluation.cases)} cases are shown."
    cases = tag("div", *cards, class_="cases")
    return [html_page.section("Worst cases first", intro, legend(), cases)]


def _card(evaluation: Evaluation, case: CaseRecord, mean: float, picture: Markup) -> Markup:
    shown = [m for m in evaluation.metrics if m.field in ("dice", "hd95", "nsd")]
    head = ["", *(metric.title.partition(" (")[0] for metric in shown), "ml (ref.)"]
    rows: list[list[Content]] = []
    for index, structure in enumerate(evaluation.structures):
        found = case.metrics[structure.key]
        if found.prediction_ml or found.reference_ml:
            figures = [number(getattr(found, metric.field), metric) for metric in shown]
            volumes = f"{_millilitres(found.prediction_ml)} ({_millilitres(found.reference_ml)})"
            rows.append([_named(index, structure.name), *figures, volumes])
    title = tag(
        "header",
        tag("h3", case.name),
        tag("span", f"{shown[0].title} {number(mean, shown[0])}", class_="figure"),
    )
    return tag(
        "article", title, picture, html_page.table(head, rows, framed=False), class_="card case"
    )


def _millilitres(volume: float) -> str:
    return f"{volume:.{0 if volume >= 100 else 1 if volume >= 10 else 2}f}"


def _all_cases(evaluation: Evaluation) -> Markup:
    metric = evaluation.metrics[0]
    rows = [
        [
            case.name,
            number(mean, metric),
            *(number(case.metrics[one.key].dice, metric) for one in evaluation.structures),
        ]
        for case, mean in evaluation.ranked()
    ]
    head = ["Case", "mean", *(one.name for one in evaluation.structures)]
    return html_page.section(
        "All cases",
        f"{metric.title} per case and structure, the worst case first. All metrics and the volumes "
        "are in metrics.csv and metrics.json beside this page.",
        html_page.table(head, rows),
    )


def _named(index: int, name: str) -> Markup:
    swatch = tag("span", class_="swatch", style=f"background:{colour_of(index)}")
    return Markup(swatch.text + html_page.html(name))
