"""Run-length masks and polygons as COCO stores them, checked before pycocotools' C code sees them.

The string format is that of the COCO API (BSD, pycocotools/common/maskApi.c): six bits a character,
five of value and one of continuation, every count after the third stored as a difference. Untrusted
strings are decoded here first, since the C decoder believes them. Called by data/coco.py,
data/geometry.py and whoever turns a mask into a COCO dict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

MAX_PIXELS = 178_956_970  # Pillow's own limit (twice its warning): a larger image is refused
_MAX_CHARACTERS = 6  # of one count: 30 bits, more than MAX_PIXELS needs, less than C shifts safely


class SegmentationError(ValueError):
    """A segmentation that must not be used; `kind` is the fault's short name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def string_counts(text: str) -> NDArray[np.int64]:
    """The run lengths in a compressed RLE string, int64 [runs]. Raises SegmentationError."""
    try:
        codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise SegmentationError("bad RLE", "its string has characters that RLE never uses") from error
    if not len(codes) or codes.min() < 0 or codes.max() > 63:
        raise SegmentationError("bad RLE", "its string is empty or has characters that RLE never uses")
    is_last = (codes & 32) == 0
    if not is_last[-1]:
        raise SegmentationError("bad RLE", "its string is cut off")
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > _MAX_CHARACTERS:
        raise SegmentationError("bad RLE", "its string holds a count that is too large")
    place = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << place, starts)
    negative = (codes[is_last] & 16) > 0
    values = np.where(negative, values - (np.int64(1) << (5 * lengths)), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def rle_band(rle: dict[str, Any]) -> tuple[int, NDArray[np.uint8]]:
    """The part of a checked RLE mask that holds its pixels: its first column, and uint8 [columns, H].

    Much faster than decoding the whole image when objects are small and many.
    """
    height = rle["size"][0]
    runs = string_counts(rle["counts"])
    ends = np.cumsum(runs)
    first = int(runs[0]) // height
    last = (int(ends[-1 - len(runs) % 2]) - 1) // height  # an odd number of runs ends with zeros
    edges = np.clip(np.concatenate([[0], ends]), first * height, (last + 1) * height)
    flat = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), np.diff(edges))
    return first, flat.reshape(-1, height)


def check_rle(rle: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A safe compressed RLE {"size": [height, width], "counts": str} for a COCO RLE dict of either kind.

    Raises SegmentationError when the size is not the image's or the counts do not fill it.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or [type(n) for n in size] != [int, int]:
        raise SegmentationError("bad RLE", f"its size is {shorten(size)}, expected [height, width]")
    if size != [height, width]:
        raise SegmentationError("bad RLE", f"its size is {shorten(size)}, its image is [{height}, {width}]")
    if isinstance(counts, str):
        runs = string_counts(counts)
    elif isinstance(counts, list) and set(map(type, counts)) <= {int}:
        runs = np.array([n if 0 <= n <= MAX_PIXELS else -1 for n in counts], dtype=np.int64)
    else:
        raise SegmentationError(
            "bad RLE", f"its counts are {shorten(counts)}, expected a string or a list of integers"
        )
    if len(runs) and runs.min() < 0:
        raise SegmentationError("bad RLE", "it has a count below 0 or beyond any image")
    if int(runs.sum()) != height * width:
        raise SegmentationError(
            "bad RLE", f"its counts add up to {runs.sum()}, its image has {height * width} pixels"
        )
    if not runs[1::2].any():
        raise SegmentationError("empty object", "it has no pixels")
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)["counts"].decode()
    return {"size": [height, width], "counts": counts}


def check_polygons(polygons: list[Any], height: int, width: int, tolerance: float) -> list[list[float]]:
    """The polygons [[x, y, x, y, ..], ..] in pixels that have an area; all must lie in the image.

    A polygon of fewer than three points has none. tolerance: pixels by which a point may lie outside. Raises
    SegmentationError.
    """
    if not polygons:
        raise SegmentationError("empty object", "it has no polygon")
    for polygon in polygons:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            raise SegmentationError("bad polygon", f"expected a list of numbers, found {shorten(polygon)}")
        if len(polygon) % 2:
            raise SegmentationError("bad polygon", f"it has {len(polygon)} numbers, expected an even count")
        if polygon:
            _check_inside(polygon, height, width, tolerance)
    kept = [polygon for polygon in polygons if len(polygon) >= 6 and polygon_area(polygon) > 0]
    if not kept:
        raise SegmentationError("empty object", "its polygons have no area")
    return kept


def _check_inside(polygon: list[float], height: int, width: int, tolerance: float) -> None:
    xs, ys = polygon[0::2], polygon[1::2]
    for low, high, limit in ((min(xs), max(xs), width), (min(ys), max(ys), height)):
        if low < -tolerance or high > limit + tolerance:
            raise SegmentationError(
                "outside its image",
                f"a polygon reaches {shorten([low, high])}, its image is {width} x {height}",
            )
    # NaN passes every comparison above; it can also hide an integer too large for a float
    if any(number != number or abs(number) > 2 * MAX_PIXELS for number in polygon):
        raise SegmentationError("bad polygon", "it has a number that is not finite")


def polygon_area(polygon: Sequence[float]) -> float:
    """The area inside of a ring [x, y, x, y, ..] of finite numbers, in pixels."""
    x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def polygons_mask(polygons: list[list[float]], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [height, width]: the union of polygons in pixels; what lies outside is cut off."""
    rles = [coco_mask.frPyObjects([polygon], height, width)[0] for polygon in polygons]
    mask: NDArray[np.uint8] = coco_mask.decode(coco_mask.merge(rles))
    return mask


def annotation_mask(annotation: dict[str, Any], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [height, width]: the mask of one checked annotation of a Record at its image's own size."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        mask: NDArray[np.uint8] = coco_mask.decode(segmentation)
        return mask
    return polygons_mask(segmentation, height, width)


def to_rle(mask: Tensor | NDArray[Any]) -> dict[str, Any]:
    """Compressed RLE {"size": [H, W], "counts": str}, ready for json, of a bool or uint8 mask [H, W]."""
    array = mask.cpu().numpy() if isinstance(mask, Tensor) else mask
    rle = coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}


def shorten(value: object, limit: int = 60) -> str:
    """repr of a value for an error message, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def boxes_of(rles: Sequence[dict[str, Any]]) -> Tensor:
    """float32 [N, 4]: each mask's tight box as x0, y0, x1, y1 in pixels; zeros where it is empty."""
    boxes = torch.from_numpy(np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4)).float()
    boxes[:, 2:] += boxes[:, :2]
    return boxes
