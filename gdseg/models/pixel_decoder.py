"""Pixel decoder: deformable encoder over the backbone's levels, an FPN to stride 4, mask features.

Mask2Former §3.2.1 (arXiv 2112.01527) and Mask DINO §3.1 (arXiv 2206.02777): the official MSDeformAttn pixel
decoder and MaskDINOEncoder are two settings of this class. Called by `model.py`; always runs in float32, as
officially. Letters: B batch, C channels, H W pixels, S tokens of all levels, D width, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdseg.models.deform_attn import MSDeformAttn, Shapes, init_transformer
from gdseg.models.layers import conv_norm, full_precision, init_conv, init_xavier, sine_position
from gdseg.recipe import PixelDecoder as Options

LEVELS = ("res2", "res3", "res4", "res5")


@dataclass
class Pyramid:
    """mask_features [B, Cm, H/4, W/4]; levels [B, D, h, w], in the order of the token sequence."""

    mask_features: Tensor
    levels: list[Tensor]


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels and a feed-forward part, normalised after each."""

    def __init__(self, options: Options, levels: int) -> None:
        super().__init__()
        width = options.channels
        self.self_attn = MSDeformAttn(width, levels, options.heads, options.points)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, options.ffn), nn.Linear(options.ffn, width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, tokens: Tensor, position: Tensor, centres: Tensor, shapes: Shapes) -> Tensor:
        """tokens [B, S, D], position [S, D], centres [1, S, 2] in 0..1 -> [B, S, D]."""
        seen = self.self_attn(tokens + position, centres, tokens, shapes)
        tokens = self.norm1(tokens + self.dropout(seen))
        hidden = self.dropout(F.relu(self.linear1(tokens), inplace=True))
        out: Tensor = self.norm2(tokens + self.dropout(self.linear2(hidden)))
        return out


class PixelDecoder(nn.Module):
    """Backbone levels in, `Pyramid` out."""

    def __init__(self, options: Options, backbone_channels: Mapping[str, int]) -> None:
        super().__init__()
        width = options.channels
        self.fine_first = options.level_order == "fine_first"
        self.swapped = options.extra_positions == "swapped" and options.extra_levels == 2
        inputs = sorted(options.inputs, reverse=not self.fine_first)
        self.inputs = inputs
        self.levels = len(inputs) + options.extra_levels
        channels = [backbone_channels[name] for name in inputs]
        self.input_proj = nn.ModuleList(conv_norm(c, width, 1, bias=True) for c in channels)
        wide = [backbone_channels["res5"], width][: options.extra_levels]
        self.input_proj.extend(conv_norm(c, width, 3, stride=2, bias=True) for c in wide)
        self.level_embed = nn.Parameter(torch.empty(self.levels, width))
        self.layers = nn.ModuleList(EncoderLayer(options, self.levels) for _ in range(options.layers))
        init_transformer(self.layers)
        # FPN steps down to stride 4; with res2 among the inputs one step remains, as in official Mask DINO
        self.fpn_inputs = [name for name in LEVELS if name < min(inputs)][::-1] or ["res2"]
        self.lateral = nn.ModuleList(conv_norm(backbone_channels[name], width, 1) for name in self.fpn_inputs)
        self.output = nn.ModuleList(conv_norm(width, width, 3) for _ in self.fpn_inputs)
        self.mask_features = nn.Conv2d(width, options.mask_channels, 1)
        nn.init.normal_(self.level_embed)
        init_xavier(self.input_proj)
        init_conv(self.mask_features)

    def forward(self, features: Mapping[str, Tensor]) -> Pyramid:
        """features: res2..res5, [B, C, H/4, W/4] .. [B, C, H/32, W/32]."""
        with full_precision(features["res5"]):
            features = {name: feature.float() for name, feature in features.items()}
            levels = self._encode(self._project(features))
            finest = levels[0] if self.fine_first else levels[len(levels) - 1]
            return Pyramid(self.mask_features(self._fpn(features, finest)), levels)

    def _project(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """One map [B, D, h, w] a level, in sequence order; extra levels lie beyond res5."""
        levels = [proj(features[name]) for proj, name in zip(self.input_proj, self.inputs, strict=False)]
        extra, last = [], features["res5"]
        for proj in self.input_proj[len(levels) :]:
            last = proj(last)
            extra.append(last)
        if not self.fine_first:
            return extra[::-1] + levels
        return levels + (extra[::-1] if self.swapped else extra)

    def _encode(self, levels: list[Tensor]) -> list[Tensor]:
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        position = torch.cat(
            [
                sine_position(h, w, tokens.shape[-1], tokens) + embed
                for (h, w), embed in zip(self._position_shapes(shapes), self.level_embed, strict=True)
            ]
        )
        centres = torch.cat([pixel_centres(h, w, tokens) for h, w in shapes])[None]
        for layer in self.layers:
            tokens = layer(tokens, position, centres, shapes)
        parts = torch.split(tokens.transpose(1, 2), [h * w for h, w in shapes], -1)
        return [torch.unflatten(part, -1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def _position_shapes(self, shapes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The map whose positions each stretch of the sequence gets: its own.

        Officially (`extra_positions: swapped`) the two extra maps lie in the order of the sequence and their
        positions in the other one, end to end over the same tokens.
        """
        if not self.swapped:
            return shapes
        first = len(shapes) - 2 if self.fine_first else 0
        return [*shapes[:first], shapes[first + 1], shapes[first], *shapes[first + 2 :]]

    def _fpn(self, features: Mapping[str, Tensor], top: Tensor) -> Tensor:
        for name, lateral, output in zip(self.fpn_inputs, self.lateral, self.output, strict=True):
            size = features[name].shape[-2:]
            top = lateral(features[name]) + F.interpolate(top, size, mode="bilinear", align_corners=False)
            top = F.relu(output(top), inplace=True)
        return top


def pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """(x, y) of every pixel's centre, [height * width, 2] in 0..1; dtype and device as `like`."""
    y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n for n in (height, width))
    return torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1).flatten(0, 1)
