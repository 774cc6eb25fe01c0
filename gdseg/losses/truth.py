"""The targets of a batch laid end to end, and the layers of a network side by side.

So that costs and losses of all images and all layers are a few large tensor operations. Made by the
criterion once a step; read by the matcher and the criterion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gdseg.losses.points import pixel_at
from gdseg.structures import LayerOutput, Targets


def floats_at_once(device: torch.device) -> int:
    """How many floats temporaries may hold: 256 MB on a GPU; 16 MB on a CPU, which is faster so."""
    return 2**22 if device.type == "cpu" else 2**26


@dataclass
class Truth:
    """labels int64 [N], boxes_cxcywh float32 [N, 4], weights float32 [N]: all images, in order.

    masks: bool [N_b, H, W] an image (sizes may differ); ignore: bool [H, W] or None an image; known:
    int64 [M] or None an image; counts: N_b an image.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    weights: Tensor
    masks: list[Tensor]
    ignore: list[Tensor | None]
    known: list[Tensor | None]
    counts: list[int]

    @classmethod
    def of(cls, targets: Sequence[Targets]) -> Truth:
        """Lay the targets of a batch end to end."""
        return cls(
            labels=torch.cat([t.labels for t in targets]),
            boxes_cxcywh=torch.cat([t.boxes_cxcywh.float() for t in targets]),
            weights=torch.cat([t.weights.float() for t in targets]),
            masks=[t.masks for t in targets],
            ignore=[t.ignore for t in targets],
            known=[t.known for t in targets],
            counts=[len(t) for t in targets],
        )

    @property
    def starts(self) -> list[int]:
        """Where each image's targets start among all."""
        return [sum(self.counts[:b]) for b in range(len(self.counts))]

    @property
    def has_ignore(self) -> bool:
        """Whether any image has an ignore region."""
        return any(region is not None for region in self.ignore)

    def negatives(self, num_classes: int) -> Tensor | None:
        """Of which classes an image has no objects but its targets, bool [B, C + 1]; None: of all of them.

        In federated data nobody looked for some classes, or not all of their objects are marked. The last
        column, no-object, is True.
        """
        if all(labels is None for labels in self.known):
            return None
        known_BK = torch.ones(len(self.known), num_classes + 1, dtype=torch.bool, device=self.labels.device)
        for image, labels in enumerate(self.known):
            if labels is not None:
                known_BK[image, :num_classes] = False
                known_BK[image, labels] = True
        return known_BK

    def certain(self, image: int, points: Tensor) -> Tensor:
        """1 where a point [..., P, 2] is outside the image's ignore region, else 0: float32 [..., P]."""
        region = self.ignore[image]
        if region is None:
            return torch.ones(points.shape[:-1], device=points.device)
        return (~pixel_at(region, points)).float()


@dataclass
class Layers:
    """Predictions of L layers: logits float32 [L, B, Q, K], boxes float32 [L, B, Q, 4] or None.

    masks stay apart, [B, Q, h, w] a layer: a stack of all of them would double their memory.
    """

    names: list[str]
    logits: Tensor
    masks: list[Tensor]
    boxes_cxcywh: Tensor | None

    @classmethod
    def of(cls, layers: Sequence[LayerOutput]) -> Layers:
        """Put layers of equal B, Q, K side by side."""
        boxes = [layer.boxes_cxcywh for layer in layers if layer.boxes_cxcywh is not None]
        return cls(
            names=[layer.name for layer in layers],
            logits=torch.stack([layer.logits for layer in layers]).float(),
            masks=[layer.masks for layer in layers if layer.masks is not None],
            boxes_cxcywh=torch.stack(boxes).float() if len(boxes) == len(layers) else None,
        )

    def chunks(self, images: Sequence[int], floats: int) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """Masks of the given images in all layers, as many at once as fit: (layers, images, [J, Q, h, w]).

        floats: what one (layer, image) needs besides its masks.
        """
        jobs = [(layer, image) for layer in range(len(self.masks)) for image in images]
        if not jobs:
            return
        size = max(1, floats_at_once(self.logits.device) // (floats + self.masks[0][0].numel()))
        for i in range(0, len(jobs), size):
            part = jobs[i : i + size]
            masks_JQHW = torch.stack([self.masks[layer][image] for layer, image in part])
            yield [layer for layer, _ in part], [image for _, image in part], masks_JQHW
