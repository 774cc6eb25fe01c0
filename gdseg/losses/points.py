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
    flat = masks_NHW.flatten()
    start = index[..., None] * (H * W)
    x, y = (points[..., 0] * W - 0.5), (points[..., 1] * H - 0.5)
    x0, y0 = x.floor(), y.floor()
    columns = _corners(x0, x - x0, W)
    value = torch.zeros((), device=points.device)
    for row, row_share in _corners(y0, y - y0, H):
        for column, share in columns:
            place = start + (row * W + column)
            corner = flat.index_select(0, place.flatten()).view(
                place.shape
            )  # 6 times faster than flat[place]
            value = value + corner.float() * (share * row_share)
    return value


def _corners(low: Tensor, fraction: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two neighbours along one axis: index inside 0..size-1, and share (0 outside the canvas)."""
    corners = ((low, 1 - fraction), (low + 1, fraction))
    inside = [
        ((place >= 0) & (place < size)).float() for place, _ in corners
    ]  # float: bool products are slow
    return [
        (at.clamp(0, size - 1).long(), share * ok) for (at, share), ok in zip(corners, inside, strict=True)
    ]


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
