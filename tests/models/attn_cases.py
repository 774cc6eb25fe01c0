"""Inputs, devices and comparisons that the tests of deformable attention share."""

import pytest
import torch

from gdseg.models import deform_attn_kernel as kernel
from gdseg.models.deform_attn import (
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_reference,
    sampling_of,
)

needs_kernel = pytest.mark.skipif(
    "cpu" not in kernel.KERNEL.devices, reason=f"no kernel: {kernel.KERNEL.why}"
)
needs_cuda = pytest.mark.skipif(
    "cuda" not in kernel.KERNEL.devices or not torch.cuda.is_available(),
    reason="needs a GPU and the kernel built with CUDA (make gpu)",
)
DEVICES = [pytest.param("cpu", marks=needs_kernel), pytest.param("cuda", marks=(pytest.mark.gpu, needs_cuda))]
THREE = [(9, 13), (4, 7), (1, 1)]


def fused_reference(value, shapes, references, offsets, logits):
    return ms_deform_attn_reference(value, shapes, *sampling_of(shapes, references, offsets, logits))


# both entries and the device: the operators, and the PyTorch path, which has to refuse and allow the same
PATHS = [
    pytest.param((ms_deform_attn, ms_deform_attn_fused, "cpu"), id="cpu", marks=needs_kernel),
    pytest.param(
        (ms_deform_attn, ms_deform_attn_fused, "cuda"), id="cuda", marks=(pytest.mark.gpu, needs_cuda)
    ),
    pytest.param((ms_deform_attn_reference, fused_reference, "cpu"), id="reference"),
]
# name: shapes, N, Q, M, D, P
SIZES = {
    "12 points, 32 channels": (THREE, 2, 11, 3, 32, 4),
    "16 points, 16 channels": ([*THREE, (2, 3)], 1, 7, 2, 16, 4),
    "20 points, 64 channels": ([(8, 8), *THREE, (1, 5)], 1, 5, 1, 64, 4),
    "6 points, 8 channels": ([(5, 6), (3, 1)], 2, 300, 2, 8, 3),
    "9 points, odd channels": (THREE, 2, 6, 2, 5, 3),
    "more points than AVX2 takes": ([(6, 5), (2, 2)], 1, 3, 1, 32, 70),
    "few samples beside the pixels": ([(40, 50)], 1, 3, 2, 32, 4),
}
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def make(size, dtype=torch.float64, device="cpu", dims=2):
    """Inputs of both entries; locations reach well outside, references carry gradients."""
    shapes, N, Q, M, D, P = SIZES[size]
    draws = torch.Generator().manual_seed(len(size))
    L, S = len(shapes), sum(h * w for h, w in shapes)
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    def randn(*shape):
        return torch.randn(shape, generator=draws, dtype=torch.float64)

    value, logits, offsets = randn(N, S, M, D), randn(N, Q, M, L * P), 2 * randn(N, Q, M, L, P, 2)
    locations = 0.5 + 0.5 * randn(N, Q, M, L, P, 2)
    references = torch.rand((1 if dims == 2 else N, Q, dims), generator=draws, dtype=torch.float64)
    weights = logits.softmax(-1).view(N, Q, M, L, P)
    plain = [value.to(dtype), locations.to(exact), weights.to(exact)]
    fused = [value.to(dtype), references.to(exact), offsets.to(dtype), logits.to(dtype)]
    return shapes, *([t.to(device).requires_grad_() for t in ts] for ts in (plain, fused))


def with_gradients(function, shapes, inputs):
    out = function(inputs[0], shapes, *inputs[1:])
    draws = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=draws, dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def assert_near(actual, expected, bound):
    for got, wanted in zip(actual, expected, strict=True):
        scale = max(wanted.abs().max().item(), 1e-3) if wanted.numel() else 1.0
        torch.testing.assert_close(got.double() / scale, wanted.double() / scale, rtol=0, atol=bound)
