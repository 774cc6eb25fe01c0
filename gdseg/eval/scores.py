"""What every evaluator returns: metrics of the whole part, and of each class. Read by train/ and the CLI."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Scores:
    """`metrics`: name -> value in 0..1, NaN where there is no truth to find.

    instance: mask_ap, mask_ap50, .., box_ap, .., boundary_ap, .., of LVIS mask_ap_rare, .., of Cityscapes
    cityscapes_ap, ..; panoptic: pq, sq, rq, their _things and _stuff, and boundary_pq, ..; semantic: miou,
    fwiou, pixel_accuracy, class_accuracy, boundary_miou, of Cityscapes iiou, .. `per_class`: class name ->
    the same of one class, and counts. `areas`: where medium and large objects begin, in pixels.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    areas: tuple[float, float] | None = None

    def add(self, part: Scores, prefix: str = "") -> None:
        """Take over the metrics of another evaluator of the same classes."""
        self.metrics |= {prefix + name: value for name, value in part.metrics.items()}
        for name, values in part.per_class.items():
            self.per_class[name] |= {prefix + key: value for key, value in values.items()}
