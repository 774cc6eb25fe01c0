"""COCO instance annotations to Records, everything checked before the first pixel is read.

Polygons, both kinds of RLE, crowds, images without objects and category ids with gaps are all fine.
Nothing in the json is trusted: each fault is noted with its image and annotation and the file is
refused with one DataError that counts them. Called by data/dataset.py and data/inspect.py.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from gdseg.data.cvat_coco import without_false_crowds
from gdseg.data.images import find_file, image_size
from gdseg.data.part import Fault, Part
from gdseg.data.rle import MAX_PIXELS, SegmentationError, check_polygons, check_rle, shorten
from gdseg.errors import DataError
from gdseg.structures import ClassInfo, Colour, Federated, Record

FREQUENCIES = ("r", "c", "f")  # LVIS: rare, common, frequent
TOLERANCE = 2.0  # pixels by which polygons and boxes may leave the image: annotation tools round


def load_coco(path: Path, images: Path, root: Path | None = None) -> Part:
    """Read and check a COCO instance json whose images lie in the folder `images` of the data set `root`.

    Raises DataError: the file is not COCO, or holds faults that would make training wrong.
    """
    return read_coco(path, images).without_faults(root or path.parent.parent)


def read_coco(path: Path, images: Path) -> Part:
    """As `load_coco`, but returns the faults and leaves out what they touch. Raises DataError if not COCO."""
    return read_content(read_json(path), path, images)


def read_content(content: dict[str, list[Any]], path: Path, images: Path) -> Part:
    """As `read_coco`, of what `read_json` said of `path`; images: their folder."""
    faults: list[Fault] = []
    table = read_categories(content["categories"], faults)
    labels = {c.id: label for label, c in enumerate(table)}
    with without_gc():
        records = read_images(content["images"], images, faults)
        for image_id, (height, width) in differing_sizes(content["annotations"], records).items():
            wrong = records[image_id]
            text = f"the json says {wrong.width} x {wrong.height}, file and masks are {width} x {height}"
            faults.append(Fault("size differs", text, image_id))
            records[image_id] = replace(wrong, height=height, width=width)
        searched = _federated(content["images"], records, labels, faults)
        items = without_false_crowds(content["annotations"], faults)
        found = _annotations(items, records, labels, faults)
        complete = [
            replace(record, annotations=tuple(found.pop(i, ())), federated=searched.get(i))
            for i, record in records.items()
        ]
    return Part(path, complete, table, faults)


@contextmanager
def without_gc() -> Iterator[None]:
    """No search for cycles meanwhile: among the millions of objects of a large json it takes long."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_State = tuple[Path, int, int]
_peeked: dict[_State, Any] = {}  # the last file that `peek` read


def peek(path: Path) -> Any:
    """What a json file holds, kept for the next reader of the same file, since parsing takes long.

    The content must not be changed. Raises DataError if it is no json file.
    """
    content = _take(path)
    state = _state(path)
    if state is not None:
        _peeked[state] = content
    return content


def peek_json(path: Path) -> dict[str, list[Any]]:
    """As `read_json`, but as `peek` does it."""
    return _checked(peek(path), path)


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # reading it says why
        return None
    return path, found.st_mtime_ns, found.st_size


def read_json(path: Path) -> dict[str, list[Any]]:
    """The lists "images", "annotations" and "categories" of a COCO file. Raises DataError."""
    return _checked(_take(path), path)


def _take(path: Path) -> Any:
    state = _state(path)
    kept = _peeked.pop(state, None) if state else None
    _peeked.clear()  # whoever reads has its own use for the memory
    if kept is not None:
        return kept
    try:
        with without_gc():
            return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read the json: {error.strerror}", path, "check the path") from error
    except (ValueError, RecursionError) as error:  # also bad UTF-8, absurd nesting and numbers
        what = f"not a json file: {shorten(str(error), 100)}"
        raise DataError(what, path, "expected a json file in COCO's format") from error


def _checked(content: Any, path: Path) -> dict[str, list[Any]]:
    hint = "expected a json object with the lists images, annotations and categories"
    if not isinstance(content, dict):
        raise DataError("the json is not COCO: it is not an object", path, hint)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"the json is not COCO: it has no list '{key}'", path, hint)
    if not content["images"]:
        raise DataError("the json lists no image", path, hint)
    if not content["categories"]:
        raise DataError("the json declares no category", path, hint)
    return content


