"""Maps from files, by any tool: COCO panoptic results (json and PNGs) and folders of semantic index PNGs.

Everything is checked before it is used. Called by `gdseg eval --pred`; `gdseg predict` writes both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gdseg.data.coco import is_id
from gdseg.data.dataset import Dataset
from gdseg.data.images import find_file
from gdseg.data.label_maps import read_ids
from gdseg.data.rle import shorten
from gdseg.errors import DataError
from gdseg.eval.maps import FoundMap
from gdseg.eval.predictions_file import PredictionsFile
from gdseg.structures import Record


def read_panoptic(file: PredictionsFile, dataset: Dataset) -> Iterator[FoundMap]:
    """The maps of a panoptic json of predictions, whose PNGs lie in a folder of its name or in "panoptic".

    Images are found by file name where the json lists them, else by id. Raises DataError for the first
    entry that is wrong: an image not listed or given twice, no PNG, a segment of no known category or
    whose id is 0 or given twice, a pixel without a segment.
    """
    path, content = file.path, file.content
    entries, labels = content["annotations"], {c: i for i, c in enumerate(dataset.category_ids)}
    ids = _ids_by_file_name(content.get("images"), dataset.val)
    seen = set[int | str]()
    for place, entry in enumerate(entries):
        where = f"annotation {place} of {path}"
        if not isinstance(entry, dict) or not isinstance(entry.get("segments_info"), list):
            raise DataError("the annotation has no list segments_info", where)
        image_id, name = entry.get("image_id"), entry.get("file_name")
        if not is_id(image_id) or not isinstance(name, str):
            raise DataError("the annotation needs an image_id and a file_name", where)
        assert image_id is not None
        found = image_id if ids is None else ids.get(image_id)
        if found is None:
            what = f"image {shorten(image_id)} is not among the json's images, or none of the data set"
            raise DataError(what, where, "is it for this data set? see --data")
        if found in seen:
            raise DataError(f"image {shorten(image_id)} has two maps", where, "leave one of them out")
        seen.add(found)
        values = read_ids(_png(path, name, where))
        segments = _segments(entry["segments_info"], labels, where)
        unknown = sorted(set(np.unique(values).tolist()) - segments.keys() - {0})
        if unknown:
            raise DataError(f"the PNG has pixels of no segment: {shorten(unknown[:8])}", where)
        yield FoundMap(found, values, segments)


def _segments(listed: list[Any], labels: Mapping[int, int], where: str) -> dict[int, int]:
    """The label of each segment id."""
    segments: dict[int, int] = {}
    for segment in listed:
        facts = segment if isinstance(segment, dict) else {}
        category, number = facts.get("category_id"), facts.get("id")
        if type(category) is not int or category not in labels or type(number) is not int:
            raise DataError(f"a segment of no known category: {shorten(segment)}", where)
        if number == 0:
            what = f"a segment's id is 0, which is the value of pixels of no segment: {shorten(segment)}"
            raise DataError(what, where, "number segments from 1 on")
        if number in segments:
            raise DataError(f"two segments have the id {number}", where, "give each its own")
        segments[number] = labels[category]
    return segments


def _png(path: Path, name: str, where: str) -> Path:
    for folder in (path.with_suffix(""), path.parent / "panoptic", path.parent):
        found = find_file(folder, name)
        if found is not None:
            return found
    raise DataError(f"no PNG {shorten(name)}", where, f"looked in {path.with_suffix('')} and beside it")


def _ids_by_file_name(images: Any, records: Sequence[Record]) -> Mapping[int | str, int | str] | None:
    """The json's image ids to the data set's, by file name; None if it lists no images.

    Of several images with one name it is the one with the json's id too, or the one whose path ends so.
    """
    if not isinstance(images, list) or not images:
        return None
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(record.path.name, []).append(record)
    found: dict[int | str, int | str] = {}
    for image in images:
        if isinstance(image, dict) and is_id(image.get("id")) and isinstance(image.get("file_name"), str):
            path = PurePosixPath(image["file_name"])
            same = by_name.get(path.name, [])
            exact = [r for r in same if r.image_id == image["id"] or r.path.as_posix().endswith(f"/{path}")]
            if len(same) == 1 or len(exact) == 1:
                found[image["id"]] = (same if len(same) == 1 else exact)[0].image_id
    return found


def read_semantic(folder: Path, dataset: Dataset) -> Iterator[FoundMap]:
    """The index maps in a folder, one of each image's name: values are category ids, others are of no class.

    Raises DataError when none fits.
    """
    labels = {category: label for label, category in enumerate(dataset.category_ids)}
    fitting = 0
    for record in dataset.val:
        names = (f"{record.image_id}.png", f"{record.path.stem}.png")
        path = next((file for name in names if (file := find_file(folder, name))), None)
        if path is None:
            continue
        fitting += 1
        values = read_ids(path)
        there, place = np.unique(values, return_inverse=True)
        label_of = np.array([labels.get(value, -1) for value in there.tolist()])
        yield FoundMap(record.image_id, label_of[place].reshape(values.shape))
    if not fitting:
        what = f"the folder has no PNG of the name of any of {len(dataset.val)} images"
        raise DataError(what, folder, f"as {dataset.val[0].path.stem}.png")
