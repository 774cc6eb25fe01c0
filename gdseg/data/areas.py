"""Small, medium and large objects: where they begin, for what is inspected as for what is scored.

Called by data/inspect.py and eval/coco.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COCO_LIMITS = (32.0**2, 96.0**2)  # pixels: where medium and large begin
_FEW = 0.01  # of the objects: a range of areas that holds fewer says nothing


def area_limits(areas: Sequence[float]) -> tuple[float, float]:
    """Where medium and large objects begin, in pixels: at COCO's 32² and 96², or at the objects' own thirds.

    The thirds serve where COCO's limits leave a range (nearly) empty, as with cells, which are all small.
    """
    if not len(areas):
        return COCO_LIMITS
    counts = np.bincount(np.searchsorted(COCO_LIMITS, areas, side="right"), minlength=3)
    if counts.min() >= _FEW * len(areas):
        return COCO_LIMITS
    return thirds(areas)


def thirds(areas: Sequence[float]) -> tuple[float, float]:
    """The areas below which a third and two thirds of the objects lie; COCO's limits without objects."""
    if not len(areas):
        return COCO_LIMITS
    first, second = np.quantile(np.asarray(areas), (1 / 3, 2 / 3))
    return float(first), float(second)


def declared_area(annotation: Mapping[str, Any]) -> float | None:
    """The area that an annotation states, in pixels, by which COCO sorts objects into sizes; or None."""
    area = annotation.get("area")
    return float(area) if isinstance(area, int | float) and 0 < area < math.inf else None
