"""What every HTML report is made of: the page, tiles, tables, charts. All text is escaped here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

_NOTHING = "-"


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already; plain `str` is escaped wherever it is put into a page."""

    text: str


Content = str | Markup


def page(title: str, body: Iterable[Markup]) -> str:
    """Return a whole page that needs nothing but itself: no network, no script."""
    style = files("transunet.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    content = "\n".join(part.text for part in body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Even if a name slipped through unescaped, nothing could be run or fetched.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )


def html(content: Content) -> str:
    """Return `content` as HTML."""
    return content.text if isinstance(content, Markup) else escape(content)


def tag(name: str, *content: Content, **attributes: str) -> Markup:
    """Return an element; `class_` and the like lose their underscore, others become dashes."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(html(part) for part in content)}</{name}>")


def section(title: str, intro: Content, *content: Content) -> Markup:
    """Return a heading, a sentence about what follows, and what follows."""
    about = [tag("p", intro, class_="soft")] if intro else []
    return tag("section", tag("h2", title), *about, *content)


def tile(label: str, figure: str, note: str = "", lead: bool = False) -> Markup:
    """Return a figure with its name above and a note below."""
    return tag(
        "div",
        tag("div", label, class_="label"),
        tag("div", figure, class_="figure"),
        tag("div", note, class_="soft small"),
        class_="card tile lead" if lead else "card tile",
    )


def tiles(*content: Markup) -> Markup:
    """Return tiles side by side."""
    return tag("div", *content, class_="tiles")


def table(
    head: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    total: Sequence[Content] | None = None,
    framed: bool = True,
) -> Markup:
    """Return a table; the first cell of each row is its heading."""
    body = [_row(row) for row in rows] + ([_row(total, class_="total")] if total else [])
    written = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", one) for one in head))),
        tag("tbody", *body),
    )
    return tag("div", written, class_="card scroll" if framed else "scroll")


def chart(title: str, note: str, drawing: str) -> Markup:
    """Return an SVG drawing in a frame with its title."""
    return tag(
        "div",
        tag("h3", title),
        tag("div", note, class_="soft small"),
        Markup(drawing),
        class_="card",
    )


def definitions(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Return terms and what they mean."""
    parts = [part for term, text in pairs for part in (tag("dt", term), tag("dd", text))]
    return tag("dl", *parts)


def value_with_range(value: str, note: str) -> Content:
    """Return a figure with a smaller line below it."""
    return Markup(html(value) + tag("span", note, class_="range").text) if note else value


def _row(cells: Sequence[Content], **attributes: str) -> Markup:
    first, *others = cells
    figures = [
        tag("td", cell, class_="none") if cell == _NOTHING else tag("td", cell) for cell in others
    ]
    return tag("tr", tag("th", first), *figures, **attributes)
