"""Masks that are no crowds, though CVAT's "COCO 1.0" says so. Called by data/coco.py.

CVAT writes COCO by datumaro (MIT, plugins/data_formats/coco/exporter.py), which makes a mask a crowd unless
its label declares the attribute is_crowd. Read as it stands, such a file has no object in it. It does not say
whether the label declared that, so real crowds become objects too: CVAT's XML (data/cvat.py) keeps them.
"""

from __future__ import annotations

from typing import Any

from gdseg.data.part import Fault
from gdseg.words import counted


def without_false_crowds(items: list[Any], faults: list[Fault]) -> list[Any]:
    """The annotations; masks of CVAT, known by its attribute "occluded", are objects, which is noted."""
    false = [is_false_crowd(item) for item in items]
    if not any(false):
        return items
    text = f"CVAT's COCO marks all masks as crowds: {counted(sum(false), 'mask')} taken as objects"
    hint = ', real crowds too; with crowds, export "CVAT for images 1.1", which tells them (is_crowd) apart'
    faults.append(Fault("mask marked as crowd", text + hint, harmless=True))
    return [{**item, "iscrowd": 0} if wrong else item for item, wrong in zip(items, false, strict=True)]


def is_false_crowd(item: Any) -> bool:
    """Whether a json's annotation is a mask of CVAT that is marked as a crowd."""
    if not isinstance(item, dict) or item.get("iscrowd") != 1:
        return False
    attributes = item.get("attributes")
    return (
        isinstance(item.get("segmentation"), dict)
        and isinstance(attributes, dict)
        and "occluded" in attributes
    )
