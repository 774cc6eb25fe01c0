"""A colour for each class, the same in every picture and told apart by the colour-blind.

The first seven are Okabe and Ito's ("Color Universal Design", 2008) without black, the next ones
from Paul Tol's "muted" scheme (SRON technical note, 2021), where they differ from those; after that
hues a golden angle apart, in turns light and dark. Called by view/.
"""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]

_BASE = ["E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7"]
_BASE += ["882255", "44AA99", "DDCC77", "332288", "999933", "AA4499", "88CCEE", "117733"]
_GOLDEN = 0.618033988749895


def class_colour(label: int) -> Colour:
    """(red, green, blue) in 0..255 of a label; grey below 0: of no class."""
    if label < 0:
        return 128, 128, 128
    if label < len(_BASE):
        value = int(_BASE[label], 16)
        return value >> 16, value >> 8 & 255, value & 255
    turn = label - len(_BASE)
    lightness = (0.62, 0.42, 0.75)[turn % 3]
    red, green, blue = colorsys.hls_to_rgb(turn * _GOLDEN % 1.0, lightness, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever stands out more (relative luminance of WCAG 2, simplified gamma)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)
