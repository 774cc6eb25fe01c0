"""The compiled operators against the PyTorch reference, on a CPU and, marked `gpu`, on CUDA.

Sizes reach both CPU implementations: 8, 16, 32 and 64 channels take AVX2, all others and float64 the portable one.
"""

import os
import subprocess
import sys

import pytest
import torch

from gdseg.errors import MachineError, UsageError
from gdseg.models import deform_attn_kernel as kernel
from gdseg.models.deform_attn import (
    MSDeformAttn,
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


def fused_reference(value, shapes, references, offsets, logits):
    return ms_deform_attn_reference(value, shapes, *sampling_of(shapes, references, offsets, logits))


def with_gradients(function, shapes, inputs):
    out = function(inputs[0], shapes, *inputs[1:])
    draws = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=draws, dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def assert_near(actual, expected, bound):
    for got, wanted in zip(actual, expected, strict=True):
        scale = max(wanted.abs().max().item(), 1e-3) if wanted.numel() else 1.0
        torch.testing.assert_close(got.double() / scale, wanted.double() / scale, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES)
def test_outputs_and_gradients_are_the_references(size, device, dtype):
    """Half precision is compared with float64 arithmetic on the same rounded inputs."""
    shapes, plain, _ = make(size, dtype, device)
    wide = [t.detach().double().requires_grad_() for t in plain]
    truth = plain if dtype == torch.float32 else wide
    expected = with_gradients(ms_deform_attn_reference, shapes, truth)
    assert_near(with_gradients(ms_deform_attn, shapes, plain), expected, BOUND[dtype])


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dims", [2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_fused_entry_is_preparation_and_sampling(size, dims, device, dtype):
    shapes, _, fused = make(size, dtype, device, dims)
    wide = [t.detach().double().requires_grad_() for t in fused]
    expected = with_gradients(fused_reference, shapes, wide)
    bound = BOUND[dtype] if dtype != torch.float32 else 1e-4  # of a gradient that jumps between pixels
    assert_near(with_gradients(ms_deform_attn_fused, shapes, fused), expected, bound)


@needs_kernel
@pytest.mark.parametrize("dims", [2, 4])
def test_gradients_are_the_derivatives(dims):
    torch.manual_seed(0)
    shapes = [(3, 4), (2, 2)]
    value = torch.randn(1, 16, 2, 3, dtype=torch.float64, requires_grad=True)
    offsets = torch.randn(1, 2, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(1, 2, 2, 4, dtype=torch.float64, requires_grad=True)
    references = torch.rand(1, 2, dims, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, r, o, g: ms_deform_attn_fused(v, shapes, r, o, g), (value, references, offsets, logits)
    )
    locations, weights = (
        t.detach().requires_grad_() for t in sampling_of(shapes, references, offsets, logits)
    )
    assert torch.autograd.gradcheck(
        lambda v, x, w: ms_deform_attn(v, shapes, x, w), (value, locations, weights)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "size", ["12 points, 32 channels", "9 points, odd channels", "few samples beside the pixels"]
)
def test_samples_that_are_nowhere_contribute_nothing(size, dtype, device):
    shapes, plain, fused = make(size, dtype, device, dims=4)
    nowhere = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30)
    with torch.no_grad():
        for at, number in enumerate(nowhere):
            plain[1][0, at % 3, 0, 0, at % 2, at % 2] = number
            fused[2][0, at % 3, 0, 0, at % 2, at % 2] = number
    expected = [plain[0].detach(), plain[1].detach().clone(), plain[2].detach().clone()]
    gone = ~(plain[1].detach().abs() < 1e3).all(-1)
    expected[1][gone], expected[2][gone] = -5, 0
    found = with_gradients(ms_deform_attn, shapes, plain)
    torch.testing.assert_close(found[0], ms_deform_attn(expected[0], shapes, *expected[1:]), rtol=0, atol=0)
    torch.testing.assert_close(ms_deform_attn_reference(expected[0], shapes, plain[1], plain[2]).float(), found[0].float(), rtol=0.02, atol=0.02)  # fmt: skip
    assert all(t.isfinite().all() for t in found)
    assert not found[2][gone].any()
    assert not found[3][gone].any()
    assert all(t.isfinite().all() for t in with_gradients(ms_deform_attn_fused, shapes, fused))


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("N", "Q", "shapes", "P"),
    [(0, 3, THREE, 4), (2, 0, THREE, 4), (1, 2, THREE, 0), (1, 2, [], 4), (1, 2, [(0, 5), (3, 3)], 4)],
)
def test_empty_sizes(N, Q, shapes, P, device):
    L, S = len(shapes), sum(h * w for h, w in shapes)
    value = torch.randn(N, S, 2, 32, device=device, requires_grad=True)
    locations = torch.rand(N, Q, 2, L, P, 2, device=device, requires_grad=True)
    weights = torch.rand(N, Q, 2, L, P, device=device, requires_grad=True)
    out = ms_deform_attn(value, shapes, locations, weights)
    assert out.shape == (N, Q, 64)
    out.sum().backward()
    assert [t.grad.shape for t in (value, locations, weights)] == [
        t.shape for t in (value, locations, weights)
    ]
    logits = torch.rand(N, Q, 2, L * P, device=device, requires_grad=True)
    references = torch.rand(1, Q, 2, device=device, requires_grad=True)
    ms_deform_attn_fused(value, shapes, references, locations, logits).sum().backward()
    assert not references.grad.isnan().any()


