"""Semantic scores against confusion matrices worked out by hand, and properties."""

import numpy as np
import pytest

from gdseg.eval.semantic import Confusion


def scored(truth, found, num_classes=3):
    confusion = Confusion(num_classes)
    confusion.add(np.array(truth), np.array(found))
    return confusion.scores([f"c{i}" for i in range(num_classes)])


def test_a_confusion_matrix_by_hand():
    """Truth 0 0 0 0 1 1 and one ignored pixel; found 0 0 0 1 1 0. IoU 3/5 and 1/3."""
    scores = scored([[0, 0, 0, 0, 1, 1, -1]], [[0, 0, 0, 1, 1, 0, 2]])
    assert scores.metrics["miou"] == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert scores.metrics["fwiou"] == pytest.approx((4 * 3 / 5 + 2 * 1 / 3) / 6)
    assert scores.metrics["pixel_accuracy"] == pytest.approx(4 / 6)
    assert scores.metrics["class_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert scores.per_class["c1"] == {"iou": pytest.approx(1 / 3), "accuracy": 0.5, "pixels": 2}
    assert np.isnan(scores.per_class["c2"]["iou"])  # the truth never holds it


def test_a_pixel_without_any_class_is_wrong():
    assert scored([[0, 0]], [[0, 7]]).metrics["miou"] == 0.5
    assert scored([[0, 0]], [[0, -1]]).metrics["pixel_accuracy"] == 0.5


def test_images_add_up():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(-1, 4, (2, 6, 20)), rng.integers(0, 4, (2, 6, 20))
    one, both = Confusion(4), Confusion(4)
    one.add(truth.reshape(12, 20), found.reshape(12, 20))
    for image in range(2):
        both.add(truth[image], found[image])
    assert (one.counts == both.counts).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_truth_scores_one_and_renaming_classes_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    truth, found = rng.integers(-1, 5, (9, 9)), rng.integers(0, 5, (9, 9))
    assert scored(truth, truth, 5).metrics == dict.fromkeys(scored(truth, truth, 5).metrics, 1.0)
    names = np.append(rng.permutation(5), -1)
    before, after = scored(truth, found, 5).metrics, scored(names[truth], names[found], 5).metrics
    assert after == pytest.approx(before)


def test_nothing_to_score_is_nan_and_sizes_must_agree():
    assert np.isnan(scored([[-1]], [[0]]).metrics["miou"])
    with pytest.raises(ValueError, match="the truth is"):
        scored([[0, 1]], [[0], [1]])
