"""How the built-in data set is drawn: signed distances of seven shapes, and textures to fill them.

Shape and colour are independent, so that a network has to look at the outline. Signed-distance
formulas are the standard analytic ones of plane geometry. Called by data/shapes.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rng = np.random.Generator


def grid(
    size: tuple[int, int], centre: tuple[float, float], angle: float, radius: float
) -> tuple[Array, Array]:
    """x, y [h, w] of pixel centres in a shape's frame: turned by `angle` (radians), 1 = `radius` pixels."""
    y = ((np.arange(size[0]) + 0.5 - centre[0]) / radius)[:, None]
    x = ((np.arange(size[1]) + 0.5 - centre[1]) / radius)[None]
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def disc(x: Array, y: Array, ratio: float) -> Array:
    """An ellipse; `ratio` of its axes."""
    return np.asarray(np.hypot(x, y / ratio) - 1.0)


def box(x: Array, y: Array, ratio: float) -> Array:
    """A rectangle; `ratio` of its sides."""
    return np.maximum(np.abs(x) - 0.85, np.abs(y) - 0.85 * ratio)


def triangle(x: Array, y: Array, ratio: float) -> Array:
    """An isosceles triangle."""
    slope = np.hypot(1.0, 0.5)
    return np.asarray(np.maximum(-y - 0.75 * ratio, (np.abs(x) + 0.5 * y / ratio - 0.5) / slope))


def star(x: Array, y: Array, ratio: float) -> Array:
    """A star with five points; `ratio` sets how deep its notches are."""
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(y, x) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    inner = 0.3 + 0.2 * ratio
    # the edge from the tip (1, 0) to the notch at half a sector
    notch_x, notch_y = inner * np.cos(sector / 2), inner * np.sin(sector / 2)
    px, py = radius * np.cos(angle) - 1.0, radius * np.sin(angle)
    edge_x, edge_y = notch_x - 1.0, notch_y
    return np.asarray((edge_y * px - edge_x * py) / np.hypot(edge_x, edge_y))


def ring(x: Array, y: Array, ratio: float) -> Array:
    """A ring: an object with a hole."""
    return np.abs(np.hypot(x, y / (0.6 + 0.4 * ratio)) - 0.74) - 0.26


def cross(x: Array, y: Array, ratio: float) -> Array:
    """A plus sign."""
    width = 0.18 + 0.14 * ratio
    across = np.maximum(np.abs(x) - 1.0, np.abs(y) - width)
    return np.minimum(across, np.maximum(np.abs(y) - 1.0, np.abs(x) - width))


def crescent(x: Array, y: Array, ratio: float) -> Array:
    """A disc without a second disc."""
    return np.maximum(np.hypot(x, y) - 1.0, 0.85 - np.hypot(x - 0.35 - 0.2 * ratio, y))


SHAPES: dict[str, Callable[[Array, Array, float], Array]] = {
    "disc": disc,
    "box": box,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "cross": cross,
    "crescent": crescent,
}


def colour(rng: Rng) -> Array:
    """A colour float64 [3] in 0..255: any brightness, moderately saturated."""
    return np.clip(rng.uniform(35, 220) + rng.normal(0, 38, 3), 0, 255)


def texture(size: tuple[int, int], rng: Rng, first: Array, contrast: float) -> Array:
    """A texture float64 [h, w, 3] in 0..255: the colour `first` mixed with another in some pattern."""
    second = first + (colour(rng) - first) * contrast
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    mix = pattern(size, rng)[..., None]
    return first + (second - first) * mix


def noise(size: tuple[int, int], rng: Rng) -> Array:
    """Value noise of two octaves, in 0..1."""
    return 0.65 * _octave(size, rng, rng.uniform(16, 48)) + 0.35 * _octave(size, rng, rng.uniform(4, 10))


def _octave(size: tuple[int, int], rng: Rng, cell: float) -> Array:
    """Random values on a grid of `cell` pixels, blended smoothly in between."""
    rows, columns = _blend(size[0], cell), _blend(size[1], cell)
    return np.asarray(rows @ rng.random((rows.shape[1], columns.shape[1])) @ columns.T)


def _blend(length: int, cell: float) -> Array:
    """float64 [length, knots]: the share of each knot in each pixel."""
    place = np.arange(length) / cell
    left = place.astype(int)
    share = place - left
    share = share * share * (3 - 2 * share)
    weights = np.zeros((length, int(left[-1]) + 2))
    weights[np.arange(length), left] = 1 - share
    weights[np.arange(length), left + 1] = share
    return weights


def stripes(size: tuple[int, int], rng: Rng) -> Array:
    """Soft parallel stripes."""
    x, _ = grid(size, (0, 0), rng.uniform(0, np.pi), rng.uniform(1.0, 3.5))
    return np.asarray(0.5 + 0.5 * np.tanh(3 * np.sin(x)))


def checkers(size: tuple[int, int], rng: Rng) -> Array:
    """A turned chess board."""
    x, y = grid(size, (0, 0), rng.uniform(0, np.pi), rng.uniform(4, 12))
    return (np.floor(x) + np.floor(y)) % 2


def gradient(size: tuple[int, int], rng: Rng) -> Array:
    """A ramp from edge to edge."""
    x, _ = grid(size, (0, 0), rng.uniform(0, 2 * np.pi), 1.0)
    return np.asarray((x - x.min()) / max(float(np.ptp(x)), 1e-9))


def spots(size: tuple[int, int], rng: Rng) -> Array:
    """A regular pattern of dots."""
    x, y = grid(size, (0, 0), rng.uniform(0, np.pi), rng.uniform(1.2, 2.5))
    return np.asarray(1 / (1 + np.exp(-6 * (np.cos(x) + np.cos(y) - 0.6))))


_PATTERNS = (noise, noise, stripes, checkers, gradient, spots)
