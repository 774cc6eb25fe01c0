"""Panoptic and semantic maps against a data set's label maps: one image at a time, whoever made the maps.

What is measured follows the task and the data. Called by eval/run.py for a network and by `gdseg eval --pred`
for files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdseg.data.dataset import Dataset
from gdseg.data.label_maps import Regions, read_regions
from gdseg.errors import DataError
from gdseg.eval.boundary import BoundaryIou
from gdseg.eval.cityscapes import instance_maps
from gdseg.eval.cityscapes_iou import InstanceIou
from gdseg.eval.panoptic import PanopticQuality, Truth
from gdseg.eval.scores import Scores
from gdseg.eval.semantic import Confusion
from gdseg.structures import Predictions


@dataclass(frozen=True)
class FoundMap:
    """What was found in one image. values int [H, W]: labels (semantic, where `labels` is None), or ids.

    labels: the label of each segment id of a panoptic map.
    """

    image_id: int | str
    values: NDArray[np.integer]
    labels: Mapping[int, int] | None = None


def found_map(found: Predictions) -> FoundMap:
    """The map of a panoptic or semantic prediction."""
    if found.panoptic is not None:
        labels = {segment["id"]: segment["label"] for segment in found.segments or []}
        return FoundMap(found.image_id, found.panoptic.numpy(), labels)
    assert found.semantic is not None
    return FoundMap(found.image_id, found.semantic.numpy())


def score_maps(found: Iterable[FoundMap], dataset: Dataset, task: str, *, boundary: bool = False) -> Scores:
    """Scores of the maps of `dataset.val`'s images.

    boundary: Boundary PQ or the boundary IoU of classes too. Raises DataError for a map of an image that is
    not there, given twice, or of another size, and for images without a map.
    """
    records = {record.image_id: record for record in dataset.val}
    total: _Panoptic | _Semantic = (_Panoptic if task == "panoptic" else _Semantic)(dataset, boundary)
    for each in found:
        record = records.pop(each.image_id, None)
        if record is None:
            what = "the image is not in the data set, or has two maps"
            raise DataError(what, f"image {each.image_id}", "maps must be for this data set: see --data")
        truth = read_regions(record, task)
        if truth.place.shape != each.values.shape:
            what = f"the map has the size {each.values.shape}, its image {truth.place.shape}"
            raise DataError(what, f"image {each.image_id}", "maps must have their images' size")
        total.add(truth, each)
    if records:
        what = f"{len(records)} of {len(dataset.val)} images have no map; first: image {next(iter(records))}"
        raise DataError(
            what, dataset.root, "give all files, each with --pred; of nothing found, an empty map"
        )
    return total.scores()


class _Panoptic:
    """PQ, and Boundary PQ on demand."""

    def __init__(self, dataset: Dataset, boundary: bool) -> None:
        self.dataset, classes = dataset, len(dataset.classes)
        self.parts = {"": PanopticQuality(classes)}
        if boundary:
            self.parts["boundary_"] = PanopticQuality(classes, by_boundary=True)

    def add(self, truth: Regions, found: FoundMap) -> None:
        """Count one image."""
        segments = [Truth(segment.label, segment.is_crowd) for segment in truth.segments]
        for part in self.parts.values():
            part.add(truth.place, segments, found.values, found.labels or {})

    def scores(self) -> Scores:
        """All that was measured."""
        total = Scores(per_class={name: {} for name in self.dataset.classes})
        for prefix, part in self.parts.items():
            total.add(part.scores(self.dataset.classes, self.dataset.things), prefix)
        return total


class _Semantic:
    """mIoU and the like, boundary IoU on demand, and iIoU where the data is Cityscapes."""

    def __init__(self, dataset: Dataset, boundary: bool) -> None:
        self.classes = dataset.classes
        self.confusion = Confusion(len(self.classes))
        self.boundary = BoundaryIou(len(self.classes)) if boundary else None
        maps = instance_maps(dataset.val)
        self.weighed = InstanceIou(maps, self.classes, dataset.category_ids) if maps else None

    def add(self, truth: Regions, found: FoundMap) -> None:
        """Count one image."""
        of_place = np.array([*(segment.label for segment in truth.segments), -1])  # -1, void, is the last
        self.confusion.add(of_place[truth.place], found.values)
        if self.boundary is not None:
            self.boundary.add(of_place[truth.place], found.values)
        if self.weighed is not None:
            self.weighed.add(found.image_id, found.values)

    def scores(self) -> Scores:
        """All that was measured."""
        total = self.confusion.scores(self.classes)
        if self.boundary is not None:
            total.add(self.boundary.scores(self.classes))
        if self.weighed is not None:
            total.add(self.weighed.scores(self.confusion.counts))
        return total
