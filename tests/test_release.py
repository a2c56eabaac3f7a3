"""The release workflow can be read, and what it runs is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RELEASE = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_targets_that_are_there(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    ran = " ".join(step.get("run", "") for step in steps(yaml.safe_load(path.read_text())))
    targets = re.findall(r"\bmake ([\w-]+)", ran)
    assert targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.M)] == []


def test_only_publishing_may_write_and_what_it_needs() -> None:
    assert RELEASE["permissions"] == {}
    permissions = {name: job["permissions"] for name, job in RELEASE["jobs"].items()}
    assert permissions == {
        "build": {"contents": "read"},
        "test": {"contents": "read"},
        "publish": {"id-token": "write", "attestations": "write"},
        "github": {"contents": "write"},
    }
    assert RELEASE["jobs"]["publish"]["if"] == "github.ref_type == 'tag'"
    assert RELEASE["jobs"]["publish"]["environment"] == "pypi"


def test_every_action_names_its_version_and_no_secret_is_used() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    used = [step["uses"] for step in steps(RELEASE) if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1|[0-9a-f]{40})", use) for use in used)
    assert "secrets." not in text


def test_jobs_wait_for_each_other_and_take_what_others_leave() -> None:
    jobs = RELEASE["jobs"]
    assert [jobs[name]["needs"] for name in ("test", "publish", "github")] == [
        *("build", "test", "publish")
    ]
    left = {s["with"]["name"] for s in steps(RELEASE) if "upload-artifact" in s.get("uses", "")}
    taken = {
        s["with"].get("name") for s in steps(RELEASE) if "download-artifact" in s.get("uses", "")
    }
    assert taken - {None} == left == {"dist", "sbom"}
