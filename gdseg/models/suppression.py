"""Greedy suppression of duplicate masks, which a set predictor trained on few images still makes.

Called by `decode.py` (`postprocess.mask_nms`) and by `train/pseudo.py` (`distill.mask_nms`); both are off in
the official systems, whose matching has had the steps to unlearn duplicates. N masks of H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def best_of_duplicates(masks_NHW: Tensor, scores_N: Tensor, labels_N: Tensor, max_iou: float) -> Tensor:
    """Bool [N]: False where a better mask of the same label overlaps by more than `max_iou`.

    masks bool; an overlap counts only against masks that are themselves kept (greedy, best score first).
    """
    flat = masks_NHW.flatten(1).float()
    shared, area = flat @ flat.T, flat.sum(1)
    union = area[:, None] + area - shared
    rivals = (shared > max_iou * union) & (labels_N[:, None] == labels_N)
    rivals_NN = rivals.cpu().numpy()
    keep = np.zeros(len(flat), dtype=bool)
    for i in torch.argsort(scores_N, descending=True, stable=True).tolist():
        keep[i] = not (rivals_NN[i] & keep).any()
    return torch.from_numpy(keep).to(masks_NHW.device)
