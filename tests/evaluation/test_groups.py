"""Figures group by group, from tables as people write them."""

import json
from dataclasses import replace
from math import nan

import numpy as np
import pytest

from transunet.errors import ConfigError, DataError
from transunet.evaluation import report
from transunet.evaluation.groups import group_evaluation, read_group_table
from transunet.evaluation.pages import report_page

DICE = [[0.9, 0.8]] * 12 + [[0.6, 0.5]] * 11 + [[0.1, nan]] * 2  # case00 ... case24


@pytest.fixture
def grouped(evaluation_of, tmp_path):
    """Group the evaluation of `DICE` by a table of these lines."""

    def make(*lines, name="groups.csv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return group_evaluation(evaluation_of(DICE), read_group_table(tmp_path / name))

    return make


def rows(*columns):
    """A line per case: its number and what each column makes of it."""
    return [
        ",".join([f"case{i:02d}", *(str(column(i)) for column in columns)])
        for i in range(len(DICE))
    ]


def test_the_worst_group_is_named_against_all_others(grouped):
    found = grouped("case,scanner", *rows(lambda i: "A" if i < 12 else "B" if i < 23 else "C"))
    (grouping,) = found.groupings
    means = {g.name: g.metrics["dice"].mean_foreground for g in grouping.groups}
    assert means == {"A": pytest.approx(0.85), "B": pytest.approx(0.55), "C": pytest.approx(0.1)}
    assert [group.is_enough for group in grouping.groups] == [True, True, False]  # 2 cases of C
    # Liver: (12 x 0.9 + 2 x 0.1) / 14, spleen: 0.8, of the cases that are not B's.
    assert grouping.worst.name == "B"
    assert grouping.worst.difference == pytest.approx(0.55 - ((10.8 + 0.2) / 14 + 0.8) / 2)
    low, high = grouping.worst.interval_95
    assert low <= grouping.worst.difference <= high < 0
    assert "scanner: worst is B, Dice -0.243" in found.sentences[0]


def test_numbers_are_cut_into_bins_and_few_of_them_are_not(grouped):
    found = grouped("case,age,sex", *rows(lambda i: 20 + i, lambda i: i % 2))
    age, sex = found.groupings
    assert age.is_cut
    assert [group.name for group in age.groups] == ["20 to 28", "29 to 36", "37 to 44"]
    assert [len(group.cases) for group in age.groups] == [9, 8, 8]
    assert age.worst is None  # no bin has ten subjects
    assert "too few to tell" in age.text
    assert not sex.is_cut
    assert {group.name: len(group.cases) for group in sex.groups} == {"0": 13, "1": 12}


def test_a_bids_table_and_cases_on_one_side_only(evaluation_of, tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tsex\nsub-1\tF\nsub-11\tM\nsub-2\tn/a\nsub-9\tF\n")
    evaluation = evaluation_of([[0.9], [0.8], [0.7], [0.6]], names=("liver",))
    names = ["sub-1_ses-1_T1w", "sub-11/anat/sub-11_T1w", "sub-2", "sub-3"]
    cases = [replace(case, name=name) for case, name in zip(evaluation.cases, names, strict=True)]
    evaluation = replace(evaluation, cases=tuple(cases))
    found = group_evaluation(evaluation, read_group_table(path))
    (grouping,) = found.groupings
    assert {g.name: g.cases for g in grouping.groups} == {"F": (names[0],), "M": (names[1],)}
    assert grouping.unknown == ("sub-2",)
    assert (found.not_listed, found.not_measured) == (("sub-3",), ("sub-9",))
    assert "in " + str(path) + " (1): sub-9" in found.sentences[-1]


def test_a_subject_is_drawn_with_all_its_cases(evaluation_of, tmp_path):
    # Each subject's five scans are alike: twelve subjects tell no more than twelve cases would.
    values = np.linspace(0.5, 0.9, 12)
    (tmp_path / "t.csv").write_text(
        "case,site\n" + "".join(f"p{index:02d},{'AB'[index >= 6]}\n" for index in range(12))
    )
    evaluations = []
    for scans in (1, 5):
        evaluation = evaluation_of(np.repeat(values, scans)[:, None], names=("liver",))
        cases = tuple(
            replace(case, name=f"p{index // scans:02d}_{index % scans}")
            for index, case in enumerate(evaluation.cases)
        )
        evaluations.append(replace(evaluation, cases=cases))
    once, often = (
        group_evaluation(each, read_group_table(tmp_path / "t.csv")).groupings[0].groups[0]
        for each in evaluations
    )
    assert (once.subjects, len(once.cases)) == (6, 6)
    assert (often.subjects, len(often.cases)) == (6, 30)
    assert not often.is_enough
    expected = once.metrics["dice"]
    assert often.metrics["dice"].interval_95 == pytest.approx(expected.interval_95)


def test_groups_are_in_json_and_page(grouped, evaluation_of):
    evaluation = evaluation_of(DICE)
    found = grouped("case;site", *(f"case{i:02d};{'AB'[i % 2]}" for i in range(25)))
    written = json.loads(json.dumps(report.to_json(evaluation, grouped=found), allow_nan=False))
    first, _ = written["groups"]["groupings"][0]["groups"]
    assert (first["name"], len(first["cases"])) == ("A", 13)
    liver = np.mean([DICE[i][0] for i in range(0, 25, 2)])
    assert first["structures"][0]["dice"]["mean"] == pytest.approx(liver)
    assert "Group by group" in report_page(evaluation, {}, grouped=found)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["case00", "case01"], "Expected CSV or TSV"),
        ([], "Expected CSV or TSV"),
        (["case,sex", "case00,M", "case00,F"], "line 3: case00 comes twice"),
        (["case,sex", "case00,M,3"], "line 2: it has 3 values"),
        (["case,sex", "someone,M"], "none of the measured cases"),
    ],
)
def test_other_tables_are_refused(grouped, lines, says):
    with pytest.raises(DataError, match=says):
        grouped(*lines)


def test_a_missing_or_binary_table_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no table of groups"):
        read_group_table(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="cannot be read as text"):
        read_group_table(tmp_path / "image.csv")
