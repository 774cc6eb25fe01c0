"""CVAT's XML, "CVAT for images 1.1" (docs.cvat.ai, XML annotation format): safe parsing, and its shapes.

A mask is a box of the image, row by row in runs, the first of them of zeros. Nothing in the file is trusted:
one with a DOCTYPE is refused, so that no entity is ever expanded or fetched. Called by data/cvat.py.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from gdseg.data.rle import SegmentationError, shorten
from gdseg.data.tool_shapes import Points, Window, box_ring, check_window, ellipse_ring, joined
from gdseg.errors import DataError

AREAS = ("mask", "polygon", "box", "ellipse")
NO_AREAS = ("points", "polyline", "cuboid", "skeleton")
HINT = 'export the task as "CVAT for images 1.1"'


def read_xml(path: Path) -> ET.Element:
    """The root element of a file. Raises DataError."""
    try:
        return _parsed(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read the xml: {error.strerror}", path, "check the path") from error
    except (expat.ExpatError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"not a file of CVAT: {shorten(str(error), 100)}", path, HINT) from error


def _parsed(content: bytes) -> ET.Element:
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.Parse(content, True)
    return builder.close()


def _refuse(*_: object) -> None:
    raise ValueError("it has a DOCTYPE, which CVAT never writes")


def attributes_of(shape: ET.Element) -> dict[str, str]:
    """The values of a shape's attributes by name."""
    return {a.get("name", ""): (a.text or "").strip() for a in shape.iter("attribute")}


def segmentation(shapes: Sequence[ET.Element], height: int, width: int) -> dict[str, Any] | list[list[float]]:
    """Checked polygons of an object's shapes, or the RLE of its mask where one is a mask.

    A box beside other shapes is the object's box, as datumaro writes it. Raises SegmentationError.
    """
    if any(shape.tag != "box" for shape in shapes):
        shapes = [shape for shape in shapes if shape.tag != "box"]
    rings = [_ring(shape, height, width) for shape in shapes if shape.tag != "mask"]
    windows = [_window(shape, height, width) for shape in shapes if shape.tag == "mask"]
    return joined(rings, windows, height, width)


def _ring(shape: ET.Element, height: int, width: int) -> Points:
    if shape.tag == "polygon":
        return _points(shape)
    degrees = _number(shape, "rotation", "0")
    if shape.tag == "box":
        x0, y0, x1, y1 = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return box_ring(x0, y0, x1, y1, degrees)
    x, y, rx, ry = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
    return ellipse_ring((x, y), (rx, ry), degrees, height, width)


def _points(shape: ET.Element) -> Points:
    text = shape.get("points", "")
    try:
        numbers = [[float(number) for number in pair.split(",")] for pair in text.split(";")]
        if all(len(pair) == 2 for pair in numbers):
            return np.array(numbers, dtype=np.float64)
    except ValueError:
        pass
    raise SegmentationError("bad polygon", f'expected points "x,y;x,y;..", found {shorten(text)}')


def _window(shape: ET.Element, height: int, width: int) -> Window:
    left, top, columns, rows = (_whole(shape, key) for key in ("left", "top", "width", "height"))
    check_window(left, top, left + columns - 1, top + rows - 1, height, width)
    text = shape.get("rle", "")
    try:
        runs = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise SegmentationError("bad RLE", f'expected "a, b, ..", found {shorten(text)}') from error
    if min(runs) < 0 or sum(runs) != rows * columns:
        what = f"its runs add up to {shorten(sum(runs))}, its box has {rows * columns} pixels"
        raise SegmentationError("bad RLE", what)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return Window(left, top, flat.reshape(rows, columns))


def _whole(shape: ET.Element, key: str) -> int:
    return int(_number(shape, key))


def _number(shape: ET.Element, key: str, default: str = "") -> float:
    text = shape.get(key, default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e9:
        raise SegmentationError("bad shape", f"{key} of a {shape.tag} is {shorten(text)}, expected a number")
    return number
