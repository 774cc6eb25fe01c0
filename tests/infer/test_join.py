"""Joining over tiles: random scenes, any order of tiles, and what real networks do: noise, fragments, doubles."""

import numpy as np
import pytest
import torch
from known_scene import Scene, found_objects, predictions
from pycocotools import mask as coco_mask
from scipy import ndimage

from gdseg.infer.join import join_instances
from gdseg.infer.maps import PanopticMap
from gdseg.infer.tiles import Tile, layout
from gdseg.structures import Predictions

SIZE = (60, 100)
LEFT, RIGHT = (tile for row in layout(SIZE, 60, 20) for tile in row)  # columns 0..59 and 40..99


def truth_of(tile: Tile, masks: np.ndarray, labels: list[int]) -> Predictions:
    return predictions(tile.cut(torch.from_numpy(masks)).numpy(), labels, [1.0] * len(labels))


def block(x0: int, x1: int, y0: int = 10, y1: int = 30) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def join(left: list[tuple[np.ndarray, float]], right: list[tuple[np.ndarray, float]]) -> Predictions:
    """Masks of the image with scores as what the two tiles predict."""
    found = [
        predictions(
            tile.cut(torch.from_numpy(np.array([m for m, _ in side]).reshape(-1, *SIZE))).numpy(),
            [0] * len(side),
            [s for _, s in side],
        )
        for tile, side in ((LEFT, left), (RIGHT, right))
    ]
    return join_instances([LEFT, RIGHT], found, SIZE)


