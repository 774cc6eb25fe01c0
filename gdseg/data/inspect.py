"""What the labels of a data set hold and everything that is wrong with them, for `gdseg data inspect`.

Unlike opening a data set for training, nothing stops at the first fault. One record at a time: what is kept
grows by a few numbers an object. Image files are inspect_files.py's.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gdseg.data.areas import COCO_LIMITS, area_limits, declared_area
from gdseg.data.dataset import Dataset
from gdseg.data.label_maps import with_masks
from gdseg.data.part import Fault
from gdseg.errors import DataError
from gdseg.structures import Record

PERCENTILES = (0, 25, 50, 75, 100)
AREAS = ("small", "medium", "large")

Tell = Callable[[int, int], None]  # (done, in all)


def silent(done: int, total: int) -> None:
    """A `Tell` that says nothing."""


@dataclass
class ClassCount:
    """One class in one part: its objects, crowds aside, the images they are in, the pixels they cover."""

    objects: int = 0
    images: int = 0
    pixels: int = 0


@dataclass
class PartReport:
    """Counts of one part. Lists are percentiles 0, 25, 50, 75, 100, but for the histogram of areas.

    areas: objects of each size, by the area that is declared or the mask's (limits: see Report).
    area_shares: of an object in its image; area_edges: pixels, each four times the one before, which is twice
    the side; area_counts[i]: objects from area_edges[i] on, below the next.
    """

    images: int
    empty_images: int
    objects: int
    crowds: int
    classes: dict[str, ClassCount]
    imbalance: float
    objects_an_image: list[float]
    heights: list[float]
    widths: list[float]
    areas: dict[str, int]
    area_shares: list[float]
    area_edges: list[int]
    area_counts: list[int]


@dataclass
class Report:
    """A data set's parts ("train", "val") and all its faults, harmless ones included.

    area_limits: pixels from which objects are medium, and large, as in `gdseg eval` of the last part.
    """

    root: str
    task: str
    parts: dict[str, PartReport]
    area_limits: tuple[float, float] = COCO_LIMITS
    faults: list[Fault] = field(default_factory=list)

    @property
    def serious(self) -> list[Fault]:
        """The faults that keep the data set from being used, or its scores from being true."""
        return [fault for fault in self.faults if not fault.harmless]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for json."""
        return asdict(self)


def inspect_labels(dataset: Dataset, tell: Tell = silent) -> Report:
    """Count what is there and list every fault of the labels of a data set opened with strict=False."""
    parts = {"train": dataset.train, "val": dataset.val}
    total = sum(len(records) for records in parts.values())
    report, done = Report(str(dataset.root), dataset.task, {}, faults=list(dataset.faults)), 0
    found_in: dict[str, _Counts] = {}
    for part, records in parts.items():
        counts = _Counts(len(dataset.classes))
        for record in records:
            found = _with_masks(record, dataset.task, part, report.faults)
            report.faults += counts.add(found, part)
            done += 1
            tell(done, total)
        if records:
            found_in[part] = counts
    if found_in:
        report.area_limits = area_limits(list(found_in.values())[-1].sizes)
    for part, counts in found_in.items():
        report.parts[part] = counts.report(dataset.classes, report.area_limits)
    return report


def _with_masks(record: Record, task: str, part: str, faults: list[Fault]) -> Record:
    """The record with the masks of its label map; a faulty map is noted and has none."""
    try:
        found = with_masks(record, task)
    except DataError as error:
        text = f"{error.what} ({error.where})"
        faults.append(Fault("bad label map", text, record.image_id, part=part, files=files_of(record)))
        return replace(record, annotations=(), label_map=None)
    there = {a["id"] for a in found.annotations or ()}
    lost = [a["id"] for a in record.annotations or () if record.label_map and a["id"] not in there]
    if lost and task == "panoptic":
        text = "it is listed, and the label map has no pixel of it"
        kind = "segment without pixels"
        faults += [Fault(kind, text, record.image_id, i, harmless=True, part=part) for i in lost]
    return found


