"""Layout and masks of tiles against plain arrays."""

import itertools

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from gdseg.data.rle import to_rle
from gdseg.infer.tiles import Tile, in_image, joined, layout, window_of


@pytest.mark.parametrize(
    ("length", "side", "overlap"),
    [(10, 10, 3), (11, 10, 3), (17, 10, 3), (18, 10, 3), (1000, 64, 32), (5, 10, 1), (99, 10, 5)],
)
def test_tiles_cover_the_image_and_share_enough(length: int, side: int, overlap: int) -> None:
    rows = layout((length, 7), side, overlap)
    assert all(len(row) == 1 for row in rows)
    tiles = [row[0] for row in rows]
    assert (tiles[0].top, tiles[-1].bottom) == (0, length)
    assert {tile.size for tile in tiles} == {(min(side, length), 7)}
    assert all(a.bottom - b.top >= overlap for a, b in itertools.pairwise(tiles))
    fewest = 1 if length <= side else 1 + int(np.ceil((length - side) / (side - overlap)))
    assert len(tiles) == fewest


def test_depth_rises_from_inner_borders_only() -> None:
    rows, columns = Tile(0, 3, 4, 8, (4, 9)).depth()
    assert rows.min() >= 4  # the whole height of the image: no border
    assert columns.tolist() == [1, 2, 3, 2, 1]
    rows, _ = Tile(2, 0, 6, 9, (6, 9)).depth()
    assert rows.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(8))
def test_masks_between_tile_and_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
    tile = Tile(
        top, left, int(rng.integers(top, height)) + 1, int(rng.integers(left, width)) + 1, (height, width)
    )
    mask = rng.random(tile.size) < rng.choice([0.1, 0.5, 1.0])
    mask[rng.integers(tile.size[0]), rng.integers(tile.size[1])] = True
    expected = np.zeros((height, width), dtype=bool)
    expected[tile.top : tile.bottom, tile.left : tile.right] = mask
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    moved = in_image(rle, tile)
    assert moved["size"] == [height, width]
    assert np.array_equal(coco_mask.decode(moved).astype(bool), expected)
    assert moved == coco_mask.encode(np.asfortranarray(expected.astype(np.uint8)))  # the one canonical code
    window = Tile(tile.top, tile.left, tile.bottom, max(tile.left + 1, tile.right - 1), (height, width))
    part = coco_mask.decode(window_of(rle, tile, window)).astype(bool)
    assert np.array_equal(part, window.cut(torch.from_numpy(expected)).numpy())


def test_a_vote_over_bands() -> None:
    a, b = np.zeros((2, 5, 6), dtype=np.float32)
    a[1:4, 1:3], b[1:4, 2:5] = 0.4, 0.7
    bands = [(1, a[:, 1:3].T.copy()), (2, b[:, 2:5].T.copy())]
    assert (
        joined(bands, (5, 6), 0.55)["counts"]
        == coco_mask.encode(np.asfortranarray((b > 0).astype(np.uint8)))["counts"]
    )
    assert to_rle(a + b > 1.0)["counts"].encode() == joined(bands, (5, 6), 1.0)["counts"]
