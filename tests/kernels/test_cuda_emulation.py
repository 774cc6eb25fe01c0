"""The CUDA implementation, run by an emulation on the CPU, against the pure-PyTorch operator in float64.

The emulation (cuda_emulation.h) shows wrong indices, weights, gradients, meetings of lanes and unaligned loads. What
only a GPU shows (speed, real concurrency) is in tests with the marker `gpu`.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gdseg.models.deform_attn import ms_deform_attn_reference

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
BOUND = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}  # of the maximum


@pytest.fixture(scope="module")
def ops(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no g++ on this machine")
    target = tmp_path_factory.mktemp("emulation") / "cuda.so"
    torch_dir = Path(torch.__file__).parent
    includes = ["-I", HERE, "-I", HERE.parents[1] / "kernels", "-isystem", torch_dir / "include"]
    flags = [
        "-std=c++17",
        "-O0",
        "-ffp-contract=off",
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
        "-fPIC",
        "-shared",
        # an index too large, a wrong shift, a store that is not aligned: the process ends with a message
        "-fsanitize=undefined",
        "-fno-sanitize-recover=all",
        "-fno-sanitize=vptr",
        "-static-libubsan",
    ]
    libraries = ["-L", torch_dir / "lib", "-Wl,--no-as-needed", "-ltorch_cpu"]
    source = HERE / "cuda_emulation.cpp"
    subprocess.run([COMPILER, *flags, *includes, source, "-o", target, *libraries], check=True)
    torch.ops.load_library(target)
    return torch.ops.gdseg_emulated


@dataclass
class Case:
    """Inputs of one call in the kernel's dtypes; `references` is None for the plain entry."""

    shapes: list[tuple[int, int]]
    value: Tensor
    places: Tensor  # locations, or offsets
    weights: Tensor  # or logits
    references: Tensor | None
    grad: Tensor

    @property
    def inputs(self) -> list[Tensor]:
        return [t for t in (self.value, self.places, self.weights, self.references) if t is not None]


def make_case(dtype, channels, fused=0, shapes=((5, 7), (3, 4), (1, 1)), images=2, queries=11, heads=3, points=4,
              shared=False, seed=0):  # fmt: skip
    torch.manual_seed(seed)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(images, tokens, heads, channels).to(dtype)
    layout = (images, queries, heads, len(shapes), points)
    grad = torch.randn(images, queries, heads * channels).to(dtype)
    if not fused:
        locations = torch.rand(*layout, 2, dtype=real) * 1.4 - 0.2
        return Case(list(shapes), value, locations, torch.rand(layout, dtype=real), None, grad)
    offsets = (torch.randn(*layout, 2) * 2).to(dtype)
    logits = torch.randn(*layout[:3], len(shapes) * points).to(dtype)
    references = torch.rand(1 if shared else images, queries, fused, dtype=real)
    return Case(list(shapes), value, offsets, logits, references, grad)