@pytest.mark.parametrize("seed", range(12))
def test_random_scenes_in_any_order_of_tiles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(50, 160)), int(rng.integers(50, 160)))
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, *size)), (0, 4, 4))
    kinds = np.argmax(smooth, 0)  # three classes that touch everywhere
    kinds[np.abs(smooth).max(0) < np.quantile(np.abs(smooth).max(0), 0.3)] = -1
    masks, labels = [], []
    for label in range(3):
        parts, count = ndimage.label(kinds == label)
        masks += [parts == i + 1 for i in range(count)]
        labels += [label] * count
    side = int(rng.integers(24, 70))
    tiles = [tile for row in layout(size, side, int(rng.integers(1, side // 2))) for tile in row]
    stack = np.stack(masks)
    found = [truth_of(tile, stack, labels) for tile in tiles]
    order = rng.permutation(len(tiles)).tolist()
    one = join_instances(tiles, found, size)
    other = join_instances([tiles[i] for i in order], [found[i] for i in order], size)
    expected = {(label, mask.tobytes()) for label, mask in zip(labels, stack.astype(bool), strict=True)}
    assert len(one) == len(labels)
    assert set(found_objects(one)) == expected
    assert found_objects(one) == found_objects(other)
    assert torch.equal(one.boxes_xyxy_px, other.boxes_xyxy_px)


def test_a_complete_view_stands_whatever_a_fragment_says() -> None:
    whole, spilled = block(30, 50), block(40, 57)
    found = join([(whole, 0.8)], [(spilled, 0.9)])
    assert found_objects(found) == [(0, whole.tobytes())]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_a_fragment_that_another_tile_sees_all_of_is_not_asked() -> None:
    whole, spilled = block(30, 45), block(40, 50, 8, 50)  # little in common, and a high score
    found = join([(whole, 0.8)], [(spilled, 0.99)])
    assert found_objects(found) == [(0, whole.tobytes())]
    at_the_end = join(
        [], [(spilled, 0.99), (block(40, 60), 0.9)]
    )  # the left border cuts this one too: it stays
    assert found_objects(at_the_end) == [(0, block(40, 60).tobytes())]


def test_views_that_are_both_cut_make_their_union() -> None:
    left, right = block(10, 60, 10, 31), block(40, 95, 11, 30)
    found = join([(left, 0.8)], [(right, 0.6)])
    assert found_objects(found) == [(0, (left | right).tobytes())]


def test_a_short_fragment_does_not_stand_for_a_large_object() -> None:
    large, short = block(0, 60), block(45, 58)  # seen in the right tile as if it ended before its border
    found = join([(large, 0.8)], [(short, 0.7)])
    assert found_objects(found) == [(0, large.tobytes())]


def test_double_detections_stay_double_and_do_not_swallow_each_other() -> None:
    mask, like = block(42, 58), block(43, 58)
    found = join([(mask, 0.9), (like, 0.5)], [(mask, 0.8), (like, 0.4)])
    assert [mask for _, mask in found_objects(found)] == [mask.tobytes(), like.tobytes()]


def test_a_doubtful_mask_over_several_objects_joins_none() -> None:
    upper, lower = block(30, 70, 10, 20), block(30, 70, 22, 32)
    spread = block(40, 70, 8, 34)
    found = join(
        [(upper, 0.9), (lower, 0.9)],
        [(upper, 0.8), (lower, 0.8), (spread, 0.1)],
    )
    assert [mask for _, mask in found_objects(found)][:2] == [upper.tobytes(), lower.tobytes()]
    alone = join([(upper, 0.9), (lower, 0.9)], [(spread, 0.1)])
    inside = [(mask & block(0, 60, 0, 60)).tobytes() for mask in (upper, lower)]
    assert [mask for _, mask in found_objects(alone)] == inside


def test_two_legs_of_a_u_join_what_connects_them() -> None:
    legs = [block(10, 60, 10, 20), block(10, 60, 30, 40)]
    bottom = block(40, 90, 10, 20) | block(40, 90, 30, 40) | block(80, 90, 10, 40)
    found = join([(leg, 0.9) for leg in legs], [(bottom, 0.8)])
    assert found_objects(found) == [(0, (legs[0] | legs[1] | bottom).tobytes())]


def test_other_classes_and_touching_objects_are_left_alone() -> None:
    a, b = block(30, 50), block(50, 70)
    found = join([(a, 0.9), (b, 0.8)], [(a, 0.9), (b, 0.8)])
    assert [mask for _, mask in found_objects(found)] == [a.tobytes(), b.tobytes()]
    parts = [
        predictions(tile.cut(torch.from_numpy(block(30, 70)[None])).numpy(), [k], [0.9])
        for k, tile in enumerate((LEFT, RIGHT))
    ]
    assert sorted(join_instances([LEFT, RIGHT], parts, SIZE).labels.tolist()) == [0, 1]


def test_nothing_in_any_tile() -> None:
    none = predictions(np.zeros((0, 60, 60), dtype=bool), [], [])
    found = join_instances([LEFT, RIGHT], [none, none], SIZE)
    assert len(found) == 0
    assert found.boxes_xyxy_px.shape == (0, 4)


def test_panoptic_maps_in_any_order(scene: Scene) -> None:
    ids = torch.from_numpy(scene.ids.astype(np.int32))
    tiles = [tile for row in layout(scene.ids.shape, 64, 13) for tile in row]
    rng, maps = np.random.default_rng(0), []
    for order in (
        range(len(tiles)),
        rng.permutation(len(tiles)).tolist(),
        rng.permutation(len(tiles)).tolist(),
    ):
        panoptic = PanopticMap(scene.ids.shape)
        for i in order:
            there = tiles[i].cut(ids)
            disagree = torch.where(there == 0, 100 + i % 2, there)  # tiles differ on what the ground is
            segments = [
                {
                    "id": n,
                    "label": scene.labels[n - 1] if n < 100 else n - 97,
                    "isthing": n < 100,
                    "score": 0.9,
                }
                for n in disagree.unique().tolist()
            ]
            none = predictions(np.zeros((0, *tiles[i].size), dtype=bool), [], [])
            none.panoptic, none.segments = disagree, segments
            panoptic.add(tiles[i], none)
        maps.append(panoptic.finish(0.8))
    first = maps[0]
    assert first.panoptic is not None
    assert int((first.panoptic == 0).sum()) == 0
    for other in maps[1:]:
        assert other.panoptic is not None
        assert torch.equal(first.panoptic, other.panoptic)
        assert first.segments == other.segments


def test_overlapping_things_are_resolved_by_score() -> None:
    sure, unsure = block(10, 50), block(30, 62, 10, 30)
    panoptic = PanopticMap(SIZE)
    for tile, mask, score in ((LEFT, sure, 0.9), (RIGHT, unsure, 0.6)):
        found = predictions(np.zeros((0, *tile.size), dtype=bool), [], [])
        found.panoptic = tile.cut(torch.from_numpy(mask)).int()
        found.segments = [{"id": 1, "label": 0 if score > 0.8 else 1, "isthing": True, "score": score}]
        panoptic.add(tile, found)
    kept = panoptic.finish(0.5)
    assert kept.panoptic is not None
    assert (kept.panoptic == 1).numpy().tobytes() == sure.tobytes()
    assert (kept.panoptic == 2).numpy().tobytes() == (unsure & block(40, 100) & ~sure).tobytes()
    assert [s["label"] for s in panoptic.finish(0.8).segments or []] == [0], "it keeps 12 of 22 columns"


@pytest.mark.parametrize("seed", range(6))
def test_each_object_once_where_masks_are_coarse_and_shaky(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, masks = (300, 400), list[np.ndarray]()
    ys, xs = np.mgrid[: size[0], : size[1]]
    taken = np.zeros(size, dtype=bool)
    while len(masks) < 40:  # discs of radius 12 to 60, some larger than a tile, that may touch
        y, x, radius = (
            rng.uniform(0, size[0]),
            rng.uniform(0, size[1]),
            np.exp(rng.uniform(np.log(12), np.log(60))),
        )
        disc = np.hypot(ys - y, xs - x) <= radius
        if not (disc & taken).any() and disc.sum() > 300:
            masks.append(disc)
            taken |= disc
    tiles = [tile for row in layout(size, 100, 20) for tile in row]
    found = [_shaky(tile.cut(torch.from_numpy(np.stack(masks))).numpy(), rng) for tile in tiles]
    joined = join_instances(tiles, found, size).filter(0.3)
    truth = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    iou = coco_mask.iou(joined.rles, truth, [0] * len(truth))
    assert len(joined) == len(masks)
    assert (iou.max(0) > 0.55).all()
    assert sorted(iou.argmax(1).tolist()) == list(range(len(masks)))


def _shaky(masks: np.ndarray, rng: np.random.Generator) -> Predictions:
    """What a network might make of true masks [N, h, w]: cells of four pixels, borders off by one, misses, junk."""
    seen, scores = [], []
    for mask in masks:
        full = np.kron(mask[2::4, 2::4], np.ones((4, 4), dtype=bool))[: mask.shape[0], : mask.shape[1]]
        change = rng.integers(3)
        if change:
            shift = ndimage.binary_dilation if change == 1 else ndimage.binary_erosion
            full = shift(full, iterations=2, border_value=change - 1)
        sliver = mask.sum() < 100
        if mask.any() and full.any() and not (sliver and rng.random() < 0.5):
            seen.append(full)
            scores.append(rng.uniform(0.3, 0.6) if sliver else rng.uniform(0.6, 1.0))
    for _ in range(5):
        y, x, h, w = rng.integers(5, 90, 4)
        junk = np.zeros(masks.shape[1:], dtype=bool)
        junk[y : y + h, x : x + w] = True
        seen.append(junk)
        scores.append(rng.uniform(0.01, 0.1))
    return predictions(np.stack(seen), [0] * len(seen), scores)
