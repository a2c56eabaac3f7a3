"""The HTML report: what it shows, that it needs nothing else, that it escapes what it is given."""

import re
from html.parser import HTMLParser
from math import nan

import numpy as np
import pytest

from transunet.evaluation.charts import box_plots, difference_plot
from transunet.evaluation.pages import report_page
from transunet.evaluation.pictures import CasePicture

VOID = {"meta", "input", "br", "img"}
DICE = [[0.95, 0.8], [0.91, nan], [0.93, 0.85], [0.2, 0.9]]
HOSTILE = "<script>alert(1)</script>\"'&"


class Strict(HTMLParser):
    """Checks that every element is closed in order; keeps texts and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.attributes, self.names = [], [], [], []

    def handle_starttag(self, name, attributes):
        self.names.append(name)
        self.attributes += [(name, *attribute) for attribute in attributes]
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.names.append(name)
        self.attributes += [(name, *attribute) for attribute in attributes]

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)


def parsed(text):
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def text_of(content):
    return re.sub(r"\s+", " ", " ".join(parsed(content).texts))


def picture_of(name):
    return CasePicture({"image": "data:image/svg+xml;base64,"}, f"picture of {name}")


def test_the_page_is_well_formed_and_needs_nothing_else(evaluation_of):
    content = report_page(evaluation_of(DICE), {"case03": picture_of("case03")})
    assert content.startswith("<!doctype html>")
    found = parsed(content)
    assert not {"script", "link", "iframe"} & set(found.names)
    addresses = [value for _, name, value in found.attributes if name in ("src", "href", "action")]
    assert all(value.startswith("data:") for value in addresses)
    assert "@import" not in content
    assert "url(" not in content
    assert "http://" not in content
    assert "https://" not in content
    assert "default-src 'none'" in content
    assert "prefers-color-scheme: dark" in content


def test_the_page_says_what_was_found_and_how(evaluation_of):
    evaluation = evaluation_of(DICE)
    text = text_of(report_page(evaluation, {}))
    low, high = evaluation.summaries["dice"].interval_95
    assert "Mean foreground Dice" in text
    assert f"{evaluation.summaries['dice'].mean_foreground:.3f}" in text
    assert f"{low:.3f} to {high:.3f}" in text
    assert "empty in both, not counted: 1" in text
    assert "3 of 4" in text
    assert evaluation.policy.partition(".")[0] in text
    assert "the image's diagonal" in text
    assert "bootstrap resamples" in text
    assert "mean over classes of each class's mean over cases" in text
    assert "transunet" in text


def test_each_metric_has_box_plots_with_a_dot_per_counted_case(evaluation_of):
    evaluation = evaluation_of(DICE)
    drawings = re.findall(r"<svg class=\"chart\".*?</svg>", report_page(evaluation, {}))
    assert len(drawings) == len(evaluation.metrics) + 1
    marks = [len(re.findall('class="(?:dot|beyond)', drawing)) for drawing in drawings]
    assert marks == [7] * len(drawings)
    assert [drawing.count('class="box"') for drawing in drawings] == [2] * 5 + [0]


def test_the_worst_cases_come_first_with_their_pictures(evaluation_of):
    figures = {name: picture_of(name) for name in ("case03", "case02")}
    text = text_of(report_page(evaluation_of(DICE), figures))
    assert text.index("picture of case03") < text.index("picture of case02")
    assert "The 2 worst of 4 cases are shown." in text
    table = text[text.index("All cases") :]
    order = sorted(range(4), key=lambda index: table.index(f"case0{index}"))
    assert order == [3, 0, 2, 1]


def test_without_pictures_there_is_no_such_section(evaluation_of):
    assert "Worst cases first" not in report_page(evaluation_of(DICE), {})


def test_the_official_convention_is_a_banner(evaluation_of):
    content = report_page(evaluation_of([[0.5, 0.5]], convention="official"), {})
    warning = re.search(r'<p class="warning">(.*?)</p>', content)[1]
    assert "Official convention" in warning
    assert "voxels" in warning
    assert 'class="warning"' not in report_page(evaluation_of(DICE), {})


def test_references_left_out_are_a_banner(evaluation_of):
    content = report_page(evaluation_of(DICE, left_out=tuple("xyz")), {})
    assert "References without a prediction, left out as asked (3): x, y, z" in text_of(content)


def test_a_single_case_has_a_page(evaluation_of):
    text = text_of(report_page(evaluation_of([[0.5, nan]]), {}))
    assert "no case counts" in text


def test_everything_given_is_escaped(evaluation_of):
    evaluation = evaluation_of(
        [[0.5, 0.6]], names=(HOSTILE, "b"), predictions=HOSTILE, left_out=(HOSTILE,)
    )
    found = parsed(report_page(evaluation, {}))
    assert "script" not in found.names
    assert any(HOSTILE in text for text in found.texts)


def rows(values, names=("a", "b")):
    values = np.asarray(values, dtype=float)
    return names[: values.shape[1]], [f"c{i}" for i in range(len(values))], values


def attribute(drawing, kind, name):
    pattern = rf'<\w+ class="{kind}"[^>]*? {name}="([-\d.]+)"'
    return [float(value) for value in re.findall(pattern, drawing)]


def test_a_box_holds_the_quartiles_and_whiskers_end_within_reach():
    # Quartiles of 0 to 4 and 20 are 1.25 and 3.75, so whiskers reach at most 7.5: to 0 and 4.
    drawing = box_plots(*rows([[v] for v in (0, 1, 2, 3, 4, 20)]), str, share=False)
    ticks = dict(
        zip(
            (float(t) for t in re.findall(r'class="tick"[^>]*>([-\d.]+)<', drawing)),
            attribute(drawing, "tick", "x"),
            strict=True,
        )
    )
    unit = (ticks[4.0] - ticks[0.0]) / 4
    (left,), (width,) = attribute(drawing, "box", "x"), attribute(drawing, "box", "width")
    assert (left - ticks[0.0]) / unit == pytest.approx(1.25, abs=0.01)
    assert width / unit == pytest.approx(2.5, abs=0.01)
    ends = re.search(r'class="whisker" d="M([\d.]+) [\d.]+H[\d.]+M[\d.]+ [\d.]+H([\d.]+)"', drawing)
    assert float(ends[1]) == pytest.approx(ticks[0.0], abs=0.02)
    assert float(ends[2]) == pytest.approx(ticks[4.0], abs=0.02)
    (median,) = attribute(drawing, "median", "x1")
    assert (median - ticks[0.0]) / unit == pytest.approx(2.5, abs=0.01)


def test_a_far_case_is_a_triangle_at_the_edge_with_its_value():
    drawing = box_plots(*rows([[1], [1.1], [1.2], [1.3], [90]]), "{:.1f}".format, share=False)
    assert drawing.count('class="beyond"') == 1
    assert re.search(r'class="beyond"[^>]*><title>c4: 90\.0</title>', drawing)
    assert drawing.count('class="dot"') == 4


def test_shares_end_at_one():
    drawing = box_plots(*rows([[0.95], [0.97], [0.99]]), str, share=True)
    ticks = [float(t) for t in re.findall(r'class="tick"[^>]*>([-\d.]+)<', drawing)]
    assert (ticks[0], ticks[-1]) == (0.9, 1)
    assert "beyond" not in drawing


@pytest.mark.parametrize("values", [[[0.0]], [[1.0], [1.0]], [[nan], [nan]], [[1e-7]], [[1e6]]])
@pytest.mark.parametrize("share", [True, False])
def test_charts_of_odd_values_can_be_drawn(values, share):
    drawing = box_plots(*rows(values), str, share)
    parsed(drawing)
    assert "nan" not in drawing
    assert "inf" not in drawing


def test_differences_are_drawn_around_zero_with_their_mean():
    drawing = difference_plot(*rows([[0.1], [0.3], [-0.1]]), [(0.1, -0.02, 0.25)], "{:+.1f}".format)
    (zero,) = attribute(drawing, "zero", "x1")
    dots = attribute(drawing, "dot", "cx")
    assert [dot > zero for dot in dots] == [True, True, False]
    assert '<path class="interval"' in drawing
    assert '<path class="mean"' in drawing
    nothing = difference_plot(*rows([[nan]]), [(nan, nan, nan)], str)
    assert 'class="mean"' not in nothing


def test_names_and_cases_are_escaped_in_charts():
    hostile = [HOSTILE], [HOSTILE], np.array([[0.5]])
    for drawing in (
        box_plots(*hostile, str, True),
        difference_plot(*hostile, [(0.5, nan, nan)], str),
    ):
        assert "script" not in parsed(drawing).names


def test_long_names_are_cut_and_kept_in_a_hint():
    name = "inferior vena cava and portal vein"
    drawing = box_plots(*rows([[0.5]], names=(name,)), str, True)
    assert f"<title>{name}</title>" in drawing
    assert "inferior vena cava …" in drawing
