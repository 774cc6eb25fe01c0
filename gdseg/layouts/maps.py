"""Layouts of label maps: COCO panoptic, and folders of index PNGs. Called by convert.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import torch

from gdseg.data.label_maps import Regions
from gdseg.files import write_json
from gdseg.layouts.coco import image_ids
from gdseg.layouts.job import Job
from gdseg.map_writers import coco_categories, panoptic_document, write_panoptic, write_semantic
from gdseg.structures import ClassInfo, Predictions, Record

VOID = 255  # what data.ignore_label is by default


def write_coco_panoptic(job: Job) -> None:
    """annotations/panoptic_PART.json with its PNGs, and PART/ with the images."""
    entries = []
    for number, (record, name) in zip(image_ids(job), job.each(job.part), strict=True):
        found = _found(record, job.regions(record))
        height, width = found.size
        image = {"id": number, "file_name": str(name), "height": height, "width": width}
        stem = _stem(name)
        entries.append(
            (image, write_panoptic(found, job.table, job.out / "annotations" / f"panoptic_{job.part}", stem))
        )
    document = panoptic_document(entries, job.table, {"description": "written by gdseg data convert"})
    write_json(job.out / "annotations" / f"panoptic_{job.part}.json", document, indent=None)


def write_semantic_folders(job: Job) -> None:
    """images/PART, annotations/PART with PNGs of class ids, 255 where there is no class, and classes.json."""
    table, void = index_table(job.table)
    if [c.id for c in table] != [c.id for c in job.table]:
        job.notes["classes are numbered anew, from 0 on"] = len(table)
    if void != VOID:
        job.notes[f"classes do not fit below 255: read them with data.ignore_label={void}"] = len(table)
    for record, name in job.each(f"images/{job.part}"):
        found = _found(record, job.regions(record))
        write_semantic(found, table, job.out / "annotations" / job.part, _stem(name), void)
    write_json(job.out / "classes.json", coco_categories(table), indent=None)


def index_table(table: list[ClassInfo]) -> tuple[list[ClassInfo], int]:
    """The classes with ids that fit into an index PNG, and the value for pixels of none."""
    if min(c.id for c in table) >= 0 and max(c.id for c in table) < VOID:
        return table, VOID
    numbered = [replace(info, id=i) for i, info in enumerate(table)]
    return numbered, VOID if len(table) <= VOID else 65535


def _stem(name: PurePosixPath) -> str:
    return str(name.with_suffix(""))


def _found(record: Record, regions: Regions) -> Predictions:
    """The regions as predictions, which the writers of maps write. Segments are numbered from 1 on."""
    place = torch.from_numpy(np.maximum(regions.place, -1))
    segments = [
        {"id": i, "label": s.label, "isthing": s.is_thing, "iscrowd": int(s.is_crowd)}
        for i, s in enumerate(regions.segments, 1)
    ]
    labels = torch.tensor([*(s.label for s in regions.segments), -1])
    nothing = torch.zeros(0)
    size = (place.shape[0], place.shape[1])
    found = Predictions(record.image_id, size, nothing.long(), nothing, nothing.reshape(0, 4), [])
    return replace(found, panoptic=place + 1, segments=segments, semantic=labels[place.long()])
