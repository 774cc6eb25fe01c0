"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, §4.1).

Called by the pixel decoder and Mask DINO's decoder. `ms_deform_attn` is the only place that knows which
implementation runs; `ms_deform_attn_reference` is the truth the others are compared with.
Letters: N batch, S tokens of all levels, Q queries, M heads, D channels a head, L levels, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdseg.models.layers import init_xavier

Shapes = Sequence[tuple[int, int]]


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples; arguments and result as `ms_deform_attn_reference`."""
    return ms_deform_attn_reference(value, shapes, locations, weights)


def kernel_in_use() -> str:
    """Which implementation `ms_deform_attn` runs, and why, for `gdseg doctor` and `gdseg bench`."""
    return "pure PyTorch (grid_sample): no compiled kernel in this version"


def ms_deform_attn_reference(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Plain PyTorch. Samples outside a level count as zero; pixel centres are at (i + 0.5) / length.

    value [N, S, M, D], the levels one after the other; shapes (height, width) of each level, their areas
    sum to S; locations [N, Q, M, L, P, 2] as (x, y) in 0..1; weights [N, Q, M, L, P]. One floating dtype.
    Returns [N, Q, M * D].
    """
    N, _, M, D = value.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    levels = torch.split(value.permute(0, 2, 3, 1), [h * w for h, w in shapes], dim=-1)
    # queries last, so that the sum over points runs along memory
    grid = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).reshape(L, N * M, P, Q, 2)
    shares = weights.permute(3, 0, 2, 4, 1).reshape(L, N * M, 1, P, Q)
    out = value.new_zeros(())
    for i, (level, (h, w)) in enumerate(zip(levels, shapes, strict=True)):
        sampled = F.grid_sample(level.reshape(N * M, D, h, w), grid[i], align_corners=False)
        out = out + (sampled * shares[i]).sum(2)
    return out.view(N, M * D, Q).transpose(1, 2)


class MSDeformAttn(nn.Module):
    """Each query looks at P learned points a head and level around its reference point or anchor."""

    def __init__(self, channels: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start with each head looking in its own direction, point p at p + 1 pixels, all weighted alike."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ring = torch.stack((angle.cos(), angle.sin()), -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        reach = torch.arange(1, self.points + 1)
        offsets = ring[:, None, None] * reach[:, None]
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, references: Tensor, memory: Tensor, shapes: Shapes) -> Tensor:
        """query [N, Q, C], memory [N, S, C] -> [N, Q, C].

        references in 0..1: points [N or 1, Q, 2] (offsets in pixels of each level) or anchors
        [N or 1, Q, 4] as cx, cy, w, h (offsets in half boxes shared among the points).
        """
        value = self.value_proj(memory).unflatten(-1, (self.heads, -1))
        layout = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*layout, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1)
        centre = references[:, :, None, None, None, :2]
        if references.shape[-1] == 2:
            sizes = torch.tensor([(w, h) for h, w in shapes], dtype=query.dtype, device=query.device)
            locations = centre + offsets / sizes[:, None]
        else:
            locations = centre + offsets / self.points * references[:, :, None, None, None, 2:] * 0.5
        weights = weights.unflatten(-1, layout[1:])
        out: Tensor = self.output_proj(ms_deform_attn(value, shapes, locations, weights))
        return out


def init_transformer(layers: nn.Module) -> None:
    """Xavier-uniform for every weight matrix, except that deformable attention keeps its own start."""
    init_xavier(layers)
    for module in layers.modules():
        if isinstance(module, MSDeformAttn):
            module.reset()
