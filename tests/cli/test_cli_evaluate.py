"""`transunet evaluate` as it is typed: what it prints, writes and refuses."""

import base64
import csv
import json
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from small_data import describe_decathlon
from transunet.cli.evaluate import EXAMPLE, evaluate
from transunet.errors import ConfigError, DataError, GeometryError

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])

app = typer.Typer()
app.command(epilog=EXAMPLE)(evaluate)


def label_map(shift=0, second=True):
    array = np.zeros((14, 10, 6), np.uint8)
    array[1 + shift : 5 + shift, 2:6, 1:4] = 1
    if second:
        array[7 + shift : 10 + shift, 5:9, 2:5] = 2
    return array


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def dataset(tmp_path):
    """A Decathlon data set of six cases; `p/` predicts all of them, `q/` worse."""
    folder = tmp_path / "dataset"
    names = [f"case_{index}" for index in range(6)]
    for index, name in enumerate(names):
        image = label_map().astype(np.int16) * 100 + index
        save(folder / "imagesTr" / f"{name}.nii.gz", image)
        save(folder / "labelsTr" / f"{name}.nii.gz", label_map())
        save(tmp_path / "p" / f"{name}.nii.gz", label_map(index % 2, second=index != 5))
        save(tmp_path / "q" / f"{name}.nii.gz", label_map(index % 2 + 1))
    return describe_decathlon(folder, ["liver", "spleen"], names, "CT")


@pytest.fixture
def run(monkeypatch):
    """Run the command at 100 columns; errors come back as they are raised."""
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments, error=None):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if error is None:
            assert result.exception is None, result.output
            return result.stdout
        assert isinstance(result.exception, error), result.output
        return str(result.exception)

    return invoke


def pictures_in(page):
    """How many of the page's pictures show an image, behind whatever outlines."""
    drawn = re.findall(r'<img class="image" src="data:image/svg\+xml;base64,([^"]+)"', page)
    return sum(b"data:image/png;base64," in base64.b64decode(one) for one in drawn)


def test_dice_per_class_and_case_and_the_last_line(dataset, run):
    out = run(dataset.parent / "p", dataset)
    row = next(line for line in out.splitlines() if "case_5" in line)
    assert row.split("│")[2].strip() == "0.750"
    assert row.split("│")[3].strip() == "0.000"
    assert "liver" in out
    assert "95 % interval" in out
    assert "the image's diagonal" in out
    # liver (1 + 0.75) / 2; spleen: three times 1, twice 2/3, once 0.
    mean = ((1 + 0.75) / 2 + (3 + 2 * 2 / 3) / 6) / 2
    assert out.splitlines()[-1] == f"mean foreground Dice {mean:.3f}"


def test_reports_are_written(dataset, run, tmp_path):
    out = run(dataset.parent / "p", dataset, "-o", tmp_path / "out", "--json", tmp_path / "m.json")
    assert "report.html" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.csv",
        "metrics.json",
        "report.html",
    ]
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["structures"][0]["name"] == "liver"
    assert content["cases"][0]["structures"][0]["hd95_mm"] == 0
    assert content["cases"][0]["structures"][0]["reference_volume_ml"] == pytest.approx(0.096)
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    page = (tmp_path / "out" / "report.html").read_text()
    assert pictures_in(page) == 6  # the data set's own images
    assert page.index("case_5") < page.index("<h3>case_1")


def test_pictures_can_be_fewer(dataset, run, tmp_path):
    run(dataset.parent / "p", dataset, "-o", tmp_path / "out", "--pictures", 2)
    page = (tmp_path / "out" / "report.html").read_text()
    assert pictures_in(page) == 2
    assert "The 2 worst of 6 cases" in page


def test_files_and_folders_of_label_maps(dataset, run, tmp_path):
    labels = dataset / "labelsTr"
    out = run(tmp_path / "p" / "case_1.nii.gz", labels / "case_1.nii.gz")
    assert "label 1" in out
    assert out.splitlines()[-1] == f"mean foreground Dice {(0.75 + 2 / 3) / 2:.3f}"
    named = run(tmp_path / "p", labels, "--labels", dataset / "dataset.json")
    assert "spleen" in named


