"""labelme's json files (github.com/labelmeai/labelme): one an image, beside it or naming it by imagePath.

Polygons, rectangles, circles and masks are areas; shapes of one label and group_id are parts of one object;
a shape whose flags say "iscrowd" (as `gdseg data convert` writes it), or of the label __ignore__, is neither
object nor background; "weight" and "score" of a shape are the object's (data.label_weights). Folders train/
and val/ are the parts; without them all files are for training. Called by dataset.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gdseg.data.images import SUFFIXES, find_file
from gdseg.data.label_weights import SAID
from gdseg.data.labelme_shapes import Shape, segmentation
from gdseg.data.named_classes import named_classes
from gdseg.data.part import Fault, Format, Part, Source, label_names, shape_fault, size_or_fault
from gdseg.data.rle import MAX_PIXELS, SegmentationError, shorten
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Record

IGNORE = "__ignore__"
_NO_CLASSES = (IGNORE, "_background_")
_FOLDERS = ("{}", "annotations/{}", "labels/{}", "{}/annotations", "{}/labels", "{}/images", "images/{}")
_WHOLE = (".", "annotations", "labels", "images", "json")
_HINT = 'expected {"shapes": [..], "imagePath": ..} as labelme saves it'


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The folder of a part's json files; None if there is none whose first file has labelme's shapes."""
    folder = _folder(root, part, data)
    return None if folder is None else partial(_read, root, part, folder, data)


def _folder(root: Path, part: str, data: Data) -> Path | None:
    names = label_names(data, part, _FOLDERS)
    if part == "train" and not data.train:
        names += _WHOLE
    return next((root / name for name in names if _is_ours(root / name)), None)


def _is_ours(folder: Path) -> bool:
    """Whether one of the first json files says "shapes" near its beginning, as labelme's do."""
    try:
        for path in sorted(folder.glob("*.json"))[:10]:
            with path.open("rb") as file:
                if re.search(rb'"shapes"\s*:\s*\[', file.read(1 << 16)):
                    return True
    except (OSError, ValueError):
        pass
    return False


def _read(root: Path, part: str, folder: Path, data: Data) -> Part:
    images = data.train_images if part == "train" else data.val_images
    faults: list[Fault] = []
    documents = dict(_documents(folder, faults))
    table = _classes(root, part, documents.values(), data)
    labels = {info.name: label for label, info in enumerate(table)}
    records = []
    for path, document in documents.items():
        record = _record(path, document, root / images if images else None, faults)
        if record is not None:
            records.append(_labelled(record, document["shapes"], labels, faults))
    if not records and not faults:
        raise DataError("no json file is labelme's", folder, _HINT)
    return Part(folder, records, table, faults)


def _documents(folder: Path, faults: list[Fault]) -> Iterable[tuple[Path, dict[str, Any]]]:
    """The json files of a folder that have shapes, by path; others that are no json are faults."""
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            text = f"{path.name} is not a json file: {shorten(str(error), 100)}"
            faults.append(Fault("unreadable labels", text, path.stem))
            continue
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            content.pop("imageData", None)  # the image itself, as text
            yield path, content


def _classes(root: Path, part: str, ours: Iterable[dict[str, Any]], data: Data) -> list[ClassInfo]:
    """The classes that are declared, else all labels that both parts use."""

    def used() -> Iterator[str]:
        other = _folder(root, "val" if part == "train" else "train", data) if data.val != "none" else None
        theirs = [document for _, document in _documents(other, [])] if other else []
        for shape in (shape for document in [*ours, *theirs] for shape in document["shapes"]):
            if isinstance(shape, dict) and isinstance(shape.get("label"), str):
                yield shape["label"]

    return named_classes(root, data, used, _NO_CLASSES)


def _record(path: Path, document: dict[str, Any], images: Path | None, faults: list[Fault]) -> Record | None:
    """The image of a json; None, and a fault, where it is not there or of no size."""
    named = document.get("imagePath")
    name = named.replace("\\", "/") if isinstance(named, str) else path.stem
    last = name.rpartition("/")[2]
    places = [path.parent] if images is None else [images]
    image = next((f for folder in places for n in (name, last) if (f := find_file(folder, n))), None)
    beside = (find_file(folder, path.stem + suffix) for folder in places for suffix in sorted(SUFFIXES))
    image = image or next((file for file in beside if file is not None), None)
    if image is None:
        text = f"{shorten(named)} of {path.name} is not there"
        faults.append(Fault("missing image file", text, path.stem))
        return None
    height, width = document.get("imageHeight"), document.get("imageWidth")
    if height is None and width is None:
        size = size_or_fault(image, path.stem, faults)
        if size is None:
            return None
        height, width = size
    if type(height) is int and type(width) is int and min(height, width) > 0 and height * width <= MAX_PIXELS:
        return Record(path.stem, image, height, width)
    text = f"imageHeight and imageWidth are {shorten((height, width))}, expected pixels"
    faults.append(Fault("bad image", text, path.stem))
    return None


def _labelled(record: Record, shapes: list[Any], labels: Mapping[str, int], faults: list[Fault]) -> Record:
    """The record with an annotation for each object; what is wrong with a shape is noted."""
    assert record.height is not None
    assert record.width is not None
    annotations: list[dict[str, Any]] = []
    for number, parts in _objects(shapes, labels, record.image_id, faults).items():
        name, flags = parts[0]["label"], parts[0].get("flags")
        crowd = name == IGNORE or (isinstance(flags, dict) and flags.get("iscrowd") is True)
        try:
            found = segmentation(parts, record.height, record.width)
        except SegmentationError as error:
            faults.append(shape_fault(error, "shape", record.image_id, number))
            continue
        sure = {key: parts[0][key] for key in SAID if parts[0].get(key) is not None}
        # what is to be ignored is so for each class
        for label in labels.values() if name == IGNORE else [labels[name]]:
            common = {"id": len(annotations) + 1, "label": label, "category_id": label}
            annotations.append({**common, **sure, "iscrowd": int(crowd), "segmentation": found})
    return replace(record, annotations=tuple(annotations))


def _objects(
    shapes: list[Any], labels: Mapping[str, int], image_id: int | str, faults: list[Fault]
) -> dict[int, list[Shape]]:
    """The shapes of each object, by the number (from 1) of its first shape."""
    found: dict[int, list[Shape]] = {}
    groups: dict[tuple[str, int | str], int] = {}
    for number, shape in enumerate(shapes, 1):
        name = shape.get("label") if isinstance(shape, dict) else None
        group = shape.get("group_id") if isinstance(shape, dict) else None
        if not isinstance(name, str) or not isinstance(group, int | str | None):
            text = f"shape {number}: expected a label and a group_id, found {shorten(shape)}"
            faults.append(Fault("bad shape", text, image_id, number))
        elif name not in labels and name not in _NO_CLASSES:
            text = f"shape {number}: the label {shorten(name)} is not declared"
            faults.append(Fault("undeclared category", text, image_id, number))
        elif name != "_background_":
            first = number if group is None else groups.setdefault((name, group), number)
            found.setdefault(first, []).append(shape)
    return found


FORMAT = Format(
    "labelme",
    find,
    ("instance",),
    "{part}/*.json with shapes, for training also *.json (labelme)",
)
