"""Repairs of a COCO panoptic json and its PNGs: segments that are wrong and pixels of no segment become void.

Called by repair.py.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gdseg.data.coco import is_id
from gdseg.data.coco_panoptic import segment_fault
from gdseg.data.label_maps import read_ids, rgb_of
from gdseg.data.part import Fault
from gdseg.data.repair_coco import Ids, Item, Note, kept_categories, kept_images
from gdseg.data.rle import shorten
from gdseg.errors import DataError
from gdseg.structures import Record

_OF_MAPS = ("bad label map", "bad segment", "undeclared category id", "segment without pixels")


def repair_panoptic(
    content: Item, images: Path, records: Sequence[Record], faults: Sequence[Fault], lost: Ids, note: Note
) -> tuple[Item, dict[Path, bytes]]:
    """The json's content without faults, and what is written in place of PNGs.

    images: the folder that file names are relative to; records: as read, with their label maps; faults: of
    this json; lost: ids of images to leave out, of which others tell.
    """
    categories = list(kept_categories(content["categories"], note))
    declared = {item["id"] for item in categories}
    found = dict[int | str, Item]()
    by_id = {record.image_id: record for record in records}
    doubtful = {fault.image_id for fault in faults if fault.kind in _OF_MAPS}
    files: dict[Path, bytes] = {}
    kept = {r.image_id: item for item, r in kept_images(content["images"], images, lost, note)}
    for item in content["annotations"]:
        image_id = item.get("image_id") if isinstance(item, dict) else None
        if is_id(image_id) and image_id in lost:
            continue
        if not is_id(image_id) or image_id not in kept or image_id not in by_id or image_id in found:
            note(Fault("bad annotation", f"the annotation of image {shorten(image_id)} is left out"))
            continue
        segments = _segments(item, image_id, declared, note)
        if image_id in doubtful:
            try:
                segments = _repair_map(by_id[image_id], segments, files, note)
            except DataError as error:
                note(Fault("bad label map", f"the image is left out: {error.what}", image_id))
                continue
        found[image_id] = item if segments == item["segments_info"] else {**item, "segments_info": segments}
    for image_id in kept.keys() - found.keys():
        note(Fault("image without annotation", "it is left out", image_id, harmless=True))
    left = [item for image_id, item in kept.items() if image_id in found]
    repaired = {"images": left, "categories": categories, "annotations": list(found.values())}
    return {**content, **repaired}, files


def _segments(item: Item, image_id: int | str, declared: set[int], note: Note) -> list[Item]:
    listed: Any = item.get("segments_info")
    kept, seen = list[Item](), set[int]()
    for segment in listed if isinstance(listed, list) else []:
        fault = segment_fault(segment, declared, seen)
        if fault:
            note(Fault(fault[0], f"the segment is left out: {fault[1]}", image_id))
        else:
            seen.add(segment["id"])
            kept.append(segment)
    return kept


def _repair_map(record: Record, segments: list[Item], files: dict[Path, bytes], note: Note) -> list[Item]:
    """The segments that have pixels; a PNG with pixels of none is written anew. Raises DataError."""
    assert record.label_map is not None
    ids = read_ids(record.label_map.path)
    if ids.shape != (record.height, record.width):
        raise DataError("the label map has another size", record.label_map.path)
    there = set(np.unique(ids).tolist())
    unknown = sorted(there - {0} - {segment["id"] for segment in segments})
    if unknown:
        text = (
            f"pixels of {len(unknown)} values without a segment are now of no class: {shorten(unknown[:8])}"
        )
        note(Fault("bad label map", text, record.image_id))
        buffer = io.BytesIO()
        Image.fromarray(rgb_of(np.where(np.isin(ids, unknown), 0, ids))).save(buffer, format="PNG")
        files[record.label_map.path] = buffer.getvalue()
    for segment in segments:
        if segment["id"] not in there:
            note(Fault("segment without pixels", "it is left out", record.image_id, segment["id"], True))
    return [segment for segment in segments if segment["id"] in there]
