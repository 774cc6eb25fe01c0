"""Boxes: formats, IoU and GIoU, and the tight boxes of masks.

IoU and generalised IoU (arXiv 1902.09630) as Mask DINO (Apache-2.0) computes them, with 1e-6 in the
denominators. Called by the matcher, the criterion and whatever makes `Targets` from masks.
"""

import torch
from torch import Tensor

_EPS = 1e-6  # of Mask DINO's IoU and GIoU


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] centre and size -> [..., 4] corners (x0, y0, x1, y1)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] corners -> [..., 4] centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU of boxes [..., 4] with boxes [..., 4], which may broadcast -> [...] in 0..1."""
    return _overlap(a_xyxy, b_xyxy)[0]


def giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU of boxes [..., 4] with boxes [..., 4], which may broadcast -> [...] in -1..1.

    For all pairs of a_N4 and b_M4 call it with a[:, None] and b[None]. A box without area is a point
    or a line: its IoU is 0, and no result is NaN.
    """
    ratio, union = _overlap(a_xyxy, b_xyxy)
    hull = _area(
        torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    )
    return ratio - (hull - union) / (hull + _EPS)


def _overlap(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    inside = _area(
        torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    )
    union = _area(a_xyxy[..., :2], a_xyxy[..., 2:]) + _area(b_xyxy[..., :2], b_xyxy[..., 2:]) - inside
    return inside / (union + _EPS), union


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)


def masks_to_boxes_cxcywh(masks_NHW: Tensor) -> Tensor:
    """Tight boxes of bool masks [N, H, W] -> float32 [N, 4], cxcywh in 0..1 of the H x W canvas.

    The far edge is exclusive (a single pixel is 1 wide); an empty mask gives zeros.
    """
    x0, x1 = _span(masks_NHW.any(dim=-2))
    y0, y1 = _span(masks_NHW.any(dim=-1))
    return xyxy_to_cxcywh(torch.stack([x0, y0, x1, y1], dim=-1))


def _span(used_NS: Tensor) -> tuple[Tensor, Tensor]:
    """First used index and one past the last, as shares of S; zeros where nothing is used."""
    size = used_NS.shape[-1]
    some = used_NS.any(dim=-1).float()
    first = used_NS.byte().argmax(dim=-1)
    last = size - used_NS.byte().flip(-1).argmax(dim=-1)
    return first / size * some, last / size * some
