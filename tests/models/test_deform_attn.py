"""Deformable attention against a loop over single samples; official vectors: tests/golden/test_units.py."""

import math

import numpy as np
import pytest
import torch

from gdseg.models.deform_attn import MSDeformAttn, ms_deform_attn, ms_deform_attn_reference

SHAPES = [(3, 4), (2, 2)]


def bilinear(level, x, y):
    """One sample of [H, W, D] at pixel coordinates whose integers are pixel centres; zero outside."""
    total = torch.zeros(level.shape[-1], dtype=level.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < level.shape[0] and 0 <= column < level.shape[1]:
                total += level[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
def test_against_a_loop(function):
    torch.manual_seed(0)
    N, Q, M, D, L, P = 2, 3, 2, 5, 2, 3
    value = torch.randn(N, 16, M, D, dtype=torch.float64)
    locations = torch.rand(N, Q, M, L, P, 2, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(N, Q, M, L, P, dtype=torch.float64)
    expected = torch.zeros(N, Q, M, D, dtype=torch.float64)
    for n, q, m, at, p in np.ndindex(N, Q, M, L, P):
        h, w = SHAPES[at]
        start = sum(a * b for a, b in SHAPES[:at])
        level = value[n, start : start + h * w, m].view(h, w, D)
        x, y = (locations[n, q, m, at, p] * torch.tensor([w, h]) - 0.5).tolist()
        expected[n, q, m] += weights[n, q, m, at, p] * bilinear(level, x, y)
    torch.testing.assert_close(function(value, SHAPES, locations, weights), expected.flatten(2))


def test_offsets_are_pixels_around_points_and_half_boxes_around_anchors():
    """Value = x coordinate of the pixel, one head looking one step to the right with one point."""
    module = MSDeformAttn(4, 1, 1, 1)
    with torch.no_grad():
        for linear in (module.value_proj, module.output_proj):
            linear.weight.copy_(torch.eye(4))
        module.sampling_offsets.bias.copy_(torch.tensor([1.0, 0.0]))
    ramp = (torch.arange(10) / 10 + 0.05)[None, :, None].expand(1, -1, 4)
    query = torch.zeros(1, 1, 4)
    point = module(query, torch.tensor([[[0.45, 0.5]]]), ramp, [(1, 10)])
    assert point[0, 0, 0].item() == pytest.approx(0.55)
    anchor = module(query, torch.tensor([[[0.45, 0.5, 0.4, 1.0]]]), ramp, [(1, 10)])
    assert anchor[0, 0, 0].item() == pytest.approx(0.65)