def is_id(value: object) -> TypeGuard[int | str]:
    """Whether json gave a number or a word, as ids are."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def read_categories(items: list[Any], faults: list[Fault]) -> list[ClassInfo]:
    """The json's categories in the order of their ids; those without "isthing" are things."""
    found: dict[int, ClassInfo] = {}
    for item in items:
        if (
            not isinstance(item, dict)
            or type(item.get("id")) is not int
            or not isinstance(item.get("name"), str)
        ):
            faults.append(Fault("bad category", f"expected an integer id and a name, found {shorten(item)}"))
        elif item["id"] in found:
            faults.append(Fault("duplicate category id", shorten(item["id"])))
        else:
            is_thing = bool(item.get("isthing", 1))
            often = item.get("frequency") if item.get("frequency") in FREQUENCIES else None
            colour = read_colour(item.get("color"))
            found[item["id"]] = ClassInfo(item["id"], item["name"], is_thing, colour, often)
    return [found[category_id] for category_id in sorted(found)]


def read_colour(value: Any) -> Colour | None:
    """(red, green, blue) of a list of three numbers in 0..255, else None."""
    if isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value):
        return value[0], value[1], value[2]
    return None


def read_images(items: list[Any], folder: Path, faults: list[Fault]) -> dict[int | str, Record]:
    """A record without annotations for each image of the json, by its id."""
    records: dict[int | str, Record] = {}
    for item in items:
        fault = _image_fault(item, folder)
        if fault is None and item["id"] in records:
            fault = Fault("duplicate image id", shorten(item["file_name"]), item["id"])
        if fault is not None:
            faults.append(fault)
        if fault is None or fault.kind == "missing image file":  # its annotations can still be checked
            path = folder / item["file_name"]
            records.setdefault(item["id"], Record(item["id"], path, item["height"], item["width"]))
    return records


def differing_sizes(
    items: list[Any], records: Mapping[int | str, Record]
) -> dict[int | str, tuple[int, int]]:
    """(height, width) of the images whose file and RLE masks, all of them, agree that the json's is wrong."""
    said: dict[int | str, set[tuple[int, int]]] = {}
    for item in items:
        mask = item.get("segmentation") if isinstance(item, dict) else None
        size = mask.get("size") if isinstance(mask, dict) else None
        if isinstance(size, list) and [type(n) for n in size] == [int, int] and is_id(item.get("image_id")):
            said.setdefault(item["image_id"], set()).add((size[0], size[1]))
    found = {}
    for image_id, sizes in said.items():
        record = records.get(image_id)
        differs = record and len(sizes) == 1 and (record.height, record.width) not in sizes
        if record and differs and _file_size(record.path) in sizes:
            found[image_id] = sizes.pop()
    return found


def _file_size(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path) if find_file(path.parent, path.name) else None
    except DataError:
        return None


def _image_fault(item: Any, folder: Path) -> Fault | None:
    if not isinstance(item, dict) or not is_id(item.get("id")):
        return Fault("bad image", f"expected an object with an id, found {shorten(item)}")
    image_id, name = item["id"], item.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return Fault("bad image", f"file_name is {shorten(name)}, expected a string", image_id)
    height, width = item.get("height"), item.get("width")
    if (
        type(height) is not int
        or type(width) is not int
        or height < 1
        or width < 1
        or height * width > MAX_PIXELS
    ):
        return Fault(
            "bad image", f"height and width are {shorten((height, width))}, expected pixels", image_id
        )
    if find_file(folder, name) is None:
        return Fault("missing image file", shorten(str(folder / name), 200), image_id)
    return None


def _federated(
    items: list[Any], records: dict[int | str, Record], labels: dict[int, int], faults: list[Fault]
) -> dict[int | str, Federated]:
    """What LVIS's keys say of the images that have them, by image id."""
    found: dict[int | str, Federated] = {}
    for item in items:
        if not isinstance(item, dict) or not is_id(item.get("id")) or item["id"] not in records:
            continue
        listed = [item.get(key) for key in ("neg_category_ids", "not_exhaustive_category_ids")]
        if listed == [None, None]:
            continue
        try:
            absent, partial = (frozenset(labels[i] for i in ids or ()) for ids in listed)
        except (TypeError, KeyError):
            text = f"neg_category_ids and not_exhaustive_category_ids are {shorten(listed)}"
            faults.append(Fault("undeclared category id", f"{text}, expected lists of ids", item["id"]))
            continue
        found[item["id"]] = Federated(absent, partial)
    return found


