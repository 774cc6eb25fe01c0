"""How much masks have in common. Called by suppression.py and train/ (looks, agreement of networks)."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 16  # pixels: what is in float at once, whatever the masks' size


def shared_pixels(a: Tensor, b: Tensor) -> Tensor:
    """Pixels in both masks of each pair of bool [N, ..] and [M, ..]: float32 [N, M], exact below 2^24."""
    left, right = a.flatten(1), b.flatten(1)
    shared = torch.zeros(len(a), len(b), device=a.device)
    for some, others in zip(torch.split(left, _CHUNK, 1), torch.split(right, _CHUNK, 1), strict=True):
        shared += some.float() @ others.float().T
    return shared


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair of bool masks [N, ..] and [M, ..]: float32 [N, M]; 0 of none."""
    shared = shared_pixels(a, b)
    areas = a.flatten(1).sum(1)[:, None] + b.flatten(1).sum(1)[None]
    return shared / (areas - shared).clamp(min=1)
