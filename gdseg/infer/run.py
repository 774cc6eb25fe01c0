"""A network's forward pass over a batch, and what it found. Called by eval, predict, train and bench."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gdseg.device import amp_dtype
from gdseg.models.decode import decode
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Outputs, Predictions


def infer_batch(
    model: SegmentationModel,
    batch: Batch,
    recipe: Recipe,
    num_classes: int,
    device: torch.device,
    things: Sequence[bool] | None = None,
) -> list[Predictions]:
    """Predictions for the images of one batch; `model` is in eval mode on `device`; things: see `decode`."""
    batch = batch.to(device)
    return decode(forward(model, batch, recipe), batch, recipe, num_classes, things)


def forward(model: SegmentationModel, batch: Batch, recipe: Recipe) -> Outputs:
    """The network's outputs, without gradients, for a batch on its device; it is in eval mode there."""
    device = batch.images.device.type
    dtype = amp_dtype(recipe.train.precision, batch.images.device)
    # not inference_mode: what a module caches here must serve training later
    with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
        outputs: Outputs = model(batch.images, batch.sizes)
    return outputs
