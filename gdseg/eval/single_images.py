"""A network over validation images once: its scores, how sure is sure enough, which images go well or badly.

An image's quality is the panoptic quality (arXiv 1801.00868 §4.1) of its objects or segments, all classes
pooled, for semantic maps the mean IoU of its classes. Objects count from the score on at which F1 over all
images is highest. Called by gdseg/report/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from gdseg.data.dataset import Dataset
from gdseg.data.label_maps import read_regions, with_masks
from gdseg.eval.maps import FoundMap, found_map, score_maps
from gdseg.eval.matching import NONE, Overlaps, Tally, overlaps
from gdseg.eval.panoptic import PanopticQuality, Truth
from gdseg.eval.run import Progress, infer_records, score_instances
from gdseg.eval.scores import Scores
from gdseg.eval.semantic import Confusion
from gdseg.models.checkpoint import Network
from gdseg.recipe import settled
from gdseg.structures import Predictions, Record

CONFIDENCES = tuple(round(0.05 * i, 2) for i in range(1, 20))


@dataclass
class Reviewed:
    """quality: image id -> 0..1, without images where there is nothing to see and nothing was found.

    Of instances only: `tallies` at each of `CONFIDENCES`, and `confidence`, the best of them.
    """

    scores: Scores
    quality: dict[int | str, float] = field(default_factory=dict)
    tallies: list[Tally] = field(default_factory=list)
    confidence: float | None = None


def review(network: Network, dataset: Dataset, device: torch.device, progress: Progress) -> Reviewed:
    """Run the network over `dataset.val` and score it, whole and image by image.

    Raises DataError for an unreadable image or label map.
    """
    recipe, classes = network.recipe, len(dataset.classes)
    model, things = network.model, dataset.things
    found = _telling(
        infer_records(model, dataset.val, recipe, classes, device, things=things), len(dataset.val), progress
    )
    if recipe.task == "instance":
        return _review_instances(found, dataset, settled(recipe.postprocess.max_detections))
    reviewed = Reviewed(Scores())
    judge = _segment_quality if recipe.task == "panoptic" else _class_quality
    records = {record.image_id: record for record in dataset.val}

    def passing() -> Iterator[FoundMap]:
        for each in map(found_map, found):
            value = judge(records[each.image_id], each, dataset)
            if value == value:
                reviewed.quality[each.image_id] = value
            yield each

    reviewed.scores = score_maps(passing(), dataset, recipe.task)
    return reviewed


def _telling(found: Iterable[Predictions], total: int, progress: Progress) -> Iterator[Predictions]:
    for done, each in enumerate(found, 1):
        progress(done, total)
        yield each


def _review_instances(found: Iterable[Predictions], dataset: Dataset, limit: int) -> Reviewed:
    records, results = {record.image_id: record for record in dataset.val}, []
    images: dict[int | str, tuple[Overlaps, np.ndarray, np.ndarray]] = {}
    tallies = [Tally.of(len(dataset.classes)) for _ in CONFIDENCES]
    for each in found:
        results += each.to_coco(each.image_id, dataset.category_ids)
        image = overlaps(each, with_masks(records[each.image_id], "instance"))
        scores = each.scores.numpy()
        matched = image.match(scores)
        images[each.image_id] = image, scores, matched
        for confidence, tally in zip(CONFIDENCES, tallies, strict=True):
            tally.add(image, matched, scores >= confidence)  # those scored lower chose after these
    best = max(range(len(tallies)), key=lambda i: f1(tallies[i]))
    reviewed = Reviewed(score_instances(dataset, results, limit), {}, tallies, CONFIDENCES[best])
    for image_id, (image, scores, matched) in images.items():
        value = _object_quality(image, matched, scores >= CONFIDENCES[best])
        if value == value:
            reviewed.quality[image_id] = value
    return reviewed


def f1(tally: Tally) -> float:
    """Harmonic mean of precision and recall over all classes; 0 where nothing is right."""
    right = int(tally.right.sum())
    return 2 * right / (2 * right + int(tally.wrong.sum()) + int(tally.missed.sum())) if right else 0.0


def _object_quality(image: Overlaps, matched: np.ndarray, chosen: np.ndarray) -> float:
    hits = np.flatnonzero(chosen & (matched >= 0))
    wrong = int((chosen & (matched == NONE)).sum())
    size = len(hits) + (wrong + int((~image.crowd).sum()) - len(hits)) / 2
    return float(image.iou[hits, matched[hits]].sum()) / size if size else float("nan")


def _segment_quality(record: Record, found: FoundMap, dataset: Dataset) -> float:
    truth, quality = read_regions(record, "panoptic"), PanopticQuality(len(dataset.classes))
    segments = [Truth(segment.label, segment.is_crowd) for segment in truth.segments]
    quality.add(truth.place, segments, found.values, found.labels or {})
    size = (quality.true_positives + (quality.false_positives + quality.false_negatives) / 2).sum()
    return float(quality.iou.sum() / size) if size else float("nan")


def _class_quality(record: Record, found: FoundMap, dataset: Dataset) -> float:
    truth, confusion = read_regions(record, "semantic"), Confusion(len(dataset.classes))
    of_place = np.array([*(segment.label for segment in truth.segments), -1])
    confusion.add(of_place[truth.place], found.values)
    return confusion.scores(dataset.classes).metrics["miou"]