def files_of(record: Record) -> tuple[Path, ...]:
    """The files of one image: itself, and its label maps."""
    found = record.label_map
    maps = (found.path, found.below, found.classes) if found else ()
    return (record.path, *(path for path in maps if path))


class _Counts:
    """The counts of one part under construction: a few numbers an object."""

    def __init__(self, num_classes: int) -> None:
        self.classes = [ClassCount() for _ in range(num_classes)]
        self.crowds = self.empty_images = 0
        self.objects, self.heights, self.widths = array("l"), array("l"), array("l")  # an image
        self.areas, self.shares, self.sizes = array("d"), array("d"), array("d")  # an object

    def add(self, record: Record, part: str) -> list[Fault]:
        """Count one image whose masks are its annotations'. Returns the objects that are there twice."""
        height, width = record.height or 0, record.width or 0
        annotations = record.annotations or ()
        faults, seen = list[Fault](), dict[tuple[int, int, bytes], Any]()
        labels = Counter[int]()
        for annotation in annotations:
            area, counts = mask_facts(annotation["segmentation"], height, width)
            key = annotation["label"], annotation["iscrowd"], counts
            first = seen.setdefault(key, annotation["id"])
            if first != annotation["id"]:
                text = f"its class and mask are those of annotation {first}"
                where = record.image_id, annotation["id"]
                faults.append(Fault("identical annotations", text, *where, harmless=True, part=part))
            if not annotation["iscrowd"]:
                labels[annotation["label"]] += 1
                self.classes[annotation["label"]].pixels += area
                self.areas.append(area)
                self.sizes.append(declared_area(annotation) or area)
                self.shares.append(area / max(height * width, 1))
        for label, count in labels.items():
            self.classes[label].objects += count
            self.classes[label].images += 1
        self.crowds += sum(bool(a["iscrowd"]) for a in annotations)
        self.empty_images += not annotations
        self.objects.append(labels.total())
        self.heights.append(height)
        self.widths.append(width)
        return faults

    def report(self, classes: Sequence[str], limits: tuple[float, float]) -> PartReport:
        """The sums; limits: areas from which objects are medium, and large."""
        used = [c.objects for c in self.classes if c.objects]
        areas = np.array(self.areas)
        sizes = np.searchsorted(limits, np.array(self.sizes), side="right")
        edges = [4**power for power in range(len(_histogram(areas)))]
        return PartReport(
            images=len(self.objects),
            empty_images=self.empty_images,
            objects=len(areas),
            crowds=self.crowds,
            classes=dict(zip(classes, self.classes, strict=True)),
            imbalance=max(used) / min(used) if used else 1.0,
            objects_an_image=_percentiles(self.objects),
            heights=_percentiles(self.heights),
            widths=_percentiles(self.widths),
            areas=dict(zip(AREAS, np.bincount(sizes, minlength=3).tolist(), strict=True)),
            area_shares=_percentiles(self.shares),
            area_edges=edges,
            area_counts=_histogram(areas),
        )


def _histogram(areas: Any) -> list[int]:
    """Objects from 4**i pixels on, below 4**(i + 1)."""
    if not len(areas):
        return []
    powers = np.floor(np.log2(np.maximum(areas, 1)) / 2).astype(np.int64)
    counts: list[int] = np.bincount(powers).tolist()
    return counts


def _percentiles(values: Sequence[float]) -> list[float]:
    return [float(value) for value in np.percentile(np.array(values), PERCENTILES)] if len(values) else []


def mask_facts(segmentation: Any, height: int, width: int) -> tuple[int, bytes]:
    """Pixels of a checked segmentation, and its run lengths: equal for equal masks."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    counts = segmentation["counts"]
    return int(coco_mask.area(segmentation)), counts.encode() if isinstance(counts, str) else counts
