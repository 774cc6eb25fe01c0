"""Losses of all layers, images and instances in few large calls.

Mask2Former (arXiv 2112.01527 §3.3, MIT) and Mask DINO (arXiv 2206.02777 §3.4, Apache-2.0), with what
pseudo-labels add: a weight for each instance, and regions that are neither positive nor negative
(docs of `Criterion`). Called by `train/engine.py`, which also calls `check_finite`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gdseg.draws import Draws
from gdseg.errors import DivergedError
from gdseg.losses import terms
from gdseg.losses.assignment import Pairs, denoising_pairs
from gdseg.losses.boxes import cxcywh_to_xyxy, giou
from gdseg.losses.matcher import match
from gdseg.losses.points import sample_logits, sample_masks, uncertain_points
from gdseg.losses.truth import Layers, Truth, floats_at_once
from gdseg.recipe import Recipe
from gdseg.structures import LayerOutput, Outputs, Targets


class Criterion:
    """Match predictions with targets in every layer, and compute the weighted losses.

    things: for each class, whether it is a thing (only read when `loss.box_things_only`).

    The weight of an instance multiplies its mask, dice and box losses and its query's class loss;
    counts stay counts. Points in an image's ignore region do not enter cross-entropy and dice; an
    unmatched query whose mask lies there (`loss.ignore_overlap`) has no class loss. In images that were
    searched for some classes only (`Targets.known`) a query is no negative of the others (`loss.federated`).
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        things: Sequence[bool] | None = None,
    ) -> None:
        self.recipe = recipe
        self.num_classes = num_classes
        self.things = torch.tensor(things) if recipe.loss.box_things_only and things is not None else None

    def __call__(
        self,
        outputs: Outputs,
        targets: Sequence[Targets],
        image_ids: Sequence[object] | None = None,
        draws: Draws | None = None,
        count: int | None = None,
        background: float = 1.0,
    ) -> dict[str, Tensor]:
        """Weighted loss terms, float32 scalars, whose sum is the loss.

        `class`, `mask`, `dice`, `box`, `giou` of the final layer, `<term>_<layer>` of the others, and
        `<term>_dn`, `<term>_<layer>_dn` of denoising. `count`: the number of targets to divide by when these
        are part of a larger batch (None: those given). `background`: weight of the class loss of unmatched
        queries, where labels miss objects. Raises DivergedError, naming image and layer, when a matching
        cost is NaN or infinite.
        """
        device = outputs.final.logits.device
        with torch.autocast(device.type, enabled=False):
            truth, draws = Truth.of(targets), draws or Draws()
            layers = Layers.of(self._supervised(outputs.layers, outputs.encoder))
            pairs = match(layers, truth, self.recipe, draws, image_ids or range(len(targets)))
            number = torch.tensor(float(max(len(truth.labels) if count is None else count, 1)), device=device)
            counted = self._counted(layers, truth, pairs) if truth.has_ignore else None
            losses = self._losses(layers, truth, pairs, number, draws, counted, background)
            if outputs.denoising is not None:
                noised = self._denoised_layers(outputs.denoising.layers)
                columns = denoising_pairs(outputs.denoising, truth.counts, len(noised.names))
                pairs = Pairs.of(columns, truth.starts, device)
                losses |= self._losses(noised, truth, pairs, number * outputs.denoising.groups, draws)
        return losses

    def _supervised(self, layers: list[LayerOutput], encoder: LayerOutput | None = None) -> list[LayerOutput]:
        chosen = layers if self.recipe.loss.deep_supervision else layers[-1:]
        return chosen if encoder is None else [*chosen, encoder]

    def _denoised_layers(self, layers: list[LayerOutput]) -> Layers:
        noised = Layers.of(self._supervised(layers))
        noised.names = [f"{name}_dn" for name in noised.names]
        if self.recipe.decoder.denoising == "box":
            noised.masks = []
        return noised

    def _losses(
        self,
        layers: Layers,
        truth: Truth,
        pairs: Pairs,
        number: Tensor,
        draws: Draws,
        counted: Tensor | None = None,
        background: float = 1.0,
    ) -> dict[str, Tensor]:
        """All terms of all layers; `number` is the official normaliser, [] float32."""
        loss = self.recipe.loss
        weights_LR = truth.weights[pairs.flat]
        class_L = self._class_loss(layers, truth, pairs, number, counted, background)
        values_L = {"class": loss.class_weight * class_L}
        if layers.masks:
            entropy_LR, dice_LR = self._mask_losses(layers, truth, pairs, draws)
            values_L["mask"] = loss.mask_weight * (entropy_LR * weights_LR).sum(1) / number
            values_L["dice"] = loss.dice_weight * (dice_LR * weights_LR).sum(1) / number
        if layers.boxes_cxcywh is not None:
            if self.things is not None:
                weights_LR = weights_LR * self.things.to(weights_LR.device)[truth.labels[pairs.flat]]
            distance_LR, apart_LR = _box_losses(layers.boxes_cxcywh, truth, pairs)
            values_L["box"] = loss.box_weight * (distance_LR * weights_LR).sum(1) / number
            values_L["giou"] = loss.giou_weight * (apart_LR * weights_LR).sum(1) / number
        return {
            _term_name(term, layer): value
            for term, value_L in values_L.items()
            for layer, value in zip(layers.names, value_L.unbind(), strict=True)
        }

    def _class_loss(
        self,
        layers: Layers,
        truth: Truth,
        pairs: Pairs,
        number: Tensor,
        counted_LBQ: Tensor | None,
        background: float,
    ) -> Tensor:
        """Focal sum / number, or cross-entropy averaged with the weight of no-object: float32 [L]."""
        logits_LBQK, loss = layers.logits, self.recipe.loss
        L, B, Q, K = logits_LBQK.shape
        place = (torch.arange(L, device=logits_LBQK.device)[:, None], pairs.images, pairs.queries)
        classes_LBQ = torch.full((L, B, Q), self.num_classes, device=logits_LBQK.device)
        classes_LBQ[place] = truth.labels[pairs.flat]
        weights_LBQ = torch.full((L, B, Q), background, device=logits_LBQK.device)
        weights_LBQ[place] = truth.weights[pairs.flat]
        if counted_LBQ is not None:
            weights_LBQ = weights_LBQ * counted_LBQ
        positive = classes_LBQ[..., None] == torch.arange(K, device=logits_LBQK.device)
        negatives_BK = truth.negatives(self.num_classes) if loss.federated else None
        judged_LBQK = None if negatives_BK is None else positive | negatives_BK[:, None, :K]
        if not self.recipe.softmax_classes:
            values = terms.focal(logits_LBQK, positive, loss.focal_alpha, loss.focal_gamma)
            if judged_LBQK is not None:
                values = values * judged_LBQK
            return (values.sum(-1) * weights_LBQ).sum((1, 2)) / number
        share_LBQ = torch.where(classes_LBQ == self.num_classes, loss.no_object, 1.0)
        if counted_LBQ is not None:
            share_LBQ = share_LBQ * counted_LBQ
        if judged_LBQK is not None:
            logits_LBQK = logits_LBQK.masked_fill(~judged_LBQK, -torch.inf)  # no share of the softmax
        values = F.cross_entropy(logits_LBQK.movedim(-1, 1), classes_LBQ, reduction="none")
        total = share_LBQ.sum((1, 2))
        total = torch.where(total > 0, total, 1.0)  # a gradient through a tiny number would overflow
        return (values * weights_LBQ * share_LBQ).sum((1, 2)) / total

    def _mask_losses(self, layers: Layers, truth: Truth, pairs: Pairs, draws: Draws) -> tuple[Tensor, Tensor]:
        """Cross-entropy and dice of each pair at its own points: float32 [L, R] each.

        As many layers at once as fit in memory; what autograd keeps is R (h w + 5 points) floats a layer.
        """
        R, P, L = len(pairs), self.recipe.loss.points, len(layers.names)
        floats = 6 * int(self.recipe.loss.oversample * P) * max(1, R)
        size = max(1, floats_at_once(layers.logits.device) // floats)
        entropy, dice = [], []
        for part in (slice(i, i + size) for i in range(0, L, size)):
            chosen = zip(layers.masks[part], pairs.queries[part], strict=True)
            logits_LRHW = torch.stack([masks[pairs.images, query_R] for masks, query_R in chosen]).float()
            logits_RHW = logits_LRHW.flatten(0, 1)
            points_RP2 = self._points(logits_RHW, layers.names[part], draws)
            points_LRP2 = points_RP2.view(len(logits_LRHW), R, P, 2)
            labels_LRP, certain_LRP = _truth_at(truth, pairs.counts, pairs.targets[part], points_LRP2)
            logits_LRP = sample_logits(logits_RHW[:, None], points_RP2).view(labels_LRP.shape)
            entropy.append(terms.point_entropy(logits_LRP, labels_LRP, certain_LRP))
            dice.append(terms.dice(logits_LRP, labels_LRP, certain_LRP))
        return torch.cat(entropy), torch.cat(dice)

    def _points(self, logits_RHW: Tensor, names: list[str], draws: Draws) -> Tensor:
        """Points of the rows of `names`' layers: the share `importance` by uncertainty, others at random."""
        loss, device, rows = self.recipe.loss, logits_RHW.device, len(logits_RHW) // len(names)
        keep, drawn = int(loss.importance * loss.points), int(loss.oversample * loss.points)
        over_LRS2 = draws.rand("over", names, (rows, drawn, 2), device)
        random_LRK2 = draws.rand("rand", names, (rows, loss.points - keep, 2), device)
        return uncertain_points(logits_RHW, over_LRS2.flatten(0, 1), random_LRK2.flatten(0, 1), keep)

    @torch.no_grad()
    def _counted(self, layers: Layers, truth: Truth, pairs: Pairs) -> Tensor:
        """0 for unmatched queries whose mask (logit > 0) lies in an ignore region, else 1: [L, B, Q]."""
        L, _, Q, _ = layers.logits.shape
        counted_LBQ = layers.logits.new_ones(layers.logits.shape[:3])
        h, w = layers.masks[0].shape[-2:]
        share = {b: _shrunk(region, (h, w)) for b, region in enumerate(truth.ignore) if region is not None}
        for layer, image, masks_JQHW in layers.chunks(list(share), Q * h * w):
            inside_JQS = (masks_JQHW > 0).flatten(2).float()
            ignored_JQ = (inside_JQS @ torch.stack([share[b] for b in image])[..., None])[..., 0]
            counted_LBQ[layer, image] = (
                ignored_JQ <= self.recipe.loss.ignore_overlap * inside_JQS.sum(-1)
            ).float()
        counted_LBQ[torch.arange(L, device=counted_LBQ.device)[:, None], pairs.images, pairs.queries] = 1
        return counted_LBQ


def _shrunk(region_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of each pixel of a smaller map [h, w] that the region covers: float32 [h * w]."""
    return F.adaptive_avg_pool2d(region_HW[None].float(), size).flatten()


@torch.no_grad()
def _truth_at(
    truth: Truth, counts: list[int], targets_LR: Tensor, points_LRP2: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Each pair's target mask at its points, and which of them count (None: all): float32 [L, R, P]."""
    points = torch.split(points_LRP2, counts, dim=1)
    parts = zip(truth.masks, torch.split(targets_LR, counts, dim=1), points, strict=True)
    labels_LRP = torch.cat([sample_masks(*part) for part in parts], 1)
    if not truth.has_ignore:
        return labels_LRP, None
    return labels_LRP, torch.cat([truth.certain(b, points_b) for b, points_b in enumerate(points)], 1)


def _box_losses(boxes_LBQ4: Tensor, truth: Truth, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """L1 distance and 1 - GIoU of each pair: float32 [L, R] each."""
    layer = torch.arange(len(boxes_LBQ4), device=boxes_LBQ4.device)[:, None]
    boxes_LR4, target_LR4 = boxes_LBQ4[layer, pairs.images, pairs.queries], truth.boxes_cxcywh[pairs.flat]
    distance_LR = (boxes_LR4 - target_LR4).abs().sum(-1)
    return distance_LR, 1 - giou(cxcywh_to_xyxy(boxes_LR4), cxcywh_to_xyxy(target_LR4))


def _term_name(term: str, layer: str) -> str:
    return term + "".join(f"_{part}" for part in layer.split("_") if part != "final")


def check_finite(losses: dict[str, Tensor], image_ids: Sequence[object]) -> None:
    """Raise DivergedError, naming terms and images, unless the sum of the losses is finite.

    One device-to-host copy when all is well.
    """
    total = torch.stack(list(losses.values())).detach().sum()
    if bool(total.isfinite()):
        return
    culprits = [name for name, value in losses.items() if not bool(value.isfinite())]
    raise DivergedError(
        f"the loss is NaN or infinite: {', '.join(culprits) or 'the sum of all terms'}",
        f"images {', '.join(map(str, image_ids))}",
        "lower train.lr, or set train.precision: fp32",
    )
