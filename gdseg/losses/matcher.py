"""The cost of giving each target to each query, in all layers and images at once, and the matching.

Mask2Former (arXiv 2112.01527 §3.3, MIT): class, mask and dice costs at random points. Mask DINO
(arXiv 2206.02777 §3.4, Apache-2.0): focal class cost, and L1 and GIoU between boxes. Float32, no
gradient; one device-to-host copy a step. Called by the criterion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdseg.draws import Draws
from gdseg.losses.assignment import Pairs, assign
from gdseg.losses.boxes import cxcywh_to_xyxy, giou
from gdseg.losses.points import sample_logits, sample_masks
from gdseg.losses.truth import Layers, Truth
from gdseg.recipe import Recipe

_FOCAL_EPS = 1e-8


@torch.no_grad()
def match(layers: Layers, truth: Truth, recipe: Recipe, draws: Draws, image_ids: Sequence[object]) -> Pairs:
    """Pair queries with targets in every layer; all min(Q, N_b) pairs an image.

    Raises DivergedError, naming image and layer, when a cost is NaN or infinite.
    """
    costs_LBQN = matching_costs(layers, truth, recipe, draws)
    columns = assign(costs_LBQN.cpu().numpy(), truth.counts, layers.names, image_ids)
    return Pairs.of(columns, truth.starts, layers.logits.device)


@torch.no_grad()
def matching_costs(layers: Layers, truth: Truth, recipe: Recipe, draws: Draws) -> Tensor:
    """Weighted cost float32 [L, B, Q, N], N the largest target count; columns beyond a count mean nothing."""
    L, B, Q, _ = layers.logits.shape
    N = max(truth.counts)
    if N == 0:
        return layers.logits.new_zeros(L, B, Q, 0)
    loss = recipe.loss
    place_BN = _padded_places(truth, N)
    costs_LBQN = loss.class_cost * _class_cost(layers.logits, truth.labels[place_BN], recipe)
    if layers.boxes_cxcywh is not None:
        costs_LBQN += _box_cost(
            layers.boxes_cxcywh, truth.boxes_cxcywh[place_BN], loss.box_cost, loss.giou_cost
        )
    points_LBP2 = draws.rand("match", layers.names, (B, loss.points, 2), layers.logits.device)
    busy = [image for image, count in enumerate(truth.counts) if count]
    for layer, image, masks_JQHW in layers.chunks(busy, 3 * Q * loss.points):
        points_JP2 = points_LBP2[layer, image]
        labels_JNP = _labels_at(truth, image, points_JP2, N)
        certain_JP = _certain_at(truth, image, points_JP2) if truth.has_ignore else None
        logits_JQP = sample_logits(masks_JQHW, points_JP2)
        costs_LBQN[layer, image] += _mask_cost(
            logits_JQP, labels_JNP, certain_JP, loss.mask_cost, loss.dice_cost
        )
    return costs_LBQN


def _padded_places(truth: Truth, N: int) -> Tensor:
    """Place in the batch of each image's targets, int64 [B, N]; padding points at some other target."""
    last = sum(truth.counts) - 1
    places = [[min(start + i, last) for i in range(N)] for start in truth.starts]
    return torch.tensor(places, device=truth.labels.device)


def _class_cost(logits_LBQK: Tensor, labels_BN: Tensor, recipe: Recipe) -> Tensor:
    """-probability (Mask2Former), or focal positive minus negative cost (Mask DINO; see softmax_cost)."""
    L, _, Q, _ = logits_LBQK.shape
    wanted = labels_BN[None, :, None].expand(L, -1, Q, -1)
    own_softmax = recipe.decoder.kind == "mask2former" or recipe.loss.softmax_cost == "probability"
    if recipe.softmax_classes and own_softmax:
        return -logits_LBQK.softmax(-1).gather(-1, wanted)
    alpha, gamma = recipe.loss.focal_alpha, recipe.loss.focal_gamma
    p = logits_LBQK.gather(-1, wanted).sigmoid()
    positive = alpha * (1 - p) ** gamma * -(p + _FOCAL_EPS).log()
    negative = (1 - alpha) * p**gamma * -(1 - p + _FOCAL_EPS).log()
    return positive - negative


def _box_cost(boxes_LBQ4: Tensor, target_BN4: Tensor, box_weight: float, giou_weight: float) -> Tensor:
    distance = torch.cdist(boxes_LBQ4, target_BN4.expand(len(boxes_LBQ4), -1, -1, -1), p=1)
    overlap = giou(cxcywh_to_xyxy(boxes_LBQ4)[..., None, :], cxcywh_to_xyxy(target_BN4)[:, None])
    return box_weight * distance - giou_weight * overlap


def _labels_at(truth: Truth, images: Sequence[int], points_JP2: Tensor, N: int) -> Tensor:
    """Every target mask at its image's points: float32 [J, N, P], zero rows as padding."""
    labels_JNP = points_JP2.new_zeros(len(images), N, points_JP2.shape[1])
    for image in set(images):
        jobs = [j for j, other in enumerate(images) if other == image]
        count = truth.counts[image]
        index_N = torch.arange(count, device=points_JP2.device)
        labels_JNP[jobs, :count] = sample_masks(truth.masks[image], index_N, points_JP2[jobs][:, None])
    return labels_JNP


def _certain_at(truth: Truth, images: Sequence[int], points_JP2: Tensor) -> Tensor:
    return torch.stack(
        [truth.certain(image, points_P2) for image, points_P2 in zip(images, points_JP2, strict=True)]
    )


def _mask_cost(
    logits_JQP: Tensor, labels_JNP: Tensor, certain_JP: Tensor | None, mask_weight: float, dice_weight: float
) -> Tensor:
    """Mean cross-entropy and dice over the points outside the ignore region -> [J, Q, N].

    bce(x, t) = softplus(x) - x t, so all pairs need one matrix product and no [Q, N, P] tensor.
    """
    probability_JQP, entropy_JQP = logits_JQP.sigmoid(), _softplus(logits_JQP)
    count: Tensor | float = logits_JQP.shape[-1]
    if certain_JP is not None:
        labels_JNP, probability_JQP = labels_JNP * certain_JP[:, None], probability_JQP * certain_JP[:, None]
        entropy_JQP = entropy_JQP * certain_JP[:, None]
        count = certain_JP.sum(-1).clamp(min=1)[:, None, None]
    labels_JPN = labels_JNP.transpose(1, 2)
    entropy = (entropy_JQP.sum(-1)[..., None] - logits_JQP @ labels_JPN) / count
    total = probability_JQP.sum(-1)[..., None] + labels_JNP.sum(-1)[:, None]
    dice = 1 - (2 * (probability_JQP @ labels_JPN) + 1) / (total + 1)
    return mask_weight * entropy + dice_weight * dice


def _softplus(x: Tensor) -> Tensor:
    """max(x, 0) - log(sigmoid(|x|)): to 1e-7, in a fifth of the time that torch's takes on a CPU."""
    return x.clamp(min=0).sub_(x.abs().sigmoid_().log_())
