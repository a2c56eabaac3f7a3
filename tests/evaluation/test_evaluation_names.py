"""Label names from bundles and descriptions of data sets."""

import json

import pytest

from transunet.errors import ConfigError, DataError
from transunet.evaluation.records import Structure
from transunet.evaluation.structure_names import names_from


@pytest.fixture
def write(tmp_path):
    def make(content, name="config.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return make


LIVER, SPLEEN = Structure((1,), "liver"), Structure((2,), "spleen")


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "2": "spleen", "1": "liver"},
        {"background": 0, "liver": 1, "spleen": 2},
        {"background": [0], "spleen": [2], "liver": [1]},
    ],
)
def test_every_spelling_is_read(write, labels):
    assert names_from(write({"labels": labels})).structures == (LIVER, SPLEEN)


def test_regions_are_read(write):
    labels = {"background": 0, "whole": [2, 1], "core": 2}
    found = names_from(write({"labels": labels})).structures
    assert found == (Structure((1, 2), "whole"), Structure((2,), "core"))


def test_those_of_a_bundle_are_what_it_measures(write):
    regions = [{"name": "whole", "members": [1, 4], "label": 1}]
    labels = {"0": "background", "1": "whole", "4": "core"}
    found = names_from(write({"labels": labels, "regions": regions}))
    assert found.structures == (Structure((1, 4), "whole"),)
    assert found.labels == {0: "background", 1: "whole", 4: "core"}
    with pytest.raises(DataError, match="'regions' are damaged"):
        names_from(write({"labels": labels, "regions": ["whole"]}))


@pytest.mark.parametrize("name", ["config.json", "dataset.json"])
def test_a_folder_is_searched(write, tmp_path, name):
    write({"labels": {"0": "background", "1": "liver"}}, name)
    assert names_from(tmp_path).structures == (LIVER,)


@pytest.mark.parametrize(
    "content",
    ["{not json", "[1]", {}, {"labels": ["liver"]}, {"labels": {"liver": "one"}}, {"labels": {}},
     {"labels": {"0": "background"}}, {"labels": {"liver": -1}}, {"labels": {"liver": []}}],
)  # fmt: skip
def test_other_content_is_refused_by_name(write, content):
    with pytest.raises(DataError, match=r"config\.json"):
        names_from(write(content))


def test_missing_files_are_wrong_use(tmp_path):
    with pytest.raises(ConfigError, match="no labels at"):
        names_from(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"neither config\.json nor dataset\.json"):
        names_from(tmp_path)
