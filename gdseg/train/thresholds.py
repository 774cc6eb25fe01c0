"""A score threshold for each class that follows what the teacher says (`distill.thresholds`).

prior: LabelMatch (arXiv 2206.06608 §3.2) cuts each class where as many pseudo-labels an image are left as
there are labelled objects; here a threshold moves a step at a time towards that count, as Robbins and Monro
find a quantile (Annals of Mathematical Statistics 22, 1951), which needs no store of scores. ema: FreeMatch
(arXiv 2205.07246 §4.2) scales one threshold by a class's mean score, over that of the surest class. Called
by teacher.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gdseg.recipe import Distill
from gdseg.structures import Targets

LOWEST, HIGHEST = 0.05, 0.95
_FORGET = 0.98  # share of the counts of pseudo-labels that a step leaves


class ClassThresholds(nn.Module):
    """`values` float32 [C] now, and the counts they follow from; a module, so that a resumed run has them.

    `labelled` and `found` float32 [C]: objects of each class, labelled (all so far) and pseudo (of late),
    over `labelled_images` and `found_images` images, as they were augmented: an object outside a crop is
    not counted, and an image that is repeated (`data.repeat_threshold`) counts once. `frozen` bool []:
    whether the teacher is held for now (`watch.py`).
    """

    values: Tensor
    means: Tensor
    labelled: Tensor
    found: Tensor
    labelled_images: Tensor
    found_images: Tensor
    frozen: Tensor

    def __init__(self, rule: Distill, num_classes: int) -> None:
        super().__init__()
        self.rule = rule
        self.register_buffer("values", torch.full((num_classes,), rule.class_threshold))
        for name in ("means", "labelled", "found"):
            self.register_buffer(name, torch.zeros(num_classes))
        for name in ("labelled_images", "found_images"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("frozen", torch.tensor(False))

    @property
    def prior(self) -> Tensor:
        """Labelled objects of each class an image: float32 [C]."""
        return self.labelled / self.labelled_images.clamp(min=1)

    @torch.no_grad()
    def count(
        self, labelled: Sequence[Targets], pseudo: Sequence[Targets], often: Sequence[float] = ()
    ) -> None:
        """Note the objects of a step's labelled images and the pseudo-labels of its others.

        often: how often an epoch shows each of the labelled images; once if empty.
        """
        for targets, times in zip(labelled, often or [1.0] * len(labelled), strict=True):
            self.labelled += self._counts([targets]) / times
            self.labelled_images += 1 / times
        now = self._counts(pseudo)
        self.found.mul_(_FORGET).add_(now)
        self.found_images.mul_(_FORGET).add_(len(pseudo))
        if self.rule.thresholds == "prior":
            wanted = self.rule.prior_share * self.prior
            error = (now / len(pseudo) - wanted) / wanted.clamp(min=1 / len(pseudo))  # one found: a step
            self.shift(self.rule.threshold_rate * error.clamp(-1, 1))

    @torch.no_grad()
    def hear(self, scores: Tensor, labels: Tensor) -> None:
        """Note all of a batch's queries: scores float32 [B, Q], labels int64 [B, Q] (`pseudo.class_scores`).

        Those above half of class_threshold say how sure the teacher is of their class.
        """
        if self.rule.thresholds != "ema":
            return
        heard = scores > self.rule.class_threshold / 2
        number = torch.bincount(labels[heard], minlength=len(self.values))
        total = torch.zeros_like(self.means).index_add_(0, labels[heard], scores[heard])
        mean = torch.where(number > 0, total / number.clamp(min=1), self.means)
        rate = torch.where(self.means > 0, self.rule.threshold_rate, 1.0)  # the first one is the mean
        self.means.lerp_(mean, rate)
        known = torch.where(self.means > 0, self.means, self.means.max())
        self.values.copy_(self.rule.class_threshold * known / known.max().clamp(min=1e-6))

    @torch.no_grad()
    def shift(self, by: Tensor | float) -> None:
        """Move the thresholds, within 0.05..0.95 (those that began outside stay where they are)."""
        low, high = min(LOWEST, self.rule.class_threshold), max(HIGHEST, self.rule.class_threshold)
        self.values.add_(by).clamp_(low, high)

    def drift(self) -> float:
        """Total variation between the classes of labels and pseudo-labels, 0..1; 0 while there are none."""
        if not self.found.sum() or not self.labelled.sum():
            return 0.0
        return float((self.found / self.found.sum() - self.labelled / self.labelled.sum()).abs().sum() / 2)

    def _counts(self, targets: Sequence[Targets]) -> Tensor:
        labels = torch.cat([t.labels for t in targets])
        return torch.bincount(labels, minlength=len(self.values)).to(self.values)
