"""Fusing the detections of several views, by hand-made cases."""

import numpy as np
import pytest
from known_scene import found_objects, predictions

from gdseg.infer.views import fuse

SIZE = (20, 30)


def block(x0: int, x1: int, y0: int = 5, y1: int = 15) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_one_object_in_all_views_is_a_vote_with_the_mean_score() -> None:
    views = [block(5, 15), block(5, 16), block(6, 17)]
    found = fuse([predictions(m[None], [1], [s]) for m, s in zip(views, (0.9, 0.3, 0.5), strict=True)], 10)
    # column 5: 0.9 + 0.3 of 1.7; column 15: 0.3 + 0.5 of 1.7; column 16: 0.5
    assert found_objects(found) == [(1, block(5, 15).tobytes())]
    assert found.scores.tolist() == pytest.approx([1.7 / 3])
    mean = (0.9 * 5 + 0.3 * 5 + 0.5 * 6) / 1.7, (0.9 * 15 + 0.3 * 16 + 0.5 * 17) / 1.7
    assert found.boxes_xyxy_px[0].tolist() == pytest.approx([mean[0], 5, mean[1], 15])


def test_what_one_view_sees_counts_less_and_classes_stay_apart() -> None:
    one = predictions(np.stack([block(0, 8), block(10, 20)]), [0, 1], [0.8, 0.6])
    two = predictions(np.stack([block(0, 8)]), [1], [0.5])
    found = fuse([one, two], 10)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.4, 0.3, 0.25])


def test_doubles_of_one_view_stay_two() -> None:
    one = predictions(np.stack([block(0, 10), block(0, 9)]), [0, 0], [0.8, 0.6])
    found = fuse([one, one], 10)
    assert found.scores.tolist() == pytest.approx([0.8, 0.6])
    assert [mask for _, mask in found_objects(found)] == [block(0, 10).tobytes(), block(0, 9).tobytes()]


def test_the_best_are_kept_and_nothing_is_nothing() -> None:
    masks = np.stack([block(i, i + 3) for i in range(0, 25, 5)])
    found = fuse([predictions(masks, [0] * 5, [0.1, 0.5, 0.3, 0.2, 0.4])], 2)
    assert found.scores.tolist() == pytest.approx([0.5, 0.4])
    none = predictions(np.zeros((0, *SIZE), dtype=bool), [], [])
    assert len(fuse([none, none], 5)) == 0


def test_the_order_of_views_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    views = []
    for _ in range(4):
        shifts = rng.integers(0, 3, 4)
        masks = np.stack([block(7 * i + int(s), 7 * i + 6 + int(s)) for i, s in enumerate(shifts)])
        views.append(predictions(masks, [0, 1, 0, 1], rng.permutation(rng.random(4)).tolist()))
    one, other = fuse(views, 10), fuse(views[::-1], 10)
    assert found_objects(one) == found_objects(other)
    assert one.scores.tolist() == pytest.approx(other.scores.tolist())
