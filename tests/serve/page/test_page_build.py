"""The built page: current, complete, the same bytes every time, and in the wheel."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from browsing import BUILT, WEB

ROOT = WEB.parent


@pytest.fixture
def build_page() -> ModuleType:
    if not WEB.is_dir():
        pytest.skip("no web/ here: this is not a checkout")
    spec = importlib.util.spec_from_file_location("build_page", WEB / "build_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def manifest() -> dict[str, Any]:
    if not (BUILT / "manifest.json").is_file():
        pytest.skip("the page is not built: run `make web`")
    return dict(json.loads((BUILT / "manifest.json").read_text(encoding="utf-8")))


def test_the_page_is_current(build_page: ModuleType, manifest: dict[str, Any]) -> None:
    assert manifest["sources"] == build_page.sources_hash(), (
        "web/ has changed since the page was built: run `make web`"
    )
    assert build_page.is_current()
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((BUILT / name).read_bytes()).hexdigest() == digest, name


def test_any_change_is_noticed(build_page: ModuleType, tmp_path: Path) -> None:
    copy = tmp_path / "web"
    shutil.copytree(WEB, copy, ignore=shutil.ignore_patterns("node_modules"))
    before = build_page.sources_hash(copy)
    assert before == build_page.sources_hash()
    (copy / "src" / "style.css").write_text("/* changed */", encoding="utf-8")
    assert build_page.sources_hash(copy) != before


def test_building_again_gives_the_same_bytes(
    build_page: ModuleType, manifest: dict[str, Any], tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None or not (WEB / "node_modules" / "esbuild").is_dir():
        pytest.skip("building again needs Node and web/node_modules: run `make web`")
    subprocess.run([node, WEB / "build.mjs", tmp_path / "page"], check=True, cwd=tmp_path)
    again = json.loads((tmp_path / "page" / "manifest.json").read_text(encoding="utf-8"))
    assert again == manifest


def test_it_asks_for_nothing_else(manifest: dict[str, Any]) -> None:
    html = (BUILT / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|<style|\son\w+=", html)
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    assert "@import" not in (BUILT / "style.css").read_text(encoding="utf-8")
    policy = (BUILT / "csp.txt").read_text(encoding="utf-8")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_every_package_in_it_comes_with_its_licence(manifest: dict[str, Any]) -> None:
    text = (BUILT / "licences.txt").read_text(encoding="utf-8")
    assert re.search(r"^@niivue/niivue [\d.]+ \(BSD-2-Clause\)$", text, re.MULTILINE)
    assert "Copyright (c) 2021, Niivue" in text
    for package in ("fflate", "gl-matrix", "nifti-reader-js"):
        assert re.search(rf"^{package} [\d.]+ \(MIT\)$", text, re.MULTILINE), package


def test_without_node_it_is_said_and_nothing_fails(
    build_page: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(build_page.SKIP, raising=False)
    monkeypatch.setattr(build_page, "is_current", lambda: False)
    monkeypatch.setattr(build_page.shutil, "which", lambda name: None)
    problem = build_page.bring_up_to_date()
    assert problem == "Node (with npm) is not installed"
    assert "make web" in build_page.explain(problem)
    assert "API" in build_page.explain(problem)


def test_a_build_that_fails_is_told(build_page: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.delenv(build_page.SKIP, raising=False)
    monkeypatch.setattr(build_page, "is_current", lambda: False)
    monkeypatch.setattr(build_page.shutil, "which", lambda name: "/bin/false")
    assert build_page.bring_up_to_date().startswith("`npm ci ")


def test_the_wheel_holds_the_page(
    manifest: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling")
    monkeypatch.setenv("TRANSUNET_PAGE", "skip")  # as it is
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        names = {name for name in archive.namelist() if name.startswith("transunet/serve/page/")}
    assert names == {
        f"transunet/serve/page/{name}" for name in (*manifest["files"], "manifest.json")
    }
