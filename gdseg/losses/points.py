"""Masks at points: bilinear samples of logits and of bool masks, and the choice of uncertain points.

PointRend (arXiv 1912.08193 §3.1) and Mask2Former (arXiv 2112.01527 §3.3). Points are (x, y) in 0..1
of the canvas, so logits, masks and ignore regions of different sizes meet at them. Called by the
matcher and the criterion.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_logits(logits_RQHW: Tensor, points_RP2: Tensor) -> Tensor:
    """Bilinear values at points, zero outside: [R, Q, H, W], float32 [R, P, 2] -> float32 [R, Q, P].

    A point at a pixel's centre gives that pixel's value (`align_corners=False`).
    """
    grid = (2 * points_RP2).sub_(1)[:, None]
    return F.grid_sample(logits_RQHW.float(), grid, align_corners=False)[:, :, 0]


def sample_masks(masks_NHW: Tensor, index: Tensor, points: Tensor) -> Tensor:
    """What `sample_logits` would give for chosen masks, without a float copy of any mask.

    masks bool [N, H, W]; index int64 [...] says which mask; points float32 [..., P, 2]; index and the
    leading dimensions of points broadcast. Returns float32 [..., P] in 0..1.
    """
    H, W = masks_NHW.shape[-2:]
    flat = F.pad(masks_NHW, (1, 1, 1, 1)).flatten()  # a frame of zeros, so that no corner needs a test
    column, right = _first_neighbour(points[..., 0], W)
    row, down = _first_neighbour(points[..., 1], H)
    place = index[..., None] * ((H + 2) * (W + 2)) + (row * (W + 2) + column)
    first = place.flatten()

    def corner(offset: int) -> Tensor:
        return flat.index_select(0, first + offset).view(place.shape).float()  # 6 times faster than flat[..]

    above = torch.lerp(corner(0), corner(1), right)
    below = torch.lerp(corner(W + 2), corner(W + 3), right)
    return torch.lerp(above, below, down)


def _first_neighbour(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis of the framed mask: the neighbour before each point, and the way past it (0..1)."""
    place = (points * size + 0.5).clamp(0, size + 1)
    low = place.floor().clamp(max=size)
    return low.long(), place - low


def pixel_at(mask_HW: Tensor, points: Tensor) -> Tensor:
    """The pixel of a bool mask [H, W] that each point [..., P, 2] lies in -> bool [..., P]."""
    H, W = mask_HW.shape
    column = (points[..., 0] * W).long().clamp(0, W - 1)
    row = (points[..., 1] * H).long().clamp(0, H - 1)
    return mask_HW[row, column]


@torch.no_grad()
def uncertain_points(logits_RHW: Tensor, over_RS2: Tensor, random_RK2: Tensor, keep: int) -> Tensor:
    """The `keep` points of `over` [R, S, 2] with logits nearest 0, then `random` -> [R, keep + K, 2]."""
    R, S, _ = over_RS2.shape
    certainty_RS = sample_logits(logits_RHW[:, None], over_RS2)[:, 0].abs_()
    nearest_RK = certainty_RS.topk(keep, dim=1, largest=False, sorted=False).indices
    nearest_RK += torch.arange(R, device=over_RS2.device)[:, None] * S
    chosen = over_RS2.reshape(R * S, 2).index_select(0, nearest_RK.flatten())
    return torch.cat([chosen.view(R, keep, 2), random_RK2], dim=1)
