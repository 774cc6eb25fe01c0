"""What `gdseg predict` writes of panoptic and semantic maps: PNGs that evaluators and gdseg itself read.

Panoptic: COCO panoptic (json and PNGs). Semantic: index PNGs whose palette has the classes' colours, so that
a viewer shows colours and a program reads category ids. Called by cli/predict.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from gdseg.data.label_maps import rgb_of
from gdseg.data.rle import to_rle
from gdseg.errors import DataError
from gdseg.structures import BELOW, ClassInfo, Predictions
from gdseg.view.colours import class_colour
from gdseg.writers import save_picture


def write_panoptic(found: Predictions, table: Sequence[ClassInfo], folder: Path, name: str) -> dict[str, Any]:
    """NAME.png, whose colours are segment ids; returns the image's annotation without its image_id."""
    assert found.panoptic is not None
    ids = found.panoptic.numpy()
    save_picture(Image.fromarray(rgb_of(ids)), folder / f"{name}.png")
    segments = []
    for segment in found.segments or []:
        rle, info = to_rle(ids == segment["id"]), table[segment["label"]]
        facts = {"id": segment["id"], "category_id": info.id, "isthing": int(info.is_thing)}
        box = [int(side) for side in coco_mask.toBbox(rle)]
        facts |= {"iscrowd": segment.get("iscrowd", 0), "area": int(coco_mask.area(rle)), "bbox": box}
        segments.append(facts | ({"score": segment["score"]} if "score" in segment else {}))
    return {"file_name": f"{name}.png", "segments_info": segments}


def write_semantic(
    found: Predictions, table: Sequence[ClassInfo], folder: Path, name: str, void: int = 255
) -> None:
    """NAME.png: a category id for each pixel, in one kind of PNG for all images of a table.

    Ids and void below 256: 8 bits with a palette of colours; below 65536: 16 bits; below 2**24: red + 256
    green + 65536 blue. void: the value of pixels that are of no class (-1). Raises DataError for values
    beyond, and where pixels would be of no class and void is a class's id.
    """
    assert found.semantic is not None
    ids = [info.id for info in table]
    if min(ids) < 0 or max(ids) >= BELOW:
        what = f"category ids from {min(ids)} to {max(ids)} do not fit into an index PNG"
        raise DataError(what, folder, "number the categories from 0 on, or use --format overlay")
    labels = found.semantic.numpy()
    largest = max(ids)
    if (labels < 0).any():
        _check_void(void, ids, folder)
    if void not in ids and 0 <= void < BELOW:  # else no pixel has it
        largest = max(largest, void)
    values = np.array([*ids, void])[labels]
    if largest < 256:
        picture = Image.fromarray(values.astype(np.uint8))
        picture.putpalette(_palette(table))
    else:
        picture = Image.fromarray(values.astype(np.uint16) if largest < 65536 else rgb_of(values))
    save_picture(picture, folder / f"{name}.png")


def _check_void(void: int, ids: Sequence[int], folder: Path) -> None:
    if void in ids:
        what = f"pixels of no class would get the value {void}, which is a class's id"
        raise DataError(what, folder, "set data.ignore_label to a value that no class has")
    if not 0 <= void < BELOW:
        what = f"the value {void} of pixels of no class does not fit into an index PNG"
        raise DataError(what, folder, "set data.ignore_label to 255, or another value below 2**24")


def _palette(table: Sequence[ClassInfo]) -> bytes:
    """256 colours: the class's own at its id, or that of gdseg's pictures; black elsewhere."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for label, info in enumerate(table):
        if info.id < 256:
            colours[info.id] = info.colour or class_colour(label)
    return colours.tobytes()


def panoptic_document(
    entries: Sequence[tuple[dict[str, Any], dict[str, Any]]], table: Sequence[ClassInfo], info: dict[str, Any]
) -> dict[str, Any]:
    """A COCO panoptic json of (image, annotation) pairs; images without an id get their number, from 1 on."""
    numbered = [({"id": i, **image}, annotation) for i, (image, annotation) in enumerate(entries, 1)]
    return {
        "info": info,
        "images": [image for image, _ in numbered],
        "annotations": [{"image_id": image["id"], **annotation} for image, annotation in numbered],
        "categories": coco_categories(table),
    }


def coco_categories(table: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """The classes as COCO lists them, with a colour and LVIS's frequency where the data says them."""
    return [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing)}
        | ({"color": list(c.colour)} if c.colour else {})
        | ({"frequency": c.frequency} if c.frequency else {})
        for c in table
    ]
