"""Geometry: masks stay on their objects; the official LSJ record is in tests/golden/test_pipeline.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.path import Path as MplPath

from gdseg.data.augment import build_targets
from gdseg.data.geometry import (
    Geometry,
    draw_geometry,
    lsj,
    test_geometry,
    warp_box,
    warp_image,
    warp_mask,
)
from gdseg.data.rle import annotation_mask, to_rle
from gdseg.recipe import Augment
from gdseg.structures import Record, Targets

test_geometry.__test__ = False  # type: ignore[attr-defined]


def test_the_rounding_is_half_to_even() -> None:
    assert lsj((5, 10), (10, 10), 0.5, 0.5, False).resized == (2, 5)  # 2.5 -> 2
    assert lsj((7, 10), (10, 10), 0.5, 0.5, False).resized == (4, 5)  # 3.5 -> 4
    assert lsj((10, 10), (5, 5), 2.0, 0.5, False).offset == (2, 2)  # 2.5 -> 2


def test_what_is_smaller_than_the_crop_is_padded_to_it() -> None:
    """As official ADE20K training pads to 512 x 512; along an edge without a crop the image keeps its length."""
    rng, image = np.random.default_rng(0), torch.ones(3, 30, 45)
    both = Augment(mode="shortest_edge", shortest=[40], longest=200, crop=[48, 56], flip=0.0)
    geometry = draw_geometry((30, 45), both, rng)
    assert (geometry.resized, geometry.crop, geometry.canvas) == ((40, 60), (40, 56), (48, 56))
    warped = warp_image(image, geometry, 128)
    assert (warped[:, :40] == 1).all()
    assert (warped[:, 40:] == 128).all()
    one = Augment(mode="shortest_edge", shortest=[40], longest=200, crop=[0, 80], flip=0.0)
    assert draw_geometry((30, 45), one, rng).canvas == (40, 80)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_of_polygons_are_those_of_their_part_in_the_crop(flip: bool) -> None:
    """Triangles, one or two, against points strewn along them and the crop's corners that they hold."""
    rng = np.random.default_rng(0)
    geometry = Geometry((90, 120), (60, 80), (10, 20), (40, 50), (48, 64), flip)
    corners, share = (
        np.array([(0, 0), (50, 0), (50, 40), (0, 40)], float),
        np.linspace(0, 1, 4001)[:, None, None],
    )
    found = 0
    for _ in range(60):
        rings = [rng.uniform((-10, -10), (130, 100), (3, 2)) for _ in range(rng.integers(1, 3))]
        strewn = []
        for ring in rings:
            x = 120 - ring[:, 0] if flip else ring[:, 0]
            moved = np.stack([x * (80 / 120) - 20, ring[:, 1] * (60 / 90) - 10], 1)
            strewn.append((moved + share * (np.roll(moved, -1, 0) - moved)).reshape(-1, 2))
            strewn.append(corners[MplPath(moved).contains_points(corners)])
        points = np.concatenate(strewn)
        points = points[((points >= 0) & (points <= (50, 40))).all(1)]
        box = warp_box({"segmentation": [ring.ravel().tolist() for ring in rings]}, geometry)
        if len(points):
            assert box == pytest.approx(np.concatenate([points.min(0), points.max(0)]), abs=0.05)
            found += 1
    assert found > 30
    assert warp_box({"segmentation": {"size": [90, 120], "counts": ""}}, geometry) is None


def test_a_box_around_the_crop_is_the_crop() -> None:
    geometry = Geometry((10, 10), (10, 10), (2, 3), (4, 5), (8, 8))
    around = {"segmentation": [[0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]]}
    assert warp_box(around, geometry).tolist() == [0, 0, 5, 4]  # type: ignore[union-attr]
    beside = {"segmentation": [[0.0, 0.0, 2.0, 0.0, 2.0, 2.0]]}
    assert warp_box(beside, geometry) is None
    record = Record(0, Path("x"), 10, 10, ({**around, "label": 0, "iscrowd": 0},))
    targets = build_targets(record, geometry)
    assert targets is not None
    assert targets.boxes_cxcywh.tolist() == [[2.5 / 8, 2 / 8, 5 / 8, 4 / 8]]


