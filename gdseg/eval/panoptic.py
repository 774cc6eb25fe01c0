"""Panoptic quality (Kirillov et al., arXiv 1801.00868 §4.1), from arrays.

A truth and a found segment of one class match when their IoU exceeds 0.5, which at most one pair can. The
rules for void and crowds are those of panopticapi (BSD-2, evaluation.py): void pixels do not enter unions, a
found segment that lies mostly on void and crowds of its class is no false positive, crowds need not be found.
Boundary PQ (arXiv 2103.16562 §5.2) takes the lesser of mask IoU and Boundary IoU. Called by eval/maps.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gdseg.eval.boundary import boundary
from gdseg.eval.scores import Scores

_VOID, _NONE = -1, -2


@dataclass(frozen=True)
class Truth:
    """A true segment: its label, and whether it is a crowd."""

    label: int
    is_crowd: bool = False


@dataclass
class PanopticQuality:
    """Sums over images. iou: of matched pairs; float64 [C] each, int64 for the counts.

    by_boundary: Boundary PQ is measured in place of PQ.
    """

    num_classes: int
    by_boundary: bool = False
    iou: NDArray[np.float64] = field(init=False)
    true_positives: NDArray[np.int64] = field(init=False)
    false_positives: NDArray[np.int64] = field(init=False)
    false_negatives: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.iou = np.zeros(self.num_classes)
        self.true_positives, self.false_positives, self.false_negatives = (
            np.zeros(self.num_classes, dtype=np.int64) for _ in range(3)
        )

    def add(
        self,
        truth_HW: NDArray[np.integer],
        truth: Sequence[Truth],
        found_HW: NDArray[np.integer],
        found: Mapping[int, int],
    ) -> None:
        """Count one image. truth_HW: index into `truth`, -1 void; found_HW: keys of `found` (id -> label).

        Values of found_HW that `found` lacks are pixels without a segment. Raises ValueError where the two
        maps differ in size.
        """
        if truth_HW.shape != found_HW.shape:
            raise ValueError(f"the truth is {truth_HW.shape}, the prediction {found_HW.shape}")
        overlaps = _Overlaps(truth_HW, found_HW)
        measured = [overlaps]
        if self.by_boundary:
            measured.append(_Overlaps(*_boundaries(truth_HW, found_HW)))
        matched_truth, matched_found = set[int](), set[int]()
        for t, f in overlaps.shared:
            if t == _VOID or f not in found or truth[t].is_crowd or truth[t].label != found[f]:
                continue
            iou = min(each.iou(t, f) for each in measured)
            if iou > 0.5:
                self.iou[found[f]] += iou
                self.true_positives[found[f]] += 1
                matched_truth.add(t)
                matched_found.add(f)
        for t in set(overlaps.true_area) - {_VOID} - matched_truth:
            self.false_negatives[truth[t].label] += not truth[t].is_crowd
        # of several crowds of a class the last one counts, as in panopticapi
        crowds = {segment.label: t for t, segment in enumerate(truth) if segment.is_crowd}
        for f in overlaps.found_area.keys() & found.keys() - matched_found:
            spared = overlaps.shared[_VOID, f] + overlaps.shared[crowds.get(found[f], _NONE), f]
            self.false_positives[found[f]] += spared <= 0.5 * overlaps.found_area[f]

    def scores(self, classes: Sequence[str], things: Sequence[bool]) -> Scores:
        """pq, sq, rq of all classes, of things and of stuff: means over the classes that occur at all."""
        size = self.true_positives + 0.5 * (self.false_positives + self.false_negatives)
        with np.errstate(invalid="ignore"):  # a class without truth and prediction has no quality
            pq, rq = self.iou / size, self.true_positives / size
            sq = np.where(
                self.true_positives > 0, self.iou / self.true_positives, np.where(size > 0, 0, np.nan)
            )
        is_thing, scores = np.asarray(things, dtype=bool), Scores()
        for suffix, chosen in (("", is_thing | True), ("_things", is_thing), ("_stuff", ~is_thing)):
            for name, values in (("pq", pq), ("sq", sq), ("rq", rq)):
                there = values[chosen & (size > 0)]
                scores.metrics[name + suffix] = float(there.mean()) if there.size else float("nan")
        for label, name in enumerate(classes):
            scores.per_class[name] = {
                "pq": float(pq[label]),
                "sq": float(sq[label]),
                "rq": float(rq[label]),
                "true_positives": float(self.true_positives[label]),
                "false_positives": float(self.false_positives[label]),
                "false_negatives": float(self.false_negatives[label]),
            }
        return scores


class _Overlaps:
    """Pixels of each pair of true and found values of two maps, and of each value alone."""

    def __init__(self, truth_HW: NDArray[np.integer], found_HW: NDArray[np.integer]) -> None:
        ids, place = np.unique(found_HW, return_inverse=True)
        pairs = (truth_HW.ravel() + 1) * np.int64(len(ids)) + place.ravel()
        both, counts = np.unique(pairs, return_counts=True)
        true, found = (both // len(ids) - 1).tolist(), ids[both % len(ids)].tolist()
        self.shared: Counter[tuple[int, int]] = Counter()
        self.true_area: Counter[int] = Counter()
        self.found_area: Counter[int] = Counter()
        for t, f, count in zip(true, found, counts.tolist(), strict=True):
            self.shared[t, f] = count
            self.true_area[t] += count
            self.found_area[f] += count

    def iou(self, t: int, f: int) -> float:
        """Void pixels are in no union."""
        union = self.true_area[t] + self.found_area[f] - self.shared[t, f] - self.shared[_VOID, f]
        return self.shared[t, f] / union if union else 0.0


def _boundaries(
    truth_HW: NDArray[np.integer], found_HW: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The maps with another value inside of segments; void stays void."""
    inside = min(int(found_HW.min()), 0) - 1
    true = np.where(boundary(truth_HW) | (truth_HW == _VOID), truth_HW, _NONE)
    return true, np.where(boundary(found_HW), found_HW, inside)
