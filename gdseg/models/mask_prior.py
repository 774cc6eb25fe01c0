"""A query's box as a prior of its mask: for data on which objects look alike and labels are few.

Mask logits are products of query and pixel embeddings, so two objects of the same look are told apart only
once the embeddings carry position, which takes many steps to learn. SMCA (arXiv 2101.07448, §3.2) adds the
logarithm of a Gaussian about the query's centre to attention logits; here such a term is added to mask
logits. Called by `maskdino.py` where `decoder.mask_prior` asks for it; not part of official Mask DINO.
Letters: B batch, Q queries, D channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdseg.models.layers import full_precision

# A pixel this far (squared, along one axis) is outside for good: no tiny box makes losses of thousands.
FAR = 16.0


class EllipsePrior(nn.Module):
    """Adds s * (1 - d^2) to mask logits: d is 1 on the ellipse in the box (a pixel larger), s learned.

    Along each axis the square of the distance ends at `FAR`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sharpness = nn.Linear(channels, 1)
        nn.init.zeros_(self.sharpness.weight)
        nn.init.constant_(self.sharpness.bias, math.log(math.e - 1))  # softplus gives 1

    def forward(self, masks: Tensor, x: Tensor, boxes_cxcywh: Tensor) -> Tensor:
        """masks [B, Q, H, W] logits, x [B, Q, D], boxes [B, Q, 4] in 0..1 -> float32 [B, Q, H, W].

        No gradient reaches the boxes: they learn from their own losses alone.
        """
        with full_precision(masks):
            sharpness = F.softplus(self.sharpness(x.float()))
            boxes = boxes_cxcywh.detach().float()
            fall_y = sharpness * _squared_distance(boxes[..., 1::2], masks.shape[-2])
            fall_x = sharpness * _squared_distance(boxes[..., 0::2], masks.shape[-1])
            return masks.float() + (sharpness - fall_y)[..., None] - fall_x[..., None, :]


def _squared_distance(centre_length: Tensor, pixels: int) -> Tensor:
    """Along one axis: [B, Q, 2] -> [B, Q, pixels] up to `FAR`, 1 at the ends of a box widened by a pixel."""
    centre, length = centre_length.unbind(-1)
    places = (torch.arange(pixels, device=centre.device) + 0.5) / pixels
    radius = length / 2 + 0.5 / pixels
    return ((places - centre[..., None]) / radius[..., None]).square().clamp(max=FAR)
