"""Masks as polygons, for formats that know nothing else: labelme and YOLO. Called by writers.py.

Outlines follow the half-way line between pixels inside and outside (contourpy, BSD). Coordinates are
pixels with (0, 0) at the image's top left corner, so a pixel's centre is at .5.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

Ring = NDArray[np.float64]  # [P, 2]: x, y; closed without repeating the first point


def mask_polygons(mask: NDArray[Any]) -> list[list[Ring]]:
    """The connected parts of a mask [H, W], the largest first; each is its outline followed by its holes."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    corner = np.array([columns[0], rows[0]])  # objects are much smaller than images
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = np.pad(np.asarray(inside, dtype=np.float64), 1)
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    filled: Any = generator.filled(0.5, np.inf)
    points, offsets = filled
    parts = []
    for xy, cuts in zip(points, offsets, strict=True):
        rings = [_corners(xy[a:b] - 0.5) + corner for a, b in pairwise(cuts)]
        parts.append([ring for ring in rings if len(ring) > 2])
    return sorted((part for part in parts if part), key=lambda part: -ring_area(part[0]))


def _corners(closed: Ring) -> Ring:
    """A closed ring without its repeated last point and the points on straight stretches."""
    ring = closed[:-1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return ring[turns]


def ring_area(ring: Ring) -> float:
    """Area in square pixels."""
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def one_ring(rings: list[Ring]) -> Ring:
    """Several rings as one: each is joined to those before by a bridge of no width at the nearest points.

    Holes (which run the other way round) stay holes and separate parts stay filled under both the
    even-odd and the non-zero rule.
    """
    joined = rings[0]
    for ring in rings[1:]:
        here, there = _nearest(joined, ring)
        around = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return joined


def _nearest(a: Ring, b: Ring) -> tuple[int, int]:
    best, place = np.inf, (0, 0)
    for j, point in enumerate(b):  # one row at a time: rings of a large photo have thousands of points
        distances = np.square(a - point).sum(1)
        i = int(distances.argmin())
        if distances[i] < best:
            best, place = float(distances[i]), (i, j)
    return place
