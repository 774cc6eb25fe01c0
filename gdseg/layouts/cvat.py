"""CVAT's XML, "CVAT for images 1.1", and the labels that its task needs. Called by convert.py."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdseg.data.label_weights import SAID
from gdseg.data.rle import annotation_mask, shorten
from gdseg.errors import DataError
from gdseg.files import write_atomic, write_json
from gdseg.layouts.job import Job, flat, names_of, size_of, sureness
from gdseg.structures import ClassInfo

_INVALID = re.compile(r"[^\t\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")  # in XML, and line breaks


def write_cvat(job: Job) -> None:
    """annotations_PART.xml, PART/ with the images, and labels_PART.json for the task's labels (tab "Raw").

    Polygons stay polygons, masks are masks. Weights, scores and crowds are attributes, which the labels then
    declare. Data with crowds should come back from CVAT as this XML: masks read from its COCO are all objects
    (data/cvat_coco.py). Images are numbered in the order of their names, as CVAT numbers a task's frames.
    Raises DataError for names that labels of CVAT, or XML, cannot hold.
    """
    names = names_of(job.table, "CVAT, blind to case,", str.lower)
    for label in names:
        _check(label, f"class {shorten(label)}")
    top, used = ET.Element("annotations"), set[str]()
    ET.SubElement(top, "version").text = "1.1"
    meta = ET.SubElement(ET.SubElement(top, "meta"), "task")
    images: dict[str, ET.Element] = {}
    for record, name in job.each(job.part, flat):
        _check(str(name), f"image {shorten(str(record.path), 200)}")
        height, width = size_of(record)
        about = {"name": str(name), "width": str(width), "height": str(height)}
        image = images[str(name)] = ET.Element("image", about)
        for group, found in enumerate(job.objects(record), 1):
            said = {key: f"{value:.6g}" for key, value in sureness(found).items()}
            said |= {"is_crowd": "true"} if found["iscrowd"] else {}
            used.update(said)
            for shape in _shapes(found, (height, width), group):
                shape.set("label", names[found["label"]])
                for key, value in said.items():
                    ET.SubElement(shape, "attribute", {"name": key}).text = value
                image.append(shape)
    for number, (_, image) in enumerate(sorted(images.items())):
        image.set("id", str(number))
        top.append(image)
    labels = [_label(info, used) for info in job.table]
    _add_labels(meta, labels)
    ET.indent(top)
    text = ET.tostring(top, encoding="unicode")
    write_atomic(
        job.out / f"annotations_{job.part}.xml", '<?xml version="1.0" encoding="utf-8"?>\n' + text + "\n"
    )
    write_json(job.out / f"labels_{job.part}.json", labels)


def _check(name: str, where: str) -> None:
    if _INVALID.search(name):
        raise DataError("its name holds a character that XML cannot", where, "rename it")


def _shapes(found: dict[str, Any], size: tuple[int, int], group: int) -> Iterator[ET.Element]:
    """The polygons of an object, parts in one group, or its mask."""
    common = {"source": "auto", "occluded": "0", "z_order": "0"}
    if not isinstance(found["segmentation"], list):
        yield ET.Element("mask", {**common, **mask_facts(annotation_mask(found, *size))})
        return
    for polygon in found["segmentation"]:
        pairs = zip(polygon[0::2], polygon[1::2], strict=True)
        parts = {"group_id": str(group)} if len(found["segmentation"]) > 1 else {}
        yield ET.Element("polygon", {**common, **parts, "points": ";".join(f"{x},{y}" for x, y in pairs)})


def mask_facts(mask: NDArray[np.uint8]) -> dict[str, str]:
    """The attributes of a mask [H, W] with a pixel: its box, and its runs row by row from zeros on."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    flat = np.concatenate([[0], inside.ravel() > 0])  # which makes the first run one of zeros, maybe none
    starts = np.flatnonzero(np.diff(flat)).tolist()
    runs = np.diff([0, *starts, inside.size]).tolist()
    box = {"left": xs[0], "top": ys[0], "width": inside.shape[1], "height": inside.shape[0]}
    return {"rle": ", ".join(map(str, runs)), **{key: str(value) for key, value in box.items()}}


def _label(info: ClassInfo, used: set[str]) -> dict[str, Any]:
    """A label as CVAT's tab "Raw" takes it."""
    kinds = dict.fromkeys(SAID, ("text", "")) | {"is_crowd": ("checkbox", "false")}
    attributes = [
        {"name": key, "mutable": False, "input_type": kind, "default_value": value, "values": [value]}
        for key, (kind, value) in kinds.items()
        if key in used
    ]
    colour = {} if info.colour is None else {"color": "#{:02x}{:02x}{:02x}".format(*info.colour)}
    return {"name": info.name, **colour, "attributes": attributes}


def _add_labels(meta: ET.Element, labels: list[dict[str, Any]]) -> None:
    place = ET.SubElement(meta, "labels")
    for label in labels:
        element = ET.SubElement(place, "label")
        for key in ("name", "color"):
            if key in label:
                ET.SubElement(element, key).text = label[key]
        attributes = ET.SubElement(element, "attributes")
        for said in label["attributes"]:
            attribute = ET.SubElement(attributes, "attribute")
            for key in ("name", "mutable", "input_type", "default_value"):
                ET.SubElement(attribute, key).text = str(said[key])
            ET.SubElement(attribute, "values").text = said["default_value"]
