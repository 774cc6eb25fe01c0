"""Greedy suppression of duplicate masks, which a set predictor trained on few images still makes.

Called by `decode.py` (`postprocess.mask_nms`) and by `train/pseudo.py` (`distill.mask_nms`); both are off in
the official systems, whose matching has had the steps to unlearn duplicates. N masks of H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdseg.models.mask_iou import shared_pixels


def best_of_duplicates(masks_NHW: Tensor, scores_N: Tensor, labels_N: Tensor, max_iou: float) -> Tensor:
    """Bool [N]: False where a better mask of the same label overlaps by more than `max_iou`.

    masks bool; an overlap counts only against masks that are themselves kept (greedy, best score first).
    """
    shared = shared_pixels(masks_NHW, masks_NHW)
    area = shared.diagonal()
    union = area[:, None] + area - shared
    rivals = (shared > max_iou * union) & (labels_N[:, None] == labels_N)
    rivals_NN = rivals.cpu().numpy()
    keep = np.zeros(len(masks_NHW), dtype=bool)
    for i in torch.argsort(scores_N, descending=True, stable=True).tolist():
        keep[i] = not (rivals_NN[i] & keep).any()
    return torch.from_numpy(keep).to(masks_NHW.device)
