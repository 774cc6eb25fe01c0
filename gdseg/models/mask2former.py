"""Mask2Former's query decoder (arXiv 2112.01527, §3.2): masked cross-attention to one scale a layer.

Called by `model.py`. Every prediction head's output becomes a `LayerOutput`: from the learned queries before
the first layer ("0"), after every layer, the last being "final". Letters: B batch, Q queries, D channels,
S tokens of one level, K class logits, H W pixels at stride 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdseg.draws import Draws
from gdseg.models.layers import MLP, Attention, init_xavier, project_levels, sine_position
from gdseg.models.pixel_decoder import Pyramid
from gdseg.recipe import Decoder as Options
from gdseg.recipe import settled
from gdseg.structures import LayerOutput, Outputs, Targets


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; normalised after each part, or before it."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        width = options.channels
        self.pre_norm = options.pre_norm
        self.cross_attn = Attention(width, options.heads, options.dropout)
        self.self_attn = Attention(width, options.heads, options.dropout)
        self.linear1, self.linear2 = nn.Linear(width, options.ffn), nn.Linear(options.ffn, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(options.dropout)
        init_xavier(self)

    def forward(self, x: Tensor, query_pos: Tensor, keys: Tensor, values: Tensor, blocked: Tensor) -> Tensor:
        """x [B, Q, D], query_pos [Q, D], keys and values [B, S, D], blocked [B, 1, Q, S] -> [B, Q, D]."""
        y = self._before(self.norm1, x)
        x = self._after(self.norm1, x, self.cross_attn(y + query_pos, keys, values, blocked))
        y = self._before(self.norm2, x)
        x = self._after(self.norm2, x, self.self_attn(y + query_pos, y + query_pos, y))
        y = self._before(self.norm3, x)
        return self._after(self.norm3, x, self.linear2(self.dropout(F.relu(self.linear1(y)))))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = norm(x) if self.pre_norm else x
        return out

    def _after(self, norm: nn.Module, x: Tensor, change: Tensor) -> Tensor:
        x = x + self.dropout(change)
        return x if self.pre_norm else norm(x)


class Mask2FormerDecoder(nn.Module):
    """`Pyramid` in, `Outputs` out."""

    def __init__(
        self, options: Options, num_classes: int, levels: int, memory_channels: int, mask_channels: int
    ) -> None:
        super().__init__()
        width = options.channels
        self.input_proj = project_levels(memory_channels, width, levels, options.input_projection)
        self.level_embed = nn.Embedding(levels, width)
        self.query_feat = nn.Embedding(settled(options.queries), width)
        self.query_embed = nn.Embedding(settled(options.queries), width)
        self.layers = nn.ModuleList(DecoderLayer(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, num_classes + 1)
        self.mask_embed = MLP(width, width, mask_channels, 3)

    def forward(
        self, pyramid: Pyramid, targets: list[Targets] | None = None, draws: Draws | None = None
    ) -> Outputs:
        """Targets and draws are not used: Mask2Former has no denoising queries."""
        levels = [proj(level) for proj, level in zip(self.input_proj, pyramid.levels, strict=True)]
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        values = [
            level.flatten(2).transpose(1, 2) + embed
            for level, embed in zip(levels, self.level_embed.weight, strict=True)
        ]
        keys = [v + sine_position(h, w, v.shape[-1], v) for v, (h, w) in zip(values, sizes, strict=True)]
        x = self.query_feat.weight.expand(len(levels[0]), -1, -1)
        outputs = [self._predict(x, pyramid.mask_features, "0")]
        for i, layer in enumerate(self.layers):
            at = i % len(levels)
            blocked = blocked_pixels(outputs[i].masks, sizes[at])
            x = layer(x, self.query_embed.weight, keys[at], values[at], blocked)
            name = "final" if i == len(self.layers) - 1 else str(i + 1)
            outputs.append(self._predict(x, pyramid.mask_features, name))
        return Outputs(outputs)

    def _predict(self, x: Tensor, mask_features: Tensor, name: str) -> LayerOutput:
        x = self.norm(x)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(x), mask_features)
        return LayerOutput(name, self.class_embed(x), masks)


@torch.no_grad()
def blocked_pixels(masks: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Where a query must not look (§3.2.1): outside its predicted mask; nowhere if that mask is empty.

    masks [B, Q, H, W] logits -> bool [B, 1, Q, h * w] for a level of size (h, w).
    """
    assert masks is not None
    resized = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    blocked = resized.sigmoid().flatten(2) < 0.5
    return (blocked & ~blocked.all(-1, keepdim=True))[:, None]