def reference(case: Case) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of value, places, weights (and references) in float64."""
    inputs = [t.double().requires_grad_() for t in case.inputs]
    value, places, weights = inputs[:3]
    far = torch.full_like(places, 1e9)  # contributes nothing, as a place that is not finite must
    places = torch.where(places.isfinite().all(-1, keepdim=True), places, far)
    if case.references is not None:
        centre = inputs[3][:, :, None, None, None, :2]
        if case.references.shape[-1] == 2:
            places = centre + places / torch.tensor([(w, h) for h, w in case.shapes])[:, None].double()
        else:
            places = centre + places / places.shape[-2] * inputs[3][:, :, None, None, None, 2:] * 0.5
        weights = weights.softmax(-1).view(places.shape[:-1])
    out = ms_deform_attn_reference(value, case.shapes, places, weights)
    return out.detach(), list(torch.autograd.grad((out * case.grad.double()).sum(), inputs))


def run(ops, case: Case, backward: bool, deterministic: bool = False) -> list[Tensor]:
    """The output, or the gradients in the order of `case.inputs`."""
    flat = [side for shape in case.shapes for side in shape]
    name = "ms_deform_attn" if case.references is None else "ms_deform_attn_fused"
    others = (
        (case.places, case.weights)
        if case.references is None
        else (case.references, case.places, case.weights)
    )
    if not backward:
        return [getattr(ops, name)(case.value, flat, *others)]
    run_backward = getattr(ops, f"{name}_backward" + ("_deterministic" if deterministic else ""))
    value, *grads = run_backward(case.grad, case.value, flat, *others)
    return [value, *grads] if case.references is None else [value, *grads[1:], grads[0]]


def assert_close(actual: Tensor, expected: Tensor, bound: float) -> None:
    assert actual.shape == expected.shape
    assert (actual.double() - expected).abs().max() <= bound * max(1.0, expected.abs().max().item())


def check(ops, case: Case) -> None:
    bound = BOUND[case.value.dtype]
    out, grads = reference(case)
    assert_close(run(ops, case, backward=False)[0], out, bound)
    for deterministic in (False, True):
        for given, actual, expected in zip(
            case.inputs, run(ops, case, True, deterministic), grads, strict=True
        ):
            assert actual.dtype == given.dtype
            assert_close(actual, expected, bound)


@pytest.mark.parametrize("fused", [0, 2, 4])
@pytest.mark.parametrize("channels", [1, 3, 4, 7, 16, 20, 32, 36, 64, 96])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_agrees_with_pytorch_for_every_dtype_and_channel_count(ops, dtype, channels, fused):
    check(ops, make_case(dtype, channels, fused, images=1, queries=5, heads=2))


@pytest.mark.parametrize("fused", [0, 2, 4])
@pytest.mark.parametrize(("levels", "points"), [(1, 1), (3, 3), (5, 4), (2, 11), (9, 1)])
def test_any_number_of_levels_and_points(ops, levels, points, fused):
    shapes = [(1 + i % 4, 6 - i % 5) for i in range(levels)]
    check(ops, make_case(torch.float32, 32, fused, shapes, points=points))


@pytest.mark.parametrize("shared", [False, True])
def test_references_of_one_image_serve_all(ops, shared):
    check(ops, make_case(torch.float32, 8, 4, shared=shared))


def test_queries_that_are_pixels_are_all_served_once(ops):
    shapes = [(11, 13), (8, 5), (9, 1), (1, 17)]
    check(ops, make_case(torch.bfloat16, 16, 2, shapes, images=2, queries=240, heads=2, points=2))


def test_queries_that_are_pixels_are_served_beside_levels_without_pixels(ops):
    shapes = [(0, 3), (9, 4), (2, 0), (3, 5), (0, 0)]
    full = make_case(torch.float32, 8, 0, [(9, 4), (3, 5)], images=1, queries=51, points=2)
    places, weights = torch.zeros(1, 51, 3, 5, 2, 2), torch.rand(1, 51, 3, 5, 2)
    places[:, :, :, [1, 3]], weights[:, :, :, [1, 3]] = full.places, full.weights
    holed = Case(shapes, full.value, places, weights, None, full.grad)
    out, grads = reference(full)
    assert_close(run(ops, holed, backward=False)[0], out, 1e-5)
    for deterministic in (False, True):
        of_value, of_places, _ = run(ops, holed, True, deterministic)
        assert_close(of_value, grads[0], 1e-5)
        assert_close(of_places[:, :, :, [1, 3]], grads[1], 1e-5)


def test_values_of_more_than_2_to_the_31_elements(ops):
    """8.6 GB of which only the pages at the end are ever touched."""
    height, width, channels = 8193, 8192, 32
    try:
        value = torch.empty(2, height * width, 1, channels, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("not enough address space")
    assert value[0].numel() > 2**31
    value[1, -1] = torch.arange(channels).bfloat16()[None]
    value[1, -2] = 0
    value[1, -width - 2 : -width] = 0
    last = torch.tensor([1 - 0.5 / width, 1 - 0.5 / height])  # the centre of the last pixel
    out = ops.ms_deform_attn(value, [height, width], last.expand(2, 1, 1, 1, 1, 2), torch.ones(2, 1, 1, 1, 1))
    assert_close(out[1, 0], torch.arange(channels).double(), 1e-2)


def test_large_blocks(ops):
    case = make_case(torch.float32, 4, 0, [(40, 41)], images=1, queries=1640, heads=12, points=1)
    assert_close(run(ops, case, backward=False)[0], reference(case)[0], 1e-5)


@pytest.mark.parametrize("fused", [0, 2, 4])
def test_places_that_are_not_finite_or_far_away_contribute_nothing(ops, fused):
    case = make_case(torch.float32, 32, fused)
    for i, x in enumerate((float("nan"), float("inf"), float("-inf"), 1e30)):
        case.places[0, i, 0, 0, i, i % 2] = x
    bound = BOUND[torch.float32]
    out, grads = reference(case)
    assert_close(run(ops, case, backward=False)[0], out, bound)
    for actual, expected in zip(run(ops, case, True), grads, strict=True):
        assert_close(actual, expected, bound)


def test_the_border_takes_the_side_of_grid_sample(ops):
    """Pixel centres, and -1, one pixel left of the first: there the gradient of a location jumps."""
    case = make_case(torch.float32, 8, shapes=[(4, 8)], images=1, queries=441, heads=1, points=1)
    steps = torch.cartesian_prod(torch.arange(-2, 19), torch.arange(-2, 19))
    case.places = (steps / 16).view(case.places.shape)
    for actual, expected in zip(run(ops, case, True), reference(case)[1], strict=True):
        assert_close(actual, expected, 1e-5)


def test_a_level_without_pixels_contributes_nothing(ops):
    full = make_case(torch.float32, 16, shapes=[(3, 4), (2, 2)])
    out, grads = reference(full)
    places = torch.cat((full.places[:, :, :, :1], full.places), 3)
    weights = torch.cat((full.weights[:, :, :, :1], full.weights), 3)
    holed = Case([(0, 5), (3, 4), (2, 2)], full.value, places, weights, None, full.grad)
    assert_close(run(ops, holed, backward=False)[0], out, 1e-5)
    of_value, of_places, of_weights = run(ops, holed, backward=True)
    assert_close(of_value, grads[0], 1e-5)
    assert_close(of_places[:, :, :, 1:], grads[1], 1e-5)
    assert not of_places[:, :, :, 0].any()
    assert not of_weights[:, :, :, 0].any()


@pytest.mark.parametrize("fused", [0, 2])
def test_deterministic_gradient_keeps_float32_precision_over_scales(ops, fused):
    case = make_case(torch.float32, 8, fused)
    for scale in (1e-30, 1e-6, 1e25):
        case.grad = torch.randn_like(case.grad) * scale
        expected = reference(case)[1][0] / scale
        assert_close(run(ops, case, True, deterministic=True)[0].double() / scale, expected, 1e-6)


@pytest.mark.parametrize("fused", [0, 4])
def test_deterministic_gradient_does_not_depend_on_the_order_of_queries(ops, fused):
    case = make_case(torch.float32, 8, fused, queries=23, shared=True)
    order = torch.randperm(23)
    expected = run(ops, case, backward=True, deterministic=True)[0]
    case.places, case.weights, case.grad = case.places[:, order], case.weights[:, order], case.grad[:, order]
    case.references = case.references[:, order] if fused else None
    assert torch.equal(run(ops, case, backward=True, deterministic=True)[0], expected)
    assert not torch.equal(run(ops, case, backward=True)[0], expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_deterministic_gradient_tells_that_one_was_not_finite(ops, bad):
    case = make_case(torch.float32, 8, 2)
    case.grad[0, 3, 5] = bad
    assert run(ops, case, True, deterministic=True)[0].isnan().all()


@pytest.mark.parametrize("empty", ["images", "queries", "heads", "channels", "points"])
@pytest.mark.parametrize("fused", [0, 2, 4])
def test_empty_inputs(ops, fused, empty):
    case = make_case(torch.float32, **{"channels": 8, "fused": fused, empty: 0})
    assert run(ops, case, backward=False)[0].shape == case.grad.shape
    for given, grad in zip(case.inputs, run(ops, case, backward=True), strict=True):
        assert grad.shape == given.shape
        assert not grad.any()


def test_views_that_are_not_aligned_or_not_contiguous(ops):
    case = make_case(torch.float32, 32, 4)
    expected = reference(case)[0]
    case.value = torch.cat((torch.zeros(1), case.value.flatten()))[1:].view_as(case.value)
    case.places = case.places.transpose(1, 2).contiguous().transpose(1, 2)
    assert case.value.data_ptr() % 16
    assert_close(run(ops, case, backward=False)[0], expected, 1e-5)


def test_more_levels_than_the_table_holds_are_refused(ops):
    with pytest.raises(RuntimeError, match="at most 64 levels, got 65"):
        run(ops, make_case(torch.float32, 4, shapes=[(1, 1)] * 65, points=1), backward=False)
