"""Denoising queries: the attention mask by hand, the noise's range, and batches that do not fit."""

import warnings

import pytest
import torch
from torch import nn

from gdseg.draws import Draws
from gdseg.models.denoising import _say_once, blocked_attention, noised_queries
from gdseg.recipe import Decoder
from gdseg.structures import Targets


def some_targets(count, classes=6):
    torch.manual_seed(count)
    boxes = torch.rand(count, 4) * 0.4 + 0.3
    masks = torch.zeros(count, 8, 8, dtype=torch.bool)
    return Targets(torch.arange(count) % classes, masks, boxes, torch.ones(count))


def test_attention_mask_by_hand():
    # two groups of two slots, one matching query; 1 = must not look
    expected = [
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
    ]
    assert blocked_attention(2, 2, 1, torch.device("cpu")).int().tolist() == expected


def test_places_and_padding():
    labels = nn.Embedding(6, 3)
    targets = [some_targets(2), Targets.empty(8, 8), some_targets(3)]
    options = Decoder(denoising_queries=7, box_noise=0.0, label_flip=0.0)
    noised = noised_queries(targets, labels, options, Draws())
    assert (noised.groups, noised.slots, noised.kept) == (2, 3, None)
    assert noised.content.shape == (3, 6, 3)
    assert noised.anchors[1].abs().max() == 0
    assert noised.content[1].abs().max() == 0
    assert noised.content[0, [2, 5]].abs().max() == 0
    for group in (0, 3):
        torch.testing.assert_close(noised.content[2, group : group + 3], labels(targets[2].labels))
        torch.testing.assert_close(noised.anchors[2, group : group + 3].sigmoid(), targets[2].boxes_cxcywh)
    noised.content.sum().backward()
    assert labels.weight.grad[:2].eq(4).all()  # in image 0 and in image 2, both groups


def test_noise_stays_in_its_range():
    targets = [some_targets(5)]
    options = Decoder(denoising_queries=500, box_noise=0.4, label_flip=0.5)
    labels = nn.Embedding(6, 1)
    with torch.no_grad():
        labels.weight.copy_(torch.arange(6.0)[:, None])
    noised = noised_queries(targets, labels, options, Draws())
    assert noised.groups == 100
    boxes = noised.anchors.sigmoid().view(100, 5, 4)
    truth = targets[0].boxes_cxcywh
    moved = (boxes[..., :2] - truth[:, :2]).abs() / truth[:, 2:]
    scaled = (boxes[..., 2:] - truth[:, 2:]).abs() / truth[:, 2:]
    assert 0.15 < moved.max() <= 0.2 + 1e-4
    assert 0.35 < scaled.max() <= 0.4 + 1e-4
    changed = (noised.content.view(100, 5) != targets[0].labels).float().mean()
    assert changed.item() == pytest.approx(0.5 * 5 / 6, abs=0.07)


def test_more_targets_than_slots_are_subsampled_and_said():
    targets = [some_targets(9), some_targets(2)]
    labels = nn.Embedding(6, 3)
    options = Decoder(denoising_queries=4, box_noise=0.0, label_flip=0.0)
    _say_once.cache_clear()
    with pytest.warns(UserWarning, match=r"more objects than decoder.denoising_queries \(4\)"):
        noised = noised_queries(targets, labels, options, Draws())
    assert (noised.groups, noised.slots) == (1, 4)
    assert noised.kept[1].tolist() == [0, 1]
    kept = noised.kept[0]
    assert len(set(kept.tolist())) == 4
    torch.testing.assert_close(noised.anchors[0].sigmoid(), targets[0].boxes_cxcywh[kept])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        others = {tuple(noised_queries(targets, labels, options, Draws()).kept[0].tolist()) for _ in range(9)}
    assert len(others) > 1


def test_nothing_to_denoise():
    options = Decoder()
    assert noised_queries([Targets.empty(8, 8)] * 2, nn.Embedding(6, 3), options, Draws()) is None
