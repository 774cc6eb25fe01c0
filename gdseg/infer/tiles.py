"""Tiles of a large image: where they lie, how much each counts, and masks between tile and image.

Called by image.py and by what joins the findings of tiles. Letters: H W pixels of the image, h w of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.data.rle import rle_band, string_counts

Size = tuple[int, int]
Rle = dict[str, Any]


@dataclass(frozen=True, order=True)
class Tile:
    """The rows top .. bottom - 1 and columns left .. right - 1 of an image of size `image` (H, W)."""

    top: int
    left: int
    bottom: int
    right: int
    image: Size

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, image: Tensor) -> Tensor:
        """[.., H, W] -> [.., h, w], a view."""
        return image[..., self.top : self.bottom, self.left : self.right]

    def shared(self, other: Tile) -> Tile | None:
        """What two tiles have in common; None for nothing."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Tile(top, left, bottom, right, self.image) if top < bottom and left < right else None

    def depth(self) -> tuple[Tensor, Tensor]:
        """How far each row [h] and column [w] is from the border of the tile, from 1 up; float32.

        A border that is the image's own is no border: nothing is cut off there.
        """
        height, width = self.image
        return _depth(self.top, self.bottom, height), _depth(self.left, self.right, width)


def _depth(first: int, end: int, limit: int) -> Tensor:
    place = torch.arange(first, end, dtype=torch.float32)
    before = place - first + 1 if first > 0 else torch.full_like(place, float(limit))
    after = end - place if end < limit else torch.full_like(place, float(limit))
    return torch.minimum(before, after)


def layout(image: Size, side: int, overlap: int) -> list[list[Tile]]:
    """Rows of tiles of `side` pixels (less where the image is smaller) that cover an image.

    As few as let neighbours share at least `overlap` pixels, spread evenly.
    """
    (height, width), rows = image, []
    for top in _starts(height, side, overlap):
        bottom = min(top + side, height)
        lefts = _starts(width, side, overlap)
        rows.append([Tile(top, left, bottom, min(left + side, width), image) for left in lefts])
    return rows


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def window_of(rle: Rle, tile: Tile, window: Tile) -> Rle:
    """The part in `window`, which lies in `tile`, of a mask of the tile."""
    mask = coco_mask.decode(rle)
    inside = mask[
        window.top - tile.top : window.bottom - tile.top, window.left - tile.left : window.right - tile.left
    ]
    return _encode(inside)


def in_image(rle: Rle, tile: Tile) -> Rle:
    """A mask of a tile as a mask of the image."""
    first, band = band_of(rle)
    columns = np.zeros((len(band), tile.image[0]), dtype=np.uint8)
    columns[:, tile.top : tile.bottom] = band
    return _from_band(columns, tile.left + first, tile.image)


def band_of(rle: Rle) -> tuple[int, NDArray[np.uint8]]:
    """First column and columns uint8 [c, H] that hold all pixels of an RLE that has any."""
    return rle_band({"size": rle["size"], "counts": _text(rle)})


def _from_band(columns: NDArray[np.uint8], first: int, size: Size) -> Rle:
    """The RLE [H, W] whose columns from `first` on are uint8 [c, H], its others empty."""
    height, width = size
    runs = string_counts(_text(_encode(columns.T)))
    if len(runs) % 2 == 0:  # ends with ones
        runs = np.append(runs, 0)
    runs[0] += first * height
    runs[-1] += (width - first - len(columns)) * height
    counts = runs.tolist() if runs[-1] else runs.tolist()[:-1]
    rle: Rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle


def joined(bands: Sequence[tuple[int, NDArray[np.floating]]], size: Size, least: float) -> Rle:
    """The mask [H, W] where the values of bands (first column, [c, H]) sum to more than `least`."""
    first = min(start for start, _ in bands)
    end = max(start + len(columns) for start, columns in bands)
    total = np.zeros((end - first, size[0]), dtype=np.float32)
    for start, columns in bands:
        total[start - first : start - first + len(columns)] += columns
    return _from_band((total > least).astype(np.uint8), first, size)


def _encode(mask: NDArray[np.uint8]) -> Rle:
    rle: Rle = coco_mask.encode(np.asfortranarray(mask))
    return rle


def _text(rle: Rle) -> str:
    counts = rle["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
