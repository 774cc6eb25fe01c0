"""Repairs of a COCO instance json: what can be kept is kept, annotations without a fault as they are.

Polygons are cut at the image's edge, boxes that do not fit become the mask's, crowds RLE masks, repeated ids
new ones. What cannot be repaired is left out. Called by repair.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from gdseg.data.coco import (
    check_annotation,
    check_bbox,
    differing_sizes,
    is_id,
    read_categories,
    read_images,
)
from gdseg.data.images import find_file, image_size
from gdseg.data.inspect import mask_facts
from gdseg.data.part import Fault
from gdseg.data.repair_polygons import repair_polygon
from gdseg.data.rle import SegmentationError, to_rle
from gdseg.errors import DataError
from gdseg.structures import Record

Item = dict[str, Any]
Note = Callable[[Fault], None]  # told a fault with what was done about it as text
Ids = Collection[int | str]


def repair_instances(content: Item, images: Path, lost: Ids, twice: Ids, note: Note) -> Item:
    """The json's content without faults. images: the folder that file names are relative to.

    lost: ids of images to leave out, of which others tell; twice: ids of annotations to leave out.
    """
    categories = list(kept_categories(content["categories"], note))
    labels = {item["id"]: label for label, item in enumerate(categories)}
    kept = list(kept_images(_with_true_sizes(content, images, lost, note), images, lost, note))
    records = {record.image_id: record for _, record in kept}
    ids, found, doubtful = _NewIds(content["annotations"]), list[Item](), set[int | str]()
    for place, item in enumerate(content["annotations"]):
        if isinstance(item, dict) and is_id(item.get("image_id")) and item["image_id"] in lost:
            continue
        if isinstance(item, dict) and item.get("id") in twice:
            note(Fault("identical annotations", "left out", item["image_id"], item["id"], True))
            continue
        fixed = _repair(item, place, records, labels, ids, note)
        if fixed is not None:
            found.append(fixed)
            if fixed is not item:
                doubtful.add(fixed["image_id"])
    found = list(_without_twins(found, records, doubtful, note))
    return {**content, "images": [item for item, _ in kept], "categories": categories, "annotations": found}


def kept_categories(items: list[Any], note: Note) -> Iterator[Item]:
    """The categories that are whole, each id once."""
    seen = set[int]()
    for item in items:
        faults = list[Fault]()
        found = read_categories([item], faults)
        if found and found[0].id in seen:
            faults.append(Fault("duplicate category id", str(found[0].id)))
        for fault in faults:
            note(replace(fault, text=f"left out: {fault.text}"))
        if not faults:
            seen.add(found[0].id)
            yield item


def kept_images(items: list[Any], folder: Path, lost: Ids, note: Note) -> Iterator[tuple[Item, Record]]:
    """The images that are whole and there, each id once, and their records; a missing size is the file's."""
    seen = set[int | str]()
    for item in items:
        faults = list[Fault]()
        found = read_images([item], folder, faults)
        if faults and faults[0].kind == "bad image" and (sized := _sized(item, folder)):
            note(replace(faults[0], text="its height and width are now those of its file"))
            item, faults = sized, []
            found = read_images([item], folder, faults)
        if isinstance(item, dict) and is_id(item.get("id")) and item["id"] in lost:
            continue
        if not faults and item["id"] in seen:
            faults.append(Fault("duplicate image id", item["file_name"], item["id"]))
        for fault in faults:
            note(replace(fault, text=f"left out: {fault.text}"))
        if not faults:
            seen.add(item["id"])
            yield item, found[item["id"]]


def _with_true_sizes(content: Item, folder: Path, lost: Ids, note: Note) -> list[Any]:
    """The json's images; where file and masks agree on another size, with that."""
    sizes = differing_sizes(content["annotations"], read_images(content["images"], folder, []))
    found, told = list[Any](), set[int | str](lost)
    for item in content["images"]:
        image_id = item.get("id") if isinstance(item, dict) else None
        if not is_id(image_id) or image_id not in sizes:
            found.append(item)
            continue
        height, width = sizes[image_id]
        found.append({**item, "height": height, "width": width})
        if image_id not in told:
            note(
                Fault("size differs", f"its size is now that of file and masks, {width} x {height}", image_id)
            )
        told.add(image_id)
    return found


def _sized(item: Any, folder: Path) -> Item | None:
    """The image with its file's height and width, if it has an id and such a file."""
    path = find_file(folder, item.get("file_name")) if isinstance(item, dict) else None
    try:
        height, width = image_size(path) if path else (0, 0)
    except DataError:
        return None
    return {**item, "height": height, "width": width} if path else None