@pytest.mark.parametrize("device", DEVICES)
def test_inputs_need_not_be_contiguous(device):
    shapes, plain, _ = make("12 points, 32 channels", torch.float32, device)
    loose = [t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in plain]
    assert not any(t.is_contiguous() for t in loose)
    expected = ms_deform_attn(plain[0], shapes, *plain[1:])
    torch.testing.assert_close(ms_deform_attn(loose[0], shapes, *loose[1:]), expected, rtol=0, atol=0)


@needs_kernel
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("size", SIZES)
def test_operators_are_what_they_say(size):
    """opcheck: schema, autograd registration, fake tensors and compiled graphs."""
    shapes, plain, fused = make(size, torch.float32)
    flat = [side for shape in shapes for side in shape]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(
        torch.ops.gdseg.ms_deform_attn.default, (plain[0], flat, *plain[1:]), test_utils=tests
    )
    torch.library.opcheck(
        torch.ops.gdseg.ms_deform_attn_fused.default, (fused[0], flat, *fused[1:]), test_utils=tests
    )


class Layer(torch.nn.Module):
    """MSDeformAttn with shapes read from a tensor, as a network has them."""

    def __init__(self):
        super().__init__()
        self.attention = MSDeformAttn(32, 2, 4, 4)

    def forward(self, query, references, fine, coarse):
        shapes = [tuple(x.shape[-2:]) for x in (fine, coarse)]
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in (fine, coarse)], 1)
        return self.attention(query, references, memory, shapes)


