"""What the tests of the page share: a page that breaks no rule, and the steps that people take."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

WEB = Path(__file__).parents[1] / "web"
BUILT = Path(__file__).parents[1] / "src" / "transunet" / "serve" / "page"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    # The page around the canvas by the processor itself, which takes half the time.
    "--disable-gpu-compositing",
    "--disable-gpu-rasterization",
)
SECONDS = 20


def chromium() -> str | None:
    """Debian's browser, or None for Playwright's own."""
    return shutil.which("chromium") or (CHROMIUM if Path(CHROMIUM).exists() else None)


@contextmanager
def browser_or_skip() -> Iterator[Any]:
    """A browser with WebGL 2 but without a graphics card."""
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    if not (BUILT / "index.html").is_file():
        pytest.skip("the page is not built: run `make web`")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        except api.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}; `playwright install chromium`")
        yield browser
        browser.close()


class Viewer:
    """The page in a browser tab, which writes down every rule that it breaks."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.address = address
        self.broken: list[str] = []
        self.context = browser.new_context(
            **{"viewport": {"width": 840, "height": 500}, "accept_downloads": True, **options}
        )
        self.context.set_default_timeout(SECONDS * 1000)
        self.page = self.context.new_page()
        self._watch()

    def _watch(self) -> None:
        self.page.on("pageerror", lambda error: self.broken.append(f"error: {error}"))
        self.page.on("request", self._request)
        self.page.on("console", self._console)
        # From the start: a key that opens a dialog may be faster than a listener added for it.
        self.page.on("filechooser", lambda chooser: None)
        policy = (BUILT / "csp.txt").read_text(encoding="utf-8").strip()

        def stricter(route: Any) -> None:
            answer = route.fetch()
            route.fulfill(
                response=answer, headers={**answer.headers, "content-security-policy": policy}
            )

        self.page.route(f"{self.address}/", stricter)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.address}/", "blob:", "data:")):
            self.broken.append(f"request to {request.url}")

    def _console(self, message: Any) -> None:
        # A refused request is logged by the browser itself; what the page makes of it is tested.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.broken.append(f"console: {message.text}")

    def open(self, fragment: str = "") -> "Viewer":
        """Open the page and wait for its bundles."""
        self.page.goto(f"{self.address}/{fragment}")
        self.page.wait_for_selector("#bundle option", state="attached")
        return self

    def drop(self, name: str, content: bytes, where: str = "#stage") -> None:
        """Drop a file as a file manager does."""
        encoded = base64.b64encode(content).decode()
        transfer = self.page.evaluate_handle(
            """([name, encoded]) => {
                const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], name));
                return transfer;
            }""",
            [name, encoded],
        )
        for event in ("dragenter", "dragover", "drop"):
            self.page.dispatch_event(where, event, {"dataTransfer": transfer})

    def choose(self, start: Callable[[], None], files: Any) -> None:
        """Choose files in the dialog that `start` opens."""
        with self.page.expect_file_chooser() as chooser:
            start()
        chooser.value.set_files(files)

    def show(self, name: str, content: bytes) -> "Viewer":
        """Drop an image and wait until it is drawn."""
        self.drop(name, content)
        self.page.wait_for_selector("#case-name", state="visible")
        self.page.wait_for_function(
            "(name) => document.getElementById('case-name').textContent === name", arg=name
        )
        self.page.wait_for_selector("#busy", state="hidden")
        return self

    def segment(self, bundle: str = "brain", force: bool = False) -> "Viewer":
        """Segment what is shown and wait for the structures."""
        self.page.select_option("#bundle", bundle)
        self.page.click("#segment")
        if force:
            self.page.click(".message.error button:has-text('Segment it all the same')")
        self.page.wait_for_selector("#structures tbody tr")
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.page.text_content(selector) or "").strip()

    def message(self) -> str:
        """Wait for an error and return what it says."""
        self.page.wait_for_selector(".message.error")
        return self.text(".message.error p")

    def pixels(self) -> NDArray[np.int16]:
        """What the canvas shows, without the letters over it, (height, width, 3)."""
        image = pytest.importorskip("PIL.Image", reason="pixels are read with pillow")
        self.settle()
        self.page.eval_on_selector("#letters", "(it) => { it.hidden = true; }")
        shot = self.page.locator("#canvas").screenshot()
        self.page.eval_on_selector("#letters", "(it) => { it.hidden = false; }")
        return np.asarray(image.open(io.BytesIO(shot)).convert("RGB"), dtype=np.int16)

    def covered(self, color: str) -> int:
        """How many pixels have a structure's colour, #rrggbb; for an opaque overlay."""
        wanted = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
        return int((np.abs(self.pixels() - wanted).max(axis=2) <= 6).sum())

    def point(self, across: float = 0.5, down: float = 0.5) -> tuple[float, float]:
        """Where the page has what lies at these shares of the canvas."""
        box = self.page.locator("#canvas").bounding_box()
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    def opaque(self) -> "Viewer":
        """One plane, of sharp voxels, in which the overlay hides the image and nothing it."""
        self.page.keyboard.press("2")
        self.page.eval_on_selector(
            "#opacity", "(it) => { it.value = 100; it.dispatchEvent(new Event('input')); }"
        )
        for button in ("#toggle-crosshair", "#toggle-smooth"):
            if self.page.get_attribute(button, "aria-pressed") == "true":
                self.page.click(button)
        return self

    def refuse(self, path: str, status: int, code: str, message: str, remedy: str = "") -> None:
        """Let the API answer `path` with an error."""
        body = {"error": {"code": code, "message": message, "remedy": remedy}}
        self.page.route(
            f"{self.address}/api/v1/{path}",
            lambda route: route.fulfill(
                status=status, body=json.dumps(body), content_type="application/json"
            ),
        )

    def close(self) -> None:
        """End the tab; fail if it broke a rule."""
        self.context.close()
        assert not self.broken, self.broken
