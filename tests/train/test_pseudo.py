"""The pseudo-label rule: the official record, and each threshold by hand."""

from dataclasses import replace

import pytest
import torch

from gdseg.recipe import Distill
from gdseg.structures import LayerOutput
from gdseg.train.pseudo import class_scores, pseudo_targets


def squares(scores, mask_logit=4.0):
    """Query i: score scores[i] for class i % 2 (sigmoid), mask = 4x4 square at (4i, 4i) of a 16x16 map."""
    logits = torch.full((1, len(scores), 2), -9.0)
    masks = torch.full((1, len(scores), 16, 16), -9.0)
    for i, score in enumerate(scores):
        logits[0, i, i % 2] = torch.logit(torch.tensor(score))
        masks[0, i, 4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = mask_logit
    return LayerOutput("final", logits, masks)


def test_class_threshold_is_strict_and_boxes_are_tight():
    targets = pseudo_targets(squares([0.9, 0.7, 0.71]), Distill(class_threshold=0.7), softmax=False)[0]
    assert targets.labels.tolist() == [0, 0]  # queries 0 and 2
    torch.testing.assert_close(targets.boxes_cxcywh[1], torch.tensor([10 / 16, 10 / 16, 4 / 16, 4 / 16]))


def test_mask_score_area_and_top_k():
    output = squares([0.9, 0.95, 0.8])
    assert len(pseudo_targets(output, Distill(mask_threshold=0.99), softmax=False)[0]) == 0
    assert len(pseudo_targets(output, Distill(min_area=16.5), softmax=False)[0]) == 0
    best = pseudo_targets(output, Distill(max_instances=2), softmax=False)[0]
    assert best.labels.tolist() == [0, 1]


def test_soft_weights_are_class_times_mask_score():
    targets = pseudo_targets(squares([0.8]), Distill(weighting="score"), softmax=False)[0]
    expected = 0.8 * torch.sigmoid(torch.tensor(4.0))
    torch.testing.assert_close(targets.weights, expected[None])
    torch.testing.assert_close(targets.scores, expected[None])


def test_the_ignore_band_holds_uncertain_instances_only():
    rule = Distill(class_threshold=0.7, ignore_threshold=0.4)
    targets = pseudo_targets(squares([0.9, 0.5, 0.3]), rule, softmax=False)[0]
    assert targets.labels.tolist() == [0]
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:8, 4:8] = True
    assert torch.equal(targets.ignore, expected)


@pytest.mark.parametrize("score", [0.8, 0.5, 0.97])  # above and below the threshold, and surer than query 0
def test_a_dropped_duplicate_is_not_uncertain(score):
    """Its rim lies about an object that has its label; ignoring it would take the edge out of the loss."""
    output = squares([0.9, score, 0.5])
    output.logits[0, 1] = torch.logit(torch.tensor([score, 1e-4]))  # the class of query 0
    output.masks[0, 1] = -9.0
    output.masks[0, 1, 0:5, 0:4] = 4.0  # its square, a row larger
    rule = Distill(class_threshold=0.7, ignore_threshold=0.4, mask_nms=0.5)
    targets = pseudo_targets(output, rule, softmax=False)[0]
    assert targets.labels.tolist() == [0]
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[8:12, 8:12] = True
    assert torch.equal(targets.ignore, expected)


def test_of_duplicates_the_sure_one_stays():
    """Query 1 has the higher quality, 0.65 of a sharp mask, but its class is not sure: query 0 is the label."""
    output = squares([0.72, 0.65])
    output.logits[0, 1] = output.logits[0, 1].flip(0)  # the class of query 0
    output.masks[0, 1] = output.masks[0, 0]
    output.masks[0, 0, 0:4, 0:4] = 0.4  # probability 0.6
    rule = Distill(class_threshold=0.7, ignore_threshold=0.4, mask_nms=0.5)
    targets = pseudo_targets(output, rule, softmax=False)[0]
    torch.testing.assert_close(targets.scores, 0.72 * torch.sigmoid(torch.tensor([0.4])))
    assert not targets.ignore.any()


def test_many_uncertain_instances_are_one_ignore_mask():
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(1, 40, 6, 5, generator=generator) * 3
    output = LayerOutput("final", torch.zeros(1, 40, 1), masks)
    rule = Distill(class_threshold=0.7, ignore_threshold=0.4, mask_stride=2, min_area=0.0)
    ignore = pseudo_targets(output, rule, softmax=False)[0].ignore
    finer = torch.nn.functional.interpolate(masks.double(), scale_factor=2, mode="bilinear")
    assert torch.equal(ignore, (finer[0] > 0).any(0))


