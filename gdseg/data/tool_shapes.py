"""Shapes that people draw in annotation tools, as COCO segmentations: rings, and masks of a part of an image.

Nothing in them is trusted. Called by the readers of labelme's, CVAT's and Label Studio's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdseg.data.coco import TOLERANCE
from gdseg.data.rle import SegmentationError, check_polygons, polygons_mask, to_rle

Points = NDArray[np.float64]  # [P, 2]: x, y in pixels
_CORNERS = 64, 1024  # of an ellipse's ring, at least and at most


class Window(NamedTuple):
    """A mask bool [h, w] whose first pixel is at (left, top) of the image."""

    left: int
    top: int
    mask: NDArray[np.bool_]


def joined(
    rings: Sequence[Points], windows: Sequence[Window], height: int, width: int
) -> dict[str, Any] | list[list[float]]:
    """Checked polygons of an object's parts, or the RLE of all of them where one is a mask.

    windows: those that `check_window` let through. Raises SegmentationError.
    """
    polygons = check_polygons([r.ravel().tolist() for r in rings], height, width, TOLERANCE) if rings else []
    if not windows:
        return polygons
    whole = np.zeros((height, width), dtype=bool)
    for left, top, mask in windows:
        whole[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask
    if polygons:
        whole |= polygons_mask(polygons, height, width).astype(bool)
    if not whole.any():
        raise SegmentationError("empty object", "it has no pixels")
    return to_rle(whole)


def check_window(left: int, top: int, right: int, bottom: int, height: int, width: int) -> None:
    """Raise SegmentationError unless the pixels left..right, top..bottom, all included, are the image's."""
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        where = f"a mask reaches {[left, top, right, bottom]}, its image is {width} x {height}"
        raise SegmentationError("outside its image", where)


def box_ring(x0: float, y0: float, x1: float, y1: float, degrees: float = 0.0) -> Points:
    """The corners of a box, turned clockwise around its centre."""
    ring = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    return turned(ring, ((x0 + x1) / 2, (y0 + y1) / 2), degrees) if degrees else ring


def ellipse_ring(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float, height: int, width: int
) -> Points:
    """An ellipse as a polygon, cut off where it leaves the image. Raises SegmentationError if not finite."""
    if not all(map(math.isfinite, (*centre, *radii, degrees))):
        raise SegmentationError("bad shape", "an ellipse or circle has a number that is not finite")
    corners = round(min(max(math.tau * max(map(abs, radii)), _CORNERS[0]), _CORNERS[1]))
    angles = np.arange(corners) * (math.tau / corners)
    around = np.array(centre) + np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    ring = turned(around, centre, degrees) if degrees else around
    return np.asarray(np.clip(ring, 0, (width, height)))


def turned(ring: Points, centre: tuple[float, float], degrees: float) -> Points:
    """A ring turned clockwise (y points down) around a point."""
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray((ring - centre) @ matrix + centre)
