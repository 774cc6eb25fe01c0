"""A frozen stronger backbone teaches the student how parts of an image belong together (`distill.feature_*`).

Structural distillation as in S4M (arXiv 2504.05301 §3.2, there from SAM): not features but their similarities
are compared, so neither widths nor spaces need to fit and nothing is learned besides the student. Any timm
network serves, DINOv2 or DINOv3 for instance. Called by engine.py at each step of a distillation.
Letters: B batch, C channels, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdseg.models.backbone import Backbone
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Backbone as Options
from gdseg.recipe import Recipe

_STRIDE = 16
_TOKENS = 256  # most that are compared in an image: N^2 similarities


class FeatureLoss:
    """Compares the mask features of the last forward pass of `student` with the frozen network's map."""

    def __init__(self, recipe: Recipe, student: SegmentationModel, device: torch.device) -> None:
        rule, channels = recipe.distill, recipe.backbone.in_channels
        options = Options(
            name=rule.feature_backbone or "", weights=rule.feature_weights, in_channels=channels
        )
        options.pretrained = rule.feature_pretrained
        self.weight = rule.feature_weight
        self.backbone = Backbone(options).requires_grad_(False).eval().to(device)
        known: Any = getattr(self.backbone.body, "pretrained_cfg", None) or {}
        mean, std = known.get("mean", (0.485, 0.456, 0.406)), known.get("std", (0.229, 0.224, 0.225))
        fits = len(mean) == channels
        self.mean, self.std = (
            255 * torch.tensor(v if fits else [sum(v) / len(v)] * channels, device=device)[:, None, None]
            for v in (mean, std)
        )
        self._seen: Tensor | None = None
        student.pixel_decoder.register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: object, output: Any) -> None:
        self._seen = output.mask_features

    def __call__(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The weighted loss for images [B, C, H, W] that the student has just seen; sizes without padding."""
        assert self._seen is not None
        with torch.no_grad():
            theirs = self.backbone((images.float() - self.mean) / self.std)["res4"].float()
        ours = F.adaptive_avg_pool2d(self._seen.float(), theirs.shape[-2:])
        losses = [structure_loss(a, b, size) for a, b, size in zip(ours, theirs, sizes, strict=True)]
        self._seen = None
        return self.weight * torch.stack(losses).mean()


def structure_loss(ours: Tensor, theirs: Tensor, size: tuple[int, int]) -> Tensor:
    """Huber loss of the cosine similarities of all pairs of tokens: maps [C, h, w], [C', h, w] -> [].

    Only tokens inside `size` (height, width in pixels) count; of many, some are drawn.
    """
    rows, columns = (max(1, n // _STRIDE) for n in size)
    pair = [x[:, :rows, :columns].flatten(1) for x in (ours, theirs)]
    drawn = torch.randperm(pair[0].shape[1])[:_TOKENS].to(ours.device)
    a, b = (F.normalize(x[:, drawn], dim=0) for x in pair)
    return F.huber_loss(a.T @ a, b.T @ b)
