"""The official projects' way to run deformable attention on a GPU, as a path of `gdseg bench op`.

One thread a channel: `kernels/baseline/one_thread_a_channel.cu`, which `make gpu` compiles; float32 only.
Their own source does not compile with current tools. Called by `other_operators.py`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gdseg.models.deform_attn import Shapes

LIBRARY = Path(__file__).parents[2] / "build" / "kernels" / "one_thread_a_channel.so"


def one_thread_a_channel(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """As `ms_deform_attn`, for float32 tensors on a GPU. Raises OSError where it was not built."""
    table, starts = level_tables(tuple(shapes), value.device)
    out: Tensor = _OneThread.apply(value, table, starts, locations, weights)
    return out


@cache
def level_tables(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Height and width [L, 2] and first token [L] of each level, made once: a copy waits for the GPU."""
    table = torch.tensor(shapes)
    areas = table.prod(1)
    return table.to(device), (areas.cumsum(0) - areas).to(device)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(LIBRARY))


def _call(
    function: str, inputs: tuple[Tensor, ...], sizes: tuple[int, ...], outputs: tuple[Tensor, ...]
) -> None:
    # a launch goes to the current GPU
    with torch.cuda.device_of(inputs[0]):  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(inputs[0].device).cuda_stream
        error = getattr(_library(), function)(
            *(ctypes.c_void_p(t.data_ptr()) for t in inputs),
            (ctypes.c_int * len(sizes))(*sizes),
            *(ctypes.c_void_p(t.data_ptr()) for t in outputs),
            ctypes.c_void_p(stream),
        )
    if error:
        raise RuntimeError(f"{function}: CUDA error {error}")


class _OneThread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """Value, table, starts, locations and weights -> output."""
        value, _, _, locations, _ = inputs
        N, S, M, D = value.shape
        Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
        ctx.sizes = (N, S, M, D, Q, L, P)
        ctx.save_for_backward(*inputs)
        out = value.new_empty(N, Q, M * D)
        _call("one_thread_forward", inputs, ctx.sizes, (out,))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, locations and weights."""
        inputs = ctx.saved_tensors
        value, _, _, locations, weights = inputs
        of_inputs = torch.zeros_like(value), torch.empty_like(locations), torch.empty_like(weights)
        _call("one_thread_backward", (grads[0].contiguous(), *inputs), ctx.sizes, of_inputs)
        return of_inputs[0], None, None, *of_inputs[1:]
