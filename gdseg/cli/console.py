"""What commands print: text through rich, or one JSON object. Results go to stdout, the rest to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from gdseg.words import line_width

# class and file names are data: brackets in them are no markup
out = Console(markup=False, highlight=False, width=line_width(sys.stdout))
err = Console(stderr=True, markup=False, highlight=False, width=line_width(sys.stderr))


def print_json(value: Any) -> None:
    """One JSON object on stdout, for programs."""
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is left-aligned, the others right-aligned."""
    if not out.is_terminal:  # a title is folded at the table's width
        out.print(title, soft_wrap=True)
    table = Table(title=title if out.is_terminal else None, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    out.print(table)
