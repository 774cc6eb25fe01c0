"""The CUDA kernels, run by an emulation on the CPU, against the pure-PyTorch operator in float64.

The emulation (cuda_emulation.h) shows wrong indices, weights, gradients, meetings of lanes and unaligned loads. What
only a GPU shows (speed, real concurrency) is in tests with the marker `gpu`.
"""

import ctypes
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
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
NUMBERS = [
    "images",
    "tokens",
    "queries",
    "heads",
    "channels",
    "levels",
    "points",
    "reference_dims",
    "references_shared",
    "deterministic",
]
POINTERS = [
    "shapes",
    "value",
    "locations",
    "weights",
    "references",
    "offsets",
    "logits",
    "out",
    "grad",
    "sums",
    "state",
    "of_value",
    "of_locations",
    "of_weights",
    "of_references",
    "of_offsets",
    "of_logits",
]


class Call(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in NUMBERS] + [(p, ctypes.c_void_p) for p in POINTERS]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no g++ on this machine")
    target = tmp_path_factory.mktemp("emulation") / "cuda.so"
    includes = [
        "-I",
        HERE,
        "-I",
        HERE.parents[1] / "kernels",
        "-isystem",
        Path(torch.__file__).parent / "include",
    ]
    flags = [
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-Wall",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fPIC",
        "-shared",
    ]
    subprocess.run([COMPILER, *flags, *includes, HERE / "cuda_emulation.cpp", "-o", target], check=True)
    return ctypes.CDLL(str(target))


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


def run(library, case: Case, backward: bool, deterministic=False) -> list[Tensor]:
    """The output, or the gradients as `reference` gives them; what the kernels must write starts as NaN."""
    n, q, m, levels, points = case.places.shape[:5]
    sizes = (n, case.value.shape[1], q, m, case.value.shape[3], levels, points)
    fused, real = (
        case.references is not None,
        torch.float64 if case.value.dtype == torch.float64 else torch.float32,
    )
    dims = case.references.shape[2] if fused else 0
    shared = fused and case.references.shape[0] == 1
    shapes = torch.tensor(case.shapes).flatten()

    def blank(shape, dtype):
        return torch.full(tuple(shape), float("nan"), dtype=dtype)

    tensors = {"shapes": shapes, "value": case.value, "references": case.references}
    tensors |= dict(
        zip(
            ("offsets", "logits") if fused else ("locations", "weights"),
            (case.places, case.weights),
            strict=True,
        )
    )
    out = tensors["out"] = blank(case.grad.shape, case.value.dtype)
    if backward:
        of_places, of_weights = (
            blank(case.places.shape, case.places.dtype),
            blank(case.weights.shape, case.weights.dtype),
        )
        of_heads = blank((n, q, m, dims), real)
        sums = torch.zeros(case.value.shape, dtype=torch.int64 if deterministic else real)
        of_value = blank(case.value.shape, case.value.dtype)
        tensors |= {
            "grad": case.grad,
            "sums": sums,
            "state": torch.zeros(3, dtype=torch.int32),
            "of_value": of_value,
        }
        tensors |= {"of_references": of_heads}
        tensors |= (
            {"of_offsets": of_places, "of_logits": of_weights} if fused else {"of_locations": of_places}
        )
        tensors |= {"of_weights": blank(case.weights.shape, real) if fused else of_weights}
    pointers = [t.data_ptr() if (t := tensors.get(name)) is not None else None for name in POINTERS]
    getattr(library, "run_" + str(case.value.dtype).removeprefix("torch."))(
        ctypes.byref(Call(*sizes, dims, shared, deterministic, *pointers))
    )
    if not backward:
        return [out]
    grads = [of_value if deterministic else sums, of_places, of_weights]
    return [*grads, of_heads.sum((0, 2))[None] if shared else of_heads.sum(2)] if fused else grads


def assert_close(actual: Tensor, expected: Tensor, bound: float) -> None:
    assert actual.shape == expected.shape
    assert (actual.double() - expected).abs().max() <= bound * max(1.0, expected.abs().max().item())


