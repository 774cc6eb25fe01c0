"""The compiled operators against the PyTorch reference, on a CPU and, marked `gpu`, on CUDA.

Sizes reach both CPU implementations: 8, 16, 32 and 64 channels take AVX2, all others and float64 the portable one.
"""

import pytest
import torch
from attn_cases import (
    BOUND,
    DEVICES,
    SIZES,
    assert_near,
    fused_reference,
    make,
    needs_cuda,
    needs_kernel,
    with_gradients,
)
from torch._dynamo.testing import CompileCounterWithBackend

from gdseg.models.deform_attn import (
    MSDeformAttn,
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_reference,
    sampling_of,
)


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


class Plain(torch.nn.Module):
    """The entry which takes locations and weights; arguments as of Layer."""

    def forward(self, query, references, fine, coarse):
        shapes = [tuple(x.shape[-2:]) for x in (fine, coarse)]
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in (fine, coarse)], 1)
        locations = references[:, :, None, None, None] + 0.1 * query.unflatten(-1, (2, 2, 4, 2))
        weights = query[..., :16].unflatten(-1, (2, 2, 4))
        return ms_deform_attn(memory.unflatten(-1, (2, 16)), shapes, locations, weights)


def layer_inputs(N=2, Q=5, h=6, w=8):
    torch.manual_seed(0)
    return (
        torch.randn(N, Q, 32),
        torch.rand(1, Q, 2),
        torch.randn(N, 32, h, w),
        torch.randn(N, 32, h // 2, w // 2),
    )


@needs_kernel
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.parametrize("kind", [Layer, Plain])
def test_compiles_in_one_graph_with_dynamic_sizes(kind):
    """One compilation for all sizes; values and gradients are those of the layer as it stands.

    The first sizes all differ: equal ones would be compiled as one.
    """
    layer, backend = kind(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for sizes in ({"N": 3, "Q": 5, "h": 12, "w": 16}, {"N": 2, "Q": 7, "h": 4, "w": 6}):
        inputs = [x.requires_grad_() for x in layer_inputs(**sizes)]
        outs = compiled(*inputs), layer(*inputs)
        torch.testing.assert_close(*outs)
        torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), inputs) for out in outs))
    assert backend.frame_count == 1


@needs_kernel
@pytest.mark.parametrize("kind", [Layer, Plain])
def test_exports_with_dynamic_height_width_batch_and_queries(kind):
    layer, dim = kind().eval(), torch.export.Dim
    n, q = dim("n", min=2), dim("q", min=2)
    h, w = dim("h", min=2, max=64), dim("w", min=2, max=64)
    dynamic = ({0: n, 1: q}, {1: q}, {0: n, 2: 2 * h, 3: 2 * w}, {0: n, 2: h, 3: w})
    program = torch.export.export(layer, layer_inputs(), dynamic_shapes=dynamic)
    assert any("gdseg.ms_deform_attn" in str(node.target) for node in program.graph.nodes)
    for sizes in ({"N": 3, "Q": 9, "h": 12, "w": 4}, {"N": 2, "Q": 2, "h": 4, "w": 120}):
        inputs = layer_inputs(**sizes)
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


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("size", "heads", "queries"),
    [
        ("12 points, 32 channels", 1, 1100),
        ("9 points, odd channels", 1, 1100),
        ("6 points, 8 channels", 2, 1100),
        ("few samples beside the pixels", 3, 600),
    ],
)
def test_any_number_of_threads_gives_the_same_bits(size, heads, queries, dtype):
    """7 threads cut the queries and levels of fewer heads; 1 does not. (256 queries a thread at least.)"""
    shapes, _, _, _, D, P = SIZES[size]
    torch.manual_seed(0)
    S, L = sum(h * w for h, w in shapes), len(shapes)
    inputs = [
        torch.randn(1, S, heads, D, dtype=dtype),
        torch.rand(1, queries, 4),
        torch.randn(1, queries, heads, L, P, 2, dtype=dtype),
        torch.randn(1, queries, heads, L * P, dtype=dtype),
    ]
    inputs = [t.requires_grad_() for t in inputs]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
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


@needs_kernel
def test_a_second_derivative_is_refused_not_silently_zero() -> None:
    value = torch.randn(1, 4, 1, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 2, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    out = ms_deform_attn(value, [(2, 2)], torch.rand(1, 2, 1, 1, 2, 2, dtype=torch.float64), weights)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(out.square().sum(), value, create_graph=True)
