"""A page as plain blocks, and the one HTML file made of them: no script, nothing fetched, names escaped.

Layout is in page.html, style in page.css. Called by gdseg/report/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gdseg.view.colours import class_colour
from gdseg.view.gallery import Card

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Text:
    """A paragraph; tone: "" (plain), "lead" (large), "note" (something is missing or remarkable)."""

    text: str
    tone: str = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Cell:
    """A value in a table; share: length of a bar in 0..1; label: colour of a class before the text."""

    text: str
    share: float | None = None
    label: int | None = None


@dataclass(frozen=True)
class Table:
    """Rows below a header; the first column is left-aligned."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A plot (svg.py) with a title and a sentence below."""

    title: str
    svg: Markup
    caption: str = ""


@dataclass(frozen=True)
class Figures:
    """Plots beside each other, or below where the page is narrow."""

    items: Sequence[Figure]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Gallery:
    """Pictures with a title, and what the colours mean: (class name, label)."""

    title: str
    cards: Sequence[Card]
    legend: Sequence[tuple[str, int]] = ()
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Details:
    """Text that opens on demand."""

    title: str
    text: str
    kind: ClassVar[str] = "details"


Block = Text | Facts | Table | Figures | Gallery | Details


@dataclass
class Section:
    """A heading and what is below it; its parts have smaller headings."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    parts: list[Section] = field(default_factory=list)


def render(title: str, sections: Sequence[Section], foot: str) -> bytes:
    """The page in UTF-8."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["colour"] = _css_colour
    style = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    page = environment.get_template("page.html").render(
        title=title, sections=sections, foot=foot, style=style
    )
    return page.lstrip().encode("utf-8", "replace")  # a name in a json can hold half a surrogate pair


def _css_colour(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_colour(label))
