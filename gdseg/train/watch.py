"""Pseudo-labels and both networks watched through a distillation: collapse and drift, said and answered.

Counts and classes of pseudo-labels are held against the labelled images', both as they are cropped, and the
student's answer against the teacher's. While something is wrong that it can cure, `distill.fallback` may stop
the teacher or move the thresholds: a stopped teacher says the same for ever, so only the student's
disagreement, which then falls, stops it; thresholds for all classes alike change counts, not shares of
classes. The best teacher is kept by `session.py` where train.eval_every asks for evaluations. Called by
distill.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from gdseg.models.mask_iou import mask_iou
from gdseg.recipe import Distill
from gdseg.structures import Targets
from gdseg.train.thresholds import ClassThresholds

_ENOUGH = 30.0  # pseudo-labels from which their classes say something
_MOVE = 0.05  # of the thresholds, a log line
_REACH = 0.5  # of the way from class_threshold to 0 or 1: as far as they are moved
_COUNTED = {"few", "many", "agreement"}  # faults that other thresholds may cure


class Watch:
    """Warns once for each way in which pseudo-labels go wrong, and says what to do meanwhile."""

    def __init__(self, rule: Distill, thresholds: ClassThresholds, task: str = "instance") -> None:
        self.rule, self.thresholds, self.task = rule, thresholds, task
        self._said: set[str] = set()

    def check(self, step: int, means: Mapping[str, float]) -> list[str]:
        """New warnings at a log line, from the means of `pseudo_statistics` since the last one.

        While any holds, the fallback is in force. The same warning comes again only after another one or
        once all has been well. Without pseudo-labels in `means` there is nothing to check.
        """
        if "pseudo_per_image" not in means:
            return []
        wrong = dict(self._faults(means))
        self._answer(wrong)
        fresh = [text + self._meanwhile(way) for way, text in wrong.items() if way not in self._said]
        self._said = set(wrong)
        return [f"warning: step {step}: {text}" for text in fresh]

    def classes(self) -> dict[str, list[float]]:
        """Lists by label: labelled objects an image, pseudo-labels an image of late, thresholds; four digits.

        Empty before the first pseudo-labels.
        """
        own = self.thresholds
        if not own.found_images:
            return {}
        found = own.found / own.found_images
        lists = {"labelled": own.prior, "pseudo": found, "thresholds": own.values}
        return {name: [round(value, 4) for value in values.tolist()] for name, values in lists.items()}

    def _faults(self, means: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        rule, count, drift = self.rule, means["pseudo_per_image"], self.thresholds.drift()
        expected = float(self.thresholds.prior.sum())
        held = f"{count:.2f} pseudo-labels an image, the labelled images hold {expected:.2f}"
        counts = f"{held}; the teacher may be"
        regions = self.task == "semantic"  # which have one threshold, of pixels
        key = "distill.region_threshold" if regions else "distill.class_threshold"
        if count < rule.alarm_low * expected:
            yield "few", f"{counts} collapsing (lower {key}, or train the teacher longer)"
        if count > rule.alarm_high * expected:
            yield "many", f"{counts} collapsing (raise {key}, or train the teacher longer)"
        if drift > rule.alarm_drift and self.thresholds.found.sum() >= _ENOUGH:
            hint = f"raise {key}, or train the teacher longer"
            if not regions:
                hint = "distill.thresholds: prior gives each class of objects its share"
            yield (
                "drift",
                f"the classes of pseudo-labels have drifted {drift:.0%} away from the labels' ({hint})",
            )
        agreement = means.get("pseudo_agreement", 1.0)
        if agreement < rule.alarm_agreement:
            hint = "lower distill.unlabelled_weight, or raise distill.ema_decay"
            yield "agreement", f"the student finds {agreement:.0%} of the pseudo-labels again ({hint})"

    def _answer(self, wrong: Mapping[str, str]) -> None:
        self.thresholds.frozen.fill_("agreement" in wrong and self.rule.fallback == "freeze")
        if self.rule.fallback != "raise" or not _COUNTED & set(wrong):
            return
        values, start = self.thresholds.values, self.rule.class_threshold
        if "few" in wrong:
            moved = torch.minimum(values, (values - _MOVE).clamp(min=start - _REACH * start))
        else:
            moved = torch.maximum(values, (values + _MOVE).clamp(max=start + _REACH * (1 - start)))
        self.thresholds.shift(moved - values)

    def _meanwhile(self, way: str) -> str:
        if self.rule.fallback == "freeze" and way == "agreement":
            return "; the teacher is held until this is over"
        return "; the thresholds are moved" if self.rule.fallback == "raise" and way in _COUNTED else ""


def pseudo_statistics(pseudo: Sequence[Targets]) -> dict[str, float]:
    """Pseudo-labels an image, their mean score, and the share of pixels ignored, for the log.

    Means of nothing are left out.
    """
    statistics = {"pseudo_per_image": sum(len(targets) for targets in pseudo) / len(pseudo)}
    scores = [t.scores for t in pseudo if t.scores is not None and len(t)]
    if scores:
        statistics["pseudo_score"] = float(torch.cat(scores).mean())
    ignored = [float(t.ignore.float().mean()) for t in pseudo if t.ignore is not None]
    if ignored:
        statistics["pseudo_ignored"] = sum(ignored) / len(ignored)
    return statistics


def agreement(teacher: Sequence[Targets], student: Sequence[Targets]) -> float:
    """F1 of two networks' pseudo-labels for the same images: same class, mask IoU above 0.5.

    1 if both have none. Above 0.5 a mask fits at most one of several that do not overlap; each is paired
    once, best first.
    """
    pairs = sum(_paired(a, b) for a, b in zip(teacher, student, strict=True))
    total = sum(len(a) + len(b) for a, b in zip(teacher, student, strict=True))
    return 2 * pairs / total if total else 1.0


def _paired(a: Targets, b: Targets) -> int:
    iou = mask_iou(a.masks, b.masks) * (a.labels[:, None] == b.labels[None])
    pairs = 0
    while iou.numel() and iou.max() > 0.5:
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        iou[row], iou[:, column] = 0, 0
        pairs += 1
    return pairs
