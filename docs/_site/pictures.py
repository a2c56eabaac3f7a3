"""Make the tutorials' pictures from a run: `python docs/_site/pictures.py RUN DATA NEW -o FOLDER`.

RUN: what `transunet train` left. DATA: the data set that it learned from. NEW: labelled cases that
it has not seen; both in the layout `pairs`. The commands are the tutorials'. Needs the extras
`[train,serve,dev]`, a page (`make web`) and a browser (chromium, or `playwright install chromium`).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import transunet
from transunet.training.log import curves_of

TRANSUNET = (sys.executable, "-m", "transunet")
DRAWN_BY_THE_PROCESSOR = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader")
MOST_BYTES = 120_000


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("run", "data", "new"):
        parser.add_argument(name, type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    run, data = asked.run.resolve(), asked.data.resolve()
    bundle = run / "best"
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        work = Path(scratch)
        (work / "new").symlink_to(asked.new.resolve())  # the report shows what it was called with
        command(work, "predict", bundle, "new/images", "-o", "labels")
        command(work, "evaluate", "labels", "new", "--labels", bundle, "-o", "report")
        worst = worst_case(work / "report")
        image = next((work / "new/images").glob(f"{worst}*"))

        command(work, "view", data / "images", data / "labels", "-o", "cases.png")
        keep(work / "cases.png", asked.output / "cases.jpg")
        curves_of(run).savefig(work / "curves.png", dpi=120)
        keep(work / "curves.png", asked.output / "curves.png")
        sheet = transunet.view(image, work / "labels" / image.name, title=worst)
        sheet.savefig(work / "prediction.png", dpi=120)
        keep(work / "prediction.png", asked.output / "prediction.jpg")

        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(DRAWN_BY_THE_PROCESSOR)
        )
        shot = work / "shot.png"
        picture_of_report(browser, work / "report/report.html", shot)
        keep(shot, asked.output / "report.png")
        with served(bundle, work / "served") as address:
            picture_of_page(browser, address, image, shot)
        keep(shot, asked.output / "page.jpg")
        browser.close()


def command(folder: Path, *words: Any) -> None:
    """Run transunet in a folder, as a user does."""
    subprocess.run([*TRANSUNET, *map(str, words)], check=True, cwd=folder)


def worst_case(report: Path) -> str:
    """The case with the lowest Dice over its structures, which a reader should look at first."""
    cases = json.loads((report / "metrics.json").read_text(encoding="utf-8"))["cases"]
    return str(min(cases, key=lambda case: sum(s["dice"] or 0 for s in case["structures"]))["name"])


def keep(drawn: Path, path: Path) -> None:
    """Write a picture small enough for a page: few colours as PNG, photographs as JPEG."""
    picture = Image.open(drawn).convert("RGB")
    picture.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
    if path.suffix == ".png":
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    for quality in range(85, 30, -5) if path.suffix == ".jpg" else ():
        picture.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= MOST_BYTES:
            break
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def picture_of_report(browser: Browser, report: Path, shot: Path) -> None:
    """Photograph the first screen of an evaluation report."""
    page = browser.new_page(viewport={"width": 1100, "height": 760})
    page.set_default_timeout(120_000)
    page.goto(report.resolve().as_uri())
    page.screenshot(path=shot)


@contextmanager
def served(bundle: Path, data: Path) -> Iterator[str]:
    """Serve a bundle while the block runs; the page's address."""
    words = ("serve", bundle, "--data", data, "--port", "0", "--device", "cpu")
    server = subprocess.Popen(
        [*TRANSUNET, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert server.stdout is not None
    try:
        yield next(
            word.rstrip(";") for line in server.stdout for word in line.split() if "://" in word
        )
    finally:
        server.terminate()
        server.communicate()


def picture_of_page(browser: Browser, address: str, image: Path, shot: Path) -> None:
    """Open an image on the page, segment it and photograph the result."""
    page = browser.new_page(viewport={"width": 1280, "height": 768})
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("#bundle option", state="attached")
    with page.expect_file_chooser() as chooser:
        page.click("#start-files")
    chooser.value.set_files(image)
    page.click("#segment:enabled")
    page.wait_for_selector("#structures tbody tr")
    page.wait_for_timeout(2000)  # the surfaces are drawn after the planes
    page.screenshot(path=shot)


if __name__ == "__main__":
    main()
