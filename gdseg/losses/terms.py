"""The loss of one prediction, without reduction over predictions: focal, cross-entropy, dice.

Focal loss (arXiv 1708.02002), point cross-entropy and dice (Mask2Former §3.3; dice of V-Net, arXiv
1606.04797, with +1 above and below). Called by the criterion.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def focal(logits: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss of each logit [...]; positive: bool [...]. Same shape, not reduced."""
    wrong = torch.where(positive, -logits, logits)
    weight = torch.where(positive, alpha, 1 - alpha)
    return weight * wrong.sigmoid() ** gamma * F.softplus(wrong)


def point_entropy(logits: Tensor, labels: Tensor, certain: Tensor | None) -> Tensor:
    """Mean binary cross-entropy over points: logits, labels (0..1) [..., P] -> [...].

    certain float [..., P] is 0 at points that count for nothing; None: all count.
    """
    loss = F.softplus(logits) - logits * labels  # autograd keeps half of what torch's own form does
    if certain is None:
        return loss.mean(-1)
    return (loss * certain).sum(-1) / certain.sum(-1).clamp(min=1)


def dice(logits: Tensor, labels: Tensor, certain: Tensor | None) -> Tensor:
    """1 - (2 p.t + 1) / (p + t + 1) over points, p = sigmoid(logits): [..., P] -> [...]. See above."""
    probability = logits.sigmoid()
    if certain is not None:
        probability, labels = probability * certain, labels * certain
    inside = (probability * labels).sum(-1)
    return 1 - (2 * inside + 1) / (probability.sum(-1) + labels.sum(-1) + 1)
