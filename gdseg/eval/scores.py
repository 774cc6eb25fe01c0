"""What every evaluator returns: metrics of the whole part, and of each class. Read by train/ and the CLI."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Scores:
    """`metrics`: name -> value in 0..1, NaN where there is no truth to find.

    instance: mask_ap, mask_ap50, .., box_ap, ..; panoptic: pq, sq, rq and their _things and _stuff; semantic:
    miou, fwiou, pixel_accuracy, class_accuracy. `per_class`: class name -> the same of one class, and counts.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