def check(library, case: Case) -> None:
    bound = BOUND[case.value.dtype]
    out, grads = reference(case)
    assert_close(run(library, case, backward=False)[0], out, bound)
    for deterministic in (False, True):
        for actual, expected in zip(run(library, case, True, deterministic), grads, strict=True):
            assert_close(actual, expected, bound)


@pytest.mark.parametrize("fused", [0, 2, 4])
@pytest.mark.parametrize("channels", [1, 3, 4, 7, 16, 20, 32, 36, 64, 96])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_agrees_with_pytorch_for_every_dtype_and_channel_count(library, dtype, channels, fused):
    check(library, make_case(dtype, channels, fused, images=1, queries=5, heads=2))


@pytest.mark.parametrize("fused", [0, 2, 4])
@pytest.mark.parametrize(("levels", "points"), [(1, 1), (3, 3), (5, 4), (2, 11), (9, 1)])
def test_any_number_of_levels_and_points(library, levels, points, fused):
    shapes = [(1 + i % 4, 6 - i % 5) for i in range(levels)]
    check(library, make_case(torch.float32, 32, fused, shapes, points=points))


@pytest.mark.parametrize("shared", [False, True])
def test_references_of_one_image_serve_all(library, shared):
    check(library, make_case(torch.float32, 8, 4, shared=shared))


def test_queries_that_are_pixels_are_all_served_once(library):
    shapes = [(11, 13), (8, 5), (9, 1), (1, 17)]
    check(library, make_case(torch.bfloat16, 16, 2, shapes, images=2, queries=240, heads=2, points=2))


def test_large_blocks(library):
    case = make_case(torch.float32, 4, 0, [(40, 41)], images=1, queries=1640, heads=12, points=1)
    assert_close(run(library, case, backward=False)[0], reference(case)[0], 1e-5)


@pytest.mark.parametrize("fused", [0, 2, 4])
def test_places_that_are_not_finite_or_far_away_contribute_nothing(library, fused):
    case = make_case(torch.float32, 32, fused)
    for i, x in enumerate((float("nan"), float("inf"), float("-inf"), 1e30)):
        case.places[0, i, 0, 0, i, i % 2] = x
    bound = BOUND[torch.float32]
    out, grads = reference(case)
    assert_close(run(library, case, backward=False)[0], out, bound)
    for actual, expected in zip(run(library, case, True), grads, strict=True):
        assert_close(actual, expected, bound)


def test_a_level_without_pixels_contributes_nothing(library):
    full = make_case(torch.float32, 16, shapes=[(3, 4), (2, 2)])
    out, grads = reference(full)
    places = torch.cat((full.places[:, :, :, :1], full.places), 3)
    weights = torch.cat((full.weights[:, :, :, :1], full.weights), 3)
    holed = Case([(0, 5), (3, 4), (2, 2)], full.value, places, weights, None, full.grad)
    assert_close(run(library, holed, backward=False)[0], out, 1e-5)
    of_value, of_places, of_weights = run(library, holed, backward=True)
    assert_close(of_value, grads[0], 1e-5)
    assert_close(of_places[:, :, :, 1:], grads[1], 1e-5)
    assert not of_places[:, :, :, 0].any()
    assert not of_weights[:, :, :, 0].any()


@pytest.mark.parametrize("fused", [0, 2])
def test_deterministic_gradient_keeps_float32_precision_over_scales(library, fused):
    case = make_case(torch.float32, 8, fused)
    for scale in (1e-30, 1e-6, 1e25):
        case.grad = torch.randn_like(case.grad) * scale
        expected = reference(case)[1][0] / scale
        assert_close(run(library, case, True, deterministic=True)[0].double() / scale, expected, 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_deterministic_gradient_tells_that_one_was_not_finite(library, bad):
    case = make_case(torch.float32, 8, 2)
    case.grad[0, 3, 5] = bad
    assert run(library, case, True, deterministic=True)[0].isnan().all()
