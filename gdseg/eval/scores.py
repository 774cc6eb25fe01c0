"""What every evaluator returns: metrics of the whole part, and of each class. Read by train/ and the CLI."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Scores:
    """`metrics`: name -> value in 0..1, NaN where there is no truth to find.

    instance: mask_ap, mask_ap50, .., box_ap, .., boundary_ap, .., of LVIS mask_ap_rare, .., of Cityscapes
    cityscapes_ap, ..; panoptic: pq, sq, rq, their _things and _stuff, and boundary_pq, ..; semantic: miou,
    fwiou, pixel_accuracy, class_accuracy, boundary_miou, of Cityscapes iiou, .. `per_class`: class name ->
    the same of one class, and counts. `areas`: where medium and large objects begin, in pixels.
    `precision`: of instances, float64 [T, R, C] at IoU thresholds 0.5, 0.55, .. 0.95, recalls 0, 0.01, .. 1
    and each class, -1 where there is no truth; of masks, or boxes where there are no masks.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    areas: tuple[float, float] | None = None
    precision: NDArray[np.float64] | None = None

    def add(self, part: Scores, prefix: str = "") -> None:
        """Take over the metrics of another evaluator of the same classes."""
        self.metrics |= {prefix + name: value for name, value in part.metrics.items()}
        for name, values in part.per_class.items():
            self.per_class[name] |= {prefix + key: value for key, value in values.items()}
