"""Builds the page of `transunet serve` into the package, where Node is there to do it.

A package without the page is complete but for the page, so nothing here fails a build.
"""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Runs `web/build_page.py` before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page, or say why not."""
        script = Path(self.root) / "web" / "build_page.py"
        if not script.is_file():
            return
        spec = importlib.util.spec_from_file_location("build_page", script)
        assert spec is not None
        assert spec.loader is not None
        build_page = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build_page)
        if problem := build_page.bring_up_to_date():
            self.app.display_warning(build_page.explain(problem))
