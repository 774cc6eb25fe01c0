"""Plots as SVG inside a page: readable on light and dark ground, nothing fetched, no two with the same ids.

Ink is the page's own text colour; text stays text, in the page's font. Called by gdseg/report/.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from itertools import count
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_INK = "#010203"  # stands for currentColor, which matplotlib does not know
_SIZE = (4.4, 3.3)  # inches
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are data
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK
    ),
}
_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}
_numbers = count(1)


def inline_svg(paint: Callable[[Axes], None], description: str) -> Markup:
    """One plot as an <svg> element that takes the width of its place."""
    buffer = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has other fonts
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.subplots())
        figure.savefig(buffer, format="svg", metadata=_NOTHING)
    return _for_page(buffer.getvalue(), description, f"f{next(_numbers)}-")


def _for_page(svg: str, description: str, prefix: str) -> Markup:
    """Without prolog, namespaces and sizes; ids made unique, as all plots share the page."""
    head, body = re.search(r"<svg\b([^>]*)>(.*)", svg, re.DOTALL).groups()  # type: ignore[union-attr]
    box = re.search(r'viewBox="([\d. ]+)"', head)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}\1"', body)
    body = re.sub(r'href="#', f'href="#{prefix}', body)
    body = body.replace("url(#", f"url(#{prefix}").replace(_INK, "currentColor")
    assert box is not None
    return Markup(f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(description)}">{body}')