def drawn(h: int, w: int) -> tuple[torch.Tensor, np.ndarray]:
    """An image whose white pixels are the mask: a lopsided L, so that no flip goes unnoticed."""
    mask = np.zeros((h, w), bool)
    mask[h // 5 : h // 2, w // 6 : w // 3] = True
    mask[h // 2 : 3 * h // 5, w // 6 : 4 * w // 5] = True
    return torch.from_numpy(np.stack([mask * 255] * 3).astype(np.uint8)), mask


AUGMENTS = {
    "lsj": Augment(mode="lsj", canvas=[96, 80], scale=[0.3, 2.0], pad_value=0),
    "rescale": Augment(mode="rescale", canvas=[64, 80], scale=[0.5, 2.0], pad_value=0),
    "shortest_edge": Augment(mode="shortest_edge", shortest=[40, 64, 100], longest=140),
    "crop": Augment(mode="shortest_edge", shortest=[64, 100], longest=200, crop=[48, 56]),
    "crop_padded": Augment(mode="shortest_edge", shortest=[40, 100], longest=200, crop=[48, 80], pad_value=0),
    "fixed": Augment(mode="fixed", canvas=[50, 70]),
}


@pytest.mark.parametrize("kind", ["rle", "polygon"])
@pytest.mark.parametrize("mode", AUGMENTS)
def test_masks_stay_on_their_objects(mode: str, kind: str) -> None:
    h, w = 60, 90
    image, mask = drawn(h, w)
    y, x = np.array([h // 5, h // 2, 3 * h // 5]), np.array([w // 6, w // 3, 4 * w // 5])
    outline = [x[0], y[0], x[1], y[0], x[1], y[1], x[2], y[1], x[2], y[2], x[0], y[2]]
    segmentation: Any = to_rle(mask) if kind == "rle" else [[float(v) for v in outline]]
    np.testing.assert_array_equal(annotation_mask({"segmentation": segmentation}, h, w), mask)
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(30):
        geometry = draw_geometry((h, w), AUGMENTS[mode], rng)
        flips += geometry.flip
        pixels = warp_image(image, geometry, 0)[0] > 127
        warped = torch.from_numpy(warp_mask({"segmentation": segmentation}, geometry)).bool()
        assert warped.shape == pixels.shape == geometry.canvas
        # bilinear edges may round the other way: at most a pixel along the outline
        outline_length = 2.5 * (geometry.resized[0] + geometry.resized[1])
        assert (warped ^ pixels).sum() <= 0.5 * outline_length
        inside = max(int((warped | pixels).sum()), 1)
        assert (warped & pixels).sum() / inside > 0.85 or inside < 150
    assert 5 < flips < 25


def test_rescale_goes_by_the_images_own_size_and_crops_everywhere() -> None:
    augment, rng = Augment(mode="rescale", canvas=[40, 40], scale=[0.5, 2.0]), np.random.default_rng(0)
    for source in [(60, 90), (300, 200)]:
        drawn = [draw_geometry(source, augment, rng) for _ in range(200)]
        factors = np.array([g.resized for g in drawn]) / source
        assert np.abs(factors[:, 0] - factors[:, 1]).max() < 0.02  # both edges alike, up to rounding
        assert 0.49 < factors.min() < 0.6
        assert 1.9 < factors.max() < 2.01
        room = np.array([[g.resized[0] - g.crop[0], g.resized[1] - g.crop[1]] for g in drawn])
        share = np.array([g.offset for g in drawn])[room.min(1) > 0] / room[room.min(1) > 0]
        assert abs(np.corrcoef(share.T)[0, 1]) < 0.3  # rows and columns are drawn apart
        assert all(g.canvas == (40, 40) for g in drawn)


def test_after_rescale_every_image_is_judged_at_one_factor() -> None:
    augment = Augment(mode="rescale", canvas=[64, 80], scale=[0.5, 2.0], test_shortest=96, test_longest=100)
    for source in [(20, 30), (64, 80), (200, 100), (1000, 3000)]:
        resized = test_geometry(source, augment).resized
        assert resized == (round(source[0] * 1.5), round(source[1] * 1.5))
    augment.test_shortest = 0
    assert test_geometry((20, 30), augment).resized == (20, 30)


def test_flip_mirrors_image_and_mask_exactly() -> None:
    image, mask = drawn(20, 30)
    geometry = Geometry((20, 30), (20, 30), (0, 0), (20, 30), (20, 30), flip=True)
    assert torch.equal(warp_image(image, geometry, 0), image.flip(-1))
    np.testing.assert_array_equal(warp_mask({"segmentation": to_rle(mask)}, geometry), mask[:, ::-1])


def test_padding_has_its_value_and_any_channel_count_works() -> None:
    geometry = lsj((10, 20), (30, 40), 0.5, 0.0, False)
    image = torch.full((5, 10, 20), 7.0)
    warped = warp_image(image, geometry, 128)
    assert warped.shape == (5, 30, 40)
    assert warped[:, : geometry.crop[0], : geometry.crop[1]].eq(7).all()
    assert warped[:, geometry.crop[0] :].eq(128).all()


def test_objects_that_leave_the_crop_vanish_and_crowds_are_ignored() -> None:
    left, right, crowd = (np.zeros((20, 40), bool) for _ in range(3))
    left[5:9, 2:6] = right[5:9, 34:38] = crowd[12:, :8] = True
    annotations = tuple(
        {"label": label, "iscrowd": int(m is crowd), "segmentation": to_rle(m)}
        for label, m in enumerate((left, right, crowd))
    )
    record = Record(0, Path("x"), 20, 40, annotations)
    targets = build_targets(record, Geometry((20, 40), (20, 40), (0, 0), (20, 20), (20, 20)))
    assert isinstance(targets, Targets)
    assert targets.labels.tolist() == [0]
    assert targets.boxes_cxcywh.tolist() == [pytest.approx([4 / 20, 7 / 20, 4 / 20, 4 / 20])]
    assert targets.weights.tolist() == [1.0]
    assert targets.ignore is not None
    assert torch.equal(targets.ignore, torch.from_numpy(crowd[:, :20]))
    empty = build_targets(
        Record(0, Path("x"), 20, 40, ()), test_geometry((20, 40), Augment(test_shortest=10))
    )
    assert empty is not None
    assert empty.masks.shape == (0, 10, 20)
    assert empty.ignore is None
    assert build_targets(Record(0, Path("x"), 20, 40), lsj((20, 40), (9, 9), 1, 0, False)) is None


def test_test_time_size() -> None:
    assert test_geometry((480, 640), Augment(test_shortest=800, test_longest=1333)).resized == (800, 1067)
    assert test_geometry((480, 640), Augment(test_shortest=0, test_longest=1333)).resized == (480, 640)
    assert test_geometry((480, 640), Augment(test_shortest=0, test_longest=320)).resized == (240, 320)


def test_three_hundred_instances_are_fast() -> None:
    _, mask = drawn(256, 256)
    annotations = tuple({"label": 0, "iscrowd": 0, "segmentation": to_rle(mask)} for _ in range(300))
    targets = build_targets(
        Record(0, Path("x"), 256, 256, annotations), lsj((256, 256), (256, 256), 1.3, 0.5, True)
    )
    assert targets is not None
    assert len(targets) == 300
