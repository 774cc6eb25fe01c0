"""One image as the section `inference` shows it to the network: whole or in tiles, in one view or more.

A network is trained on images of some size on disk, resized to `augment.test_shortest`. A tile of that size
is resized by the same factor, so that its objects look as large as in training. Hence a tile, also one that
the image's end cuts short, is resized as a square of `inference.tile` pixels is. Called by eval and predict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gdseg.data.geometry import Geometry, Size, test_geometry, warp_image
from gdseg.data.loader import collate
from gdseg.infer.join import CELL, join_instances
from gdseg.infer.maps import PanopticMap, blended_labels
from gdseg.infer.run import forward
from gdseg.infer.tiles import Tile, layout
from gdseg.infer.views import fuse
from gdseg.models.decode import decode
from gdseg.models.decode_maps import Canvas, ClassScores
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Augment, Recipe, settled
from gdseg.structures import Batch, Predictions, Sample

_ANY = 1 << 30  # more pixels than an edge can have


def needs_whole_image(recipe: Recipe) -> bool:
    """Whether images must come here as they are on disk: tiles or several views are asked for."""
    return recipe.inference.tile > 0 or recipe.inference.views != [(1.0, False)]


def as_on_disk(recipe: Recipe) -> Recipe:
    """The recipe by which the loader leaves images at their size."""
    return replace(recipe, augment=replace(recipe.augment, test_shortest=0, test_longest=_ANY))


def infer_image(
    model: SegmentationModel,
    image: Tensor,
    recipe: Recipe,
    num_classes: int,
    device: torch.device,
    things: Sequence[bool] | None = None,
) -> Predictions:
    """What is in an image [C, H, W] in raw units; `model` is in eval mode on `device`; see `decode`."""
    size = image.shape[-2], image.shape[-1]
    rows, side = tiles_of(size, recipe)
    eye = _Eye(model, recipe, num_classes, device, things, side)
    if recipe.task == "semantic" and needs_whole_image(recipe):
        none = Predictions("image", size, torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 4), [])
        return replace(none, semantic=blended_labels(rows, lambda tile: eye.scores(tile.cut(image)), size))
    return in_tiles(rows, lambda tile: eye.find(tile.cut(image)), size, recipe)


def tiles_of(size: Size, recipe: Recipe) -> tuple[list[list[Tile]], int]:
    """Rows of the tiles in which an image (H, W) is looked at and their side; one, side 0: whole."""
    side = recipe.inference.tile
    if side and max(size) > side:
        return layout(size, side, recipe.inference.shared), side
    return [[Tile(0, 0, *size, size)]], 0


def in_tiles(
    rows: Sequence[Sequence[Tile]], look: Callable[[Tile], Predictions], size: Size, recipe: Recipe
) -> Predictions:
    """What is in an image of a size, instances or panoptic, where look(tile) says what is in a tile."""
    tiles = [tile for row in rows for tile in row]
    if len(tiles) == 1:
        return look(tiles[0])
    if recipe.task == "instance":
        return join_instances(tiles, [look(tile) for tile in tiles], size, _cell(recipe))
    panoptic = PanopticMap(size, _cell(recipe))
    for tile in tiles:
        panoptic.add(tile, look(tile))
    return panoptic.finish(recipe.postprocess.overlap_threshold)


def _cell(recipe: Recipe) -> int:
    """Pixels of the image a side of a pixel of the network's masks, in a tile."""
    side = recipe.inference.tile
    return max(1, round(CELL * side / test_geometry((side, side), recipe.augment).resized[0]))


class _Eye:
    """The network with what it needs to look at an image or, side > 0, at a tile."""

    def __init__(
        self,
        model: SegmentationModel,
        recipe: Recipe,
        num_classes: int,
        device: torch.device,
        things: Sequence[bool] | None,
        side: int,
    ) -> None:
        self.model, self.recipe, self.device, self.side = model, recipe, device, side
        self.decode = partial(decode, recipe=recipe, num_classes=num_classes, things=things)

    def find(self, image: Tensor) -> Predictions:
        """Instances, fused over all views, or the map."""
        found = []
        for scale, flip in self.recipe.inference.views:
            batch = self._view(image, scale, flip)
            outputs = forward(self.model, batch, self.recipe)
            found += self.decode(outputs, batch, flip=flip)
        most = settled(self.recipe.postprocess.max_detections)
        return fuse(found, most) if len(found) > 1 else found[0]

    def scores(self, image: Tensor) -> list[ClassScores]:
        """Class scores of each view; masks of tiles in half precision, since many wait for neighbours."""
        scores = []
        for scale, flip in self.recipe.inference.views:
            batch = self._view(image, scale, flip)
            final = forward(self.model, batch, self.recipe).final
            assert final.masks is not None
            masks = final.masks[0].half() if self.side else final.masks[0]
            scores.append(
                ClassScores.of(final.logits[0].float(), masks, Canvas.of(batch, 0, flip), self.recipe)
            )
        return scores

    def _view(self, image: Tensor, scale: float, flip: bool) -> Batch:
        return view_of(image, self.recipe.augment, scale, flip, self.side).to(self.device)


def view_of(image: Tensor, augment: Augment, scale: float = 1.0, flip: bool = False, side: int = 0) -> Batch:
    """A batch of one image [C, H, W] at test-time size times `scale`, or as a tile of `side` pixels (> 0)."""
    size = (image.shape[-2], image.shape[-1])
    whole = (side, side) if side else size
    target = test_geometry(whole, augment).resized
    height, width = (
        max(1, round(length * scale * wanted / of))
        for length, wanted, of in zip(size, target, whole, strict=True)
    )
    resized = (height, width)
    geometry = Geometry(size, resized, (0, 0), resized, resized, flip)
    return collate([Sample("image", warp_image(image, geometry, augment.pad_value), size)])
