"""Pixel decoders and query decoders of official Mask2Former and Mask DINO, written out from the facts.

From the papers and what is known of the official code, after its own names of tensors and options and in its own
order, for one purpose: to say what a model with other options than the recorded ones must give. Slow, short, and
without a line of gdseg. Used by `test_heads_exact.py`, and by `tests/golden`, where it is itself held to the records.
"""

import math

import torch
from torch.nn import functional as F

HEAD, PIXEL = "sem_seg_head.predictor.", "sem_seg_head.pixel_decoder."
INPUTS = "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"


class Heads:
    """state: official names -> tensors of one dtype; model: the official MODEL node."""

    def __init__(self, state, model):
        self.state, self.head = state, model["SEM_SEG_HEAD"]
        self.dino = self.head["NAME"] == "MaskDINOHead"
        self.own = model["MaskDINO" if self.dino else "MASK_FORMER"]

    def get(self, name):
        return self.state.get(name)

    def linear(self, name, x):
        return F.linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def mlp(self, name, x):
        i = 0
        while f"{name}.layers.{i}.weight" in self.state:
            x = self.linear(f"{name}.layers.{i}", x if i == 0 else x.relu())
            i += 1
        return x

    def conv(self, name, x, stride=1):
        weight = self.get(f"{name}.weight")
        return F.conv2d(x, weight, self.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def conv_norm(self, conv, norm, x, stride=1):
        return F.group_norm(
            self.conv(conv, x, stride), 32, self.get(f"{norm}.weight"), self.get(f"{norm}.bias")
        )

    def attention(self, name, q, k, v, heads, blocked=None):
        """Multi-head attention, head by head; blocked bool [.., Q, S]."""
        weights, biases = (
            self.get(f"{name}.in_proj_weight").chunk(3),
            self.get(f"{name}.in_proj_bias").chunk(3),
        )
        parts = [
            F.linear(x, w, b).chunk(heads, -1) for x, w, b in zip((q, k, v), weights, biases, strict=True)
        ]
        mixed = []
        for qh, kh, vh in zip(*parts, strict=True):
            scores = qh @ kh.transpose(1, 2) / math.sqrt(qh.shape[-1])
            scores = scores if blocked is None else scores.masked_fill(blocked, -math.inf)
            mixed.append(scores.softmax(-1) @ vh)
        return self.linear(f"{name}.out_proj", torch.cat(mixed, -1))

    def deformable(self, name, query, reference, tokens, shapes, heads, points=4):
        """Deformable DETR §4.1; reference [.., 2] (pixel centres) or [.., 4] (boxes): offsets in cells or half boxes."""
        B, Q, D = query.shape
        value = self.linear(f"{name}.value_proj", tokens)
        offsets = self.linear(f"{name}.sampling_offsets", query).view(B, Q, heads, len(shapes), points, 2)
        weights = self.linear(f"{name}.attention_weights", query).view(B, Q, heads, -1).softmax(-1)
        weights = weights.view(B, Q, heads, len(shapes), points)
        out, start = 0.0, 0
        for level, (h, w) in enumerate(shapes):
            step = offsets[:, :, :, level]
            if reference.shape[-1] == 2:
                place = reference[:, :, None, None] + step / step.new_tensor([w, h])
            else:
                place = (
                    reference[:, :, None, None, :2] + step / points * reference[:, :, None, None, 2:] * 0.5
                )
            rows = value[:, start : start + h * w].view(B, h, w, heads, -1)
            maps = rows.permute(0, 3, 4, 1, 2).flatten(0, 1)
            grid = 2 * place.transpose(1, 2).flatten(0, 1) - 1
            seen = F.grid_sample(maps, grid, align_corners=False).view(B, heads, D // heads, Q, points)
            out = out + torch.einsum("bhdqp,bqhp->bqhd", seen, weights[:, :, :, level])
            start += h * w
        return self.linear(f"{name}.output_proj", out.flatten(2))

    def pixel_decoder(self, features):
        """res2..res5 -> (mask features, levels in the order in which the official decoder returns them)."""
        names = sorted(self.head[INPUTS])
        low2high = self.dino and self.head["FEATURE_ORDER"] == "low2high"
        # inputs are visited from the end of a list that low2high has already turned round
        order = names if low2high else names[::-1]
        maps, positions = [], []
        for i, name in enumerate(order):
            maps.append(
                self.conv_norm(f"{PIXEL}input_proj.{i}.0", f"{PIXEL}input_proj.{i}.1", features[name])
            )
            positions.append(sine(*features[name].shape[-2:], maps[-1]))
        extra, extra_positions = [], []
        for i in range(len(names), self.head["TOTAL_NUM_FEATURE_LEVELS"] if self.dino else 0):
            last = extra[-1] if extra else features["res5"]
            extra.append(self.conv_norm(f"{PIXEL}input_proj.{i}.0", f"{PIXEL}input_proj.{i}.1", last, 2))
            extra_positions.append(sine(*extra[-1].shape[-2:], extra[-1]))
        extra = extra[::-1]  # the maps, but not their positions
        maps = maps + extra if low2high else extra + maps
        positions = positions + extra_positions if low2high else extra_positions + positions
        levels = self.encoder(maps, positions)
        out = levels[0 if low2high else -1]
        strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
        steps = max(int(math.log2(strides[names[0]])) - 2, 1)
        for step in range(steps, 0, -1):
            lateral = features[f"res{step + 1}"]
            lateral = self.conv_norm(f"{PIXEL}adapter_{step}", f"{PIXEL}adapter_{step}.norm", lateral)
            out = lateral + F.interpolate(out, lateral.shape[-2:], mode="bilinear", align_corners=False)
            out = self.conv_norm(f"{PIXEL}layer_{step}", f"{PIXEL}layer_{step}.norm", out).relu()
        return self.conv(f"{PIXEL}mask_features", out), levels

    def encoder(self, maps, positions):
        shapes = [tuple(x.shape[-2:]) for x in maps]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        embed = self.get(f"{PIXEL}transformer.level_embed")
        where = torch.cat([p + e for p, e in zip(positions, embed, strict=True)])
        centres = torch.cat([grid(h, w, x) for h, w in shapes])[None]
        for i in range(self.head["TRANSFORMER_ENC_LAYERS"]):
            name = f"{PIXEL}transformer.encoder.layers.{i}"
            seen = self.deformable(f"{name}.self_attn", x + where, centres, x, shapes, self.own["NHEADS"])
            x = self.norm(f"{name}.norm1", x + seen)
            x = self.norm(f"{name}.norm2", x + self.feed_forward(name, x))
        parts = x.transpose(1, 2).split([h * w for h, w in shapes], -1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def predict(self, x, mask_features):
        x = self.norm(f"{HEAD}decoder_norm", x)
        masks = torch.einsum("bqc,bchw->bqhw", self.mlp(f"{HEAD}mask_embed", x), mask_features)
        return {"pred_logits": self.linear(f"{HEAD}class_embed", x), "pred_masks": masks}

    def project(self, i, level):
        return (
            self.conv(f"{HEAD}input_proj.{i}", level) if f"{HEAD}input_proj.0.weight" in self.state else level
        )

    def mask2former(self, mask_features, levels):
        """One dictionary a prediction, the last one final."""
        memory, keys, sizes = [], [], []
        for i, level in enumerate(levels):
            level = self.project(i, level)
            sizes.append(level.shape[-2:])
            memory.append(level.flatten(2).transpose(1, 2) + self.get(f"{HEAD}level_embed.weight")[i])
            keys.append(memory[-1] + sine(*sizes[-1], level))
        x = self.get(f"{HEAD}query_feat.weight").expand(len(memory[0]), -1, -1)
        where = self.get(f"{HEAD}query_embed.weight")
        found = [self.predict(x, mask_features)]
        for i in range(self.own["DEC_LAYERS"] - 1):
            at = i % len(levels)
            shrunk = F.interpolate(found[-1]["pred_masks"], sizes[at], mode="bilinear", align_corners=False)
            blocked = shrunk.sigmoid().flatten(2) < 0.5
            blocked[blocked.all(-1)] = False
            x = self.masked_layer(i, x, where, keys[at], memory[at], blocked)
            found.append(self.predict(x, mask_features))
        return found

    def masked_layer(self, i, x, where, key, value, blocked):
        """Cross-attention, self-attention and feed-forward, each with its norm before or after."""
        heads, pre = self.own["NHEADS"], self.own["PRE_NORM"]

        def around(block, x, change):
            name = f"{HEAD}transformer_{block}_layers.{i}"
            norm = f"{name}.norm"
            return x + change(name, self.norm(norm, x)) if pre else self.norm(norm, x + change(name, x))

        def cross(name, y):
            return self.attention(f"{name}.multihead_attn", y + where, key, value, heads, blocked)

        def own(name, y):
            return self.attention(f"{name}.self_attn", y + where, y + where, y, heads)

        x = around("self_attention", around("cross_attention", x, cross), own)
        return around("ffn", x, self.feed_forward)

    def feed_forward(self, name, x):
        return self.linear(f"{name}.linear2", self.linear(f"{name}.linear1", x).relu())

    def maskdino(self, mask_features, levels, noised=None):
        """(a dictionary a prediction, the encoder's or None).

        noised: denoising content and anchors (logits), put before the others, and the attention that is blocked.
        """
        levels = [self.project(i, level) for i, level in enumerate(levels)][::-1]
        shapes = [tuple(level.shape[-2:]) for level in levels]
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        encoder, x, anchors = self.start(memory, shapes, mask_features)
        blocked = None
        if noised is not None:
            content, noised_anchors, blocked = noised
            x, anchors = torch.cat((content, x), 1), torch.cat((noised_anchors, anchors), 1)
        reference = anchors.sigmoid()
        found = (
            [{**self.predict(x, mask_features), "pred_boxes": reference}] if self.own["INITIAL_PRED"] else []
        )
        for i in range(self.own["DEC_LAYERS"]):
            name, heads = f"{HEAD}decoder.layers.{i}", 8
            where = self.mlp(f"{HEAD}decoder.ref_point_head", box_sine(reference))
            x = self.norm(
                f"{name}.norm2",
                x + self.attention(f"{name}.self_attn", x + where, x + where, x, heads, blocked),
            )
            seen = self.deformable(f"{name}.cross_attn", x + where, reference, memory, shapes, heads)
            x = self.norm(f"{name}.norm1", x + seen)
            x = self.norm(f"{name}.norm3", x + self.feed_forward(name, x))
            normed = self.norm(f"{HEAD}decoder.norm", x)
            boxes = (self.mlp(f"{HEAD}bbox_embed.{i}", normed) + logit(reference)).sigmoid()
            found.append({**self.predict(normed, mask_features), "pred_boxes": boxes})
            reference = (self.mlp(f"{HEAD}decoder.bbox_embed.{i}", x) + logit(reference)).sigmoid()
        return found, encoder

    def start(self, memory, shapes, mask_features):
        """(the encoder's prediction or None, content, anchors as logits) of the queries."""
        count = self.own["NUM_OBJECT_QUERIES"]
        if not self.own["TWO_STAGE"]:
            learned = (
                self.get(f"{HEAD}{name}.weight").expand(len(memory), -1, -1)
                for name in ("query_feat", "query_embed")
            )
            return None, *learned
        proposals = []
        for level, (h, w) in enumerate(shapes):
            centres = grid(h, w, memory)
            proposals.append(torch.cat((centres, torch.full_like(centres, 0.05 * 2.0**level)), -1))
        proposals = torch.cat(proposals)
        inside = ((proposals > 0.01) & (proposals < 0.99)).all(-1)
        proposals = torch.where(inside[:, None], (proposals / (1 - proposals)).log(), math.inf)
        tokens = self.linear(f"{HEAD}enc_output", memory * inside[:, None])
        tokens = self.norm(f"{HEAD}enc_output_norm", tokens)
        best = self.linear(f"{HEAD}class_embed", tokens).max(-1)[0].topk(count, dim=1)[1]
        content = torch.stack([tokens[b, index] for b, index in enumerate(best)])
        anchors = self.mlp(f"{HEAD}_bbox_embed", content) + proposals[best]
        encoder = {**self.predict(content, mask_features), "pred_boxes": anchors.sigmoid()}
        kind = self.own["INITIALIZE_BOX_TYPE"]
        if kind != "no":
            boxes = [[mask_box(mask, kind == "bitmask") for mask in masks] for masks in encoder["pred_masks"]]
            anchors = logit(torch.tensor(boxes, dtype=memory.dtype))
        if self.own["LEARN_TGT"]:
            content = self.get(f"{HEAD}query_feat.weight").expand(len(memory), -1, -1)
        return encoder, content, anchors


def mask_box(mask, exclusive):
    """(cx, cy, w, h) of where a mask's logits are positive, as shares; one pixel less unless `exclusive`."""
    h, w = mask.shape
    y, x = (mask > 0).nonzero(as_tuple=True)
    if not len(x):
        box = (0.0, 0.0, 0.0, 0.0) if exclusive else (1e8, 1e8, 0.0, 0.0)
    else:
        box = (int(x.min()), int(y.min()), int(x.max()) + exclusive, int(y.max()) + exclusive)
    x0, y0, x1, y1 = box
    return [(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h]


def logit(x):
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


def grid(h, w, like):
    """(x, y) of each pixel's centre in 0..1, [h * w, 2]."""
    places = [((x + 0.5) / w, (y + 0.5) / h) for y in range(h) for x in range(w)]
    return torch.tensor(places, dtype=like.dtype)


def waves(value, width):
    """sin and cos, in turns, of a number at `width` frequencies of temperature 10000."""
    return [(math.sin, math.cos)[i % 2](value / 10000 ** (2 * (i // 2) / width)) for i in range(width)]


def sine(h, w, like):
    """DETR's normalised embedding of a map like [B, D, h, w]: y, then x, counted from 1: [h * w, D]."""
    half = like.shape[1] // 2
    rows, columns = (
        torch.tensor([waves((i + 1) / (n + 1e-6) * 2 * math.pi, half) for i in range(n)], dtype=like.dtype)
        for n in (h, w)
    )
    return torch.cat((rows[:, None].expand(-1, w, -1), columns[None].expand(h, -1, -1)), -1).flatten(0, 1)


def box_sine(boxes):
    """DAB-DETR's embedding of boxes [B, Q, 4], 128 numbers each of y, x, w, h (fixed officially)."""
    steps = torch.arange(128, dtype=boxes.dtype) // 2 * 2 / 128
    angle = boxes[..., None] * 2 * math.pi / 10000**steps
    cx, cy, w, h = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(-2).unbind(-2)
    return torch.cat((cy, cx, w, h), -1)
