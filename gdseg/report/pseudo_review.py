"""A teacher's pseudo-labels of single images with their fate: kept, ignored or dropped, right or wrong.

The rule is training's own (`pseudo.choose`, `pseudo_maps`), with the thresholds that training moved, at the
image's test-time size (`label_images.not_applied` says what is left out); one threshold for all classes is
also swept. Candidates carry the class score. Where the recipe looks for objects in tiles, they are those of
`gdseg pseudo-label`, and nothing is swept: each threshold would join the tiles anew. Letters: D candidates,
h w the network's grid at stride 4 inside the image, H W the image on disk. Called by gdseg/report/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gdseg.data.label_maps import read_regions, with_masks
from gdseg.data.rle import boxes_of, to_rle
from gdseg.eval.matching import NONE, SPARED, overlaps
from gdseg.eval.panoptic import Truth
from gdseg.eval.pseudo_quality import Sweep
from gdseg.models.decode_maps import Canvas
from gdseg.predict import Predictor
from gdseg.recipe import Recipe
from gdseg.structures import LayerOutput, Predictions, Record, Targets
from gdseg.train.label_images import full_size_rles, label_image, looked
from gdseg.train.pseudo import choose, class_scores
from gdseg.train.pseudo_maps import pseudo_maps

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
_FLOOR = 0.05  # of the class score: what is below is not looked at
_STRIDE = 4


@dataclass
class Fate:
    """One image's candidates at full size. right: whether each kept one is; None: not known."""

    kept: Predictions
    ignored: Predictions
    dropped: Predictions
    right: list[bool | None]


