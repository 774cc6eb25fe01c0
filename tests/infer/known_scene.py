"""A scene with known objects, a stand-in network that reads the truth from the image, and Predictions of masks."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from gdseg.data.rle import to_rle
from gdseg.structures import LayerOutput, Outputs, Predictions

CLASSES = 5  # three things, two of stuff
THINGS = [True, True, True, False, False]


@dataclass
class Scene:
    """ids uint8 [H, W]: 0 background, else an object; labels[id - 1] its class. background: 3 above, 4 below."""

    ids: NDArray[np.uint8]
    labels: list[int]

    @property
    def image(self) -> Tensor:
        """uint8 [3, H, W]: ids, and the background's class."""
        rows = np.where(np.arange(len(self.ids)) < len(self.ids) // 2, 3, 4)
        background = np.broadcast_to(rows[:, None], self.ids.shape).astype(np.uint8)
        return torch.from_numpy(np.stack([self.ids, background, self.ids * 0]))

    @property
    def objects(self) -> set[tuple[int, bytes]]:
        """(label, mask) of each object."""
        return {(label, (self.ids == i).tobytes()) for i, label in enumerate(self.labels, 1)}

    @property
    def semantic(self) -> Tensor:
        """int64 [H, W]."""
        ids, background, _ = self.image.long()
        return torch.where(ids > 0, torch.tensor([0, *self.labels])[ids], background)


def ring(ids: NDArray[np.uint8], i: int, y: float, x: float, outer: float, inner: float = 0.0) -> None:
    """Draw a disc, or with `inner` a ring."""
    ys, xs = np.mgrid[: ids.shape[0], : ids.shape[1]]
    distance = np.hypot(ys - y, xs - x)
    ids[(distance <= outer) & (distance >= inner)] = i


class Knowing(nn.Module):
    """Query i says where the image's first channel is i, with the labels given; two more know the background.

    Masks have the padded image's own resolution, so that nothing is lost on the way.
    """

    def __init__(self, labels: list[int], sure: float = 20.0) -> None:
        super().__init__()
        self.labels, self.sure, self.seen = labels, sure, list[tuple[int, int]]()

    def forward(self, images: Tensor, sizes: list[tuple[int, int]]) -> Outputs:
        assert not torch.is_grad_enabled()
        self.seen += sizes
        ids, background = images[:, 0, None].round(), images[:, 1, None].round()
        wanted = torch.arange(1, len(self.labels) + 1)[:, None, None]
        masks = torch.cat([ids == wanted, (background == 3) & (ids == 0), (background == 4) & (ids == 0)], 1)
        labels = torch.tensor([*self.labels, 3, 4])
        there = masks.flatten(2).any(2)
        logits = torch.where(
            nn.functional.one_hot(labels, CLASSES).bool() & there[..., None], self.sure, -20.0
        )
        return Outputs([LayerOutput("final", logits, torch.where(masks, 20.0, -20.0))])


def predictions(masks: NDArray[np.bool_], labels: list[int], scores: list[float]) -> Predictions:
    """Instances with the given masks bool [N, H, W]; those without a pixel are left out."""
    kept = [i for i, mask in enumerate(masks) if mask.any()]
    rles = [to_rle(masks[i]) for i in kept]
    boxes = torch.tensor([coco_mask.toBbox(rle).tolist() for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    size = (masks.shape[1], masks.shape[2])
    chosen = torch.tensor([labels[i] for i in kept], dtype=torch.int64)
    return Predictions("a", size, chosen, torch.tensor([scores[i] for i in kept]), boxes, rles)


def found_objects(found: Predictions) -> list[tuple[int, bytes]]:
    """(label, mask) of each instance."""
    masks = [found.mask(i).numpy().tobytes() for i in range(len(found))]
    return list(zip(found.labels.tolist(), masks, strict=True))
