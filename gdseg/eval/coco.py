"""COCO mask and box AP: pycocotools matches and accumulates, this file feeds it and reads its tables.

AP and AR are those of the COCO API (BSD, pycocotools/cocoeval.py), save that AP is taken at
`max_detections` where a recipe keeps more than 100 instances an image. Called by eval/run.py and
`gdseg eval`.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gdseg.eval.scores import Scores
from gdseg.structures import Record

_AREAS = ("all", "small", "medium", "large")  # the area ranges of COCOeval, in its order
_KINDS = {"mask": "segm", "box": "bbox"}


def score(
    records: Sequence[Record],
    classes: Sequence[str],
    category_ids: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
) -> Scores:
    """Score detections against the records' annotations (those without any count as empty).

    results: dicts {"image_id", "category_id", "score", "segmentation": RLE, "bbox": [x, y, w, h] in
    pixels}, made by `Predictions.to_coco` or passed through `check_results`, which must come first
    for anything read from a file. A missing bbox is that of the mask. Without any "segmentation"
    only boxes are scored. No results at all score 0.
    """
    limit = max(100, max_detections)
    truth = _truth(records, category_ids)
    scores = Scores(per_class={name: {} for name in classes})
    boxes_only = bool(results) and not any("segmentation" in result for result in results)
    for kind in ("box",) if boxes_only else ("mask", "box"):
        found = _detections(results, records, kind)
        _read_tables(
            _accumulate(truth, found, records, category_ids, kind, limit), kind, limit, classes, scores
        )
    objects = Counter(annotation["category_id"] for annotation in truth if not annotation["iscrowd"])
    for category_id, name in zip(category_ids, classes, strict=True):
        scores.per_class[name]["objects"] = float(objects[category_id])
    return scores


def metric_names(limit: int = 100) -> list[str]:
    """The metrics of one kind, without its prefix, in the order of the COCO table."""
    return ["ap", "ap50", "ap75", *(f"ap_{a}" for a in _AREAS[1:]), "ar1", "ar10", f"ar{limit}"] + [
        f"ar_{a}" for a in _AREAS[1:]
    ]


def _numbers(records: Sequence[Record]) -> dict[int | str, int]:
    """A number for each image id, in the order in which pycocotools sorts them; it cannot mix int and str."""
    ids = sorted((record.image_id for record in records), key=lambda i: (isinstance(i, str), i))
    return {image_id: number for number, image_id in enumerate(ids, 1)}


def _truth(records: Sequence[Record], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    numbers = _numbers(records)
    truth: list[dict[str, Any]] = []
    for record in records:
        for annotation in record.annotations or ():
            rle = as_rle(annotation["segmentation"], record)
            truth.append(
                {
                    "id": len(truth) + 1,  # COCOeval takes id 0 for "not matched"
                    "image_id": numbers[record.image_id],
                    "category_id": category_ids[annotation["label"]],
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                    "segmentation": rle,
                    "area": _area(annotation, rle),
                    "bbox": annotation.get("bbox") or coco_mask.toBbox(rle).tolist(),
                }
            )
    return truth


def _area(annotation: Mapping[str, Any], rle: dict[str, Any]) -> float:
    """The declared area, which COCO sorts objects into sizes by, or that of the mask."""
    area = annotation.get("area")
    if isinstance(area, int | float) and 0 < area < np.inf:
        return float(area)
    return float(coco_mask.area(rle))


def as_rle(segmentation: Any, record: Record) -> dict[str, Any]:
    """A compressed RLE of checked polygons or of a checked RLE, as COCO.annToRLE makes it."""
    if isinstance(segmentation, dict):
        return segmentation
    parts = coco_mask.frPyObjects(segmentation, record.height, record.width)
    rle: dict[str, Any] = coco_mask.merge(parts)
    return rle


def _detections(
    results: Sequence[Mapping[str, Any]], records: Sequence[Record], kind: str
) -> list[dict[str, Any]]:
    """Detections as COCO.loadRes makes them, but with the area of what is compared: mask or box."""
    numbers, found = _numbers(records), []
    for number, result in enumerate(results, 1):
        entry = {k: result[k] for k in ("category_id", "score")}
        entry |= {"id": number, "image_id": numbers[result["image_id"]], "iscrowd": 0}
        if kind == "mask":
            rle = result["segmentation"]
            entry |= {"segmentation": rle, "area": float(coco_mask.area(rle))}
        else:
            box = result.get("bbox") or coco_mask.toBbox(result["segmentation"]).tolist()
            entry |= {"bbox": box, "area": float(box[2] * box[3])}
        found.append(entry)
    return found


def _accumulate(
    truth: list[dict[str, Any]],
    found: list[dict[str, Any]],
    records: Sequence[Record],
    category_ids: Sequence[int],
    kind: str,
    limit: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """COCOeval's precision [T, R, K, A, M] and recall [T, K, A, M]; -1 where there is no truth.

    T IoU thresholds 0.5..0.95, R recall levels, K classes in the order of category_ids, A areas,
    M detections an image (1, 10, limit).
    """
    images = [{"id": n, "height": 0, "width": 0} for n in range(1, len(records) + 1)]  # all masks are RLEs
    categories = [{"id": category_id} for category_id in category_ids]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth, found):
            side = COCO()
            side.dataset = {
                "images": images,
                "categories": categories,
                "annotations": [dict(a) for a in annotations],
            }
            side.createIndex()
            sides.append(side)
        evaluator = COCOeval(*sides, _KINDS[kind])
        evaluator.params.maxDets = [1, 10, limit]
        evaluator.evaluate()
        evaluator.accumulate()
    order = np.argsort(np.argsort(category_ids))  # COCOeval sorts the classes by id
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return precision[:, :, order], recall[:, order]


def _read_tables(
    tables: tuple[NDArray[np.float64], NDArray[np.float64]],
    kind: str,
    limit: int,
    classes: Sequence[str],
    into: Scores,
) -> None:
    precision, recall = tables[0][..., -1], tables[1]
    ap = [precision[:, :, :, 0], precision[0, :, :, 0], precision[5, :, :, 0]]
    ap += [precision[:, :, :, area] for area in (1, 2, 3)]
    ar = [recall[:, :, 0, m] for m in (0, 1, 2)] + [recall[:, :, area, 2] for area in (1, 2, 3)]
    for name, table in zip(metric_names(limit), ap + ar, strict=True):
        into.metrics[f"{kind}_{name}"] = _mean(table)
    for label, name in enumerate(classes):
        into.per_class[name][f"{kind}_ap"] = _mean(precision[:, :, label, 0])
        into.per_class[name][f"{kind}_ap50"] = _mean(precision[0, :, label, 0])


def _mean(table: NDArray[np.float64]) -> float:
    there = table[table > -1]
    return float(there.mean()) if there.size else float("nan")
