"""Contact sheets: many small pictures with captions on one page, and the colours of the classes below.

Called by `gdseg pseudo-label`, `gdseg visualize` and the run report. Only thumbnails are kept, so a
sheet of a large folder needs little memory.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from PIL import Image, ImageDraw

from gdseg.structures import Predictions
from gdseg.view.colours import class_colour
from gdseg.view.draw import Pixels, draw, font

CELL = 320  # pixels: the longest edge of a thumbnail
_GAP, _TEXT, _TITLE, _LEGEND_LIMIT = 8, 13, 18, 24
_INK, _PAPER, _GREY = (20, 20, 20), (255, 255, 255), (110, 110, 110)


@dataclass
class Sheet:
    """A page under construction: add thumbnails, then `render`."""

    title: str
    columns: int = 6
    cells: list[tuple[Image.Image, str]] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    names: dict[int, str] = field(default_factory=dict)

    def add(
        self,
        image: Pixels,
        found: Predictions,
        caption: str,
        ignored: Predictions | None = None,
        *,
        dropped: Predictions | None = None,
    ) -> None:
        """Add the image [H, W, 3] with its masks; `ignored` ones are dashed, `dropped` dotted outlines."""
        thumbnail = draw(image, found, ignored, dropped=dropped, size=thumbnail_size(image), labels=False)
        self.counts.update(found.labels.tolist())
        self.names.update({label: found.names[label] for label in self.counts if label < len(found.names)})
        self.cells.append((thumbnail, caption))

    def render(self) -> Image.Image:
        """The page."""
        columns = max(1, min(self.columns, len(self.cells)))
        rows = math.ceil(len(self.cells) / columns)
        heights = [max(i.height for i, _ in self.cells[r * columns : (r + 1) * columns]) for r in range(rows)]
        width = max(columns * (CELL + _GAP) + _GAP, 2 * CELL)
        title, legend = wrap(self.title, width - 2 * _GAP, _TITLE), self._legend(width)
        top = _GAP + len(title) * round(1.5 * _TITLE)
        caption_height = round(1.5 * _TEXT) + _GAP
        body = top + sum(heights) + rows * caption_height
        page = Image.new("RGB", (width, body + legend.height + _GAP), _PAPER)
        pen = ImageDraw.Draw(page)
        for i, line in enumerate(title):
            pen.text((_GAP, _GAP + i * round(1.5 * _TITLE)), line, fill=_INK, font=font(_TITLE))
        y = top
        for row, height in enumerate(heights):
            for column, (image, caption) in enumerate(self.cells[row * columns : (row + 1) * columns]):
                x = _GAP + column * (CELL + _GAP)
                page.paste(image, (x, y))
                pen.text(
                    (x, y + image.height + 2), shorten(caption, CELL, _TEXT), fill=_GREY, font=font(_TEXT)
                )
            y += height + caption_height
        page.paste(legend, (0, body))
        return page

    def _legend(self, width: int) -> Image.Image:
        """Colour, name and count of the classes, the most frequent first."""
        line = round(1.6 * _TEXT)
        places, x, y = list[tuple[int, int, int, str]](), _GAP, 0
        for label, count in self.counts.most_common(_LEGEND_LIMIT):
            text = f"{self.names.get(label, label)} ({count})"
            length = line + round(font(_TEXT).getlength(text)) + 2 * _GAP
            x, y = (_GAP, y + line) if x + length > width and x > _GAP else (x, y)
            places.append((x, y, label, text))
            x += length
        legend = Image.new("RGB", (width, y + line if places else 1), _PAPER)
        pen = ImageDraw.Draw(legend)
        for x, y, label, text in places:
            pen.rectangle((x, y + 2, x + _TEXT, y + 2 + _TEXT), fill=class_colour(label))
            pen.text((x + line, y + 1), text, fill=_INK, font=font(_TEXT))
        return legend


def thumbnail_size(image: Pixels) -> tuple[int, int]:
    """(width, height) of a thumbnail: its longest edge is CELL."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def spread(count: int, sample: int) -> list[int]:
    """At most `sample` indices, spread evenly over 0..count-1."""
    if count <= sample:
        return list(range(count))
    return torch.linspace(0, count - 1, sample).round().long().tolist()


def shorten(text: str, width: int, size: int) -> str:
    """The text, its middle left out where it is wider than `width` pixels."""
    if font(size).getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font(size).getlength(text[: keep // 2] + "…" + text[-(keep // 2) :]) > width:
        keep -= 1
    return text[: keep // 2] + "…" + text[-(keep // 2) :]


def wrap(text: str, width: int, size: int) -> list[str]:
    """The text in lines of at most `width` pixels (a longer word is a line by itself)."""
    lines = list[str]()
    for word in text.split():
        if lines and font(size).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
