"""How much a label counts in training, as its annotation says. Called by dataset.py, read by augment.py.

An annotation says it by "weight" or, as pseudo-labels do, by "score": beside its other keys, or among the
"attributes" that CVAT keeps. One that says nothing, as an object drawn by hand, counts in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gdseg.data.part import Fault, Part
from gdseg.data.rle import shorten
from gdseg.structures import Record

LOSS_WEIGHT = "loss_weight"  # the key of a Record's annotation with the weight that training takes
SAID = ("weight", "score")  # the keys of files


def said(annotation: Mapping[str, Any], key: str) -> Any:
    """What an annotation says by `key`; None: nothing. Texts of numbers among attributes are numbers."""
    if annotation.get(key) is not None:
        return annotation[key]
    attributes = annotation.get("attributes")
    return as_number(attributes.get(key)) if isinstance(attributes, dict) else None


def as_number(text: Any) -> Any:
    """The number that a text holds, None for an empty one, and anything else as it is."""
    if not isinstance(text, str):
        return text
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text


def with_label_weights(part: Part, key: str) -> Part:
    """The part with `LOSS_WEIGHT` in its annotations as `data.label_weights` asks: none, weight or score.

    A weight that is no number in 0..1 is a fault.
    """
    if key == "none":
        return part
    faults = list(part.faults)
    return replace(part, records=[_weighted(record, key, faults) for record in part.records], faults=faults)


def _weighted(record: Record, key: str, faults: list[Fault]) -> Record:
    if record.annotations is None or record.label_map is not None:
        return record
    annotations = []
    for annotation in record.annotations:
        value = said(annotation, key)
        number = 1.0 if value is None else value
        if type(number) not in (int, float) or not 0 <= number <= 1:  # not of NaN either
            text = f"its {key} is {shorten(value)}, expected a number from 0 to 1"
            faults.append(Fault("bad weight", text, record.image_id, annotation["id"]))
        else:
            annotations.append({**annotation, LOSS_WEIGHT: float(number)})
    return replace(record, annotations=tuple(annotations))
