"""Panoptic quality (Kirillov et al., arXiv 1801.00868 §4.1), from arrays.

A truth and a found segment of one class match when their IoU exceeds 0.5, which at most one pair can. The
rules for void and crowds are those of panopticapi (BSD-2, evaluation.py): void pixels do not enter unions, a
found segment that lies mostly on void and crowds of its class is no false positive, crowds need not be found.
Called by eval/run.py and, for a file of predictions, eval/maps_file.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gdseg.eval.scores import Scores

_VOID = -1


@dataclass(frozen=True)
class Truth:
    """A true segment: its label, and whether it is a crowd."""

    label: int
    is_crowd: bool = False


@dataclass
class PanopticQuality:
    """Sums over images. iou: of matched pairs; float64 [C] each, int64 for the counts."""

    num_classes: int
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
        shared = _shared_pixels(truth_HW, found_HW)
        true_area, found_area = _areas(shared, 0), _areas(shared, 1)
        matched_truth, matched_found = set[int](), set[int]()
        for (t, f), overlap in shared.items():
            if t == _VOID or f not in found or truth[t].is_crowd or truth[t].label != found[f]:
                continue
            union = true_area[t] + found_area[f] - overlap - shared.get((_VOID, f), 0)
            if overlap > 0.5 * union:
                self.iou[found[f]] += overlap / union
                self.true_positives[found[f]] += 1
                matched_truth.add(t)
                matched_found.add(f)
        for t in set(true_area) - {_VOID} - matched_truth:
            self.false_negatives[truth[t].label] += not truth[t].is_crowd
        # of several crowds of a class the last one counts, as in panopticapi
        crowds = {segment.label: t for t, segment in enumerate(truth) if segment.is_crowd}
        for f in found_area.keys() & found.keys() - matched_found:
            spared = shared.get((_VOID, f), 0) + shared.get((crowds.get(found[f], _VOID - 1), f), 0)
            self.false_positives[found[f]] += spared <= 0.5 * found_area[f]

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


def _shared_pixels(
    truth_HW: NDArray[np.integer], found_HW: NDArray[np.integer]
) -> dict[tuple[int, int], int]:
    """Pixels of each pair of values that occurs."""
    ids, place = np.unique(found_HW, return_inverse=True)
    both, counts = np.unique((truth_HW.ravel() + 1) * np.int64(len(ids)) + place.ravel(), return_counts=True)
    pairs = zip((both // len(ids) - 1).tolist(), ids[both % len(ids)].tolist(), counts.tolist(), strict=True)
    return {(t, f): n for t, f, n in pairs}


def _areas(shared: Mapping[tuple[int, int], int], side: int) -> dict[int, int]:
    areas: dict[int, int] = {}
    for pair, count in shared.items():
        areas[pair[side]] = areas.get(pair[side], 0) + count
    return areas
