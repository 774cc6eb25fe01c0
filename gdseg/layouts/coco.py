"""COCO instances and LVIS: everything that a record knows is kept. Called by convert.py."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as coco_mask

from gdseg.eval.coco import as_rle
from gdseg.files import write_json
from gdseg.layouts.job import Job, size_of, sureness
from gdseg.map_writers import coco_categories
from gdseg.structures import Record


def write_coco(job: Job) -> None:
    """annotations/instances_PART.json, and PART/ with the images. Polygons stay polygons, masks are RLE."""
    write_json(job.out / "annotations" / f"instances_{job.part}.json", _document(job), indent=None)


def write_lvis(job: Job) -> None:
    """annotations/lvis_v1_PART.json. An image that is not federated was searched for every class.

    LVIS has no crowds: their class is one of which not all objects in the image are marked.
    """
    document = _document(job)
    images = {image["id"]: image for image in document["images"]}
    ids = {category["id"] for category in document["categories"]}
    there: dict[Any, set[int]] = {image_id: set() for image_id in images}
    partial: dict[Any, set[int]] = {image_id: set() for image_id in images}
    for annotation in document["annotations"]:
        marked = partial if annotation["iscrowd"] else there
        marked[annotation["image_id"]].add(annotation["category_id"])
    for image_id, image in images.items():
        image["file_name"] = f"{job.part}/{image['file_name']}"
        absent = sorted(ids - there[image_id] - partial[image_id])
        image.setdefault("neg_category_ids", absent)
        known = image.get("not_exhaustive_category_ids", [])
        image["not_exhaustive_category_ids"] = sorted(partial[image_id].union(known))
    crowds = [a for a in document["annotations"] if a["iscrowd"]]
    if crowds:
        job.notes["crowd regions are left out, their class counts as marked in part"] += len(crowds)
    document["annotations"] = [a for a in document["annotations"] if not a["iscrowd"]]
    write_json(job.out / "annotations" / f"lvis_v1_{job.part}.json", document, indent=None)


def image_ids(job: Job) -> list[int]:
    """The records' own ids where all are numbers, else numbers from 1 on."""
    own = [record.image_id for record in job.records]
    numbers = [i for i in own if type(i) is int]
    return numbers if len(numbers) == len(own) else list(range(1, len(own) + 1))


def _document(job: Job) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (record, name) in zip(image_ids(job), job.each(job.part), strict=True):
        height, width = size_of(record)
        image = {"id": number, "file_name": str(name), "height": height, "width": width}
        images.append(image | _federated(record, job))
        for found in job.objects(record):
            annotations.append(_annotation(found, len(annotations) + 1, number, record, job))
    about = {"description": "written by gdseg data convert"}
    return {
        "info": about,
        "images": images,
        "annotations": annotations,
        "categories": coco_categories(job.table),
    }


def _federated(record: Record, job: Job) -> dict[str, Any]:
    if record.federated is None:
        return {}
    absent, partial = (
        sorted(job.table[label].id for label in labels)
        for labels in (record.federated.absent, record.federated.partial)
    )
    return {"neg_category_ids": absent, "not_exhaustive_category_ids": partial}


def _annotation(
    found: dict[str, Any], number: int, image_id: int, record: Record, job: Job
) -> dict[str, Any]:
    """A record's annotation in the form of COCO, with its weight and score; what a COCO file said is kept."""
    rle = as_rle(found["segmentation"], record)
    facts: dict[str, Any] = {"id": number, "area": int(coco_mask.area(rle)), **sureness(found)}
    facts["bbox"] = [int(side) for side in coco_mask.toBbox(rle)]
    if "image_id" in found:  # of a COCO file, where ids are numbers of their own
        facts |= {key: value for key, value in found.items() if key != "label" and value is not None}
    facts |= {"image_id": image_id, "category_id": job.table[found["label"]].id}
    return {**facts, "iscrowd": found["iscrowd"], "segmentation": found["segmentation"]}
