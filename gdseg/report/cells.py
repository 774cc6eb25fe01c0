"""What the report's tables of classes share."""

from __future__ import annotations

from gdseg.eval.tables import percent
from gdseg.view.page import Cell

CLASS_ROWS = 100  # of more classes the most frequent are shown


def bar(value: float) -> Cell:
    """A share as percent with a bar; NaN as a dash."""
    return Cell(percent(value), share=min(max(value, 0.0), 1.0) if value == value else 0.0)
