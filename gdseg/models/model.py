"""The one model type: backbone -> pixel decoder -> query decoder (DESIGN.md, "Five ideas", 2).

Called by train, eval, predict and export. Which query decoder runs is the recipe's matter; nothing outside
this file asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gdseg.draws import Draws
from gdseg.models.backbone import Backbone
from gdseg.models.mask2former import Mask2FormerDecoder
from gdseg.models.maskdino import MaskDINODecoder
from gdseg.models.pixel_decoder import PixelDecoder
from gdseg.recipe import Recipe, settled
from gdseg.structures import Outputs, Targets


class SegmentationModel(nn.Module):
    """Images in raw units to `Outputs`."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, num_classes: int, load_weights: bool = True) -> None:
        super().__init__()
        self.backbone = Backbone(recipe.backbone, load_weights)
        if recipe.backbone.channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        self.pixel_decoder = PixelDecoder(recipe.pixel_decoder, self.backbone.channels)
        kind = MaskDINODecoder if recipe.decoder.kind == "maskdino" else Mask2FormerDecoder
        width, masks = recipe.pixel_decoder.channels, recipe.pixel_decoder.mask_channels
        self.decoder = kind(recipe.decoder, num_classes, self.pixel_decoder.levels, width, masks)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(recipe.backbone, name), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        targets: list[Targets] | None = None,
        draws: Draws | None = None,
    ) -> Outputs:
        """images float or integer [B, C, H, W] in the units of backbone.mean, H and W multiples of 32.

        sizes: (height, width) of each image inside the padding at the bottom and right, which counts as zero
        after normalisation. targets give Mask DINO its denoising queries while training; draws, their noise.
        """
        normalised = (images - self.mean) / self.std
        for image, (h, w) in zip(normalised, sizes, strict=True):
            image[:, h:] = 0
            image[:, :, w:] = 0
        outputs: Outputs = self.decoder(self.pixel_decoder(self.backbone(normalised)), targets, draws)
        return outputs


def build_model(recipe: Recipe, num_classes: int, load_weights: bool = True) -> SegmentationModel:
    """A model with the backbone's weights (`load_weights`) or wholly random, in training mode.

    Raises CheckpointError when the weights do not fit and RecipeError when timm has no such backbone or
    decoder.queries is still auto.
    """
    settled(recipe.decoder.queries)  # now, not in the middle of a run
    return SegmentationModel(recipe, num_classes, load_weights)