def _annotations(
    items: list[Any], records: dict[int | str, Record], labels: dict[int, int], faults: list[Fault]
) -> dict[int | str, list[dict[str, Any]]]:
    """Checked annotations of each image id, with their label."""
    found: dict[int | str, list[dict[str, Any]]] = {}
    seen: set[int | str] = set()
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            faults.append(Fault("bad annotation", f"number {index} is {shorten(item)}, expected an object"))
            continue
        annotation_id = item.get("id", index + 1)
        try:
            annotation = check_annotation(item, annotation_id, records, labels)
            if annotation_id in seen:
                raise SegmentationError("duplicate annotation id", "another annotation has it too")
        except SegmentationError as error:
            image_id = item.get("image_id")
            where = image_id if is_id(image_id) else None, annotation_id if is_id(annotation_id) else index
            faults.append(Fault(error.kind, str(error), *where, harmless=error.kind == "empty object"))
            continue
        seen.add(annotation_id)
        faults += _oddities(item, annotation)
        found.setdefault(annotation["image_id"], []).append(annotation)
    return found


def _oddities(item: dict[str, Any], annotation: dict[str, Any]) -> list[Fault]:
    """What is wrong with an annotation that can be used all the same."""
    given, kept = item["segmentation"], annotation["segmentation"]
    where = annotation["image_id"], annotation["id"], True
    found = []
    if isinstance(kept, list) and len(given) != len(kept):
        text = f"{len(given) - len(kept)} of its {len(given)} polygons have no area and are left out"
        found.append(Fault("degenerate polygon", text, *where))
    if annotation["iscrowd"] and isinstance(kept, list):
        found.append(Fault("crowd as polygon", "crowds are RLE masks in COCO", *where))
    return found


def check_annotation(
    item: dict[str, Any], annotation_id: Any, records: Mapping[int | str, Record], labels: Mapping[int, int]
) -> dict[str, Any]:
    """A json's annotation with its label and a safe segmentation. Raises SegmentationError.

    records: of the declared images by id; labels: of the declared category ids.
    """
    image_id, category_id, crowd = item.get("image_id"), item.get("category_id"), item.get("iscrowd", 0)
    if not is_id(annotation_id):
        raise SegmentationError("bad annotation", f"its id is {shorten(annotation_id)}")
    if not is_id(image_id) or image_id not in records:
        raise SegmentationError("undeclared image id", f"image_id is {shorten(image_id)}")
    if type(category_id) is not int or category_id not in labels:
        raise SegmentationError("undeclared category id", f"category_id is {shorten(category_id)}")
    if crowd not in (0, 1):
        raise SegmentationError("bad annotation", f"iscrowd is {shorten(crowd)}, expected 0 or 1")
    record = records[image_id]
    assert record.height is not None
    assert record.width is not None
    check_bbox(item.get("bbox"), record.height, record.width)
    return {
        **item,
        "id": annotation_id,
        "iscrowd": int(crowd),
        "label": labels[category_id],
        "segmentation": _check_segmentation(item.get("segmentation"), record.height, record.width),
    }


def _check_segmentation(value: Any, height: int, width: int) -> dict[str, Any] | list[list[float]]:
    if isinstance(value, dict):
        return check_rle(value, height, width)
    if isinstance(value, list):
        return check_polygons(value, height, width, TOLERANCE)
    raise SegmentationError(
        "bad annotation", f"segmentation is {shorten(value)}, expected polygons or an RLE"
    )


def check_bbox(bbox: Any, height: int, width: int) -> None:
    """A box [x, y, w, h] in pixels is optional (masks decide), but one that is there must be right.

    Raises SegmentationError.
    """
    if bbox is None:
        return
    if not isinstance(bbox, list) or len(bbox) != 4 or not set(map(type, bbox)) <= {int, float}:
        raise SegmentationError("bad annotation", f"bbox is {shorten(bbox)}, expected [x, y, width, height]")
    x, y, w, h = (max(-1e9, min(1e9, number)) for number in bbox)  # an integer may be too large to add
    inside = -TOLERANCE <= x <= x + w <= width + TOLERANCE and -TOLERANCE <= y <= y + h <= height + TOLERANCE
    if not inside:  # also for NaN
        raise SegmentationError(
            "outside its image", f"bbox is {shorten(bbox)}, its image is {width} x {height}"
        )
