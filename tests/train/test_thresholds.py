"""Thresholds of classes: where they settle, by the quantiles of known scores; drift and counts by hand."""

import pytest
import torch

from gdseg.recipe import Distill
from gdseg.structures import Targets
from gdseg.train.thresholds import ClassThresholds


def labelled(*labels: int) -> Targets:
    empty = Targets.empty(4, 4)
    empty.labels = torch.tensor(labels, dtype=torch.int64)
    return empty


def test_a_prior_is_met_class_by_class():
    """Class 0 scores in 0.5..1 three an image, class 1 in 0..0.5; 1.5 and 1.3 an image are labelled."""
    torch.manual_seed(0)
    made = ClassThresholds(Distill(thresholds="prior", class_threshold=0.4), 2)
    settled = []
    for step in range(3000):
        first, second = 0.5 + torch.rand(4, 3) / 2, torch.rand(4, 3) / 2
        pseudo = [
            labelled(*[0] * int((a > made.values[0]).sum()), *[1] * int((b > made.values[1]).sum()))
            for a, b in zip(first, second, strict=True)
        ]
        made.count([labelled(0, 0, 1, 1), labelled(0, *([1] if step % 10 < 6 else []))], pseudo)
        if step > 1000:
            settled.append(made.values.clone())
    mean = torch.stack(settled).mean(0)
    assert made.prior.tolist() == pytest.approx([1.5, 1.3])
    assert mean[0] == pytest.approx(0.75, abs=0.02)  # half of three
    assert mean[1] == pytest.approx(0.5 * (1 - 1.3 / 3), abs=0.02)


def test_the_prior_of_a_rare_class_is_met_too():
    """One object in 50 images, looked for in eight a step; every fifth has a score, in 0..1: the bar is 0.9."""
    torch.manual_seed(0)
    made = ClassThresholds(Distill(thresholds="prior", class_threshold=0.8, threshold_rate=0.005), 1)
    truth = [labelled(0)] + [labelled()] * 49
    made.count(truth, [labelled()])
    counts = []
    for step in range(8000):
        scores = torch.rand(8) * (torch.rand(8) < 0.2)
        pseudo = [labelled(*[0] * int(score > made.values[0])) for score in scores]
        made.count(truth[step % 50 : step % 50 + 1], pseudo)
        counts.append(sum(map(len, pseudo)) / 8)
    assert sum(counts[2000:]) / 6000 == pytest.approx(0.02, abs=0.004)


def test_images_that_are_repeated_count_once():
    made = ClassThresholds(Distill(), 2)
    rare, common = labelled(0, 1), labelled(0)
    for _ in range(4):
        made.count([rare, rare, rare, common], [labelled()], [3.0, 3.0, 3.0, 1.0])
    assert made.prior.tolist() == pytest.approx([1.0, 0.5])
    assert made.drift() == 0


def test_a_share_of_the_prior_can_be_asked_for_and_a_step_is_bounded():
    made = ClassThresholds(
        Distill(thresholds="prior", class_threshold=0.4, threshold_rate=0.1, prior_share=0.5), 2
    )
    made.count([labelled(0, 0)], [labelled(0), labelled(0)])  # 2 labelled, 1 wanted, 1 found: stays
    assert made.values.tolist() == pytest.approx([0.4, 0.4])
    made.count([labelled(0, 0)], [labelled(0, 0, 0, 0, 0, 0)])
    assert made.values.tolist() == pytest.approx([0.5, 0.4])  # at most the rate
    made.count([labelled(0, 0)], [labelled()])
    assert made.values.tolist() == pytest.approx([0.4, 0.4])


def test_a_class_that_no_label_shows_is_held_back():
    made = ClassThresholds(Distill(thresholds="prior", class_threshold=0.4, threshold_rate=0.1), 2)
    for _ in range(10):
        made.count([labelled(0)], [labelled(0, 1)])
    assert made.values[0] == pytest.approx(0.4)
    assert made.values[1] == pytest.approx(0.95)


def test_ema_thresholds_are_in_proportion_to_mean_scores():
    """FreeMatch, arXiv 2205.07246 eq. 8 without its global part: threshold * mean / largest mean."""
    made = ClassThresholds(Distill(thresholds="ema", class_threshold=0.6, threshold_rate=0.25), 3)
    labels = torch.tensor([[0, 0, 1, 1]])
    made.hear(torch.tensor([[0.8, 0.8, 0.4, 0.2]]), labels)  # 0.2 is below half of the threshold
    assert made.values.tolist() == pytest.approx([0.6, 0.3, 0.6])  # of class 2 nothing is known
    made.hear(torch.tensor([[0.8, 0.8, 0.8, 0.8]]), labels)
    assert made.values[1] == pytest.approx(0.6 * (0.75 * 0.4 + 0.25 * 0.8) / 0.8)


def test_fixed_thresholds_stay():
    made = ClassThresholds(Distill(class_threshold=0.7), 2)
    made.hear(torch.tensor([[0.9, 0.5]]), torch.tensor([[0, 1]]))
    made.count([labelled(0)], [labelled(1, 1)])
    assert torch.equal(made.values, torch.full((2,), 0.7))


def test_drift_is_the_total_variation_of_the_classes():
    made = ClassThresholds(Distill(), 3)
    assert made.drift() == 0
    made.count([labelled(0, 0, 1)], [labelled(0, 2), labelled(1, 1)])
    assert made.drift() == pytest.approx((abs(1 / 4 - 2 / 3) + abs(2 / 4 - 1 / 3) + 1 / 4) / 2)
