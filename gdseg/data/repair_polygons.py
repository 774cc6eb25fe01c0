"""One polygon of an untrusted json: kept, cut at the image's edge, or left out. Called by repair_coco.py."""

from __future__ import annotations

import math
from typing import Any

from gdseg.data.coco import TOLERANCE
from gdseg.data.part import Fault
from gdseg.data.rle import polygon_area

Point = tuple[float, float]


def repair_polygon(polygon: Any, height: int, width: int) -> tuple[list[float] | None, Fault | None]:
    """The polygon [x, y, x, y, ..], in pixels, itself where it has no fault; None: it is left out."""
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float} or len(polygon) % 2:
        return None, Fault("bad polygon", "a polygon that is no list of x, y, .. is left out")
    if not all(abs(number) <= 1e9 and math.isfinite(number) for number in polygon):
        return None, Fault("bad polygon", "a polygon with a number that is not finite is left out")
    if _leaves(polygon[0::2], width) or _leaves(polygon[1::2], height):
        polygon = cut_polygon(polygon, height, width)
        if len(polygon) < 6 or not polygon_area(polygon):
            return None, Fault("outside its image", "a polygon outside of the image is left out")
        return polygon, Fault("outside its image", "a polygon is cut at the image's edge")
    if len(polygon) < 6 or not polygon_area(polygon):
        text = "a polygon without area is left out"
        return None, Fault("degenerate polygon", text, harmless=True)
    return polygon, None


def _leaves(numbers: list[float], limit: int) -> bool:
    return bool(numbers) and (min(numbers) < -TOLERANCE or max(numbers) > limit + TOLERANCE)


def cut_polygon(polygon: list[float], height: int, width: int) -> list[float]:
    """What of a polygon lies in the image, by cutting at one edge after the other.

    Sutherland and Hodgman, "Reentrant polygon clipping" (CACM 17, 1974). Parts that the cut separates stay
    joined along the edge, by lines without area.
    """
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, limit in ((0, float(width)), (1, float(height))):
        points = _cut(points, axis, 0.0, 1.0)
        points = _cut(points, axis, limit, -1.0)
    return [number for point in points for number in point]


def _cut(points: list[Point], axis: int, limit: float, sign: float) -> list[Point]:
    """The points on one side of a line, and those where the outline crosses it."""
    kept = list[Point]()
    for last, point in zip(points[-1:] + points[:-1], points, strict=True):
        before, now = sign * (last[axis] - limit), sign * (point[axis] - limit)
        if (before < 0) != (now < 0):
            share = before / (before - now)
            other = last[1 - axis] + share * (point[1 - axis] - last[1 - axis])
            kept.append((limit, other) if axis == 0 else (other, limit))
        if now >= 0:
            kept.append(point)
    return kept
