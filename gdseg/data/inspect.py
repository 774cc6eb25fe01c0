"""What a data set holds and everything that is wrong with it, for `gdseg data inspect`.

Unlike opening a data set for training, nothing stops at the first fault; image files are opened
(headers only) to compare their sizes with the annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gdseg.data.dataset import Dataset
from gdseg.data.images import find_file, image_size
from gdseg.data.label_maps import with_masks
from gdseg.data.part import Fault
from gdseg.errors import DataError
from gdseg.structures import Record

PERCENTILES = (0, 25, 50, 75, 100)
AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}  # COCO's, pixels


@dataclass
class PartReport:
    """Counts of one part. `objects_an_image` and `edges` are percentiles 0, 25, 50, 75, 100."""

    images: int
    empty_images: int
    objects: int
    crowds: int
    classes: dict[str, int]
    imbalance: float
    objects_an_image: list[float]
    heights: list[float]
    widths: list[float]
    areas: dict[str, int]


@dataclass
class Report:
    """A data set's parts ("train", "val") and all its faults, harmless ones included."""

    root: str
    parts: dict[str, PartReport]
    faults: list[Fault] = field(default_factory=list)

    @property
    def serious(self) -> list[Fault]:
        """The faults that keep the data set from being used."""
        return [fault for fault in self.faults if not fault.harmless]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for json."""
        return asdict(self)


def inspect_dataset(dataset: Dataset) -> Report:
    """Count what is there and list every fault of a data set opened with strict=False."""
    parts = {"train": dataset.train, "val": dataset.val}
    report = Report(str(dataset.root), {}, list(dataset.faults))
    for part, records in parts.items():
        if records:
            report.faults += [fault for record in records for fault in _file_faults(record)]
            with_rles = [_with_masks(record, dataset.task, report.faults) for record in records]
            report.parts[part] = _count(with_rles, dataset.classes)
    return report


def _with_masks(record: Record, task: str, faults: list[Fault]) -> Record:
    """The record with the masks of its label map; a faulty map is noted and has none."""
    try:
        found = with_masks(record, task)
    except DataError as error:
        faults.append(Fault("bad label map", f"{error.what} ({error.where})", record.image_id))
        return replace(record, annotations=(), label_map=None)
    there = {a["id"] for a in found.annotations or ()}
    lost = [a["id"] for a in record.annotations or () if record.label_map and a["id"] not in there]
    if lost and task != "semantic":
        text = "it is listed, and the label map has no pixel of it"
        faults += [Fault("segment without pixels", text, record.image_id, i, harmless=True) for i in lost]
    return found


def _count(records: Sequence[Record], classes: Sequence[str]) -> PartReport:
    annotations = [a for record in records for a in record.annotations or ()]
    things = [a for a in annotations if not a["iscrowd"]]
    labels = Counter(a["label"] for a in things)
    per_class = {name: labels[label] for label, name in enumerate(classes)}
    used = [count for count in per_class.values() if count]
    areas = np.array([_area(a, r) for r in records for a in r.annotations or () if not a["iscrowd"]])
    return PartReport(
        images=len(records),
        empty_images=sum(not record.annotations for record in records),
        objects=len(things),
        crowds=len(annotations) - len(things),
        classes=per_class,
        imbalance=max(used) / min(used) if used else 1.0,
        objects_an_image=_percentiles([sum(not a["iscrowd"] for a in r.annotations or ()) for r in records]),
        heights=_percentiles([r.height or 0 for r in records]),
        widths=_percentiles([r.width or 0 for r in records]),
        areas={name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in AREAS.items()},
    )


def _percentiles(values: Sequence[int]) -> list[float]:
    return [float(value) for value in np.percentile(values, PERCENTILES)]


def _area(annotation: dict[str, Any], record: Record) -> float:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        rles = coco_mask.frPyObjects(segmentation, record.height, record.width)
        segmentation = coco_mask.merge(rles)
    return float(coco_mask.area(segmentation))


def _file_faults(record: Record) -> list[Fault]:
    if find_file(record.path.parent, record.path.name) is None:  # noted when the json was read
        return []
    try:
        found = image_size(record.path)
    except DataError as error:
        return [Fault("unreadable image", f"{error.what} ({record.path})", record.image_id)]
    if found != (record.height, record.width):
        text = (
            f"{record.path.name} is {found[1]} x {found[0]}, the json says {record.width} x {record.height}"
        )
        return [Fault("wrong image size", text, record.image_id)]
    return []
