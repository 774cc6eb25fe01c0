"""CVAT's own export, "CVAT for images 1.1" (cvat.ai): an XML of many images, which keeps masks to the pixel.

Masks, polygons, boxes and ellipses are areas; shapes of one label and group_id are parts of one object, and
z_order is not looked at. A shape whose attribute is_crowd is true is neither object nor background; its
attributes weight and score are the object's (data.label_weights). annotations_train.xml and _val.xml are the
parts; an annotations.xml alone is for training, but for its images of the subset val. Called by dataset.py.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gdseg.data.cvat_xml import AREAS, HINT, NO_AREAS, attributes_of, read_xml, segmentation
from gdseg.data.images import find_file
from gdseg.data.label_weights import SAID, as_number
from gdseg.data.part import WORDS, Fault, Format, Part, Source, label_names, shape_fault, size_or_fault
from gdseg.data.rle import MAX_PIXELS, SegmentationError, shorten
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Colour, Record

_PATTERNS = ("annotations_{}.xml", "annotations/{}.xml", "{}/annotations.xml", "{}.xml")
_WHOLE = ("annotations.xml", "annotations/annotations.xml", "default.xml")
_SUBSET = re.compile(rb'<image\b[^>]*\bsubset="([^"]*)"')
_NO_AREA_TYPES = ("tag", "points", "polyline", "cuboid", "skeleton")


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The XML of a part; None if there is none that is CVAT's and has images of the part."""
    given = data.train if part == "train" else data.val
    own = label_names(data, part, _PATTERNS)
    path = next((root / name for name in own if _is_ours(root / name)), None)
    if path is not None:
        return partial(_read, root, part, path, data, whole=False)
    whole = [] if given else [root / name for name in _WHOLE if _is_ours(root / name)]
    subsets = _SUBSET.findall(whole[0].read_bytes()) if whole else []
    if whole and (part == "train" or any(_is_val(name.decode("utf-8", "replace")) for name in subsets)):
        return partial(_read, root, part, whole[0], data, whole=True)
    return None


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.suffix.lower() == ".xml" and b"<annotations" in file.read(1 << 12)
    except (OSError, ValueError):
        return False


def _is_val(subset: str) -> bool:
    return subset.lower() in WORDS["val"]


def _read(root: Path, part: str, path: Path, data: Data, *, whole: bool) -> Part:
    top, faults, records = read_xml(path), list[Fault](), dict[str, Record]()
    if top.tag != "annotations" or top.find("track") is not None:
        what = "tracks of a video" if top.tag == "annotations" else f"<{shorten(top.tag)}>"
        raise DataError(f"expected CVAT's images, found {what}", path, HINT)
    table = _classes(top)
    if not table:
        raise DataError("the xml declares no label", path, HINT)
    labels = {info.name: label for label, info in enumerate(table)}
    given = data.train_images if part == "train" else data.val_images
    names = [*WORDS[part], "images", ""]
    folders = [root / given] if given else [base / name for base in (path.parent, root) for name in names]
    shared = _shared(top)
    files: dict[Path, int | str] = {}
    for image in top.iter("image"):
        if whole and _is_val(image.get("subset", "")) != (part == "val"):
            continue
        record = _record(image, folders, shared, faults)
        if record is None:
            continue
        first = files.setdefault(record.path.resolve(), record.image_id)
        if record.image_id in records:
            faults.append(Fault("duplicate image", "the xml lists it twice", record.image_id))
        elif first != record.image_id:
            text = f"its file is that of image {shorten(first)}"
            faults.append(Fault("duplicate image", text, record.image_id))
        else:
            records[str(record.image_id)] = _labelled(record, image, labels, faults)
    if not records and not faults:
        raise DataError("the xml lists no image", path, HINT)
    return Part(path, list(records.values()), table, faults)


