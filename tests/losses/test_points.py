"""Point samples against grid_sample, and the choice of uncertain points."""

import pytest
import torch
import torch.nn.functional as F

from gdseg.losses.points import pixel_at, sample_logits, sample_masks, uncertain_points


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 96)])
def test_bool_masks_sample_as_their_float_copies(size):
    torch.manual_seed(0)
    masks = torch.rand(4, *size) < 0.5
    index = torch.tensor([[0, 3], [2, 2], [1, 0]])
    points = torch.rand(3, 2, 50, 2) * 1.4 - 0.2  # some lie outside
    points[0, 0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    expected = F.grid_sample(
        masks[index].flatten(0, 1)[:, None].float(),
        2 * points.flatten(0, 1)[:, None] - 1,
        align_corners=False,
    )
    found = sample_masks(masks, index, points)
    torch.testing.assert_close(found, expected.view(3, 2, 50), rtol=0, atol=1e-5 * max(size))


def test_masks_that_share_points():
    masks, points = torch.rand(4, 6, 8) < 0.5, torch.rand(2, 1, 9, 2)
    found = sample_masks(masks, torch.arange(4), points)
    assert found.shape == (2, 4, 9)
    torch.testing.assert_close(found[1], sample_logits(masks.float()[None], points[1])[0])
    none = sample_masks(masks[:0], torch.arange(0), points)
    assert none.shape == (2, 0, 9)


def test_a_pixel_centre_gives_the_pixel():
    mask = torch.tensor([[True, False], [False, True]])
    centres = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert sample_masks(mask[None], torch.tensor(0), centres).tolist() == [1, 0, 0, 1]
    assert pixel_at(mask, centres).tolist() == [True, False, False, True]
    assert pixel_at(mask, torch.tensor([[0.0, 0.0], [0.49, 0.49], [0.51, 0.49], [1.0, 1.0]])).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_uncertain_points_lie_near_the_boundary():
    logits = torch.linspace(-5, 5, 64).expand(2, 64, 64)
    over, random = torch.rand(2, 300, 2), torch.rand(2, 10, 2)
    points = uncertain_points(logits, over, random, 30)
    assert points.shape == (2, 40, 2)
    assert points[:, 30:].equal(random)
    nearest = (over[..., 0] - 0.5).abs().sort(1).values[:, :30]
    torch.testing.assert_close((points[:, :30, 0] - 0.5).abs().sort(1).values, nearest)


def test_half_precision_logits_are_sampled_in_float32():
    logits, points = torch.randn(2, 3, 8, 8), torch.rand(2, 5, 2)
    found = sample_logits(logits.bfloat16(), points)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, sample_logits(logits.bfloat16().float(), points))
