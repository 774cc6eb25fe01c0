"""Anchors, token choice and attention on hand-made cases; official vectors: tests/golden/test_units.py."""

import torch
from torch import nn

from gdseg.models.layers import Attention
from gdseg.models.two_stage import anchors_from_masks, best_tokens


def test_anchors_from_masks_by_hand():
    masks = torch.full((1, 2, 10, 20), -1.0)
    masks[0, 0, 2:5, 4:12] = 1.0
    exact = anchors_from_masks(masks, exact=True).sigmoid()[0]
    torch.testing.assert_close(exact[0], torch.tensor([0.4, 0.35, 0.4, 0.3]))
    assert exact[1].max() < 1e-4
    loose = anchors_from_masks(masks, exact=False).sigmoid()[0]
    torch.testing.assert_close(loose[0], torch.tensor([0.375, 0.3, 0.35, 0.2]))
    assert loose[1].round().tolist() == [1, 1, 0, 0]


def test_best_tokens_takes_all_when_there_are_fewer_than_asked():
    scores = torch.tensor([[[0.0, 3.0], [5.0, -1.0], [1.0, 1.0]]])
    assert best_tokens(scores, 2).tolist() == [[1, 0]]
    assert best_tokens(scores, 9).tolist() == [[1, 0, 2]]


def test_attention_equals_pytorch():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    blocked = torch.rand(2, 1, 5, 7) < 0.4
    blocked[..., 0] = False
    expected, _ = theirs(query, key, value, attn_mask=blocked.expand(-1, 4, -1, -1).flatten(0, 1))
    torch.testing.assert_close(ours(query, key, value, blocked), expected)
