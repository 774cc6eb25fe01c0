"""COCO panoptic: a json of segments and a folder of PNGs (arXiv 1801.00868; format of its API, panopticapi).

The PNG's colour is a segment's id, the json says its category and whether it is a crowd; thing or stuff and
colours are the categories'. Id 0 is of no class. Called by dataset.py, and by eval/results of predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gdseg.data.coco import is_id, peek_json, read_categories, read_images, read_json
from gdseg.data.coco_files import find_images, find_json
from gdseg.data.images import find_file
from gdseg.data.part import Fault, Format, Part, Source, kept_classes
from gdseg.data.rle import shorten
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, LabelMap, Record

_PATTERNS = ("annotations/panoptic_{}*.json", "panoptic_{}*.json", "{}/panoptic*.json", "panoptic/{}*.json")
_VOID = frozenset({0})


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The panoptic json of a part, its PNGs and its images; None if there is none."""
    path = find_json(root, part, data, _PATTERNS)
    if path is None or not _is_panoptic(path):
        return None
    maps = _find_maps(root, part, path, data)
    return partial(read_panoptic, path, find_images(root, part, path, data), maps, task)


def _is_panoptic(path: Path) -> bool:
    """Whether the first annotations list segments."""
    items = peek_json(path)["annotations"]
    return all(isinstance(a, dict) and "segments_info" in a for a in items[:10])


def _find_maps(root: Path, part: str, path: Path, data: Data) -> Path:
    given = data.train_maps if part == "train" else data.val_maps
    if given is not None:
        if not (root / given).is_dir():
            what = "no such folder of label maps"
            raise DataError(what, root / given, f"correct the recipe key data.{part}_maps")
        return root / given
    looked = [path.with_suffix(""), root / path.stem, path.parent / "panoptic", path.parent]
    names = [a.get("file_name") for a in peek_json(path)["annotations"][:10] if isinstance(a, dict)]
    for folder in looked:
        if any(find_file(folder, name) for name in names):
            return folder
    places = ", ".join(str(folder) for folder in looked)
    what = f"the PNGs of {path.name} were not found (looked in {places})"
    raise DataError(what, root, f"name their folder with data.{part}_maps=FOLDER")


def read_panoptic(path: Path, images: Path, maps: Path, task: str) -> Part:
    """Read and check a panoptic json; faults are noted and what they touch is left out.

    images, maps: the folders of the images and of the PNGs; None of either is opened. A task of instances
    has the things only. Raises DataError if it is not COCO.
    """
    content = read_json(path)
    faults: list[Fault] = []
    table = kept_classes(read_categories(content["categories"], faults), task)
    declared = {c["id"] for c in content["categories"] if isinstance(c, dict) and is_id(c.get("id"))}
    labels = {c.id: (label, c) for label, c in enumerate(table)}
    records = read_images(content["images"], images, faults)
    void = None if task == "instance" else _VOID
    found: dict[int | str, Record] = {}
    for item in content["annotations"]:
        image_id = item.get("image_id") if isinstance(item, dict) else None
        if not is_id(image_id) or image_id not in records or image_id in found:
            what = "undeclared image id" if image_id not in found else "two annotations of an image"
            faults.append(Fault(what, f"image_id is {shorten(image_id)}"))
            continue
        assert image_id is not None
        segments = _segments(item, image_id, labels, declared, faults)
        png = find_file(maps, item.get("file_name"))
        if png is None:
            faults.append(Fault("missing label map", shorten(item.get("file_name")), image_id))
            continue
        found[image_id] = replace(
            records[image_id], annotations=tuple(segments), label_map=LabelMap(png, void=void)
        )
    missing = [image_id for image_id in records if image_id not in found]
    faults += [Fault("image without annotation", "it is left out", i, harmless=True) for i in missing]
    return Part(path, list(found.values()), table, faults)


def _segments(
    item: dict[str, Any],
    image_id: int | str,
    labels: Mapping[int, tuple[int, ClassInfo]],
    declared: set[int],
    faults: list[Fault],
) -> list[dict[str, Any]]:
    """The segments of one image that the task has a class for, with their labels."""
    listed: Any = item.get("segments_info")
    kept, seen = [], set[int]()
    for segment in listed if isinstance(listed, list) else [listed]:
        fault = segment_fault(segment, declared, seen)
        if fault:
            faults.append(Fault(*fault, image_id))
            continue
        seen.add(segment["id"])
        if segment["category_id"] in labels:
            label, info = labels[segment["category_id"]]
            crowd = int(segment.get("iscrowd", 0))
            kept.append({"id": segment["id"], "label": label, "isthing": info.is_thing, "iscrowd": crowd})
    return kept


def segment_fault(segment: Any, declared: set[int], seen: set[int]) -> tuple[str, str] | None:
    """(kind, text) of what is wrong with a segment; declared: category ids, seen: ids of the image so far."""
    if not isinstance(segment, dict) or type(segment.get("id")) is not int:
        return "bad segment", f"expected an object with an id, found {shorten(segment)}"
    if not 0 < segment["id"] < 2**24 or segment["id"] in seen:
        return "bad segment", f"its id {shorten(segment['id'])} is out of range or given twice"
    if type(segment.get("category_id")) is not int or segment["category_id"] not in declared:
        return "undeclared category id", f"category_id is {shorten(segment.get('category_id'))}"
    if segment.get("iscrowd", 0) not in (0, 1):
        return "bad segment", f"iscrowd is {shorten(segment.get('iscrowd'))}, expected 0 or 1"
    return None


FORMAT = Format(
    "coco_panoptic",
    find,
    ("panoptic", "semantic", "instance"),
    "annotations/panoptic_{part}*.json with a folder of PNGs (COCO panoptic)",
)
