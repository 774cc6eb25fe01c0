"""Which query answers for which target: the optimal assignment, and the fixed one of denoising.

SciPy's solver, one problem a layer and image (DETR, arXiv 2005.12872 §3.1); denoising queries know
their target (DN-DETR, arXiv 2203.01305 §4). Called by the matcher and the criterion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gdseg.errors import DivergedError
from gdseg.structures import Denoising


@dataclass
class Pairs:
    """R matched (query, target) pairs in each of L layers; image by image, queries ascending.

    counts: pairs an image (the same in every layer). images int64 [R]; queries int64 [L, R]; targets
    int64 [L, R], the target's place in its own image; flat int64 [L, R], its place in the batch.
    """

    counts: list[int]
    images: Tensor
    queries: Tensor
    targets: Tensor
    flat: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(cls, columns: list[NDArray[np.int64]], starts: Sequence[int], device: torch.device) -> Pairs:
        """From one int64 [2, L, R_b] (queries, targets) an image; one host-to-device copy."""
        counts = [column.shape[2] for column in columns]
        pairs_2LR = np.concatenate(columns, axis=2)
        images_R = np.repeat(np.arange(len(counts)), counts)
        flat_LR = pairs_2LR[1] + np.repeat(np.asarray(starts), counts)
        images_LR = np.broadcast_to(images_R, flat_LR.shape)
        table = torch.from_numpy(np.stack([*pairs_2LR, flat_LR, images_LR]).astype(np.int64)).to(device)
        return cls(counts, table[3, 0], table[0], table[1], table[2])


def assign(
    costs_LBQN: NDArray[np.float32], counts: Sequence[int], layers: Sequence[str], image_ids: Sequence[object]
) -> list[NDArray[np.int64]]:
    """Cheapest one-to-one assignment a layer and image -> int64 [2, L, min(Q, N_b)] an image.

    Columns beyond an image's count are padding. Raises DivergedError, naming image and layer, when a
    cost is NaN or infinite.
    """
    columns = []
    for image, count in enumerate(counts):
        solved = []
        for layer, name in enumerate(layers):
            cost_QN = costs_LBQN[layer, image, :, :count]
            if not np.isfinite(cost_QN).all():
                raise DivergedError(
                    f"a matching cost of layer {name} is NaN or infinite",
                    f"image {image_ids[image]}",
                    "lower train.lr, or set train.precision: fp32",
                )
            solved.append(np.stack(linear_sum_assignment(cost_QN)))
        columns.append(np.stack(solved, axis=1))
    return columns


def denoising_pairs(denoising: Denoising, counts: Sequence[int], layers: int) -> list[NDArray[np.int64]]:
    """The target in slot i with queries i, i + slots, ..: int64 [2, layers, groups * N_b] an image."""
    columns = []
    for image, count in enumerate(counts):
        target = np.arange(count) if denoising.kept is None else denoising.kept[image].cpu().numpy()
        query = np.arange(len(target)) + denoising.slots * np.arange(denoising.groups)[:, None]
        pairs = np.stack([query, np.broadcast_to(target, query.shape)]).reshape(2, 1, -1)
        columns.append(np.broadcast_to(pairs, (2, layers, pairs.shape[2])))
    return columns
