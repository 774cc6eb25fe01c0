"""Pseudo-labels without overlaps: every pixel in one mask or ignored, each threshold by hand."""

import pytest
import torch

from gdseg.recipe import Recipe
from gdseg.structures import LayerOutput
from gdseg.train.pseudo_maps import pseudo_maps

THINGS = [True, True, False, False]


def recipe(task="panoptic", **rule):
    made = Recipe(task=task)
    for name, value in {"class_threshold": 0.6, "region_threshold": 0.5, "min_area": 2.0, **rule}.items():
        setattr(made.distill, name, value)
    return made


def output(*queries):
    """queries: (label, score, columns of a 4 x 8 map that the mask covers)."""
    logits = torch.full((1, len(queries), 4), -9.0)
    masks = torch.full((1, len(queries), 4, 8), -9.0)
    for q, (label, score, columns) in enumerate(queries):
        logits[0, q, label] = torch.logit(torch.tensor(score))
        masks[0, q, :, columns] = 9.0
    return LayerOutput("final", logits, masks)


def columns(mask):
    return mask.any(0).nonzero()[:, 0].tolist()


def test_things_win_over_stuff_and_the_rest_is_ignored():
    found = output((0, 0.9, slice(0, 3)), (2, 0.8, slice(0, 5)), (3, 0.3, slice(5, 8)))
    targets = pseudo_maps(found, recipe(), THINGS, softmax=False)[0]
    assert targets.labels.tolist() == [0, 2]
    assert [columns(m) for m in targets.masks] == [[0, 1, 2], [3, 4]]
    assert columns(targets.ignore) == [5, 6, 7]  # stuff scored below region_threshold
    assert targets.scores.tolist() == pytest.approx([0.9, 0.8], abs=1e-3)


def test_overlapping_things_are_cut_and_remains_too_small_are_dropped():
    found = output((0, 0.7, slice(0, 4)), (1, 0.9, slice(2, 6)))
    targets = pseudo_maps(found, recipe(), THINGS, softmax=False)[0]
    assert [columns(m) for m in targets.masks] == [[0, 1], [2, 3, 4, 5]]
    targets = pseudo_maps(found, recipe(min_area=8.0), THINGS, softmax=False)[0]
    assert targets.labels.tolist() == [1]
    assert columns(targets.ignore) == [0, 1, 6, 7]


def test_regions_of_stuff_and_of_semantic_classes_too_small_are_ignored():
    found = output((2, 0.9, slice(0, 1)), (3, 0.8, slice(1, 8)))
    for task in ("panoptic", "semantic"):
        targets = pseudo_maps(found, recipe(task, min_area=4.0), THINGS, softmax=False)[0]
        assert targets.labels.tolist() == [3]  # 4 pixels are not above 4
        assert columns(targets.ignore) == [0]
        targets = pseudo_maps(found, recipe(task, min_area=3.0), THINGS, softmax=False)[0]
        assert targets.labels.tolist() == [2, 3]


def test_unsure_things_keep_stuff_away():
    found = output((0, 0.5, slice(0, 3)), (2, 0.8, slice(0, 8)))
    assert columns(pseudo_maps(found, recipe(), THINGS, softmax=False)[0].masks[0]) == list(range(8))
    banded = pseudo_maps(found, recipe(ignore_threshold=0.3), THINGS, softmax=False)[0]
    assert columns(banded.ignore) == [0, 1, 2]


def test_semantic_has_one_mask_a_class_things_too():
    found = output((0, 0.9, slice(0, 2)), (0, 0.8, slice(4, 6)), (2, 0.6, slice(1, 4)), (1, 0.4, slice(6, 8)))
    targets = pseudo_maps(found, recipe("semantic", weighting="score"), THINGS, softmax=False)[0]
    assert targets.labels.tolist() == [0, 2]
    assert [columns(m) for m in targets.masks] == [[0, 1, 4, 5], [2, 3]]
    assert columns(targets.ignore) == [6, 7]
    torch.testing.assert_close(targets.weights, torch.tensor([0.85, 0.6]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_every_pixel_is_in_one_mask_or_ignored(task, softmax):
    torch.manual_seed(0)
    found = LayerOutput("final", torch.randn(3, 9, 4 + softmax) * 2, torch.randn(3, 9, 6, 8) * 4)
    made = recipe(task, class_threshold=0.4, region_threshold=0.3, ignore_threshold=0.2)
    for targets in pseudo_maps(found, made, THINGS, softmax):
        assert (targets.masks.sum(0) + targets.ignore == 1).all()
        assert targets.masks.flatten(1).any(1).all()
        stuff = [label for label in targets.labels.tolist() if task == "semantic" or not THINGS[label]]
        assert len(stuff) == len(set(stuff))


def test_nothing_sure_is_all_ignored():
    targets = pseudo_maps(output((0, 0.1, slice(0, 8))), recipe(), THINGS, softmax=False)[0]
    assert len(targets) == 0
    assert targets.masks.shape == (0, 4, 8)
    assert targets.ignore.all()
