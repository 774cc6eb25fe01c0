"""Unusual arguments of deformable attention: allowed or refused alike by the operators and the PyTorch path."""

import pytest
import torch
from attn_cases import BOUND, PATHS, THREE, assert_near, make, needs_kernel, with_gradients

from gdseg.models import deform_attn_kernel as kernel
from gdseg.models.deform_attn import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_reference


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize(
    "size", ["12 points, 32 channels", "9 points, odd channels", "few samples beside the pixels"]
)
def test_samples_that_are_nowhere_contribute_nothing(size, dtype, path):
    """Their gradients are zero, and nothing else changes when they are left out."""
    function, fused_function, device = path
    shapes, plain, fused = make(size, dtype, device, dims=4)
    nowhere = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e38)
    with torch.no_grad():
        for at, number in enumerate(nowhere):
            plain[1][0, at % 3, 0, 0, at % 2, at % 2] = number
            fused[2][0, at % 3, 0, 0, at % 2, at % 2] = number
    gone = ~(plain[1].detach().abs() < 1e3).all(-1)
    without = [t.detach().clone() for t in plain]
    without[1][gone], without[2][gone] = -5, 0
    found = with_gradients(function, shapes, plain)
    expected = with_gradients(function, shapes, [t.requires_grad_() for t in without])
    assert not found[2][gone].any()
    assert not found[3][gone].any()
    assert_near(found, expected, 0 if device == "cpu" else BOUND[dtype])  # a GPU's sums have no order
    if fused_function is ms_deform_attn_fused:  # PyTorch's own preparation multiplies 0 by infinity
        assert all(t.isfinite().all() for t in with_gradients(fused_function, shapes, fused))


