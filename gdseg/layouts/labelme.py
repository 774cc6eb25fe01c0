"""labelme's json files. Called by convert.py."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdseg.data.rle import annotation_mask
from gdseg.files import write_atomic, write_json
from gdseg.layouts.job import Job, flat, names_of, size_of, sureness
from gdseg.polygons import mask_polygons
from gdseg.writers import labelme_document, labelme_polygons


def write_labelme_folder(job: Job) -> None:
    """PART/ with a json beside each image, and labels.txt. Crowds are shapes whose flags say "iscrowd".

    Weights and scores are keys of the shapes, which labelme leaves as they are.
    Polygons stay polygons, masks become polygons; an object with a hole, which no polygon of labelme has,
    becomes a shape of the type mask. Raises DataError for classes that names do not tell apart.
    """
    names = names_of(job.table, "labelme")
    for record, name in job.each(job.part, flat):
        size = size_of(record)
        shapes: list[dict[str, Any]] = []
        for number, found in enumerate(job.objects(record), 1):
            more: dict[str, Any] = {"flags": {"iscrowd": True}} if found["iscrowd"] else {}
            shapes += _shapes(found, names[found["label"]], number, size, {**more, **sureness(found)})
        document = labelme_document(shapes, str(name), size)
        write_json(job.out / job.part / name.with_suffix(".json"), document)
    write_atomic(job.out / "labels.txt", "".join(f"{name}\n" for name in names))


def _shapes(
    found: dict[str, Any], name: str, number: int, size: tuple[int, int], more: dict[str, Any]
) -> list[dict[str, Any]]:
    if isinstance(found["segmentation"], list):
        rings = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in found["segmentation"]]
        return labelme_polygons(name, rings, number, **more)
    mask = annotation_mask(found, *size)
    parts = mask_polygons(mask)
    if all(len(part) == 1 for part in parts):
        return labelme_polygons(name, [part[0] for part in parts], number, **more)
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [[int(xs[0]), int(ys[0])], [int(xs[-1]), int(ys[-1])]]
    picture = _png(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1])
    [shape] = labelme_polygons(name, [np.array(box)], number, **more)
    return [{**shape, "shape_type": "mask", "mask": picture}]


def _png(mask: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
