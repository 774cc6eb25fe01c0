"""Mask DINO's query decoder (arXiv 2206.02777, §3): selected queries, refined anchors, denoising.

Called by `model.py`. One class head, one box head and one mask head serve the encoder's proposals and every
layer, as officially. Letters: B batch, Q queries (denoising ones first), D channels, S tokens of all levels,
K class logits, H W pixels at stride 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdseg.draws import Draws
from gdseg.models.deform_attn import MSDeformAttn, Shapes, init_transformer
from gdseg.models.denoising import NoisedQueries, blocked_attention, noised_queries
from gdseg.models.layers import (
    MLP,
    Attention,
    full_precision,
    init_xavier,
    inverse_sigmoid,
    project_levels,
    sine_anchor,
)
from gdseg.models.mask_prior import EllipsePrior
from gdseg.models.pixel_decoder import Pyramid
from gdseg.models.two_stage import anchors_from_masks, best_tokens, take, token_anchors
from gdseg.recipe import Decoder as Options
from gdseg.recipe import settled
from gdseg.structures import Denoising, LayerOutput, Outputs, Targets


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; normalised after each part."""

    def __init__(self, options: Options, levels: int) -> None:
        super().__init__()
        width = options.channels
        self.self_attn = Attention(width, options.heads, options.dropout)
        self.cross_attn = MSDeformAttn(width, levels, options.heads, options.points)
        self.linear1, self.linear2 = nn.Linear(width, options.ffn), nn.Linear(options.ffn, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(options.dropout)

    def forward(
        self, x: Tensor, query_pos: Tensor, anchors: Tensor, memory: Memory, blocked: Tensor | None
    ) -> Tensor:
        """x and query_pos [B, Q, D], anchors [B, Q, 4] in 0..1, blocked bool [Q, Q] -> [B, Q, D]."""
        where = x + query_pos
        x = self.norm2(x + self.dropout(self.self_attn(where, where, x, blocked)))
        seen = self.cross_attn(x + query_pos, anchors, memory.tokens, memory.shapes)
        x = self.norm1(x + self.dropout(seen))
        hidden = self.dropout(F.relu(self.linear1(x), inplace=True))
        out: Tensor = self.norm3(x + self.dropout(self.linear2(hidden)))
        return out


@dataclass
class Memory:
    """The encoder's tokens [B, S, D] with the (height, width) of their levels, and the mask features."""

    tokens: Tensor
    shapes: Shapes
    mask_features: Tensor


@dataclass
class Queries:
    """content [B, Q, D] and anchors [B, Q, 4] (logits of cx, cy, w, h) that enter the first layer."""

    content: Tensor
    anchors: Tensor


class MaskDINODecoder(nn.Module):
    """`Pyramid` in, `Outputs` out."""

    def __init__(
        self, options: Options, num_classes: int, levels: int, memory_channels: int, mask_channels: int
    ) -> None:
        super().__init__()
        self.options = options
        width = options.channels
        self.input_proj = project_levels(memory_channels, width, levels, options.input_projection)
        if options.two_stage:
            self.enc_output, self.enc_output_norm = nn.Linear(width, width), nn.LayerNorm(width)
        else:
            self.query_embed = nn.Embedding(settled(options.queries), 4)
        if options.learned_content or not options.two_stage:
            self.query_feat = nn.Embedding(settled(options.queries), width)
        self.label_enc = nn.Embedding(num_classes, width)
        self.class_embed = nn.Linear(width, num_classes + (options.class_loss == "softmax"))
        self.mask_embed = MLP(width, width, mask_channels, 3)
        self.bbox_embed = MLP(width, width, 4, 3)
        self.mask_prior = EllipsePrior(width) if options.mask_prior == "ellipse" else None
        self.ref_point_head = MLP(2 * width, width, width, 2)
        self.layers = nn.ModuleList(DecoderLayer(options, levels) for _ in range(options.layers))
        self.norm = nn.LayerNorm(width)
        self._reset()

    def _reset(self) -> None:
        init_xavier(self.ref_point_head)
        init_transformer(self.layers)
        nn.init.zeros_(self.bbox_embed.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.bbox_embed.layers[-1].bias)  # type: ignore[arg-type]
        prior = self.options.class_prior
        if prior and self.options.class_loss == "focal":
            nn.init.constant_(self.class_embed.bias, math.log(prior / (1 - prior)))

    def forward(
        self, pyramid: Pyramid, targets: list[Targets] | None = None, draws: Draws | None = None
    ) -> Outputs:
        """Targets (in training) are the source of the denoising queries; draws, of their noise."""
        memory = self._memory(pyramid)
        encoder, queries = self._select(memory) if self.options.two_stage else (None, self._learned(memory))
        noised = None
        if self.training and targets is not None and self.options.denoising != "none":
            noised = noised_queries(targets, self.label_enc, self.options, draws or Draws())
        if noised is not None:
            queries.content = torch.cat((noised.content, queries.content), 1)
            queries.anchors = torch.cat((noised.anchors, queries.anchors), 1)
        layers = self._decode(queries, memory, noised)
        if noised is None:
            # label_enc stays in the graph, so that a data-parallel run finds a gradient for it
            layers[-1].logits = layers[-1].logits + 0.0 * self.label_enc.weight.sum()
            return Outputs(layers, encoder)
        parts = [_split(layer, noised.groups * noised.slots) for layer in layers]
        denoised = [part[0] for part in parts]
        if not self.options.two_stage and len(denoised) > 1:
            denoised = denoised[1:]  # officially, one-stage models do not denoise at the first prediction
        denoising = Denoising(denoised, noised.groups, noised.slots, noised.kept)
        return Outputs([part[1] for part in parts], encoder, denoising)

    def _memory(self, pyramid: Pyramid) -> Memory:
        """The levels in reverse of the encoder's order, as officially."""
        with full_precision(pyramid.mask_features):
            levels = [proj(level) for proj, level in zip(self.input_proj, pyramid.levels, strict=True)][::-1]
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        return Memory(tokens, shapes, pyramid.mask_features)

    def _learned(self, memory: Memory) -> Queries:
        batch = len(memory.tokens)
        content = self.query_feat.weight.expand(batch, -1, -1)
        return Queries(content, self.query_embed.weight.expand(batch, -1, -1))

    def _select(self, memory: Memory) -> tuple[LayerOutput, Queries]:
        """The encoder's own predictions at its best tokens, and the queries made of them (detached)."""
        with full_precision(memory.tokens):
            by_stride = self.options.proposal_size == "stride"
            anchors_S4, valid = token_anchors(memory.shapes, memory.tokens, by_stride)
            tokens = self.enc_output_norm(self.enc_output(memory.tokens.masked_fill(~valid, 0.0)))
            best = best_tokens(self._scores(tokens), settled(self.options.queries))
            content = take(tokens, best)
            anchors = self.bbox_embed(content) + anchors_S4[best]
        encoder = self._predict("interm", content, anchors.sigmoid(), memory)
        content, anchors = content.detach(), anchors.detach()
        if self.options.box_init != "none" and encoder.masks is not None:
            anchors = anchors_from_masks(encoder.masks, self.options.box_init == "exact")
        if self.options.learned_content:
            content = self.query_feat.weight[: content.shape[1]].expand(len(content), -1, -1)
        return encoder, Queries(content, anchors)

    def _scores(self, tokens: Tensor) -> Tensor:
        """The logits [B, S, K] that select tokens: one that is surely no object makes a poor query."""
        logits: Tensor = self.class_embed(tokens)
        objects = self.options.token_score == "objects"
        return logits[..., : self.label_enc.num_embeddings] if objects else logits

    def _decode(self, queries: Queries, memory: Memory, noised: NoisedQueries | None) -> list[LayerOutput]:
        """Every prediction, denoising queries first; anchors refined with look-forward-twice gradients."""
        x, anchors = queries.content, queries.anchors.sigmoid()
        blocked = None
        if noised is not None:
            matching = x.shape[1] - noised.groups * noised.slots
            blocked = blocked_attention(noised.groups, noised.slots, matching, x.device)
        normed, boxes = [x], [anchors]
        refined = anchors  # carries the gradient of the layer before; `anchors` does not
        for layer in self.layers:
            with full_precision(x):
                x = x.float()
                query_pos = self.ref_point_head(sine_anchor(anchors, x.shape[-1]))
                x = layer(x, query_pos, anchors, memory, blocked)
                normed.append(self.norm(x))
                boxes.append((self.bbox_embed(normed[-1]) + inverse_sigmoid(refined)).sigmoid())
                refined = (self.bbox_embed(x) + inverse_sigmoid(anchors)).sigmoid()
                anchors = refined.detach()
        first = 0 if self.options.initial_prediction else 1
        names = [*map(str, range(len(self.layers) - first)), "final"]
        pairs = zip(normed[first:], boxes[first:], strict=True)
        return [self._predict(name, *pair, memory) for name, pair in zip(names, pairs, strict=True)]

    def _predict(self, name: str, x: Tensor, boxes: Tensor, memory: Memory) -> LayerOutput:
        """What the heads say of queries [B, Q, D]; masks where a loss or the caller needs them."""
        x = self.norm(x)
        masks = None
        if self.training or name in ("final", "interm"):
            masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(x), memory.mask_features)
            if self.mask_prior is not None:
                masks = self.mask_prior(masks, x, boxes)
        return LayerOutput(name, self.class_embed(x), masks, boxes)


def _split(layer: LayerOutput, at: int) -> tuple[LayerOutput, LayerOutput]:
    """The first `at` queries and the others."""
    assert layer.masks is not None
    assert layer.boxes_cxcywh is not None
    parts = ((t[:, :at], t[:, at:]) for t in (layer.logits, layer.masks, layer.boxes_cxcywh))
    left, right = zip(*parts, strict=True)
    return LayerOutput(layer.name, *left), LayerOutput(layer.name, *right)
