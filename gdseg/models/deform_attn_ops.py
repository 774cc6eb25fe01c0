"""What Python adds to the compiled operators: shapes without data, autograd, and the Autocast rule.

Deformable DETR (arXiv 2010.04159) §4.1; forward and backward are in `kernels/`. Called once, by
`deform_attn_kernel.py`, after the library is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# kept: a rule lives as long as its library object
_LIBRARY = torch.library.Library("gdseg", "FRAGMENT")  # type: ignore[no-untyped-call]


def exact(x: Tensor, value: Tensor) -> Tensor:
    """`x` in the dtype of coordinates and sums: float64 beside float64 values, float32 beside others."""
    return x.to(torch.float64 if value.dtype == torch.float64 else torch.float32)


def complete_operators() -> None:
    """Fake implementations, autograd and Autocast rules of the four operators."""
    library = torch.library
    library.register_fake(
        "gdseg::ms_deform_attn", lambda value, shapes, locations, weights: _out(value, locations)
    )
    library.register_fake(
        "gdseg::ms_deform_attn_fused",
        lambda value, shapes, references, offsets, logits: _out(value, offsets),
    )
    backwards = ["ms_deform_attn_backward", "ms_deform_attn_fused_backward"]
    if hasattr(torch.ops.gdseg, "ms_deform_attn_backward_deterministic"):  # built with CUDA
        backwards += [f"{name}_deterministic" for name in backwards]
    for name in backwards:
        library.register_fake(
            f"gdseg::{name}",
            lambda grad, value, shapes, *others: tuple(x.new_empty(x.shape) for x in (value, *others)),
        )
    for name in ("ms_deform_attn", "ms_deform_attn_fused"):
        library.register_autograd(f"gdseg::{name}", _backward_of(name), setup_context=_save)
    for key in ("AutocastCPU", "AutocastCUDA"):
        _LIBRARY.impl("ms_deform_attn", _autocast_plain, key)  # type: ignore[no-untyped-call]
        _LIBRARY.impl("ms_deform_attn_fused", _autocast_fused, key)  # type: ignore[no-untyped-call]


def _out(value: Tensor, places: Tensor) -> Tensor:
    return value.new_empty(places.shape[0], places.shape[1], value.shape[2] * value.shape[3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.shapes, *others = inputs
    ctx.save_for_backward(value, *others)


def _backward_of(name: str) -> Any:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the operator's arguments; None for the level sizes."""
        if torch.is_grad_enabled() and grad.requires_grad:  # create_graph: it would silently be zero
            raise RuntimeError("the compiled operator has no second derivative; GDSEG_KERNEL=off has")
        value, *others = ctx.saved_tensors
        exact_order = value.is_cuda and torch.are_deterministic_algorithms_enabled()  # a CPU's always is
        run = getattr(torch.ops.gdseg, f"{name}_backward" + ("_deterministic" if exact_order else ""))
        grad_value, *grads = run(grad, value, ctx.shapes, *others)
        return grad_value, None, *grads

    return backward


# Under autocast what carries features becomes half precision; coordinates stay float32, float64 float64.
def _low(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(x.device.type))


def _autocast_plain(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    low = _low(value)
    with torch.autocast(value.device.type, enabled=False):
        out: Tensor = torch.ops.gdseg.ms_deform_attn(low, shapes, exact(locations, low), exact(weights, low))
    return out


def _autocast_fused(
    value: Tensor, shapes: list[int], references: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    low, offsets, logits = _low(value), _low(offsets), _low(logits)
    with torch.autocast(value.device.type, enabled=False):
        out: Tensor = torch.ops.gdseg.ms_deform_attn_fused(
            low, shapes, exact(references, low), offsets, logits
        )
    return out