@dataclass
class Reviewer:
    """Reviews images one by one and adds them up: `by_rule` at the recipe's thresholds, `sweep` at others.

    `swept` names the recipe's keys that the sweep sets: the class threshold, of semantic maps the region
    threshold, of panoptic ones both.
    """

    predictor: Predictor
    recipe: Recipe  # of the run whose rule it is
    things: list[bool]
    thresholds: Tensor | None = None  # float32 [C]: in place of the recipe's class threshold
    sweep: Sweep = field(init=False)
    by_rule: Sweep = field(init=False)

    def __post_init__(self) -> None:
        classes, rule = len(self.predictor.classes), self.recipe.distill
        self.softmax = self.predictor.network.recipe.softmax_classes
        self.swept = {
            "instance": ("class_threshold",),
            "panoptic": ("class_threshold", "region_threshold"),
            "semantic": ("region_threshold",),
        }[self.recipe.task]
        self.by_rule = Sweep([getattr(rule, self.swept[0])], classes)
        self.sweep = Sweep(THRESHOLDS, classes)

    @property
    def tiled(self) -> bool:
        """Whether objects are looked for in tiles."""
        return self.recipe.task == "instance" and self.predictor.network.recipe.inference.tile > 0

    def add(self, image: Tensor, record: Record, truth: Record | None) -> Fate:
        """Review an image [C, H, W]; truth: the record with its labels, if they are known.

        Raises DataError for a label map that cannot be read.
        """
        for sweep in (self.by_rule,) if self.tiled else (self.by_rule, self.sweep):
            sweep.images += 1
            sweep.judged += truth is not None
        if self.tiled:
            return self._joined(image, truth)
        batch, final = looked(self.predictor, image, self.recipe.distill)
        padded = (batch.images.shape[-2], batch.images.shape[-1])
        canvas = Canvas(padded, batch.sizes[0], batch.original_sizes[0])
        if self.recipe.task == "instance":
            return self._objects(final, canvas, truth)
        return self._maps(final, canvas, truth)

    def _joined(self, image: Tensor, truth: Record | None) -> Fate:
        """What `gdseg pseudo-label` would write of the image, by the recipe's own rule."""
        rule = self.recipe.distill
        kept, below, _ = label_image(self.predictor, image, rule, self.thresholds)
        self.by_rule.count(0, kept.labels.numpy())
        matched = np.full(len(kept), SPARED)
        if truth is not None:
            judged, every = overlaps(kept, with_masks(truth, "instance")), np.ones(len(kept), dtype=bool)
            matched = self.by_rule.add_objects(0, judged, kept.scores.numpy(), every)
        right = [None if each == SPARED else bool(each != NONE) for each in matched]
        none = below.select(torch.zeros(len(below), dtype=torch.bool))
        return Fate(kept, below, none, right) if rule.ignore_threshold else Fate(kept, none, below, right)

    def _rules(self) -> Iterator[tuple[Sweep, int, Recipe, Tensor | None]]:
        """The recipe's own rule with its thresholds, then each of the swept ones."""
        own = None if self.thresholds is None else self.thresholds.to(self.predictor.device)
        yield self.by_rule, 0, self.recipe, own
        for number, threshold in enumerate(THRESHOLDS):
            rule = replace(self.recipe.distill)
            rule.ignore_threshold = min(rule.ignore_threshold, threshold)
            for name in self.swept:
                setattr(rule, name, threshold)
            yield self.sweep, number, replace(self.recipe, distill=rule), None

    def _objects(self, final: LayerOutput, canvas: Canvas, truth: Record | None) -> Fate:
        logits, masks = final.logits[0], final.masks
        assert masks is not None
        rule = self.recipe.distill
        scores, labels = class_scores(logits, self.softmax)
        lowest = min(_FLOOR, rule.class_threshold, rule.ignore_threshold or 1.0)
        lowest = lowest if self.thresholds is None else min(lowest, float(self.thresholds.min()))
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > lowest]
        rles = full_size_rles(masks[0, order], canvas, rule.pixel_threshold)
        found = _predictions(canvas.original, labels[order], scores[order], rles, self.predictor.classes)
        place = {query: d for d, query in enumerate(order.tolist())}
        everything = replace(rule, ignore_threshold=lowest)
        quality = choose(logits, masks[0], everything, self.softmax).quality[order].cpu().numpy()
        image = None if truth is None else overlaps(found, with_masks(truth, "instance"))
        matched = np.full(len(found), SPARED)
        for sweep, number, recipe, own_C in self._rules():
            chosen = choose(logits, masks[0], recipe.distill, self.softmax, own_C)
            kept = _among(chosen.kept, place)
            sweep.count(number, found.labels.numpy()[kept])
            found_true = None if image is None else sweep.add_objects(number, image, quality, kept)
            if sweep is self.by_rule:
                own, ignored = kept, _among(chosen.uncertain, place)
                matched = matched if found_true is None else found_true
        right = [None if matched[d] == SPARED else bool(matched[d] != NONE) for d in np.flatnonzero(own)]
        shown = [found.select(torch.from_numpy(part)) for part in (own, ignored, ~own & ~ignored)]
        return Fate(shown[0], shown[1], shown[2], right)

    def _maps(self, final: LayerOutput, canvas: Canvas, truth: Record | None) -> Fate:
        regions = None if truth is None else read_regions(truth, self.recipe.task)
        fate: Fate | None = None
        for sweep, number, recipe, own_C in self._rules():
            targets = pseudo_maps(final, recipe, self.things, self.softmax, own_C)[0].to("cpu")
            place_hw, labels = _grid(targets, canvas), targets.labels.numpy()
            sweep.count(number, labels)
            if sweep is self.by_rule:
                fate = self._fate(targets, place_hw, canvas)
            if regions is None:
                continue
            rows, columns = _centres(place_hw.shape, canvas)
            truth_hw = regions.place[np.ix_(rows, columns)]
            if self.recipe.task == "semantic":
                true_labels = np.array([*(segment.label for segment in regions.segments), -1])
                sweep.add_pixels(number, true_labels[truth_hw], np.append(labels, -1)[place_hw])
            else:
                segments = [Truth(segment.label, segment.is_crowd) for segment in regions.segments]
                sweep.add_segments(number, truth_hw, segments, place_hw, dict(enumerate(labels.tolist())))
        assert fate is not None
        return fate

    def _fate(self, targets: Targets, place_hw: NDArray[np.int64], canvas: Canvas) -> Fate:
        """Regions at full size; what is in no region is ignored, and nothing is dropped."""
        height, width = canvas.original
        rows = ((np.arange(height) + 0.5) * place_hw.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * place_hw.shape[1] / width).astype(int)
        place_HW = place_hw[np.ix_(rows, columns)]
        assert targets.scores is not None
        order = targets.scores.argsort(descending=True)
        order = order[[bool((place_HW == i).any()) for i in order.tolist()]]
        rles = [to_rle(place_HW == i) for i in order.tolist()]
        names = self.predictor.classes
        kept = _predictions(canvas.original, targets.labels[order], targets.scores[order], rles, names)
        none = torch.zeros(0)
        ignored = dropped = _predictions(canvas.original, none.long(), none, [], names)
        if (place_HW < 0).any():
            no_class = torch.tensor([-1])
            ignored = _predictions(
                canvas.original, no_class, torch.tensor([float("nan")]), [to_rle(place_HW < 0)], names
            )
        return Fate(kept, ignored, dropped, [None] * len(kept))


def _among(queries: Tensor, place: dict[int, int]) -> NDArray[np.bool_]:
    """bool [D]: which candidates the queries are."""
    mask = np.zeros(len(place), dtype=bool)
    mask[[place[query] for query in queries.tolist()]] = True
    return mask


def _predictions(
    size: tuple[int, int], labels: Tensor, scores: Tensor, rles: list[dict[str, Any]], names: list[str]
) -> Predictions:
    return Predictions("image", size, labels.cpu(), scores.float().cpu(), boxes_of(rles), rles, names)


def _grid(targets: Targets, canvas: Canvas) -> NDArray[np.int64]:
    """int64 [h, w]: which of the masks, that do not overlap, a cell inside the image is in; -1: none."""
    masks = targets.masks
    height, width = (
        max(1, round(size * cells / padded))
        for size, cells, padded in zip(canvas.size, masks.shape[1:], canvas.padded, strict=True)
    )
    masks = masks[:, :height, :width]
    if not len(masks):
        return np.full((height, width), -1, dtype=np.int64)
    place = torch.where(masks.any(0), masks.int().argmax(0), -1)
    return place.numpy().astype(np.int64)


def _centres(grid: tuple[int, ...], canvas: Canvas) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the image on disk under the centres of the grid's cells."""
    (h, w), (height, width) = grid, canvas.original
    rows = ((np.arange(h) + 0.5) * height / h).astype(np.int64)
    return rows, ((np.arange(w) + 0.5) * width / w).astype(np.int64)
