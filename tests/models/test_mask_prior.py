"""The box prior of mask logits against a plain loop in float64, and in a whole model."""

import math

import pytest
import torch

from gdseg.models.mask_prior import EllipsePrior


def test_prior_is_one_at_the_centre_zero_on_the_ellipse_and_falls_outside() -> None:
    torch.manual_seed(0)
    prior = EllipsePrior(8)
    torch.nn.init.normal_(prior.sharpness.weight)
    masks, x = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 8)
    boxes = torch.rand(2, 3, 4) * 0.6 + 0.1
    out = prior(masks, x, boxes)
    weight, bias = (p.detach().double() for p in prior.sharpness.parameters())
    for b in range(2):
        for q in range(3):
            raw = float(x[b, q].double() @ weight[0] + bias)
            s = math.log1p(math.exp(raw))
            cx, cy, w, h = boxes[b, q].double().tolist()
            for i in range(5):
                for j in range(7):
                    dx = ((j + 0.5) / 7 - cx) / (w / 2 + 0.5 / 7)
                    dy = ((i + 0.5) / 5 - cy) / (h / 2 + 0.5 / 5)
                    expected = float(masks[b, q, i, j]) + s * (1 - dx * dx - dy * dy)
                    assert out[b, q, i, j].item() == pytest.approx(expected, abs=1e-4)


def test_a_fresh_prior_alone_gives_the_ellipse_inscribed_in_the_box() -> None:
    prior = EllipsePrior(4)
    box = torch.tensor([[[0.5, 0.5, 0.5, 0.25]]])
    mask = prior(torch.zeros(1, 1, 200, 200), torch.randn(1, 1, 4), box)[0, 0] > 0
    area = math.pi * 50 * 25  # half axes of a quarter and an eighth of 200 pixels
    assert mask.sum().item() == pytest.approx(area, rel=0.04)
    ys, xs = mask.nonzero().unbind(-1)
    assert (xs.min().item(), xs.max().item()) == (50, 149)
    assert (ys.min().item(), ys.max().item()) == (75, 124)


def test_a_tiny_box_far_away_costs_a_bounded_loss() -> None:
    prior = EllipsePrior(4)
    box = torch.tensor([[[0.0, 0.0, 1e-4, 1e-4]]])
    out = prior(torch.zeros(1, 1, 300, 300), torch.zeros(1, 1, 4), box)
    assert out.min().item() == pytest.approx(1 - 16 - 16)


def test_flat_boxes_and_low_precision_masks_stay_finite_and_boxes_get_no_gradient() -> None:
    prior = EllipsePrior(4)
    boxes = torch.tensor([[[0.2, 0.9, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0]]], requires_grad=True)
    masks = torch.zeros(1, 2, 6, 6, dtype=torch.bfloat16, requires_grad=True)
    out = prior(masks, torch.zeros(1, 2, 4, dtype=torch.bfloat16), boxes)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    out.sum().backward()
    assert boxes.grad is None
    assert masks.grad is not None
