"""Detections from a file, by any tool: checked one by one before pycocotools' C code sees them.

Reads the COCO results format (a list) and the documents that `gdseg predict` writes. Called by
`gdseg eval --pred` and `gdseg visualize`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gdseg.data.coco import TOLERANCE
from gdseg.data.rle import SegmentationError, check_polygons, check_rle, shorten, to_rle
from gdseg.errors import DataError
from gdseg.eval.coco import as_rle
from gdseg.eval.predictions_file import PredictionsFile
from gdseg.structures import Record


def read_all_results(
    files: Sequence[PredictionsFile], records: Sequence[Record], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The detections in several files, as of processes that shared the images.

    Raises DataError as `read_results`, and where two files hold detections in the same image.
    """
    results: list[dict[str, Any]] = []
    owner: dict[int | str, Path] = {}
    for file in files:
        found = read_results(file, records, category_ids)
        for image_id in {result["image_id"] for result in found}:
            if image_id in owner:
                what = f"image {shorten(image_id)} has results in {owner[image_id]} too"
                raise DataError(what, file.path, "give each image's results once")
            owner[image_id] = file.path
        results += found
    return results


def read_results(
    file: PredictionsFile, records: Sequence[Record], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The detections in a json file, checked against the data set they are for.

    A list in COCO's results format, or a document with "images" and "annotations", whose images are
    found by file name when its ids are others. Raises DataError: no results, or the first wrong entry.
    """
    content, path = file.content, file.path
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        hint = "expected a list of results, or an object with the lists images, annotations and categories"
        raise DataError("the json holds no COCO results", path, hint)
    if isinstance(content, dict):
        entries = _by_file_name(entries, content.get("images"), records)
    return check_results(entries, records, category_ids, str(path))


def check_results(
    entries: Sequence[Any], records: Sequence[Record], category_ids: Sequence[int], where: str
) -> list[dict[str, Any]]:
    """Safe copies of untrusted results, fit for `gdseg.eval.coco.score`.

    Raises DataError naming the first entry with an image or category that is not declared, a score
    that is no number, a box or mask that is malformed or of another size than its image, or when
    some entries have masks and others do not.
    """
    by_id, known = {record.image_id: record for record in records}, set(category_ids)
    checked = []
    for number, entry in enumerate(entries):
        try:
            checked.append(_check(entry, by_id, known))
        except SegmentationError as error:
            text = f"result {number} of {len(entries)}: {error.kind}: {error}"
            raise DataError(text, where, "results must be for this data set: see --data") from error
    with_mask = sum("segmentation" in result for result in checked)
    if with_mask not in (0, len(checked)):
        raise DataError(
            f"{with_mask} of {len(checked)} results have a mask", where, "give all of them one, or none"
        )
    return checked


def _by_file_name(entries: list[Any], images: Any, records: Sequence[Record]) -> list[Any]:
    ids = {record.path.name: record.image_id for record in records}
    if len(ids) < len(records) or not isinstance(images, list):
        return entries
    try:
        renamed = {i["id"]: ids.get(Path(i["file_name"]).name, i["id"]) for i in images}
        return [{**e, "image_id": renamed.get(e["image_id"], e["image_id"])} for e in entries]
    except (TypeError, KeyError, ValueError):
        return entries  # what is wrong is said when each entry is checked


def _check(entry: Any, by_id: Mapping[int | str, Record], known: set[int]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise SegmentationError("bad result", f"expected an object, found {shorten(entry)}")
    image_id, category_id, confidence = entry.get("image_id"), entry.get("category_id"), entry.get("score")
    if isinstance(image_id, bool) or not isinstance(image_id, int | str) or image_id not in by_id:
        raise SegmentationError("unknown image id", shorten(image_id))
    if type(category_id) is not int or category_id not in known:
        raise SegmentationError("unknown category id", shorten(category_id))
    if confidence is None or not _finite([confidence]):
        raise SegmentationError("bad score", f"expected a number, found {shorten(confidence)}")
    result: dict[str, Any] = {"image_id": image_id, "category_id": category_id, "score": float(confidence)}
    if entry.get("segmentation") is not None:
        result["segmentation"] = _check_mask(entry["segmentation"], by_id[image_id])
    if entry.get("bbox") is not None:
        result["bbox"] = _check_box(entry["bbox"])
    if not {"segmentation", "bbox"} & result.keys():
        raise SegmentationError("bad result", "it has neither a segmentation nor a bbox")
    return result


def _check_mask(segmentation: Any, record: Record) -> dict[str, Any]:
    height, width = record.height, record.width
    assert height is not None  # records of a json have both
    assert width is not None
    try:
        if isinstance(segmentation, dict):
            return check_rle(segmentation, height, width)
        if isinstance(segmentation, list):
            return as_rle(check_polygons(segmentation, height, width, TOLERANCE), record)
    except SegmentationError as error:
        if error.kind != "empty object" or not isinstance(segmentation, dict):
            raise
        return to_rle(np.zeros((height, width), dtype=np.uint8))  # it counts: as a false positive
    raise SegmentationError("bad result", f"segmentation is {shorten(segmentation)}, expected an RLE")


def _check_box(box: Any) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not _finite(box) or min(box[2:]) < 0:
        raise SegmentationError("bad box", f"expected [x, y, width, height] in pixels, found {shorten(box)}")
    return [float(side) for side in box]


def _finite(values: Sequence[Any]) -> bool:
    """Whether all are numbers that fit a float (json integers may be of any size)."""
    return all(type(v) in (int, float) and abs(v) < 1e300 and math.isfinite(v) for v in values)
