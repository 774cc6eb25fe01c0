"""The tables that `gdseg eval` prints, by what was measured: AP, panoptic quality, or mIoU and accuracies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdseg.eval.scores import Scores

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows
_PANOPTIC = {"PQ": "pq", "SQ": "sq", "RQ": "rq"}
_PANOPTIC |= {
    f"{name} {kind}": f"{key}_{kind}" for kind in ("things", "stuff") for name, key in _PANOPTIC.items()
}
_SEMANTIC = {
    "mIoU": "miou",
    "fwIoU": "fwiou",
    "pixel accuracy": "pixel_accuracy",
    "class accuracy": "class_accuracy",
}
_CLASS_COUNTS = ("objects", "pixels", "true_positives", "false_positives", "false_negatives")


def main_table(scores: dict[str, Scores]) -> Table:
    """A row for each network (of instances: each kind of AP)."""
    metrics = {name: value.metrics for name, value in scores.items()}
    first = next(iter(metrics.values()))
    if "pq" in first or "miou" in first:
        columns, title = (_PANOPTIC, "panoptic quality, %") if "pq" in first else (_SEMANTIC, "semantic, %")
        rows = [[name, *(percent(row[key]) for key in columns.values())] for name, row in metrics.items()]
        return title, ["", *columns], rows
    rows = [
        [f"{name} {kind}", *map(percent, values)]
        for name, row in metrics.items()
        for kind in ("mask", "box")
        if (values := [v for k, v in row.items() if k.startswith(kind + "_")][:9])
    ]
    header = ["", "AP", "AP50", "AP75", "S", "M", "L", "AR1", "AR10", "AR"]
    return "AP (S M L: of small, medium, large objects) and AR, %", header, rows


def class_table(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the classes: counts, then what was measured of each."""
    found = {key for values in scores.per_class.values() for key in values}
    counts = [key for key in _CLASS_COUNTS if key in found]
    keys = ("mask_ap", "mask_ap50", "box_ap", "box_ap50", "pq", "sq", "rq", "iou", "accuracy")
    measured = [key for key in keys if key in found]
    header = ["class", *(c.replace("_", " ") for c in counts), *(k.replace("_ap", " AP") for k in measured)]
    rows = [
        [name, *(f"{values[key]:.0f}" for key in counts), *(percent(values[key]) for key in measured)]
        for name, values in scores.per_class.items()
    ]
    return header, rows


def percent(value: float) -> str:
    """12.3, or - where nothing can be said (NaN)."""
    return "-" if value != value else f"{100 * value:.1f}"
