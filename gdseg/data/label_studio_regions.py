"""Regions of Label Studio's results (labelstud.io, task format) as COCO segmentations.

Lengths are percents of the image's width and height, angles degrees clockwise. Nothing in them is trusted.
Called by data/label_studio.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gdseg.data.label_studio_rle import decode_brush
from gdseg.data.label_weights import SAID
from gdseg.data.rle import SegmentationError, shorten
from gdseg.data.tool_shapes import Points, Window, box_ring, ellipse_ring, joined, turned

_DIGITS = 6  # of a pixel: percents and back are not exact
_TYPES = ("brush", "polygon", "rectangle", "ellipse")  # those with an area, with or without "labels"

_NUMBER = r"(\d*\.?\d+(?:e[+-]?\d+)?)(?!\w|[.,]\d)"  # with a decimal point, never a comma
_CROWD = re.compile(r"(?<!\bnot )(?<!\bno )\biscrowd\b(?!\s*[=:]\s*(?:0|false|no)\b)")


@dataclass
class Region:
    """One region: where it is among the results, its labels (of the first that has some), its result."""

    number: int
    labels: list[str]
    result: dict[str, Any]


def regions(results: list[Any]) -> Iterator[Region]:
    """The regions of an annotation. Results of one id describe one region. Raises SegmentationError."""
    found: dict[object, Region] = {}
    for number, result in enumerate(results, 1):
        value = result.get("value") if isinstance(result, dict) else None
        kind = result.get("type") if isinstance(result, dict) else None
        if not isinstance(value, dict) or not isinstance(kind, str):
            if isinstance(result, dict) and kind == "relation":
                continue
            raise SegmentationError("bad region", f"result {number} is {shorten(result)}")
        labels = value.get(kind) if kind.endswith("labels") else value.get("labels")
        is_area = kind.removesuffix("labels") in (*_TYPES, "")
        if not is_area and not kind.endswith("labels"):
            continue  # choices, texts and the like, of the image or of a region
        key = result.get("id") if isinstance(result.get("id"), str) else number
        region = found.setdefault(key, Region(number, [], result))
        if not _shape(region.result):
            region.result = result
        if _shape(result) and _shape(result) != _shape(region.result):
            raise SegmentationError("bad region", f"two regions have the id {shorten(key)}")
        if not region.labels and isinstance(labels, list) and all(isinstance(n, str) for n in labels):
            region.labels = labels
    yield from found.values()


def _shape(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result["value"].items() if not key.endswith("labels")}


def segmentation(result: dict[str, Any], height: int, width: int) -> dict[str, Any] | list[list[float]]:
    """A checked polygon of a region, or the RLE of its mask. Raises SegmentationError."""
    value = result["value"]
    for key, size in (("original_width", width), ("original_height", height)):
        if result.get(key, size) != size:
            what = f"its {key} is {shorten(result[key])}, its image has {size}"
            raise SegmentationError("size differs", what)
    if result.get("image_rotation", 0) != 0:
        raise SegmentationError("bad region", "its image was turned, which gdseg does not follow")
    if "rle" in value:
        return joined([], [Window(0, 0, decode_brush(value["rle"], height, width))], height, width)
    ring = _ring(value, result["type"], height, width)
    return joined([ring.round(_DIGITS)], [], height, width)


def _ring(value: dict[str, Any], kind: str, height: int, width: int) -> Points:
    percent = np.array([width, height]) / 100
    if "points" in value:
        return _points(value["points"]) * percent
    if "radiusX" in value:
        x, y, rx, ry, degrees = _numbers(value, "x", "y", "radiusX", "radiusY", "rotation")
        centre, radii = np.array([x, y]) * percent, np.array([rx, ry]) * percent
        return ellipse_ring((centre[0], centre[1]), (radii[0], radii[1]), degrees, height, width)
    if "height" in value:
        x, y, w, h, degrees = _numbers(value, "x", "y", "width", "height", "rotation")
        (x0, y0), (x1, y1) = np.array([x, y]) * percent, np.array([x + w, y + h]) * percent
        return turned(box_ring(x0, y0, x1, y1), (x0, y0), degrees)
    raise SegmentationError("bad region", f"a {shorten(kind)} has no area; {', '.join(_TYPES)} have")


def _numbers(value: dict[str, Any], *keys: str) -> list[float]:
    found: list[Any] = [value.get(key, 0 if key == "rotation" else None) for key in keys]
    if not all(map(_is_number, found)):
        raise SegmentationError(
            "bad region", f"expected numbers for {', '.join(keys)}, found {shorten(found)}"
        )
    return [float(n) for n in found]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # not NaN either


def _points(points: Any) -> Points:
    good = isinstance(points, list) and all(
        isinstance(p, list) and len(p) == 2 and all(map(_is_number, p)) for p in points
    )
    if not good:
        raise SegmentationError("bad polygon", f"expected points [[x, y], ..], found {shorten(points)}")
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def said_of(result: dict[str, Any]) -> dict[str, Any]:
    """What a region's note says, as "iscrowd" and "weight=0.5", and its score.

    Notes are people's text: where one names a weight without a number, the text itself is its value, which
    data.label_weights refuses, as it does other values that are no number.
    """
    meta = result.get("meta")
    text = meta.get("text") if isinstance(meta, dict) else None
    note = " ".join(t for t in (text if isinstance(text, list) else [text]) if isinstance(t, str))
    found: dict[str, Any] = {"score": result["score"]} if result.get("score") is not None else {}
    for key in SAID:
        number = re.search(rf"\b{key}\s*=\s*{_NUMBER}", note)
        if number:
            found[key] = float(number[1])
        elif key not in found and re.search(rf"\b{key}\b", note):
            found[key] = note
    return {**found, "iscrowd": int(_CROWD.search(note) is not None)}
