"""Embeddings, proposals and boxes of masks against hand-made cases and the official float64 vectors."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gdseg.models.layers import Attention, inverse_sigmoid, sine_anchor, sine_position
from gdseg.models.pixel_decoder import pixel_centres
from gdseg.models.two_stage import anchors_from_masks, best_tokens, token_anchors

sys.path.insert(0, str(Path(__file__).parent))
from golden import read_arrays


@pytest.fixture
def vectors(shared_dir):
    arrays = read_arrays(shared_dir / "reference" / "golden" / "unit_ops" / "tensors.npz")
    return lambda key: torch.from_numpy(arrays[key])


@pytest.mark.parametrize(("half", "h", "w"), [(32, 5, 7), (128, 3, 4), (32, 1, 1)])
def test_sine_position(vectors, half, h, w):
    expected = vectors(f"pos_sine|{half}|{h}x{w}")
    ours = sine_position(h, w, 2 * half, expected)
    torch.testing.assert_close(ours, expected.flatten(1).T)


def test_sine_anchor_and_inverse_sigmoid(vectors):
    ours = sine_anchor(vectors("gen_sineembed|in"), 256)
    torch.testing.assert_close(ours, vectors("gen_sineembed|out4"))
    torch.testing.assert_close(inverse_sigmoid(vectors("inverse_sigmoid|in")), vectors("inverse_sigmoid|out"))


def test_token_anchors(vectors):
    like = vectors("proposals|memory_in")
    logits, valid = token_anchors([(2, 3), (4, 6), (6, 70)], like)
    torch.testing.assert_close(logits[None], vectors("proposals|proposals"))
    torch.testing.assert_close(like.masked_fill(~valid, 0.0), vectors("proposals|memory_out"))


def test_pixel_centres(vectors):
    expected = vectors("enc_reference_points|2x3_4x6")
    centres = torch.cat([pixel_centres(2, 3, expected), pixel_centres(4, 6, expected)])
    for level in range(2):
        torch.testing.assert_close(centres[None], expected[:, :, level])


@pytest.mark.parametrize(("exact", "name"), [(True, "bitmask"), (False, "mask2box")])
def test_anchors_from_masks(vectors, exact, name):
    masks = vectors("mask_boxes|masks").float() - 0.5
    expected = vectors(f"mask_boxes|{name}_refpoint_logit").float()
    torch.testing.assert_close(anchors_from_masks(masks[None], exact)[0], expected, rtol=1e-5, atol=1e-5)


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
