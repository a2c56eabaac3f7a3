"""The page that a reviewer opens first: the model card with its figures, in one file."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from markupsafe import Markup

from transunet.document import Section
from transunet.dossier.facts import Facts
from transunet.dossier.model_card import card_title
from transunet.evaluation.charts import box_plots
from transunet.evaluation.pages import page_environment
from transunet.optional import own_version


def dossier_page(
    facts: Facts, sections: Sequence[Section], curves: Mapping[str, Path], files: Mapping[str, str]
) -> str:
    """Return the page, which needs no other file.

    Args:
        facts: of the model card.
        sections: the model card's.
        curves: run -> the picture of its training.
        files: name -> what it is, of the files beside the page.
    """
    template = page_environment("transunet.dossier").get_template("index.html.j2")
    data = facts["data"]
    measured = [("Validation", facts["validation"])] if facts["validation"] else []
    measured += [(figures["name"], figures) for figures in facts["evaluations"]]
    return template.render(
        title=card_title(facts),
        facts=facts,
        tiles=[
            *(_dice_tile(name, figures) for name, figures in reversed(measured)),
            ("Parameters", f"{facts['model']['parameters'] / 1e6:.1f} M", facts["model"]["name"]),
            ("Cases of the data", data["cases"] or "not known", data["name"] or ""),
        ],
        charts=[(f"Dice, {name}", "higher is better", _chart(of)) for name, of in measured],
        pictures=[(run, _address(picture)) for run, picture in curves.items()],
        sections=sections,
        files=files,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        version=own_version(),
    )


def _dice_tile(name: str, figures: Facts) -> tuple[str, str, str]:
    mean, interval = figures["mean_dice"], figures["mean_dice_interval_95"]
    between = f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}, " if interval else ""
    figure = "not known" if mean is None else f"{mean:.3f}"
    return f"Mean Dice, {name}", figure, f"{between}{figures['cases']} cases"


def _chart(figures: Facts) -> Markup:
    cases, names = list(figures["dice"]), list(figures["structures"])
    rows = [[figures["dice"][case][name] for name in names] for case in cases]
    return box_plots(names, cases, np.array(rows, dtype=np.float64), "{:.3f}".format, share=True)


def _address(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
