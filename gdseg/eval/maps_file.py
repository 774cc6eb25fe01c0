"""Maps from files, by any tool: COCO panoptic results (json and PNGs) and folders of semantic index PNGs.

Everything is checked before it is used. Called by `gdseg eval --pred`; `gdseg predict` writes both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gdseg.data.dataset import Dataset
from gdseg.data.label_maps import read_ids
from gdseg.data.rle import shorten
from gdseg.errors import DataError
from gdseg.eval.maps import FoundMap
from gdseg.structures import Record


def task_of(path: Path) -> str:
    """The task of a file of predictions: a folder is semantic, a json tells. Raises DataError."""
    if path.is_dir():
        return "semantic"
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read the predictions: {error.strerror}", path, "check the path") from error
    except (ValueError, RecursionError):
        return "instance"  # its reader says what is wrong
    entries: Any = content.get("annotations") if isinstance(content, dict) else None
    first = entries[0] if isinstance(entries, list) and entries else None
    return "panoptic" if isinstance(first, dict) and "segments_info" in first else "instance"


def read_panoptic(path: Path, dataset: Dataset) -> Iterator[FoundMap]:
    """The maps of a panoptic json of predictions, whose PNGs lie in a folder of its name or in "panoptic".

    Images are found by file name where the json lists them, else by id. Raises DataError for the first
    entry that is wrong: no PNG, a segment without a known category, a pixel without a segment.
    """
    content = json.loads(path.read_bytes())
    entries, labels = content["annotations"], {c: i for i, c in enumerate(dataset.category_ids)}
    ids = _ids_by_file_name(content.get("images"), dataset.val)
    for place, entry in enumerate(entries):
        where = f"annotation {place} of {path}"
        if not isinstance(entry, dict) or not isinstance(entry.get("segments_info"), list):
            raise DataError("the annotation has no list segments_info", where)
        image_id, name = entry.get("image_id"), entry.get("file_name")
        if isinstance(image_id, bool) or not isinstance(image_id, int | str) or not isinstance(name, str):
            raise DataError("the annotation needs an image_id and a file_name", where)
        values = read_ids(_png(path, name, where))
        segments = {}
        for segment in entry["segments_info"]:
            facts = segment if isinstance(segment, dict) else {}
            category, number = facts.get("category_id"), facts.get("id")
            if type(category) is not int or category not in labels or type(number) is not int:
                raise DataError(f"a segment of no known category: {shorten(segment)}", where)
            segments[number] = labels[category]
        unknown = sorted(set(np.unique(values).tolist()) - segments.keys() - {0})
        if unknown:
            raise DataError(f"the PNG has pixels of no segment: {shorten(unknown[:8])}", where)
        yield FoundMap(ids.get(image_id, image_id), values, segments)


def _png(path: Path, name: str, where: str) -> Path:
    for folder in (path.with_suffix(""), path.parent / "panoptic", path.parent):
        if "\0" not in name and (folder / name).is_file():
            return folder / name
    raise DataError(f"no PNG {shorten(name)}", where, f"looked in {path.with_suffix('')} and beside it")


def _ids_by_file_name(images: Any, records: Sequence[Record]) -> Mapping[int | str, int | str]:
    """The json's image ids to the data set's, by file name; nothing where that is not possible."""
    known = {record.path.name: record.image_id for record in records}
    if len(known) < len(records) or not isinstance(images, list):
        return {}
    try:
        named = {image["id"]: Path(image["file_name"]).name for image in images}
        return {i: known[name] for i, name in named.items() if name in known}
    except (TypeError, KeyError, ValueError):
        return {}


def read_semantic(folder: Path, dataset: Dataset) -> Iterator[FoundMap]:
    """The index maps in a folder, one of each image's name: values are category ids, others are of no class.

    Raises DataError when none fits.
    """
    label_of = np.full(max(dataset.category_ids) + 2, -1)
    label_of[dataset.category_ids] = range(len(dataset.category_ids))
    fitting = 0
    for record in dataset.val:
        names = (f"{record.image_id}.png", f"{record.path.stem}.png")
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            continue
        fitting += 1
        values = read_ids(path)
        known = (values >= 0) & (values < len(label_of))
        yield FoundMap(record.image_id, np.where(known, label_of[np.where(known, values, 0)], -1))
    if not fitting:
        what = f"the folder has no PNG of the name of any of {len(dataset.val)} images"
        raise DataError(what, folder, f"as {dataset.val[0].path.stem}.png")
