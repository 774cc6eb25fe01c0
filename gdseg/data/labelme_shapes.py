"""The shapes of labelme (labelme/utils/shape.py of its repository says what they mean) as COCO segmentations.

Nothing in them is trusted: points are checked as COCO polygons are, masks are read only at the size that they
must have. Called by data/labelme.py.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdseg.data.rle import SegmentationError, shorten
from gdseg.data.tool_shapes import Points, Window, box_ring, check_window, ellipse_ring, joined

Shape = dict[str, Any]
_POLYGONS = ("polygon", "oriented_rectangle", None)  # None: of versions that knew nothing else


def segmentation(shapes: Sequence[Shape], height: int, width: int) -> dict[str, Any] | list[list[float]]:
    """Checked polygons of an object of one or more shapes, or the RLE of its mask where one is a mask.

    Raises SegmentationError.
    """
    rings = [_polygon(shape, height, width) for shape in shapes if shape.get("shape_type") != "mask"]
    windows = [_window(shape, height, width) for shape in shapes if shape.get("shape_type") == "mask"]
    return joined(rings, windows, height, width)


def _polygon(shape: Shape, height: int, width: int) -> Points:
    kind, points = shape.get("shape_type"), _points(shape)
    if kind in _POLYGONS or (kind == "rectangle" and len(points) == 4):
        return points
    if kind not in ("rectangle", "circle"):
        what = f"shape_type {shorten(kind)} has no area; polygon, rectangle, circle and mask have"
        raise SegmentationError("bad shape", what)
    if len(points) != 2:
        raise SegmentationError("bad shape", f"a {kind} has two points, found {len(points)}")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return box_ring(x0, y0, x1, y1)
    radius = math.dist(*points)
    return ellipse_ring((x0, y0), (radius, radius), 0.0, height, width)


def _points(shape: Shape) -> Points:
    """float64 [P, 2]. Raises SegmentationError unless each point is two numbers."""
    points = shape.get("points")
    try:
        if isinstance(points, list) and all(
            set(map(type, p)) <= {int, float} and len(p) == 2 for p in points
        ):
            return np.array(points, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SegmentationError("bad shape", f"expected points [[x, y], ..], found {shorten(points)}")


def _window(shape: Shape, height: int, width: int) -> Window:
    """The mask of a shape, the part of the image between its two points, both included."""
    points = _points(shape)
    if points.shape != (2, 2) or not np.isfinite(points).all() or np.abs(points).max() > height + width:
        raise SegmentationError("bad shape", f"a mask has two points, found {shorten(shape['points'])}")
    (left, top), (right, bottom) = points.astype(np.int64).tolist()
    check_window(left, top, right, bottom, height, width)
    return Window(left, top, _decoded(shape.get("mask"), (right - left + 1, bottom - top + 1)))


def _decoded(text: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A PNG in base64 of the given width and height, which is not decoded if it has another."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = io.BytesIO(base64.b64decode(text, validate=True))
            with Image.open(content, formats=["PNG"]) as file:
                if file.size != size:
                    raise ValueError(f"its picture is {file.size}, its points say {size}")
                values = np.asarray(file).astype(bool)
    except Exception as error:  # a decoder fed with untrusted bytes may raise anything
        reason = shorten(str(error) or type(error).__name__, 100)
        raise SegmentationError("bad mask", f"its mask is not a PNG in base64: {reason}") from error
    if values.ndim == 2:
        return values
    colours = 1 if values.shape[2] == 2 else 3  # what comes after them is alpha
    return np.asarray(values[:, :, :colours].any(axis=2))
