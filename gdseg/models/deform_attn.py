"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, §4.1).

Called by the pixel decoder and Mask DINO's decoder. Whether the compiled operators run (`kernels/`) or plain
PyTorch is decided in `deform_attn_kernel.py`; `ms_deform_attn_reference` is the truth to compare them with.
Letters: N batch, S tokens of all levels, Q queries, M heads, D channels a head, L levels, P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdseg.models import deform_attn_checks as checks
from gdseg.models import deform_attn_kernel as kernel
from gdseg.models.deform_attn_ops import exact
from gdseg.models.layers import init_xavier

Shapes = checks.Shapes
FAR_OUTSIDE = 9.0  # in grid_sample's -1..1


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples; arguments and result as `ms_deform_attn_reference`.

    Raises RuntimeError on shapes or dtypes that do not fit, MachineError (exit code 5) when the compiled
    operator is missing in spite of GDSEG_KERNEL=require.
    """
    checks.check_dtypes(value=value, locations=locations, weights=weights)
    if not kernel.runs_on(value.device.type):
        return ms_deform_attn_reference(value, shapes, locations, weights)
    out: Tensor = torch.ops.gdseg.ms_deform_attn(
        value, _flat(shapes), exact(locations, value), exact(weights, value)
    )
    return out


def ms_deform_attn_fused(
    value: Tensor, shapes: Shapes, references: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """The same from what a layer has at hand: `sampling_of` of the last three, then `ms_deform_attn`.

    value as there; references in 0..1, points [N or 1, Q, 2] or anchors [N or 1, Q, 4] as cx, cy, w, h;
    offsets [N, Q, M, L, P, 2] and logits [N, Q, M, L * P] of value's dtype. Returns [N, Q, M * D].
    """
    checks.check_dtypes(value=value, references=references, offsets=offsets, logits=logits)
    if not kernel.runs_on(value.device.type):
        levels = checks.levels_of(shapes)
        checks.check_fused(value, levels, references, offsets, logits)
        return ms_deform_attn_reference(value, levels, *sampling_of(levels, references, offsets, logits))
    out: Tensor = torch.ops.gdseg.ms_deform_attn_fused(
        value, _flat(shapes), exact(references, value), offsets, logits
    )
    return out


def sampling_of(shapes: Shapes, references: Tensor, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Locations [N, Q, M, L, P, 2] and weights [N, Q, M, L, P]; arguments as `ms_deform_attn_fused`.

    Around a point, offsets are pixels of each level; around an anchor, half boxes shared among the points.
    """
    points = offsets.shape[-2]
    weights = logits.softmax(-1).reshape(offsets.shape[:-1])
    centre = references[:, :, None, None, None, :2]
    if references.shape[-1] == 2:
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=references.dtype, device=references.device)
        return centre + offsets / sizes.clamp(min=1).view(-1, 1, 2), weights
    return centre + offsets / points * references[:, :, None, None, None, 2:] * 0.5, weights


def ms_deform_attn_reference(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Plain PyTorch. Samples outside a level count as zero; pixel centres are at (i + 0.5) / length.

    value [N, S, M, D], the levels one after the other; shapes (height, width) of each level, their areas
    sum to S; locations [N, Q, M, L, P, 2] as (x, y) in 0..1, a NaN or infinite one counts as outside; weights
    [N, Q, M, L, P]. Coordinates and sums are float32, or float64 beside float64 values.
    Returns [N, Q, M * D] of value's dtype. Raises RuntimeError on shapes or dtypes that do not fit.
    """
    checks.check_dtypes(value=value, locations=locations, weights=weights)
    shapes = checks.levels_of(shapes)
    checks.check_plain(value, shapes, locations, weights)
    N, _, M, D = value.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    if all(h * w == 0 for h, w in shapes):  # zeros that gradients flow through
        zero = value.sum() + locations[..., :0].sum() + weights[..., :0].sum()
        return zero.to(value.dtype).expand(N, Q, M * D).contiguous()
    locations, weights = exact(locations, value), exact(weights, value)
    levels = torch.split(exact(value, value).permute(0, 2, 3, 1), [h * w for h, w in shapes], dim=-1)
    # queries last, so that the sum over points runs along memory
    grid = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).reshape(L, N * M, P, Q, 2)
    grid = grid.clamp(-FAR_OUTSIDE, FAR_OUTSIDE).nan_to_num(FAR_OUTSIDE)  # grid_sample makes NaN of 1e38
    shares = weights.permute(3, 0, 2, 4, 1).reshape(L, N * M, 1, P, Q)
    out = levels[0].new_zeros(())
    for i, (level, (h, w)) in enumerate(zip(levels, shapes, strict=True)):
        if h * w == 0:
            continue  # grid_sample refuses it
        sampled = F.grid_sample(level.reshape(N * M, D, h, w), grid[i], align_corners=False)
        out = out + (sampled * shares[i]).sum(2)
    return out.view(N, M * D, Q).transpose(1, 2).to(value.dtype)


def kernel_in_use() -> str:
    """Which implementation `ms_deform_attn` runs, and why, for `gdseg doctor` and `gdseg bench`."""
    return kernel.describe()


def _flat(shapes: Shapes) -> list[int]:
    return [side for level in checks.levels_of(shapes) for side in level]


class MSDeformAttn(nn.Module):
    """Each query looks at P learned points a head and level around its reference point or anchor."""

    def __init__(self, channels: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        kernel.announce()
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
        logits = self.attention_weights(query).unflatten(-1, (self.heads, -1))
        sampled = ms_deform_attn_fused(value, shapes, references, offsets, logits)
        out: Tensor = self.output_proj(sampled)
        return out


def init_transformer(layers: nn.Module) -> None:
    """Xavier-uniform for every weight matrix, except that deformable attention keeps its own start."""
    init_xavier(layers)
    for module in layers.modules():
        if isinstance(module, MSDeformAttn):
            module.reset()
