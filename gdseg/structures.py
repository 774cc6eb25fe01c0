"""The plain data that flows through gdseg: Record -> Sample -> Batch -> Outputs -> Predictions.

`Targets` is the truth of one image, whether a person drew it or a teacher predicted it (a
pseudo-label is a `Targets` with weights and an ignore mask). `targets=None` means unlabelled; an
empty `Targets` means labelled with nothing in it. Shape letters: B batch, Q queries, N instances,
K class logits, C channels, H W pixels, h w mask pixels (stride 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdseg.errors import MachineError
from gdseg.words import counted

Colour = tuple[int, int, int]  # red, green, blue in 0..255


@dataclass(frozen=True)
class ClassInfo:
    """One class of the data: the user's id, name, thing or stuff, and a colour if the data gives one.

    `frequency`: "r", "c" or "f": rare, common or frequent in the training images, where LVIS says so.
    """

    id: int
    name: str
    is_thing: bool = True
    colour: Colour | None = None
    frequency: str | None = None


class Code(NamedTuple):
    """What a value in a label map means: a label, thing or stuff, one object or a crowd of them."""

    label: int
    is_thing: bool
    is_crowd: bool = False


@dataclass(frozen=True)
class LabelMap:
    """An image file of the image's own size whose values say what each pixel is (data/label_maps.py).

    A value is that of the only channel, or red + 256 green + 65536 blue. `codes` says what values mean;
    None: each record's annotations do (COCO panoptic). `void` values are of no class; None: all that have
    no meaning are. Other values are faults. `ignored` values are to be ignored by a task of instances too,
    which else takes what is no object for background. `class_of`: what stands for a value in `codes`, `void`
    and `ignored` where values hold a number of the object besides its class; None: the value itself.
    `below`: another such file, seen where this one has no meaning; its values count from `BELOW` on.
    `classes`: another such file that says the classes of this one's objects; values are then `BELOW` times
    this one's plus its.
    """

    path: Path
    codes: Mapping[int, Code] | None = None
    void: frozenset[int] | None = None
    class_of: Callable[[int], int] | None = None
    below: Path | None = None
    classes: Path | None = None
    ignored: frozenset[int] = frozenset()


BELOW = 2**24  # more than any value of three 8-bit channels


@dataclass(frozen=True)
class Federated:
    """What an image of a federated data set (LVIS, arXiv 1908.03195 §2) is known to hold besides its objects.

    `absent`: labels none of whose objects are in it (neg_category_ids); `partial`: labels of which objects
    may be unmarked (not_exhaustive_category_ids). Nobody looked for other labels that have no object in it.
    """

    absent: frozenset[int] = frozenset()
    partial: frozenset[int] = frozenset()

    def renumbered(self, labels: Sequence[int]) -> Federated:
        """The same with labels[i] in place of label i."""
        absent, partial = (frozenset(labels[i] for i in of) for of in (self.absent, self.partial))
        return Federated(absent, partial)


@dataclass(frozen=True)
class Record:
    """One image on disk and what is known about it, before any pixel is read.

    `annotations` are COCO-style dicts whose `label` (0..C-1) was added and whose segmentation was
    checked; None means unlabelled, an empty tuple means labelled and empty. With a `label_map` they are
    COCO panoptic segments, or nothing where the map alone says what the image holds. `federated`: None
    where all classes were looked for.
    """

    image_id: int | str
    path: Path
    height: int | None = None
    width: int | None = None
    annotations: tuple[dict[str, Any], ...] | None = None
    label_map: LabelMap | None = None
    federated: Federated | None = None


@dataclass
class Targets:
    """Truth or pseudo-truth of one image.

    labels int64 [N] in 0..C-1; masks bool [N, H, W], any resolution covering the whole (padded)
    image; boxes_cxcywh float32 [N, 4] in 0..1 of the canvas the masks cover; weights float32 [N]
    in 0..1; ignore bool [H, W] or None: pixels that are neither positive nor negative; scores float32
    [N] or None: how sure the teacher was (None for labels by hand); known int64 [M] or None: the labels all
    of whose objects in the image are marked, where that is not so of every label (federated data).
    """

    labels: Tensor
    masks: Tensor
    boxes_cxcywh: Tensor
    weights: Tensor
    ignore: Tensor | None = None
    scores: Tensor | None = None
    known: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def empty(cls, height: int, width: int, device: torch.device | str = "cpu") -> Targets:
        """Labelled, with nothing in it. height, width in pixels."""
        return cls(
            labels=torch.zeros(0, dtype=torch.int64, device=device),
            masks=torch.zeros(0, height, width, dtype=torch.bool, device=device),
            boxes_cxcywh=torch.zeros(0, 4, device=device),
            weights=torch.zeros(0, device=device),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets on another device."""
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if value is not None
        }
        return Targets(**moved)

    def pin_memory(self) -> Targets:
        """The same targets in pinned memory (asked for by DataLoader)."""
        return Targets(
            **{name: value.pin_memory() for name, value in vars(self).items() if value is not None}
        )

    def select(self, keep: Tensor) -> Targets:
        """The instances that `keep` (bool [N] or int64 indices) names; what is said of the image stays."""
        chosen = {
            name: value if name in ("ignore", "known") or value is None else value[keep]
            for name, value in vars(self).items()
        }
        return Targets(**chosen)


@dataclass
class Sample:
    """One augmented image. image uint8/uint16-as-float [C, H, W] in raw units (0..255 for 8-bit).

    `strong` shares `image`'s geometry (None unless asked for); `original_size` is (height, width)
    on disk. targets None = unlabelled.
    """

    image_id: int | str
    image: Tensor
    original_size: tuple[int, int]
    targets: Targets | None = None
    strong: Tensor | None = None