def test_nothing_found_is_empty_not_none():
    targets = pseudo_targets(squares([0.1, 0.2]), Distill(), softmax=False)[0]
    assert (len(targets), targets.masks.shape, targets.boxes_cxcywh.shape) == (0, (0, 16, 16), (0, 4))


def test_a_query_that_prefers_no_object_scores_zero():
    scores, _ = class_scores(torch.tensor([[0.0, 0.0, 5.0], [5.0, 0.0, 0.0]]), softmax=True)
    assert scores[0] == 0
    assert scores[1] == pytest.approx(torch.tensor([5.0, 0, 0]).softmax(0)[0].item())


def test_head_boxes_are_used_when_asked_for():
    output = squares([0.9, 0.9])
    output.boxes_cxcywh = torch.rand(1, 2, 4)
    targets = pseudo_targets(output, Distill(boxes="head"), softmax=False)[0]
    assert torch.equal(targets.boxes_cxcywh, output.boxes_cxcywh[0])


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_masks_are_cut_at_the_stride_asked_for(stride: int) -> None:
    """A logit that rises linearly with x crosses zero at pixel 21.7: finer masks have their edge nearer to it."""
    cells = torch.arange(12, dtype=torch.float32) * 4 + 2  # centres of the cells of stride 4, in pixels
    masks = (cells - 21.7).expand(1, 1, 8, 12)
    rule = Distill(class_threshold=0.5, mask_stride=stride, ignore_threshold=0.1)
    output = LayerOutput("final", torch.full((1, 1, 2), 3.0), masks, None)
    (found,) = pseudo_targets(output, rule, softmax=False)
    centres = torch.arange(48 // stride) * stride + stride / 2
    assert found.masks.shape == (1, 32 // stride, 48 // stride)
    assert torch.equal(found.masks, (centres > 21.7).expand_as(found.masks))
    left = (found.boxes_cxcywh[0, 0] - found.boxes_cxcywh[0, 2] / 2).item() * 48
    assert abs(left - 21.7) <= stride / 2
    assert found.ignore is not None
    assert found.ignore.shape == found.masks.shape[1:]
    (none,) = pseudo_targets(replace(output, logits=output.logits - 9), rule, softmax=False)
    assert none.masks.shape == (0, 32 // stride, 48 // stride)


def test_the_combined_score_can_be_what_the_threshold_means():
    """Scores 0.8 and 0.9, masks of probability 0.95 and 0.6: combined 0.76 and 0.54."""
    output = squares([0.8, 0.9])
    for i, probability in enumerate([0.95, 0.6]):
        output.masks[0, i] = torch.where(output.masks[0, i] > 0, torch.logit(torch.tensor(probability)), -9.0)
    rule = Distill(class_threshold=0.7, ignore_threshold=0.5, score="class_mask")
    targets = pseudo_targets(output, rule, softmax=False)[0]
    assert targets.labels.tolist() == [0]
    assert targets.ignore[4:8, 4:8].all()  # 0.54 is in the band
    rule = Distill(class_threshold=0.7, ignore_threshold=0.55, score="class_mask")
    assert not pseudo_targets(output, rule, softmax=False)[0].ignore.any()


def test_each_class_has_its_threshold():
    output = squares([0.6, 0.6, 0.45, 0.3])  # classes 0, 1, 0, 1
    rule = Distill(class_threshold=0.5, ignore_threshold=0.4)
    targets = pseudo_targets(output, rule, softmax=False, thresholds=torch.tensor([0.7, 0.25]))[0]
    assert targets.labels.tolist() == [1, 1]  # 0.3 is above its own, though below the band
    assert targets.ignore[0:4, 0:4].all()
    assert targets.ignore[8:12, 8:12].all()
    assert targets.ignore.sum() == 32


@pytest.mark.parametrize("band", [0.0, 0.4])
def test_a_blurred_border_is_ignored(band):
    output = squares([0.9])
    row = torch.tensor([0.95, 0.7, 0.45, 0.2])
    output.masks[0, 0, 0:4, 0:4] = torch.logit(row)  # columns of these probabilities
    rule = Distill(class_threshold=0.5, pixel_margin=0.25, ignore_threshold=band)
    targets = pseudo_targets(output, rule, softmax=False)[0]
    assert targets.masks[0, 0, :4].tolist() == [True, True, False, False]
    assert targets.ignore[0, :4].tolist() == [False, True, True, False]
    assert targets.ignore.sum() == 8
