"""What people read: names of arms, how counts are written, and how long lines may be."""

import os
from typing import TextIO

ARMS = {  # of a label-budget experiment, in the order of its tables and pictures
    "labels": "labels alone",
    "teacher": "pretrained teacher",
    "student": "student",
    "all": "all labels",
}
_UNFOLDED = 10_000  # columns


def line_width(stream: TextIO | None) -> int | None:
    """Columns after which lines to `stream` are folded; None: as the terminal, or COLUMNS, says.

    What goes into a pipe or a file is folded nowhere: it is searched, and paths are copied from it. A stream
    that was closed before Python began is None: no terminal either.
    """
    terminal = stream is not None and stream.isatty()
    return None if terminal or "COLUMNS" in os.environ else _UNFOLDED


def counted(number: int, word: str) -> str:
    """ "1 image", "2 images", "3 classes": the number and the word, which is given in the singular."""
    if number == 1:
        return f"1 {word}"
    return f"{number} {word}{'es' if word.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