def test_images_given_by_hand(dataset, run, tmp_path):
    labels, images = dataset / "labelsTr", dataset / "imagesTr"
    run(tmp_path / "p", labels, "-o", tmp_path / "without")
    run(tmp_path / "p", labels, "--images", images, "-o", tmp_path / "with")
    without, shown = ((tmp_path / name / "report.html").read_text() for name in ("without", "with"))
    assert (pictures_in(without), pictures_in(shown)) == (0, 6)
    assert without.count('<img class="reference"') == 6


def test_without_matplotlib_the_page_says_how_to_get_pictures(dataset, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run(tmp_path / "p", dataset, "-o", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img" not in page
    assert "There are no pictures." in page
    assert "pip install &#39;transunet-torch[train]&#39;" in page
    assert "show-reference" not in page.partition("</style>")[2]
    assert page.index("case_5") < page.index("<h3>case_1")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_names_from_a_bundle(dataset, run, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    labels = {"labels": {"0": "background", "1": "aorta", "2": "stomach"}}
    (bundle / "config.json").write_text(json.dumps(labels))
    assert "stomach" in run(tmp_path / "p", dataset / "labelsTr", "--labels", bundle)


def test_the_official_convention_is_labelled(dataset, run, tmp_path):
    out = run(tmp_path / "p", dataset, "--convention", "official", "--json", tmp_path / "m.json")
    assert "Dice (official)" in out
    assert "only for comparison with the paper" in out
    assert out.splitlines()[-1].endswith("(official convention)")
    case = json.loads((tmp_path / "m.json").read_text())["cases"][5]
    spleen = case["structures"][1]
    assert (spleen["dice_official"], spleen["hd95_official_voxels"]) == (0, 0)


def test_the_tolerance_is_used_and_stated(dataset, run, tmp_path):
    for tolerance in (0.5, 1):
        out = run(
            *(tmp_path / "p", dataset, "--tolerance-mm", tolerance, "--json", tmp_path / "m.json")
        )
        assert f"within {tolerance:g} mm" in out
        content = json.loads((tmp_path / "m.json").read_text())
        nsd = content["cases"][1]["structures"][0]["nsd"]
        assert (nsd == 1) == (tolerance == 1)


def test_two_predictions_are_compared(dataset, run, tmp_path):
    out = run(tmp_path / "p", tmp_path / "q", dataset, "-o", tmp_path / "c")
    assert "Dice: A minus B" in out
    assert "Wilcoxon signed-rank" in out
    assert "p (Holm)" in out
    row = next(line for line in out.splitlines() if "liver" in line)
    assert "6/0" in row
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "comparison.csv",
        "comparison.html",
        "comparison.json",
    ]
    content = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert content["structures"][0]["dice"]["p_value"] == pytest.approx(2 / 64)
    assert out.splitlines()[-2].startswith("A (")
    assert out.splitlines()[-1].startswith("B (")


def test_labels_that_only_one_of_two_predictions_has(dataset, run, tmp_path):
    for index in range(6):
        path = tmp_path / "q" / f"case_{index}.nii.gz"
        save(path, np.where(label_map() == 2, 3, label_map()).astype(np.uint8))
    run(tmp_path / "p", tmp_path / "q", dataset / "labelsTr", "--json", tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    assert [one["name"] for one in content["structures"]] == ["label 1", "label 2", "label 3"]
    assert content["structures"][2]["dice"]["only_one"] == 6


def test_a_subset_is_evaluated_when_asked_for(dataset, run, tmp_path):
    (tmp_path / "p" / "case_2.nii.gz").unlink()
    message = run(tmp_path / "p", dataset, error=DataError)
    assert "1 of 6 references" in message
    assert "case_2" in message
    out = run(tmp_path / "p", dataset, "--subset", "-o", tmp_path / "out")
    assert "References without a prediction, left out as asked: 1" in out
    assert "left out as asked (1): case_2" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.process
def test_several_processes(dataset, run, tmp_path):
    run(tmp_path / "p", dataset, "--json", tmp_path / "one.json")
    run(tmp_path / "p", dataset, "--json", tmp_path / "two.json", "--workers", 2)
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["cases"] == two["cases"]


def test_wrong_use_is_told(dataset, run, tmp_path):
    prediction = tmp_path / "p"
    assert "paths given: 1" in run(prediction, error=ConfigError)
    assert "paths given: 4" in run(*[prediction] * 4, error=ConfigError)
    assert "no prediction at" in run(tmp_path / "nowhere", dataset, error=ConfigError)
    assert "no reference at" in run(prediction, tmp_path / "nowhere", error=ConfigError)
    assert "tolerance" in run(prediction, dataset, "--tolerance-mm", -1, error=ConfigError)
    assert "No layout" in run(prediction, dataset, "--layout", "odd", error=ConfigError)
    assert "split" in run(prediction, dataset, "--split", "validation", error=ConfigError)
    assert "is a folder" in run(prediction, dataset, "--json", tmp_path, error=ConfigError)
    (tmp_path / "file").touch()
    message = run(prediction, dataset, "-o", tmp_path / "file" / "out", error=ConfigError)
    assert "Cannot write" in message


def test_what_cannot_be_compared_is_told_and_nothing_is_written(dataset, run, tmp_path):
    out = tmp_path / "out"
    save(tmp_path / "p" / "case_3.nii.gz", label_map()[:, :, :5])
    message = run(tmp_path / "p", dataset, "-o", out, error=GeometryError)
    assert "Case case_3" in message
    save(tmp_path / "p" / "case_3.nii.gz", label_map() * np.float32(0.3))
    assert "not whole" in run(tmp_path / "p", dataset, "-o", out, error=DataError)
    save(tmp_path / "p" / "case_3.nii.gz", label_map() * np.uint8(4))
    assert "have no name: 4, 8" in run(tmp_path / "p", dataset, "-o", out, error=DataError)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no prediction here" in run(empty, dataset, "-o", out, error=DataError)
    assert not out.exists()


def test_help_shows_an_example(run):
    out = run("--help")
    assert "Example: transunet evaluate" in out


@pytest.mark.process
def test_the_command_module_imports_nothing_heavy():
    code = (
        "import sys, transunet.cli.evaluate;"
        "print([m for m in ('torch', 'scipy', 'numpy', 'nibabel') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.process
def test_evaluation_needs_no_torch():
    code = "import sys, transunet.evaluation.evaluate; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_an_audit_is_of_one_set_of_predictions_by_our_convention(dataset, run, tmp_path):
    out = run(tmp_path / "p", dataset, "--audit")
    assert "three conventions" in out
    assert "The authors' mean HD95 is" in out  # `case_5` misses its spleen
    for more in ([tmp_path / "q"], ["--convention", "official"]):
        message = run(tmp_path / "p", dataset, *more, "--audit", error=ConfigError)
        assert "one set of predictions" in message
    assert "--audit" in run(tmp_path / "p", dataset, "--run", tmp_path, error=ConfigError)
    message = run(tmp_path / "p", dataset, "--audit", "--run", tmp_path, error=ConfigError)
    assert "no validation is told" in message


def test_groups_are_read_before_the_work_and_are_of_one_set_of_predictions(dataset, run, tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("case,site\n" + "".join(f"case_{i},{'AB'[i % 2]}\n" for i in range(6)))
    out = run(tmp_path / "p", dataset, "--groups", table)
    assert "site: too few to tell" in out
    message = run(tmp_path / "p", tmp_path / "q", dataset, "--groups", table, error=ConfigError)
    assert "one set of predictions" in message
    table.write_text("case\n")
    assert "Expected CSV or TSV" in run("nowhere", dataset, "--groups", table, error=DataError)
