"""From a Record to a Sample: read, draw one geometry for both views, colour each view, build targets.

Guided Distillation §3.3: the teacher sees the weak view, the student the strong one, pixel for pixel
in the same place, so that pseudo-labels need no warping. Called by data/loader.py and predict.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gdseg.data.colour import apply_colour, draw_ssd, strong_view
from gdseg.data.geometry import (
    Geometry,
    draw_geometry,
    test_geometry,
    warp_box,
    warp_image,
    warp_masks,
    warp_values,
)
from gdseg.data.images import read_image
from gdseg.data.label_maps import BACKGROUND, VOID, Regions, read_regions
from gdseg.data.label_weights import LOSS_WEIGHT
from gdseg.errors import DataError
from gdseg.losses.boxes import masks_to_boxes_cxcywh, xyxy_to_cxcywh
from gdseg.recipe import Recipe
from gdseg.structures import Record, Sample, Targets


def train_sample(record: Record, recipe: Recipe, rng: np.random.Generator, *, strong: bool) -> Sample:
    """One augmented image. `rng` decides everything random; the weak view does not depend on `strong`.

    Raises DataError for an unreadable image or one whose size is not the annotations'.
    """
    image = read_record(record, recipe.backbone.in_channels)
    size = image.shape[-2], image.shape[-1]
    geometry = draw_geometry(size, recipe.augment, rng)
    weak = warp_image(image, geometry, recipe.augment.pad_value)
    if recipe.augment.weak_colour:
        # officially a crop is padded after its colours changed; the canvas of lsj is part of the image
        height, width = geometry.crop if recipe.augment.mode == "shortest_edge" else geometry.canvas
        weak[:, :height, :width] = apply_colour(weak[:, :height, :width], draw_ssd(rng))
    strong_image = strong_view(weak, recipe.augment, rng) if strong else None
    return Sample(record.image_id, weak, size, build_targets(record, geometry, recipe.task), strong_image)


def eval_sample(record: Record, recipe: Recipe) -> Sample:
    """One image at test-time size, without targets. Raises DataError as `train_sample`."""
    image = read_record(record, recipe.backbone.in_channels)
    size = image.shape[-2], image.shape[-1]
    resized = warp_image(image, test_geometry(size, recipe.augment), recipe.augment.pad_value)
    return Sample(record.image_id, resized, size)


def read_record(record: Record, in_channels: int) -> Tensor:
    """The record's image [in_channels, H, W]. Raises DataError if it is unreadable or of another size."""
    image = read_image(record.path, in_channels)
    declared, found = (record.height, record.width), (image.shape[-2], image.shape[-1])
    if None not in declared and declared != found:
        what = (
            f"the image is {found[1]} x {found[0]} pixels, its annotations say {declared[1]} x {declared[0]}"
        )
        turned = " (it has an EXIF orientation?)" if declared == found[::-1] else ""
        raise DataError(what + turned, record.path, "annotate the upright image at its own size")
    return image


def build_targets(record: Record, geometry: Geometry, task: str = "instance") -> Targets | None:
    """The record's labels on the geometry's canvas; None if it is unlabelled.

    Objects without a pixel left are gone. Boxes are those of the polygons, or of the masks where there are
    none; weights are those that `data.label_weights` took. Crowds are no instances: their pixels are ignored,
    as are those of a label map that are of no class (`read_regions` says what a task makes of a map).
    """
    if record.annotations is None:
        return None
    if record.label_map is not None:
        return _map_targets(read_regions(record, task), geometry)
    things = [a for a in record.annotations if not a["iscrowd"]]
    crowds = [a for a in record.annotations if a["iscrowd"]]
    masks = warp_masks(things, geometry)
    labels = torch.tensor([a["label"] for a in things], dtype=torch.int64)
    weights = torch.tensor([a.get(LOSS_WEIGHT, 1.0) for a in things], dtype=torch.float32)
    boxes = masks_to_boxes_cxcywh(masks)
    keep = boxes[:, 2] > 0
    for i, annotation in enumerate(things):
        corners = warp_box(annotation, geometry)
        if corners is not None:
            share = torch.from_numpy(corners / np.tile(geometry.canvas[::-1], 2)).float()
            boxes[i] = xyxy_to_cxcywh(share)
    if not keep.all():  # a thousand masks are not copied for nothing
        masks, labels, boxes, weights = masks[keep], labels[keep], boxes[keep], weights[keep]
    ignore = warp_masks(crowds, geometry).any(0) if crowds else None
    return Targets(labels, masks, boxes, weights, ignore, known=_known(record))


def _known(record: Record) -> Tensor | None:
    """The labels that the image was searched for completely; None: all. A crop takes none of them away."""
    if record.federated is None:
        return None
    there = {a["label"] for a in record.annotations or ()}
    searched = sorted((there | record.federated.absent) - record.federated.partial)
    return torch.tensor(searched, dtype=torch.int64)


def _map_targets(regions: Regions, geometry: Geometry) -> Targets:
    """A mask for each segment that is no crowd; the canvas around the image is background."""
    place = torch.from_numpy(warp_values(regions.place, geometry, outside=BACKGROUND))
    crowds = torch.tensor([segment.is_crowd for segment in regions.segments], dtype=torch.bool)
    kept = [i for i in np.unique(place.numpy()).tolist() if i >= 0 and not crowds[i]]
    there = torch.tensor(kept, dtype=torch.int64)
    masks = place == there[:, None, None]
    ignore = place == VOID
    if crowds.any():
        ignore |= (place >= 0) & crowds[place.clamp(min=0).long()]
    labels = torch.tensor([regions.segments[i].label for i in there.tolist()], dtype=torch.int64)
    boxes = masks_to_boxes_cxcywh(masks)
    return Targets(labels, masks, boxes, torch.ones(len(labels)), ignore if ignore.any() else None)
