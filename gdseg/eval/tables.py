"""Scores as tables of text, by what was measured: AP, panoptic quality, or mIoU and accuracies.

Called by `gdseg eval` and the run report.
"""

from __future__ import annotations

import re

from gdseg.eval.scores import Scores

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows
_INSTANCE = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "S": "ap_small", "M": "ap_medium", "L": "ap_large"}
_INSTANCE |= {"rare": "ap_rare", "common": "ap_common", "frequent": "ap_frequent"}
_INSTANCE |= {"AR1": "ar1", "AR10": "ar10"}
_PANOPTIC = {"PQ": "pq", "SQ": "sq", "RQ": "rq"}
_SHARES = {"": "{}", " things": "{}_things", " stuff": "{}_stuff"}
_SHARES |= {f" boundary{share}": f"boundary_{key}" for share, key in _SHARES.items()}
_SEMANTIC = {
    "mIoU": "miou",
    "fwIoU": "fwiou",
    "pixel accuracy": "pixel_accuracy",
    "class accuracy": "class_accuracy",
    "boundary mIoU": "boundary_miou",
    "iIoU": "iiou",
    "category IoU": "category_iou",
    "category iIoU": "category_iiou",
}
_KINDS = {"mask": "mask_", "box": "box_", "boundary": "boundary_", "Cityscapes": "cityscapes_"}
_CLASS_COUNTS = ("objects", "pixels", "true_positives", "false_positives", "false_negatives")
_CLASS_METRICS = ("ap", "ap50", "pq", "sq", "rq", "iou", "iiou", "accuracy")


def main_table(scores: dict[str, Scores]) -> Table:
    """A row for each network and kind of AP or share of the classes; columns for what was measured at all."""
    first = next(iter(scores.values()))
    if "pq" in first.metrics:
        return _table("panoptic quality, %", _PANOPTIC, scores, _SHARES)
    if "miou" in first.metrics:
        return _table("semantic, %", _SEMANTIC, scores, {"": "{}"})
    judged = [int(n) for name in first.metrics for n in re.findall(r"_ar(\d+)$", name)]
    limit = max(judged, default=100)
    title = f"AP and AR, % (AR: {limit} detections"
    if first.areas:
        title += "; S M L: areas below {:.0f}, {:.0f}, above".format(*first.areas)
    kinds = {f" {kind}": prefix + "{}" for kind, prefix in _KINDS.items()}
    return _table(title + ")", _INSTANCE | {"AR": f"ar{limit}"}, scores, kinds)


def _table(title: str, columns: dict[str, str], scores: dict[str, Scores], kinds: dict[str, str]) -> Table:
    """columns: heading -> metric; kinds: what follows a network's name -> the metric's name in full."""
    found = {
        name + kind: {column: value.metrics.get(full.format(key)) for column, key in columns.items()}
        for name, value in scores.items()
        for kind, full in kinds.items()
    }
    found = {name: row for name, row in found.items() if any(v is not None for v in row.values())}
    there = [column for column in columns if any(row[column] is not None for row in found.values())]
    rows = [[name, *(percent(row[column]) for column in there)] for name, row in found.items()]
    return title, ["", *there], rows


def class_table(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the classes: counts, then what was measured of each."""
    found = {key for values in scores.per_class.values() for key in values}
    counts = [key for key in _CLASS_COUNTS if key in found]
    keys = [prefix + key for prefix in ("", *_KINDS.values()) for key in _CLASS_METRICS]
    measured = [key for key in keys if key in found]
    names = [re.sub("ap(50)?$", r"AP\1", key.replace("_", " ")) for key in measured]
    header = ["class", *(c.replace("_", " ") for c in counts), *names]
    rows = [
        [name, *(f"{values[key]:.0f}" for key in counts), *(percent(values[key]) for key in measured)]
        for name, values in scores.per_class.items()
    ]
    return header, rows


def percent(value: float | None) -> str:
    """12.3, or - where nothing can be said (NaN) or was measured."""
    return "-" if value is None or value != value else f"{100 * value:z.1f}"