class _NewIds:
    """Sees to it that no two annotations have one id."""

    def __init__(self, items: list[Any]) -> None:
        numbers = [i["id"] for i in items if isinstance(i, dict) and type(i.get("id")) is int]
        self.next = max(numbers, default=0) + 1
        self.seen = set[int | str]()
        self.given = any(isinstance(item, dict) and "id" in item for item in items)

    def of(self, item: Item, place: int, note: Note) -> Item:
        """The annotation with an id of its own; itself, where it has one or none has any."""
        if not self.given:
            return item
        given = item.get("id")
        if is_id(given) and given not in self.seen:
            self.seen.add(given)
            return item
        self.next += 1
        kind = "duplicate annotation id" if is_id(given) else "bad annotation"
        where = given if is_id(given) else place
        note(Fault(kind, f"its id is now {self.next - 1}", item.get("image_id"), where))
        return {**item, "id": self.next - 1}


def _repair(
    item: Any,
    place: int,
    records: Mapping[int | str, Record],
    labels: Mapping[int, int],
    ids: _NewIds,
    note: Note,
) -> Item | None:
    """The annotation, repaired where that is needed and possible; None: it is left out."""
    if not isinstance(item, dict):
        note(Fault("bad annotation", f"number {place} is no object and left out"))
        return None
    annotation_id = item["id"] if is_id(item.get("id")) else place + 1
    image_id = item["image_id"] if is_id(item.get("image_id")) else None
    record, fixed, done = records.get(image_id) if image_id is not None else None, item, list[Fault]()
    if record is not None:
        fixed, done = _repair_shape(item, record)
    try:
        check_annotation(fixed, annotation_id, records, labels)
    except SegmentationError as error:
        empty = error.kind == "empty object"
        kind, why = (done[-1].kind, done[-1].text) if empty and done else (error.kind, str(error))
        note(Fault(kind, f"left out: {why}", image_id, annotation_id, empty and not done))
        return None
    for fault in done:
        note(replace(fault, image_id=image_id, annotation_id=annotation_id))
    return ids.of(fixed, place, note)


def _repair_shape(item: Item, record: Record) -> tuple[Item, list[Fault]]:
    """The annotation with polygons, mask and box that fit its image, and what was done for that."""
    height, width = record.height or 0, record.width or 0
    given, done = item.get("segmentation"), list[Fault]()
    fixed = item
    if isinstance(given, list):
        repaired = [repair_polygon(polygon, height, width) for polygon in given]
        done += [fault for _, fault in repaired if fault]
        if done:
            fixed = {**item, "segmentation": [polygon for polygon, _ in repaired if polygon]}
        if fixed["segmentation"] and item.get("iscrowd") == 1:
            rle = coco_mask.merge(coco_mask.frPyObjects(fixed["segmentation"], height, width))
            fixed = {**fixed, "segmentation": to_rle(coco_mask.decode(rle))}
            done.append(Fault("crowd as polygon", "it is now an RLE mask", harmless=True))
    if done and "area" in item and fixed["segmentation"]:
        fixed["area"] = mask_facts(fixed["segmentation"], height, width)[0]
    try:
        check_bbox(item.get("bbox"), height, width)
        fits = not any(fault.kind == "outside its image" for fault in done)
    except SegmentationError as error:
        done.append(Fault(error.kind, "its box is now that of its mask"))
        fits = False
    if fits or "bbox" not in item:
        return fixed, done
    fixed = {name: value for name, value in fixed.items() if name != "bbox"}
    box = _box(fixed["segmentation"], height, width)
    return (fixed | {"bbox": box} if box else fixed), done


def _box(segmentation: Any, height: int, width: int) -> list[float] | None:
    """[x, y, width, height] of a segmentation, if it is one."""
    record = Record(0, Path(), height, width)
    try:
        checked = check_annotation(
            {"image_id": 0, "category_id": 0, "segmentation": segmentation}, 0, {0: record}, {0: 0}
        )["segmentation"]
    except SegmentationError:
        return None
    if isinstance(checked, list):
        checked = coco_mask.merge(coco_mask.frPyObjects(checked, height, width))
    box: list[float] = coco_mask.toBbox(checked).tolist()
    return box


def _without_twins(
    items: list[Item], records: Mapping[int | str, Record], images: Ids, note: Note
) -> Iterator[Item]:
    """The annotations but those that have become another's twin, looked for in `images`."""
    seen = set[tuple[Any, ...]]()
    for place, item in enumerate(items):
        if item["image_id"] in images:
            record = records[item["image_id"]]
            checked = check_annotation(item, place, records, {item["category_id"]: 0})
            _, counts = mask_facts(checked["segmentation"], record.height or 0, record.width or 0)
            key = item["image_id"], item["category_id"], checked["iscrowd"], counts
            if key in seen:
                where = item["image_id"], item.get("id", place + 1)
                note(Fault("identical annotations", "left out", *where, harmless=True))
                continue
            seen.add(key)
        yield item
