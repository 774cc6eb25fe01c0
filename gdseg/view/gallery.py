"""Pictures inside a page: an image with its masks as a WebP data URI, so that the page is one file.

Called by gdseg/report/.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

from PIL import Image

from gdseg.structures import Predictions
from gdseg.view.draw import Pixels, draw

_EDGE = 448  # pixels: the longest edge of a picture
_QUALITY = 72


@dataclass(frozen=True)
class Picture:
    """An image for a page: data URI, what it shows, and its size in pixels."""

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Tag:
    """An object below a picture: text, the label that colours it, and "right", "wrong" or "" (not known)."""

    text: str
    label: int
    verdict: str = ""


@dataclass(frozen=True)
class Card:
    """Pictures side by side with a title, and lines of tags below: ("kept", tags)."""

    title: str
    pictures: list[Picture]
    lines: list[tuple[str, list[Tag]]] = field(default_factory=list)


def picture(
    image: Pixels,
    found: Predictions,
    alt: str,
    ignored: Predictions | None = None,
    dropped: Predictions | None = None,
) -> Picture:
    """The image [H, W, 3] with its masks, without names: those are in the page, as text."""
    height, width = image.shape[:2]
    scale = _EDGE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    drawn = draw(image, found, ignored, dropped=dropped, size=size, labels=False)
    return Picture(data_uri(drawn), alt, *size)


def data_uri(image: Image.Image) -> str:
    """A picture as the URI of itself."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
