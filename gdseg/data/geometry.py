"""One geometry for an image and its masks: flip, resize, crop, place on a canvas, in that order.

Large-scale jitter follows Copy-Paste (arXiv 2012.07177 §3) with the arithmetic of detectron2's
ResizeScale and FixedSizeCrop, as official Mask2Former and Mask DINO train with it. Called by
data/augment.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gdseg.data.rle import polygons_mask, rle_band
from gdseg.recipe import Augment

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Flip `source` (h, w), resize to `resized`, cut `crop` at `offset` (top, left), put it on `canvas`."""

    source: Size
    resized: Size
    offset: Size
    crop: Size
    canvas: Size
    flip: bool = False


def lsj(source: Size, canvas: Size, scale: float, u: float, flip: bool) -> Geometry:
    """Large-scale jitter: fit into the canvas times `scale`, crop at share `u` of both surpluses."""
    fit = min(canvas[0] * scale / source[0], canvas[1] * scale / source[1])
    return rescale(source, canvas, fit, (u, u), flip)


def rescale(source: Size, canvas: Size, scale: float, uv: tuple[float, float], flip: bool) -> Geometry:
    """Resize by `scale`, crop at shares `uv` of both surpluses: what a pixel is worth stays the same."""
    resized = _rounded(source[0] * scale), _rounded(source[1] * scale)  # half to even, as numpy rounds
    offset = _offset(resized[0], canvas[0], uv[0]), _offset(resized[1], canvas[1], uv[1])
    crop = min(resized[0], canvas[0]), min(resized[1], canvas[1])
    return Geometry(source, resized, offset, crop, canvas, flip)


def _rounded(length: float) -> int:
    return max(1, round(length))


def _offset(length: int, limit: int, u: float) -> int:
    return round(max(length - limit, 0) * u)


def shortest_edge(source: Size, shortest: int, longest: int) -> Size:
    """The size with this shortest edge, unless the longest would exceed `longest` (detectron2's rounding)."""
    scale = shortest / min(source)
    if max(source) * scale > longest:
        scale = longest / max(source)
    return max(1, int(source[0] * scale + 0.5)), max(1, int(source[1] * scale + 0.5))


def draw_geometry(source: Size, augment: Augment, rng: np.random.Generator) -> Geometry:
    """A random training geometry for an image of size (h, w); always takes the same number of draws."""
    flip = bool(rng.random() < augment.flip)
    choice, u, v = rng.random(3)
    canvas = augment.canvas[0], augment.canvas[1]
    if augment.mode == "lsj":
        low, high = augment.scale
        return lsj(source, canvas, low + (high - low) * choice, u, flip)
    if augment.mode == "rescale":
        low, high = augment.scale
        return rescale(source, canvas, low + (high - low) * choice, (u, v), flip)
    if augment.mode == "fixed":
        return Geometry(source, canvas, (0, 0), canvas, canvas, flip)
    shortest = augment.shortest[int(choice * len(augment.shortest))]
    resized = shortest_edge(source, shortest, augment.longest)
    # what is smaller than the crop is padded to it, as official ADE20K and Mapillary training does
    canvas = augment.crop[0] or resized[0], augment.crop[1] or resized[1]
    crop = min(resized[0], canvas[0]), min(resized[1], canvas[1])
    offset = int((resized[0] - crop[0] + 1) * u), int((resized[1] - crop[1] + 1) * v)
    return Geometry(source, resized, offset, crop, canvas, flip)


def test_geometry(source: Size, augment: Augment) -> Geometry:
    """The resize of evaluation and prediction, nothing random: test_shortest and test_longest.

    After training with `rescale` all images are resized by one factor, test_shortest over the canvas.
    """
    if augment.mode == "rescale":
        factor = augment.test_factor
        resized = _rounded(source[0] * factor), _rounded(source[1] * factor)
    else:
        resized = shortest_edge(source, augment.test_shortest or min(source), augment.test_longest)
    return Geometry(source, resized, (0, 0), resized, resized)


def warp_image(image: Tensor, geometry: Geometry, pad_value: int) -> Tensor:
    """[C, H, W] of any dtype on the canvas: bilinear, antialiased (as Pillow does), `pad_value` outside."""
    if geometry.flip:
        image = image.flip(-1)
    if geometry.resized != geometry.source:
        resized = F.interpolate(
            image[None], geometry.resized, mode="bilinear", align_corners=False, antialias=True
        )
        image = resized[0]
    (top, left), (height, width) = geometry.offset, geometry.crop
    image = image[:, top : top + height, left : left + width]
    if geometry.canvas == geometry.crop:
        return image.contiguous()
    canvas = image.new_full((image.shape[0], *geometry.canvas), pad_value)
    canvas[:, :height, :width] = image
    return canvas


def warp_mask(annotation: dict[str, Any], geometry: Geometry) -> NDArray[np.uint8]:
    """uint8 of the canvas: the mask of one checked annotation.

    Polygons are drawn at the new size, as official training does; an RLE mask is sampled at the
    nearest pixel.
    """
    segmentation = annotation["segmentation"]
    inside = (
        _sampled(segmentation, geometry)
        if isinstance(segmentation, dict)
        else _redrawn(segmentation, geometry)
    )
    if geometry.canvas == geometry.crop:
        return inside
    canvas = np.zeros(geometry.canvas, dtype=np.uint8)
    canvas[: geometry.crop[0], : geometry.crop[1]] = inside
    return canvas


