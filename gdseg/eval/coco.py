"""COCO AP and AR of masks, boxes and mask boundaries, LVIS AP: what is compared, and what is said of it.

AP and AR are those of the COCO API (BSD, pycocotools/cocoeval.py), with LVIS's rules where the data set is
federated. What COCO fixes for its own images follows the data: the number of detections judged, 100, rises
with the objects of an image, and the limits of small, medium and large give way where a range is empty.
Called by eval/run.py and `gdseg eval`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from gdseg.data.areas import area_limits, declared_area, thirds
from gdseg.eval.ap import accumulate
from gdseg.eval.lvis import GROUPS, MAX_DETECTIONS, federated_found, federated_truth
from gdseg.eval.scores import Scores
from gdseg.structures import Record


def score(
    records: Sequence[Record],
    classes: Sequence[str],
    category_ids: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
    *,
    boundary: bool = False,
    areas: tuple[float, float] | str = "auto",
    frequencies: Sequence[str | None] = (),
) -> Scores:
    """Score detections against the records' annotations (those without any count as empty).

    results: dicts {"image_id", "category_id", "score", "segmentation": RLE, "bbox": [x, y, w, h] in
    pixels}, made by `Predictions.to_coco` or passed through `check_results`, which must come first
    for anything read from a file. A missing bbox is that of the mask. Without any "segmentation"
    only boxes are scored. No results at all score 0. boundary: Boundary AP too. areas: where medium and large
    objects begin, in pixels, or "auto" or "thirds" (see data/areas.py). frequencies: of each label (LVIS).
    """
    truth, federated = _truth(records, category_ids), any(record.federated for record in records)
    real = [entry for entry in truth if not entry["iscrowd"]]
    limit = _limit(real, max_detections, MAX_DETECTIONS if federated else 100)
    if isinstance(areas, str):
        areas = (thirds if areas == "thirds" else area_limits)([entry["area"] for entry in real])
    scores = Scores(per_class={name: {} for name in classes}, areas=areas)
    boxes_only = bool(results) and not any("segmentation" in result for result in results)
    sizes = [(record.height or 0, record.width or 0) for record in _ordered(records)]
    for kind in ("box",) if boxes_only else ("mask", "box", *(["boundary"] if boundary else [])):
        judged, found = truth, _detections(results, records, kind)
        if federated:
            judged = federated_truth(truth, _ordered(records), category_ids)
            found = federated_found(found, truth, _ordered(records), category_ids, limit)
        tables = accumulate(judged, found, sizes, category_ids, kind, limit, areas)
        scores.metrics |= {f"{kind}_{name}": value for name, value in tables.metrics(limit).items()}
        if scores.precision is None:  # masks come first
            scores.precision = tables.precision[..., 0, -1]
        for group, letter in GROUPS.items() if federated else ():
            labels = [label for label, frequency in enumerate(frequencies) if frequency == letter]
            scores.metrics[f"{kind}_ap_{group}"] = tables.ap(labels)
        for label, name in enumerate(classes):
            scores.per_class[name] |= {
                f"{kind}_ap": tables.ap([label]),
                f"{kind}_ap50": tables.ap([label], 0),
            }
    objects = Counter(annotation["category_id"] for annotation in real)
    for category_id, name in zip(category_ids, classes, strict=True):
        scores.per_class[name]["objects"] = float(objects[category_id])
    return scores


def _limit(real: Sequence[Mapping[str, Any]], max_detections: int, official: int) -> int:
    """The detections of a class and image that are judged: all objects of the fullest image must fit."""
    objects = Counter((entry["image_id"], entry["category_id"]) for entry in real)
    return max(official, max_detections, *objects.values())


def _ordered(records: Sequence[Record]) -> list[Record]:
    """The records in the order in which pycocotools sorts their ids; it cannot mix int and str."""
    return sorted(records, key=lambda record: (isinstance(record.image_id, str), record.image_id))


def _numbers(records: Sequence[Record]) -> dict[int | str, int]:
    """A number for each image id, in the order of `_ordered`."""
    return {record.image_id: number for number, record in enumerate(_ordered(records), 1)}


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
                    "ignore": int(bool(annotation.get("ignore", 0))),
                    "segmentation": rle,
                    "area": declared_area(annotation) or float(coco_mask.area(rle)),
                    "bbox": annotation.get("bbox") or coco_mask.toBbox(rle).tolist(),
                }
            )
    return truth


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
        if kind == "box":
            box = result.get("bbox") or coco_mask.toBbox(result["segmentation"]).tolist()
            entry |= {"bbox": box, "area": float(box[2] * box[3])}
        else:
            rle = result["segmentation"]
            entry |= {"segmentation": rle, "area": float(coco_mask.area(rle))}
        found.append(entry)
    return found
