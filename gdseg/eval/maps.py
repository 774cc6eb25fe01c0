"""Panoptic and semantic maps against a data set's label maps: one image at a time, whoever made the maps.

Called by eval/run.py for a network and by `gdseg eval --pred` for files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdseg.data.dataset import Dataset
from gdseg.data.label_maps import Regions, read_regions
from gdseg.errors import DataError
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


def score_maps(found: Iterable[FoundMap], dataset: Dataset, task: str) -> Scores:
    """Scores of the maps of `dataset.val`'s images; an image without a map has nothing found in it.

    Raises DataError for a map of an image that is not there, given twice, or of another size.
    """
    records = {record.image_id: record for record in dataset.val}
    classes = len(dataset.classes)
    total = PanopticQuality(classes) if task == "panoptic" else Confusion(classes)
    for each in found:
        record = records.pop(each.image_id, None)
        if record is None:
            what = "the image is not in the data set, or has two maps"
            raise DataError(what, f"image {each.image_id}", "maps must be for this data set: see --data")
        truth = read_regions(record, task)
        if truth.place.shape != each.values.shape:
            what = f"the map has the size {each.values.shape}, its image {truth.place.shape}"
            raise DataError(what, f"image {each.image_id}", "maps must have their images' size")
        _add(total, truth, each.values, each.labels)
    for record in records.values():
        truth = read_regions(record, task)
        _add(total, truth, np.full(truth.place.shape, -1), None)
    if isinstance(total, PanopticQuality):
        return total.scores(dataset.classes, dataset.things)
    return total.scores(dataset.classes)


def _add(
    total: PanopticQuality | Confusion,
    truth: Regions,
    values: NDArray[np.integer],
    labels: Mapping[int, int] | None,
) -> None:
    if isinstance(total, PanopticQuality):
        segments = [Truth(segment.label, segment.is_crowd) for segment in truth.segments]
        total.add(truth.place, segments, values, labels or {})
        return
    of_place = np.array([*(segment.label for segment in truth.segments), -1])  # -1, void, is the last
    total.add(of_place[truth.place], values)