def layer_inputs(N=2, Q=5, h=6, w=8):
    torch.manual_seed(0)
    return (
        torch.randn(N, Q, 32),
        torch.rand(1, Q, 2),
        torch.randn(N, 32, h, w),
        torch.randn(N, 32, h // 2, w // 2),
    )


@needs_kernel
def test_compiles_in_one_graph_with_dynamic_sizes():
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ({}, {"N": 3, "Q": 7, "h": 10, "w": 12}):
        inputs = layer_inputs(**sizes)
        torch.testing.assert_close(compiled(*inputs), layer(*inputs))
        compiled(*inputs).sum().backward()


@needs_kernel
def test_exports_with_dynamic_height_width_batch_and_queries():
    layer, dim = Layer().eval(), torch.export.Dim
    n, q = dim("n", min=2), dim("q", min=2)
    h, w = dim("h", min=2, max=64), dim("w", min=2, max=64)
    dynamic = ({0: n, 1: q}, {1: q}, {0: n, 2: 2 * h, 3: 2 * w}, {0: n, 2: h, 3: w})
    program = torch.export.export(layer, layer_inputs(), dynamic_shapes=dynamic)
    inputs = layer_inputs(N=3, Q=9, h=12, w=4)
    torch.testing.assert_close(program.module()(*inputs), layer(*inputs))


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_lowers_features_and_keeps_coordinates(device):
    shapes, plain, fused = make("12 points, 32 channels", torch.float32, device)
    expected = ms_deform_attn(plain[0].bfloat16(), shapes, *plain[1:])
    with torch.autocast(device, torch.bfloat16):
        out = ms_deform_attn(plain[0], shapes, *plain[1:])
        low = ms_deform_attn_fused(fused[0], shapes, *fused[1:])
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    assert low.dtype == torch.bfloat16
    low.float().sum().backward()
    assert fused[1].grad.dtype == torch.float32


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, x, w: (v[0], s, x, w), r"value: expected \[N, S, M, D\], got \[146, 3, 32\]"),
        (lambda v, s, x, w: (v, s[:2], x, w), "expected areas that sum to value's 146 tokens, got 145"),
        (lambda v, s, x, w: (v, [*s[:2], (-1, -1)], x, w), "level 2 has the impossible size -1 x -1"),
        (lambda v, s, x, w: (v, [(2**40, 2**40)], x, w), "impossible size"),
        (lambda v, s, x, w: (v, s, x[:, :, :2], w), r"locations: expected shape \[2, 11, 3, 3, 4, 2\], got \[2, 11, 2"),
        (lambda v, s, x, w: (v, s, x[..., :1], w), r"locations: expected shape"),
        (lambda v, s, x, w: (v, s, x, w[:1]), r"weights: expected shape \[2, 11, 3, 3, 4\], got \[1, 11, 3, 3, 4\]"),
        (lambda v, s, x, w: (v.long(), s, x, w), "expected float32, float64, bfloat16 or float16, got Long"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_expected_and_actual(change, message, device):
    shapes, plain, _ = make("12 points, 32 channels", torch.float32, device)
    with pytest.raises(RuntimeError, match=message):
        ms_deform_attn(*change(plain[0], shapes, *plain[1:]))


@needs_kernel
def test_fused_arguments_that_do_not_fit_are_refused():
    shapes, _, (value, references, offsets, logits) = make("12 points, 32 channels", torch.float32)
    for arguments, message in (
        (
            (references[..., :1], offsets, logits),
            r"references: expected shape \[1, 11, 2\], got \[1, 11, 1\]",
        ),
        ((references, offsets[:1], logits), "offsets: expected shape"),
        ((references, offsets.double(), logits), "offsets: expected dtype Float, got Double"),
        ((references, offsets, logits[..., 1:]), "logits: expected shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ms_deform_attn_fused(value, shapes, *arguments)
    out = ms_deform_attn(value, shapes, offsets, offsets[..., 0])
    flat = [side for shape in shapes for side in shape]
    with pytest.raises(RuntimeError, match="grad: expected shape"):
        torch.ops.gdseg.ms_deform_attn_backward(out[:, 1:], value, flat, offsets, offsets[..., 0])


@needs_kernel
@pytest.mark.parametrize("size", ["12 points, 32 channels", "9 points, odd channels", "6 points, 8 channels"])
def test_any_number_of_threads_gives_the_same_bits(size):
    """7 threads cut the queries and levels of fewer heads; 1 does not. (256 queries a thread at least.)"""
    shapes, _, _, _, D, P = SIZES[size]
    torch.manual_seed(0)
    S, L, Q = sum(h * w for h, w in shapes), len(shapes), 1100
    inputs = [
        torch.randn(1, S, 1, D),
        torch.rand(1, Q, 4),
        torch.randn(1, Q, 1, L, P, 2),
        torch.randn(1, Q, 1, L * P),
    ]
    inputs = [t.requires_grad_() for t in inputs]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3, 7):
            torch.set_num_threads(threads)
            results.append(with_gradients(ms_deform_attn_fused, shapes, inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_cuda
@pytest.mark.gpu
def test_deterministic_algorithms_give_the_same_bits_on_a_gpu():
    shapes, plain, _ = make("6 points, 8 channels", torch.float32, "cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (with_gradients(ms_deform_attn, shapes, plain) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert_near(first, with_gradients(ms_deform_attn_reference, shapes, plain), 1e-4)


def test_modes(monkeypatch, tmp_path):
    missing = kernel.load("require", tmp_path / "none.so")
    monkeypatch.setattr(kernel, "KERNEL", missing)
    with pytest.raises(MachineError, match="no compiled deformable attention for cpu") as error:
        kernel.runs_on("cpu")
    assert error.value.exit_code == 5
    assert "is not built" in kernel.describe()
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    assert "does not load" in kernel.load("auto", broken).why
    assert kernel.load("off").devices == frozenset()
    monkeypatch.setattr(kernel, "KERNEL", kernel.load("sometimes"))
    with pytest.raises(UsageError, match="GDSEG_KERNEL=sometimes is none of auto, require, off"):
        kernel.runs_on("cpu")


def test_auto_says_once_that_the_slow_path_runs(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(kernel, "KERNEL", kernel.load("auto", tmp_path / "none.so"))
    monkeypatch.setattr(kernel, "_announced", False)
    with caplog.at_level("INFO", "gdseg"):
        MSDeformAttn(32, 2, 4, 4)
        MSDeformAttn(32, 2, 4, 4)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "pure PyTorch" in caplog.text
    assert "make kernels" in caplog.text


def test_off_is_the_reference():
    code = (
        "import torch; from gdseg.models import deform_attn as d; torch.manual_seed(0);"
        "a = (torch.randn(1, 4, 1, 8), [(2, 2)], torch.rand(1, 3, 1, 1, 4, 2), torch.rand(1, 3, 1, 1, 4));"
        "assert torch.equal(d.ms_deform_attn(*a), d.ms_deform_attn_reference(*a)); print(d.kernel_in_use())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GDSEG_KERNEL": "off"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GDSEG_KERNEL=off" in run.stdout


@needs_kernel
def test_a_second_derivative_is_refused_not_silently_zero() -> None:
    value = torch.randn(1, 4, 1, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 2, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    out = ms_deform_attn(value, [(2, 2)], torch.rand(1, 2, 1, 1, 2, 2, dtype=torch.float64), weights)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(out.square().sum(), value, create_graph=True)
