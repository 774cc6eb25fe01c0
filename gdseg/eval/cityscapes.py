"""Cityscapes' own AP of instances (arXiv 1604.01685 §4.2), by the rules of its evaluation server.

They are those of cityscapesScripts (MIT, evalInstanceLevelSemanticLabeling.py), which the tests hold this to;
without depth there is no AP by distance. Called by eval/run.py where files are named as the benchmark's are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from gdseg.data.cityscapes import CLASSES
from gdseg.data.label_maps import read_ids
from gdseg.eval.scores import Scores
from gdseg.structures import Record

OBJECTS = 1000  # instanceIds: class id * 1000 + number; the class id alone is a group or no object
_SMALLEST = 100  # pixels of an object that must be found
_OVERLAPS = np.arange(0.5, 1.0, 0.05)
_ENDINGS = ("_gtFine_labelIds.png", "_gtFine_instanceIds.png")


def instance_maps(records: Sequence[Record]) -> dict[int | str, Path]:
    """The instanceIds of each record's image; empty unless all are there under the benchmark's names."""
    found = {}
    for record in records:
        path = record.label_map.path if record.label_map else Path()
        if not path.name.endswith(_ENDINGS):
            return {}
        found[record.image_id] = path.with_name(path.name.replace(*_ENDINGS))
    return found if all(path.is_file() for path in found.values()) else {}


@dataclass
class _Found:
    """A detection of one class: pixels in all, on void, and on each object or group of its class."""

    score: float
    pixels: int
    void: int
    shared: dict[int, int]  # place in the class's truth -> pixels


@dataclass
class _Class:
    """All of one class: areas of objects (of groups too; which are groups), and detections."""

    areas: list[int] = field(default_factory=list)
    groups: list[bool] = field(default_factory=list)
    found: list[_Found] = field(default_factory=list)

    def ap(self, overlap: float) -> float:
        """AP at one overlap; NaN without an object to find."""
        wanted = [not g and area >= _SMALLEST for g, area in zip(self.groups, self.areas, strict=True)]
        if not any(wanted):
            return float("nan")
        matches: list[list[float]] = [[] for _ in self.areas]
        wrong = []
        for each in self.found:
            hits = [t for t, n in each.shared.items() if n / (self.areas[t] + each.pixels - n) > overlap]
            for t in hits:
                matches[t].append(each.score)
            if not hits and self._spared(each) / each.pixels <= overlap:
                wrong.append(each.score)
        right = []
        for scores in (scores for t, scores in enumerate(matches) if wanted[t] and scores):
            best = max(scores)
            right.append(best)
            scores.remove(best)
            wrong += scores  # found twice
        return _area_under_curve(np.array(right), np.array(wrong), sum(wanted))

    def _spared(self, each: _Found) -> int:
        """Its pixels on void, groups and small objects; a small group counts as both, as in the original."""
        times = ((self.groups[t] + (self.areas[t] < _SMALLEST), n) for t, n in each.shared.items())
        return each.void + sum(count * n for count, n in times)


def _area_under_curve(right: NDArray[np.float64], wrong: NDArray[np.float64], objects: int) -> float:
    """The area under precision over recall, straight between the points of all thresholds, from (1, 0) on."""
    thresholds = np.unique(np.concatenate([right, wrong]))[::-1]
    true = (right[:, None] >= thresholds).sum(0)
    all_found = true + (wrong[:, None] >= thresholds).sum(0)
    precision = np.append(1.0, true / np.maximum(all_found, 1))
    recall = np.append(0.0, true / objects)
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def score_instances(
    maps: Mapping[int | str, Path],
    classes: Sequence[str],
    category_ids: Sequence[int],
    results: Sequence[Mapping[str, Any]],
) -> Scores:
    """cityscapes_ap and cityscapes_ap50 of checked results with masks; maps: instanceIds of each image."""
    by_image: dict[int | str, list[Mapping[str, Any]]] = {image_id: [] for image_id in maps}
    for result in results:
        by_image[result["image_id"]].append(result)
    totals = {category_id: _Class() for category_id in category_ids}
    for image_id, path in maps.items():
        _add_image(totals, read_ids(path), by_image[image_id])
    aps = np.array([[totals[c].ap(overlap) for overlap in _OVERLAPS] for c in category_ids])
    there = ~np.isnan(aps[:, 0])
    chosen = aps[there] if there.any() else np.full((1, len(_OVERLAPS)), np.nan)
    metrics = {"cityscapes_ap": float(chosen.mean()), "cityscapes_ap50": float(chosen[:, 0].mean())}
    per_class = {
        name: {"cityscapes_ap": float(ap.mean()), "cityscapes_ap50": float(ap[0])}
        for name, ap in zip(classes, aps, strict=True)
    }
    return Scores(metrics, per_class)


def _add_image(
    totals: Mapping[int, _Class], ids_HW: NDArray[np.int32], results: Sequence[Mapping[str, Any]]
) -> None:
    evaluated = {c.id for c in CLASSES}
    values, areas = np.unique(ids_HW, return_counts=True)
    place: dict[int, int] = {}  # of an object or group in its class
    void = set()
    for value, area in zip(values.tolist(), areas.tolist(), strict=True):
        is_group = value < OBJECTS
        total = totals.get(value if is_group else value // OBJECTS)
        if total is not None:
            place[value] = len(total.areas)
            total.areas.append(area)
            total.groups.append(is_group)
        elif is_group and value not in evaluated:
            void.add(value)
    for result in results:
        under = ids_HW[coco_mask.decode(result["segmentation"]) > 0]
        if not len(under):
            continue
        category_id, pixels = result["category_id"], Counter(under.tolist())
        shared = {
            place[value]: count
            for value, count in pixels.items()
            if value in place and category_id in (value, value // OBJECTS)
        }
        on_void = sum(pixels[value] for value in void)
        totals[category_id].found.append(_Found(result["score"], len(under), on_void, shared))