def _redrawn(polygons: list[list[float]], geometry: Geometry) -> NDArray[np.uint8]:
    return polygons_mask([ring.ravel().tolist() for ring in _moved(polygons, geometry)], *geometry.crop)


def _moved(polygons: list[list[float]], geometry: Geometry) -> list[NDArray[np.float64]]:
    """Rings [P, 2] of x, y in pixels of the crop, outside of it too."""
    (height, width), (top, left) = geometry.source, geometry.offset
    moved = []
    for polygon in polygons:
        xy = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        if geometry.flip:
            xy[:, 0] = width - xy[:, 0]
        xy *= geometry.resized[1] / width, geometry.resized[0] / height
        moved.append(xy - (left, top))
    return moved


def warp_box(annotation: dict[str, Any], geometry: Geometry) -> NDArray[np.float64] | None:
    """x0, y0, x1, y1 in pixels of the canvas, to fractions of one, of an annotation's polygons in the crop.

    Official training takes boxes from polygons; the tight box of the mask is up to some pixels smaller where
    a thin end draws none. None for an RLE mask and where nothing of the polygons is in the crop.
    """
    if isinstance(annotation["segmentation"], dict):
        return None
    size = np.array(geometry.crop[::-1], dtype=np.float64)
    ends = np.concatenate([_ends_inside(ring, size) for ring in _moved(annotation["segmentation"], geometry)])
    return np.concatenate([ends.min(0), ends.max(0)]) if len(ends) else None


def _ends_inside(ring: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a ring's edges start, end, enter and leave in (0, 0) .. size, and the corners inside the ring."""
    start, way = ring, np.roll(ring, -1, axis=0) - ring
    with np.errstate(divide="ignore", invalid="ignore"):  # Liang and Barsky 1984: shares of each edge's way
        bounds = np.stack([-start / way, (size - start) / way])
    level = way == 0
    outside = level & ((start < 0) | (start > size))
    enter = np.where(level, 0.0, bounds.min(0)).max(1).clip(0)
    leave = np.where(level, 1.0, bounds.max(0)).min(1).clip(max=1)
    kept = (enter <= leave) & ~outside.any(1)
    shares = np.stack([enter, leave])[..., None]
    found = (start + shares * way)[:, kept].reshape(-1, 2)
    corners = size * [(0, 0), (1, 0), (0, 1), (1, 1)]
    return np.concatenate([found, corners[[_within(corner, start, way) for corner in corners]]])


def _within(point: NDArray[np.float64], start: NDArray[np.float64], way: NDArray[np.float64]) -> bool:
    """Whether a ring goes round a point: the edges that its ray to the right meets are odd in number."""
    above = start[:, 1] > point[1]
    crossing = above != (start[:, 1] + way[:, 1] > point[1])
    share = (point[1] - start[crossing, 1]) / way[crossing, 1]
    return bool((start[crossing, 0] + share * way[crossing, 0] > point[0]).sum() % 2)


def warp_values(values: NDArray[np.int32], geometry: Geometry, outside: int) -> NDArray[np.int32]:
    """int32 [H, W] of the source on the canvas, sampled at the nearest pixel; `outside` around the image."""
    rows, columns = _source_pixels(geometry)
    canvas = np.full(geometry.canvas, outside, dtype=np.int32)
    canvas[: geometry.crop[0], : geometry.crop[1]] = values[rows[:, None], columns]
    return canvas


def _source_pixels(geometry: Geometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns of the source that the rows and columns of the crop show."""
    rows = _nearest(geometry.source[0], geometry.resized[0], geometry.offset[0], geometry.crop[0])
    columns = _nearest(geometry.source[1], geometry.resized[1], geometry.offset[1], geometry.crop[1])
    return rows, geometry.source[1] - 1 - columns if geometry.flip else columns


def _sampled(rle: dict[str, Any], geometry: Geometry) -> NDArray[np.uint8]:
    rows, columns = _source_pixels(geometry)
    first, band = rle_band(rle)
    hit = np.flatnonzero((columns >= first) & (columns < first + len(band)))
    mask = np.zeros(geometry.crop, dtype=np.uint8)
    mask[:, hit] = band[columns[hit] - first][:, rows].T
    return mask


def _nearest(source: int, resized: int, offset: int, count: int) -> NDArray[np.int64]:
    """The source pixel under the centre of each of `count` pixels from `offset` on."""
    centres = (np.arange(offset, offset + count) + 0.5) * (source / resized)
    return np.minimum(centres.astype(np.int64), source - 1)


def warp_masks(annotations: Sequence[dict[str, Any]], geometry: Geometry) -> Tensor:
    """bool [N, H, W] of the canvas: the masks of N checked annotations, N may be 0; made one at a time."""
    masks = torch.empty(len(annotations), *geometry.canvas, dtype=torch.bool)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask.copy_(torch.from_numpy(warp_mask(annotation, geometry)))
    return masks
