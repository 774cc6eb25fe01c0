"""COCO json and Predictions, both ways: what gdseg writes, and labels by hand in the form of predictions.

Called by predict, `gdseg pseudo-label` (whose file can be edited and fed back as labels) and
`gdseg visualize`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as coco_mask

from gdseg.data.rle import boxes_of
from gdseg.eval.coco import as_rle
from gdseg.structures import Predictions, Record

PREDICTED = "predictions of gdseg"  # how a document of `gdseg predict` describes itself


def coco_document(
    predictions: Iterable[Predictions],
    classes: Sequence[str],
    category_ids: Sequence[int],
    info: Mapping[str, Any],
    root: Path | None = None,
) -> dict[str, Any]:
    """A COCO file with images, annotations (RLE, area, bbox, score) and categories.

    Images are numbered from 1; file_name is the path relative to `root` where it lies under it, else
    absolute. Annotations are valid labels too.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, found in enumerate(predictions, 1):
        images.append({"id": number, **image_entry(found, root)})
        for entry in label_entries(found, number, category_ids):
            annotations.append({"id": len(annotations) + 1, **entry})
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, classes, strict=True)]
    return {"info": dict(info), "images": images, "annotations": annotations, "categories": categories}


def image_entry(found: Predictions, root: Path | None = None) -> dict[str, Any]:
    """What a COCO file says of an image, but for its id; root: see `file_name`."""
    return {"file_name": file_name(found, root), "height": found.size[0], "width": found.size[1]}


def label_entries(
    found: Predictions, image_id: int | str, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The objects of an image as annotations without an id; one without pixels is no label."""
    entries = []
    for result in found.to_coco(image_id, category_ids):
        area = int(coco_mask.area(result["segmentation"]))
        if area:
            entries.append({**result, "area": area, "iscrowd": 0})
    return entries


def file_name(found: Predictions, root: Path | None = None) -> str:
    """The image's path relative to `root`, or its absolute path, or its id if it has no file."""
    if found.path is None:
        return str(found.image_id)
    return path_in(root, found.path)


def path_in(root: Path | None, path: Path) -> str:
    """The path relative to `root` where it lies under it, else absolute."""
    whole = path.absolute()
    if root is None or not whole.is_relative_to(root.absolute()):
        return str(whole)
    return whole.relative_to(root.absolute()).as_posix()


def truth_predictions(record: Record, classes: Sequence[str], *, crowds: bool = False) -> Predictions:
    """The record's objects (or its crowd regions) as Predictions; an annotation without a score has NaN."""
    chosen = [a for a in record.annotations or () if bool(a.get("iscrowd")) == crowds]
    rles = [as_rle(a["segmentation"], record) for a in chosen]
    return from_rles(record, rles, [a["label"] for a in chosen], [_score(a) for a in chosen], classes)


def _score(annotation: Mapping[str, Any]) -> float:
    score = annotation.get("score")
    return float(score) if isinstance(score, float | int) and abs(score) <= 1 else float("nan")


def result_predictions(
    record: Record, results: Iterable[Mapping[str, Any]], classes: Sequence[str], category_ids: Sequence[int]
) -> Predictions:
    """Results of one image, checked by `eval.results`, as Predictions, best first; a box fills itself."""
    ordered = sorted(results, key=lambda result: -result["score"])
    rles = [result.get("segmentation") or box_rle(result["bbox"], record) for result in ordered]
    labels = [category_ids.index(result["category_id"]) for result in ordered]
    return from_rles(record, rles, labels, [result["score"] for result in ordered], classes)


def box_rle(box: Sequence[float], record: Record) -> dict[str, Any]:
    """The pixels of a box [x, y, w, h] as an RLE."""
    x, y, w, h = box
    return as_rle([[x, y, x + w, y, x + w, y + h, x, y + h]], record)


def from_rles(
    record: Record, rles: list[dict[str, Any]], labels: list[int], scores: list[float], classes: Sequence[str]
) -> Predictions:
    """Predictions for a record whose size is known, with the masks' tight boxes."""
    assert record.height is not None
    assert record.width is not None
    return Predictions(
        image_id=record.image_id,
        size=(record.height, record.width),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
        boxes_xyxy_px=boxes_of(rles),
        rles=rles,
        names=list(classes),
        path=record.path,
    )
