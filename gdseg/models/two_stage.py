"""Mask DINO's query selection: the encoder's best tokens become queries, their masks become anchors.

Mask DINO §3.2 and §3.3 (arXiv 2206.02777); proposals as in Deformable DETR (arXiv 2010.04159, §A.4).
Called by `maskdino.py`. Letters: B batch, S tokens of all levels, Q queries, D channels, H W mask pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdseg.models.deform_attn import Shapes
from gdseg.models.layers import inverse_sigmoid
from gdseg.models.pixel_decoder import pixel_centres

EMPTY = 1e8  # official stand-in for the first pixel of an empty mask


def token_anchors(shapes: Shapes, like: Tensor, by_stride: bool = False) -> tuple[Tensor, Tensor]:
    """The anchor each token proposes: its own centre, 0.05 * 2^level wide and high.

    Returns logits of cx, cy, w, h [S, 4] and valid bool [S, 1]: False within 1 % of the border, where the
    logits are infinite. `level` is the level's place in `shapes`, as officially, whatever its stride; or,
    with `by_stride`, its place from the finest to the coarsest.
    """
    finest_first = sorted(range(len(shapes)), key=lambda i: -shapes[i][0] * shapes[i][1])
    boxes = []
    for place, (h, w) in enumerate(shapes):
        level = finest_first.index(place) if by_stride else place
        centres = pixel_centres(h, w, like)
        boxes.append(torch.cat((centres, torch.full_like(centres, min(0.05 * 2**level, 0.8))), -1))
    boxes_S4 = torch.cat(boxes)
    valid = ((boxes_S4 > 0.01) & (boxes_S4 < 0.99)).all(-1, keepdim=True)
    logits = torch.log(boxes_S4 / (1 - boxes_S4))
    return logits.masked_fill(~valid, float("inf")), valid


def best_tokens(scores: Tensor, count: int) -> Tensor:
    """Indices int64 [B, Q] of the tokens with the highest class logit; scores [B, S, K]. Q <= S."""
    return scores.detach().amax(-1).topk(min(count, scores.shape[1]), dim=1).indices


def take(values: Tensor, index: Tensor) -> Tensor:
    """values [B, S, D] at index [B, Q] -> [B, Q, D]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


@torch.no_grad()
def anchors_from_masks(masks: Tensor, exact: bool) -> Tensor:
    """Logits of the tight boxes [B, Q, 4] (cx, cy, w, h in 0..1) of mask logits [B, Q, H, W].

    exact: the box ends after the last pixel and an empty mask gives a box of zeros; otherwise it ends at the
    last pixel and an empty mask gives the anchor (1, 1, 0, 0): officially "bitmask" and "mask2box".
    """
    inside = masks > 0
    H, W = masks.shape[-2:]
    x0, x1 = _span(inside.any(-2))
    y0, y1 = _span(inside.any(-1))
    if exact:
        some = x1 >= 0
        x0, y0, x1, y1 = (torch.where(some, v, 0.0) for v in (x0, y0, x1 + 1, y1 + 1))
    else:
        x1, y1 = x1.clamp(min=0), y1.clamp(min=0)
    boxes = torch.stack(((x0 + x1) / (2 * W), (y0 + y1) / (2 * H), (x1 - x0) / W, (y1 - y0) / H), -1)
    return inverse_sigmoid(boxes)


def _span(some: Tensor) -> tuple[Tensor, Tensor]:
    """First and last True along the last axis, float32; EMPTY and -1 where there is none."""
    index = torch.arange(some.shape[-1], dtype=torch.float32, device=some.device)
    return index.where(some, EMPTY).amin(-1), index.where(some, -1.0).amax(-1)
