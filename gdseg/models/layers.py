"""Small parts shared by the pixel decoder and both query decoders.

Sine embeddings follow DETR (arXiv 2005.12872, §A.4) and DAB-DETR (arXiv 2201.12329, §4.2) as official
Mask2Former (MIT) and Mask DINO (Apache-2.0) have them. Letters: B batch, Q queries, S tokens, D channels,
H W pixels.
"""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def full_precision(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """Autocast switched off on `like`'s device: what runs inside keeps the dtype of its inputs."""
    kind = like.device.type
    if not torch.amp.is_autocast_available(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x in 0..1 and both terms kept above `eps` (official value)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _sine(x: Tensor, width: int) -> Tensor:
    """[..] -> [.., width]: sine at even and cosine at odd channels, temperature 10000."""
    steps = torch.arange(width, dtype=x.dtype, device=x.device)
    angle = x[..., None] / 10000 ** (2 * (steps // 2) / width)
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(-2)


def sine_position(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Position embedding [height * width, channels]: y in the first half of the channels, x in the second.

    A pixel's coordinate is its index from 1 over the length (+ 1e-6), times 2 pi. dtype and device as `like`.
    """
    y, x = (
        torch.arange(1, n + 1, dtype=like.dtype, device=like.device) / (n + 1e-6) * (2 * math.pi)
        for n in (height, width)
    )
    y_HD, x_WD = _sine(y, channels // 2), _sine(x, channels // 2)
    both = (y_HD[:, None].expand(-1, width, -1), x_WD[None].expand(height, -1, -1))
    return torch.cat(both, -1).flatten(0, 1)


def sine_anchor(boxes_cxcywh: Tensor, channels: int) -> Tensor:
    """Embedding of anchors [.., 4] in 0..1 -> [.., 2 * channels], in the order y, x, w, h."""
    embedded = _sine(boxes_cxcywh * (2 * math.pi), channels // 2)
    cx, cy, w, h = embedded.unbind(-2)
    return torch.cat((cy, cx, w, h), -1)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[.., inputs] -> [.., outputs]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        out: Tensor = self.layers[-1](x)
        return out


class Attention(nn.Module):
    """Multi-head attention whose keys and values may differ, as they do where only keys carry a position.

    Parameters are named and shaped as `nn.MultiheadAttention`'s, so official weights map one to one; a
    boolean mask is broadcast over the heads instead of copied for each.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        """query [B, Q, D], key and value [B, S, D] -> [B, Q, D].

        blocked: bool [Q, S] or [B, 1, Q, S], True where a query must not look; no row may be all True.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            torch.unflatten(F.linear(x, weight, bias), -1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if blocked is None else ~blocked
        p = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


def conv_norm(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution and group norm of 32 groups (fewer where 32 does not divide the width)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
    init_conv(conv)
    return nn.Sequential(conv, nn.GroupNorm(math.gcd(32, outputs), outputs))


def init_xavier(module: nn.Module) -> None:
    """Xavier-uniform for every weight matrix of `module`, as both papers' transformers start."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def project_levels(inputs: int, outputs: int, levels: int, always: bool = False) -> nn.ModuleList:
    """1x1 convolutions, one a level, from the pixel decoder's width to the query decoder's.

    None where the widths agree, unless `always`.
    """
    if inputs == outputs and not always:
        return nn.ModuleList(nn.Identity() for _ in range(levels))
    convs = [nn.Conv2d(inputs, outputs, 1) for _ in range(levels)]
    for conv in convs:
        init_conv(conv)
    return nn.ModuleList(convs)


def init_conv(conv: nn.Conv2d) -> None:
    """Kaiming-uniform with a = 1 and no bias, as official convolutions outside the backbone start."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