@pytest.mark.parametrize("path", PATHS[:-1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_on_the_border_of_two_pixels_both_paths_take_the_same_side(dtype, path):
    """Where the gradient jumps: at pixel centres and at -1, one pixel left of the first."""
    function, _, device = path
    shapes = [(4, 8), (2, 2)]
    steps = torch.cartesian_prod(torch.arange(-2, 19), torch.arange(-2, 19))
    locations = (steps / 16).to(dtype)[None, :, None, None, None].expand(1, -1, 2, 2, 3, 2)
    torch.manual_seed(0)
    value = torch.randn(1, 36, 2, 8, dtype=dtype)
    weights = torch.rand(locations.shape[:-1], dtype=dtype)
    inputs = [t.to(device).requires_grad_() for t in (value, locations.contiguous(), weights)]
    expected = with_gradients(ms_deform_attn_reference, shapes, inputs)
    assert_near(with_gradients(function, shapes, inputs), expected, BOUND[dtype])


@needs_kernel
def test_a_value_that_is_not_finite_reaches_only_those_who_look_at_it():
    shapes, plain, _ = make("12 points, 32 channels", torch.float32)
    with torch.no_grad():
        plain[0][:, 0] = float("nan")
        plain[1][..., :] = 0.7
        plain[1][0, 0] = -3.0
    out = ms_deform_attn(plain[0], shapes, *plain[1:])
    assert out.isfinite().all()
    assert not out[0, 0].any()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("N", "Q", "shapes", "P"),
    [
        (0, 3, THREE, 4),
        (2, 0, THREE, 4),
        (1, 2, THREE, 0),
        (1, 2, [], 4),
        (1, 2, [(0, 0)], 1),
        (1, 2, [(0, 5), (3, 3)], 4),
    ],
)
def test_empty_sizes(N, Q, shapes, P, path):
    plain, fused, device = path
    L, S = len(shapes), sum(h * w for h, w in shapes)
    value = torch.randn(N, S, 2, 32, device=device, requires_grad=True)
    locations = torch.rand(N, Q, 2, L, P, 2, device=device, requires_grad=True)
    weights = torch.rand(N, Q, 2, L, P, device=device, requires_grad=True)
    out = plain(value, shapes, locations, weights)
    assert out.shape == (N, Q, 64)
    out.sum().backward()
    assert [t.grad.shape for t in (value, locations, weights)] == [
        t.shape for t in (value, locations, weights)
    ]
    logits = torch.rand(N, Q, 2, L * P, device=device, requires_grad=True)
    references = torch.rand(1, Q, 2, device=device, requires_grad=True)
    fused(value, shapes, references, locations, logits).sum().backward()
    assert all(t.grad.isfinite().all() for t in (value, references, locations, logits))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inputs_need_not_be_contiguous_or_aligned(dtype, path):
    function, _, device = path
    shapes, plain, _ = make("12 points, 32 channels", dtype, device)
    loose = [t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in plain]
    shifted = [torch.cat((t.detach().flatten()[:1], t.detach().flatten()))[1:].view_as(t) for t in plain]
    assert not any(t.is_contiguous() for t in loose)
    expected = with_gradients(function, shapes, plain)
    for others in (loose, shifted):
        found = with_gradients(function, shapes, [t.requires_grad_() for t in others])
        assert_near(found, expected, 1e-6 if dtype == torch.float32 else BOUND[dtype])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_gradients_go_where_they_are_asked_for(wanted, path):
    function, _, device = path
    shapes, plain, _ = make("12 points, 32 channels", torch.float32, device)
    grads = with_gradients(function, shapes, plain)[1:]
    some = [t.detach().clone().requires_grad_(i in wanted) for i, t in enumerate(plain)]
    out = function(some[0], shapes, *some[1:])
    draws = torch.Generator().manual_seed(1)
    out.backward(torch.randn(out.shape, generator=draws, dtype=torch.float64).to(out))
    for i, (tensor, grad) in enumerate(zip(some, grads, strict=True)):
        assert (tensor.grad is None) == (i not in wanted)
        if i in wanted:
            assert_near([tensor.grad], [grad], 1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_level_sizes_come_in_lists_tuples_or_a_tensor(path):
    function, _, device = path
    shapes, plain, _ = make("9 points, odd channels", torch.float32, device)
    expected = function(plain[0], shapes, *plain[1:])
    for same in (
        tuple(shapes),
        [list(s) for s in shapes],
        [torch.Size(s) for s in shapes],
        torch.tensor(shapes),
    ):
        assert torch.equal(function(plain[0], same, *plain[1:]), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, x, w: (v[0], s, x, w), r"value: expected \[N, S, M, D\], got \[146, 3, 32\]"),
        (lambda v, s, x, w: (v, s[:2], x, w), "expected areas that sum to value's 146 tokens, got 145"),
        (lambda v, s, x, w: (v, [*s[:2], (-1, -1)], x, w), "expected sizes of at least 0, got -1 x -1 at level 2"),
        (lambda v, s, x, w: (v, [(2**40, 2**40)], x, w), "expected areas that sum to value's 146 tokens, got"),
        (lambda v, s, x, w: (v, [9, 13, 4, 7, 1, 1], x, w), r"expected \(height, width\) of each level, whole numbers, got \[9"),
        (lambda v, s, x, w: (v, [(h, w / 1) for h, w in s], x, w), r"whole numbers, got \[\(9, 13.0\)"),
        (lambda v, s, x, w: (v, s, x[..., 0], w), r"locations: expected \[N, Q, M, L, P, 2\], got \[2, 11, 3, 3, 4\]"),
        (lambda v, s, x, w: (v, s, x[:, :, :2], w), r"locations: expected shape \[2, 11, 3, 3, 4, 2\], got \[2, 11, 2"),
        (lambda v, s, x, w: (v, s, x[:, :, :, :2], w[:, :, :, :2]), r"locations: expected shape \[2, 11, 3, 3, 4, 2\], got"),
        (lambda v, s, x, w: (v, s, x[..., :1], w), r"locations: expected shape"),
        (lambda v, s, x, w: (v, s, x, w[:1]), r"weights: expected shape \[2, 11, 3, 3, 4\], got \[1, 11, 3, 3, 4\]"),
        (lambda v, s, x, w: (v, s, x, w.transpose(1, 2)), r"weights: expected shape \[2, 11, 3, 3, 4\], got \[2, 3, 11, 3, 4\]"),
        (lambda v, s, x, w: (v.long(), s, x, w), "value: expected float32, float64, bfloat16 or float16, got torch.int64"),
        (lambda v, s, x, w: (v, s, x.long(), w), "locations: expected float32, .*, got torch.int64"),
        (lambda v, s, x, w: (v, s, x, None), "weights: expected float32, .*, got NoneType"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_expected_and_actual(change, message, path):
    shapes, plain, _ = make("12 points, 32 channels", torch.float32, path[2])
    with pytest.raises(RuntimeError, match=message):
        path[0](*change(plain[0], shapes, *plain[1:]))


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=needs_kernel), "off"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, o, g: (r[..., :1], o, g), r"references: expected shape \[1, 11, 2\], got \[1, 11, 1\]"),
        (lambda r, o, g: (r[0], o, g), r"references: expected \[N or 1, Q, 2 or 4\], got \[11, 2\]"),
        (lambda r, o, g: (r, o[:1], g), "offsets: expected shape"),
        (lambda r, o, g: (r, o, g[..., 1:]), "logits: expected shape"),
        (lambda r, o, g: (r, o.long(), g), "offsets: expected float32, .*, got torch.int64"),
    ],
)
def test_fused_arguments_that_do_not_fit_are_refused(change, message, mode, monkeypatch):
    monkeypatch.setattr(kernel, "KERNEL", kernel.KERNEL if mode == "auto" else kernel.load("off"))
    shapes, _, (value, *others) = make("12 points, 32 channels", torch.float32)
    with pytest.raises(RuntimeError, match=message):
        ms_deform_attn_fused(value, shapes, *change(*others))


@needs_kernel
def test_operators_refuse_what_only_they_are_given():
    shapes, _, (value, references, offsets, logits) = make("12 points, 32 channels", torch.float32)
    with pytest.raises(RuntimeError, match="offsets: expected dtype Float, got Double"):
        ms_deform_attn_fused(value, shapes, references, offsets.double(), logits)
    flat = [side for shape in shapes for side in shape]
    out = ms_deform_attn(value, shapes, offsets, offsets[..., 0])
    with pytest.raises(RuntimeError, match="grad: expected shape"):
        torch.ops.gdseg.ms_deform_attn_backward(out[:, 1:], value, flat, offsets, offsets[..., 0])
    with pytest.raises(RuntimeError, match="expected height, width of each level, got 5 numbers"):
        torch.ops.gdseg.ms_deform_attn(value, flat[:5], offsets, offsets[..., 0])