def _classes(top: ET.Element) -> list[ClassInfo]:
    """The labels that the file declares, in its order, but for those whose shapes have no area."""
    declared = [label for meta in top.iter("meta") for label in meta.iter("label")]
    kept = [label for label in declared if label.findtext("type") not in _NO_AREA_TYPES]
    colours = {label.findtext("name"): _colour(label.findtext("color") or "") for label in kept}
    return [ClassInfo(i, name, True, colours[name]) for i, name in enumerate(n for n in colours if n)]


def _colour(text: str) -> Colour | None:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _name(image: ET.Element) -> str:
    return image.get("name", "").replace("\\", "/")


def _shared(top: ET.Element) -> set[str]:
    """The base names that images of different names have, so that such a file may be any of them."""
    counts = Counter(name.rpartition("/")[2] for name in {_name(image) for image in top.iter("image")})
    return {base for base, count in counts.items() if count > 1}


def _record(image: ET.Element, folders: list[Path], shared: set[str], faults: list[Fault]) -> Record | None:
    """The image of the XML; None, and a fault, where it is not there or of no size.

    It may lie outside the folders of its name, but where its base name is among the shared.
    """
    name, subset = _name(image), image.get("subset")
    base = name.rpartition("/")[2]
    names = [*([f"{subset}/{name}"] if subset else []), name, *([] if base in shared else [base])]
    path = next((f for n in names for folder in folders if (f := find_file(folder, n))), None)
    if path is None:
        why = ", and its base name is not its alone" if base in shared else ""
        faults.append(Fault("missing image file", f"{shorten(name)} is not there{why}", name))
        return None
    try:
        size = int(image.get("height", "")), int(image.get("width", ""))
    except ValueError:
        read = size_or_fault(path, name, faults)
        if read is None:
            return None
        size = read
    height, width = size
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        faults.append(Fault("bad image", f"its size is {shorten((height, width))}, expected pixels", name))
        return None
    return Record(name, path, height, width)


def _labelled(record: Record, image: ET.Element, labels: Mapping[str, int], faults: list[Fault]) -> Record:
    """The record with an annotation for each object; what is wrong with a shape is noted."""
    assert record.height is not None
    assert record.width is not None
    annotations: list[dict[str, Any]] = []
    for number, shapes in _objects(image, labels, record.image_id, faults).items():
        try:
            found = segmentation(shapes, record.height, record.width)
        except SegmentationError as error:
            faults.append(shape_fault(error, "shape", record.image_id, number))
            continue
        label = labels[shapes[0].get("label", "")]
        said = {key: value for shape in reversed(shapes) for key, value in attributes_of(shape).items()}
        sure = {key: as_number(said[key]) for key in SAID if said.get(key)}
        crowd = said.get("is_crowd", "").lower() in ("true", "1")
        common = {"id": len(annotations) + 1, "label": label, "category_id": label, "iscrowd": int(crowd)}
        annotations.append({**common, **sure, "segmentation": found})
    return replace(record, annotations=tuple(annotations))


def _objects(
    image: ET.Element, labels: Mapping[str, int], image_id: int | str, faults: list[Fault]
) -> dict[int, list[ET.Element]]:
    """The shapes of each object, by the number (from 1) of its first shape."""
    found: dict[int, list[ET.Element]] = {}
    groups: dict[tuple[str, str], int] = {}
    shapes = [shape for shape in image if shape.tag in (*AREAS, *NO_AREAS)]
    for number, shape in enumerate(shapes, 1):
        name, group = shape.get("label", ""), shape.get("group_id", "0")
        if name in labels and shape.tag in AREAS:
            first = number if group == "0" else groups.setdefault((name, group), number)
            found.setdefault(first, []).append(shape)
        elif shape.tag in NO_AREAS:
            text = f"shape {number}: a {shape.tag} has no area; {', '.join(AREAS)} have"
            faults.append(Fault("bad shape", text, image_id, number))
        else:
            text = f"shape {number}: the label {shorten(name)} is not declared"
            faults.append(Fault("undeclared category", text, image_id, number))
    return found


FORMAT = Format(
    "cvat",
    find,
    ("instance",),
    "annotations_{part}.xml, for training also annotations.xml (CVAT for images 1.1)",
)