@dataclass
class Batch:
    """Samples padded bottom/right to one size.

    images [B, C, H, W] raw units, zero in the padding; sizes: (h, w) of each image inside the
    padding; original_sizes: (h, w) on disk; masks in targets cover the padded canvas.
    """

    image_ids: list[int | str]
    images: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    targets: list[Targets | None]
    strong: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device (asynchronously when its memory is pinned)."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            strong=None if self.strong is None else self.strong.to(device, non_blocking=True),
            targets=[None if t is None else t.to(device, non_blocking=True) for t in self.targets],
        )

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory (asked for by DataLoader)."""
        return replace(
            self,
            images=self.images.pin_memory(),
            strong=None if self.strong is None else self.strong.pin_memory(),
            targets=[None if t is None else t.pin_memory() for t in self.targets],
        )


@dataclass
class LayerOutput:
    """What one prediction head said. `name`: "0", "1", .. (auxiliary, in order), "final", "interm".

    logits [B, Q, K]; masks [B, Q, h, w] logits (None where not computed, as for auxiliary layers in
    eval mode); boxes_cxcywh [B, Q, 4] in 0..1 of the padded canvas (None for Mask2Former).
    """

    name: str
    logits: Tensor
    masks: Tensor | None = None
    boxes_cxcywh: Tensor | None = None


@dataclass
class Denoising:
    """Predictions for the denoising queries (DN-DETR, arXiv 2203.01305 §4; Mask DINO §3.4).

    Target i of an image sits in slots i, i + slots, .., i + (groups - 1) * slots; every layer's
    tensors have groups * slots queries. Slots beyond an image's target count are padding. `kept`: where
    some image has more targets than slots, the indices (int64) of each image's targets that got one, in
    slot order; None: all of them.
    """

    layers: list[LayerOutput]
    groups: int
    slots: int
    kept: list[Tensor] | None = None


@dataclass
class Outputs:
    """Everything a model predicts in one forward pass.

    `layers` run from the earliest prediction to the final one; `encoder` is Mask DINO's two-stage
    proposal output ("interm"); `denoising` only in training with targets.
    """

    layers: list[LayerOutput]
    encoder: LayerOutput | None = None
    denoising: Denoising | None = None

    @property
    def final(self) -> LayerOutput:
        """The last layer's predictions."""
        return self.layers[-1]


@dataclass
class Predictions:
    """What a model found in one image, at the image's original size.

    labels int64 [N]; scores float32 [N] descending; boxes_xyxy_px float32 [N, 4] in pixels;
    rles: N compressed COCO run-length dicts ({"size": [H, W], "counts": bytes}), so that thousands
    of masks fit in memory. Panoptic: `panoptic` int32 [H, W] of segment ids with `segments`
    ({"id", "label", "isthing", "score"}); semantic: `semantic` int64 [H, W] of labels.
    """

    image_id: int | str
    size: tuple[int, int]
    labels: Tensor
    scores: Tensor
    boxes_xyxy_px: Tensor
    rles: list[dict[str, Any]]
    names: list[str] = field(default_factory=list)
    path: Path | None = None
    panoptic: Tensor | None = None
    segments: list[dict[str, Any]] | None = None
    semantic: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def mask(self, i: int) -> Tensor:
        """bool [H, W]: the pixels of instance i; -1 is the last one. Raises IndexError, as a list does."""
        from pycocotools import mask as coco_mask

        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {counted(len(self), 'object')}, asked for {i}")
        return torch.from_numpy(coco_mask.decode(self.rles[i])).bool()

    @property
    def masks(self) -> Tensor:
        """bool [N, H, W]: all masks at once; `mask(i)` takes less memory."""
        masks = [self.mask(i) for i in range(len(self))]
        return torch.stack(masks) if masks else torch.zeros(0, *self.size, dtype=torch.bool)

    def select(self, keep: Tensor) -> Predictions:
        """The instances that `keep` (bool [N] or int64 indices) names."""
        indices = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
        return replace(
            self,
            labels=self.labels[indices],
            scores=self.scores[indices],
            boxes_xyxy_px=self.boxes_xyxy_px[indices],
            rles=[self.rles[i] for i in indices.tolist()],
        )

    def filter(self, conf: float) -> Predictions:
        """The instances scored `conf` or higher."""
        return self.select(self.scores >= conf)

    def to_coco(self, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """COCO results, ready for json; category_ids[label] is the user's id of a label.

        Each has image_id, category_id, score, bbox [x, y, w, h] in pixels and segmentation (RLE).
        """
        corners, ends = self.boxes_xyxy_px[:, :2], self.boxes_xyxy_px[:, 2:]
        boxes = torch.cat([corners, ends - corners], dim=1)
        rows = zip(self.labels.tolist(), self.scores.tolist(), boxes.tolist(), self.rles, strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "score": score,
                "bbox": [round(side, 2) for side in box],
                "segmentation": {"size": list(rle["size"]), "counts": _text(rle["counts"])},
            }
            for label, score, box, rle in rows
        ]

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`. Raises MachineError where supervision is not installed."""
        try:
            from importlib import import_module

            supervision = import_module("supervision")
        except ImportError as error:
            raise MachineError("supervision is not installed", hint="pip install supervision") from error
        names = np.array([self.names[i] for i in self.labels.tolist()] if self.names else [])
        return supervision.Detections(
            xyxy=self.boxes_xyxy_px.numpy(),
            mask=self.masks.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": names} if self.names else {},
        )


def _text(counts: str | bytes) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
