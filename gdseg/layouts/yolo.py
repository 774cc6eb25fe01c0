"""YOLO-seg text files, as ultralytics trains on them. Called by convert.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gdseg.data.rle import annotation_mask, polygons_mask
from gdseg.files import write_atomic
from gdseg.layouts.job import Job, size_of
from gdseg.polygons import Ring, mask_polygons
from gdseg.writers import yolo_row


def write_yolo_folders(job: Job) -> None:
    """images/PART and labels/PART with a text for each image, and data.yaml. Crowds are left out.

    Parts and holes of an object are joined to one ring. The row is what draws the same mask again: the
    polygons as they are if they do so, else the outline of the mask.
    """
    for record, name in job.each(f"images/{job.part}"):
        rows = []
        for found in job.objects(record):
            if found["iscrowd"]:
                job.notes["crowd regions are left out"] += 1
            else:
                rows.append(_row(found, size_of(record), job))
        write_atomic(job.out / "labels" / job.part / name.with_suffix(".txt"), "".join(rows))
    if [c.id for c in job.table] != list(range(len(job.table))):
        job.notes["classes are numbered anew, from 0 on"] = len(job.table)
    write_atomic(job.out / "data.yaml", _config(job))


def _row(found: dict[str, Any], size: tuple[int, int], job: Job) -> str:
    mask, row = annotation_mask(found, *size), ""
    for rings in _rings(found["segmentation"], mask):
        row = yolo_row(found["label"], rings, size)
        if np.array_equal(_drawn(row, size), mask):
            return row + "\n"
    job.notes["objects have a slightly other mask"] += 1
    return row + "\n"


def _rings(segmentation: Any, mask: NDArray[np.uint8]) -> Iterator[list[Ring]]:
    """The polygons of an annotation, then the outline of its mask."""
    if isinstance(segmentation, list):
        yield [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
    yield [ring for part in mask_polygons(mask) for ring in part]


def _drawn(row: str, size: tuple[int, int]) -> Any:
    """The mask that the reader makes of a row."""
    points = np.array(row.split()[1:], dtype=np.float64).reshape(-1, 2) * size[::-1]
    return polygons_mask([points.ravel().tolist()], *size)


def _config(job: Job) -> str:
    """data.yaml with the parts that are there so far."""
    parts = {part: f"images/{part}" for part in ("train", "val") if (job.out / "images" / part).is_dir()}
    names = {"names": {label: info.name for label, info in enumerate(job.table)}}
    return yaml.safe_dump({"path": ".", **parts, **names}, sort_keys=False, allow_unicode=True)
