"""`gdseg bench op`: the deformable-attention operator against its PyTorch reference and others.

All paths run in one process, in turn, on the same tensors: machines are shared and noisy, the ratios count.
A CPU is timed by the thread's own CPU time on one thread, a short call several times in a row; a GPU by CUDA
events around work that waited in its queue, so that the time is the GPU's alone. Caches and free
memory are as the same call left them. Called by `cli/bench.py`.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from gdseg.bench.other_operators import DEFORMOPS, Operator, other_implementations
from gdseg.models.deform_attn import (
    Shapes,
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_reference,
    sampling_of,
)

HEADS, CHANNELS, POINTS = 8, 32, 4
SECONDS_A_SIZE = 60.0  # no new round after that: the reference takes seconds a call on a CPU
SECONDS_RUN_TWICE = 1.0  # a shorter call runs once untimed before
SECONDS_A_TIMING = 0.02  # a CPU's: shorter calls are timed several at a time
CYCLES_TO_QUEUE_A_CALL = 4_000_000  # of a GPU: some 2 ms
BOTH = "forward and backward"
Paths = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Size:
    """One layer's work: image height and width, strides of its levels, queries (None: every token), batch."""

    height: int
    width: int
    strides: tuple[int, ...]
    queries: int | None = None
    batch: int = 1

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each level."""
        return [(-(-self.height // s), -(-self.width // s)) for s in self.strides]


SIZES = {
    "encoder 800x1066, 3 levels": Size(800, 1066, (8, 16, 32)),
    "encoder 800x1066, 4 levels": Size(800, 1066, (8, 16, 32, 64)),
    "encoder 800x1066, 5 levels": Size(800, 1066, (4, 8, 16, 32, 64)),
    "decoder, 300 queries": Size(800, 1066, (8, 16, 32, 64), queries=300),
    "training 1024x1024, batch 2": Size(1024, 1024, (8, 16, 32), batch=2),
    "encoder 256x256": Size(256, 256, (8, 16, 32)),
}


@dataclass(frozen=True)
class OperatorRow:
    """One measured path: seconds a call, and how much faster than the reference and less memory it needs."""

    size: str
    work: str
    path: str
    median_s: float
    min_s: float
    speedup: float
    peak_bytes: int | None


@dataclass
class Inputs:
    """Tensors of one size, as a layer has them: samples lie a few pixels around each query's place."""

    shapes: Shapes
    value: Tensor
    references: Tensor
    offsets: Tensor
    logits: Tensor
    grad: Tensor
    locations: Tensor
    weights: Tensor


def make_inputs(size: Size, device: torch.device) -> Inputs:
    """Random values, offsets (3 pixels standard deviation) and logits, the same for every call."""
    torch.manual_seed(0)
    shapes = size.shapes()
    tokens = sum(h * w for h, w in shapes)
    centres = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1)
        for h, w in shapes
    ]
    references = torch.cat(centres) if size.queries is None else torch.rand(size.queries, 2)
    queries = len(references)
    value = torch.randn(size.batch, tokens, HEADS, CHANNELS)
    offsets = 3 * torch.randn(size.batch, queries, HEADS, len(shapes), POINTS, 2)
    logits = torch.randn(size.batch, queries, HEADS, len(shapes) * POINTS)
    grad = torch.randn(size.batch, queries, HEADS * CHANNELS)
    value, references, offsets, logits, grad = (
        x.to(device) for x in (value, references[None], offsets, logits, grad)
    )
    locations, weights = sampling_of(shapes, references, offsets, logits)
    return Inputs(shapes, value, references, offsets, logits, grad, locations, weights)


def forward_paths(x: Inputs) -> Paths:
    """The reference first; each path's name says what it does."""
    half, half_weights = x.value.bfloat16(), x.weights.bfloat16()
    half_fused = x.value.bfloat16(), x.shapes, x.references, x.offsets.bfloat16(), x.logits.bfloat16()
    paths: Paths = {
        "reference": lambda: ms_deform_attn_reference(x.value, x.shapes, x.locations, x.weights),
        "kernel": lambda: ms_deform_attn(x.value, x.shapes, x.locations, x.weights),
        "kernel, bf16 values": lambda: ms_deform_attn(half, x.shapes, x.locations, x.weights),
        "preparation + kernel": lambda: ms_deform_attn(
            x.value, x.shapes, *sampling_of(x.shapes, x.references, x.offsets, x.logits)
        ),
        "fused kernel": lambda: ms_deform_attn_fused(x.value, x.shapes, x.references, x.offsets, x.logits),
        "fused kernel, bf16": lambda: ms_deform_attn_fused(*half_fused),
    }
    for name, call in other_implementations(x.value.device).items():
        paths[name] = partial(call, x.value, x.shapes, x.locations, x.weights)
        if name.startswith(DEFORMOPS):
            paths[f"{name}, bf16 values"] = partial(call, half, x.shapes, x.locations, half_weights)
    return paths


def training_paths(x: Inputs) -> Paths:
    """Forward and backward down to all inputs that a network learns from."""
    plain = [x.value, x.locations, x.weights]
    half = [x.value.bfloat16(), x.locations, x.weights]
    fused = [x.value, x.offsets, x.logits]

    def fused_call(value: Tensor, shapes: Shapes, offsets: Tensor, logits: Tensor) -> Tensor:
        return ms_deform_attn_fused(value, shapes, x.references, offsets, logits)

    paths = {
        "reference": _training(ms_deform_attn_reference, x, plain),
        "kernel": _training(ms_deform_attn, x, plain),
        "kernel, bf16 values": _training(ms_deform_attn, x, half),
        "fused kernel": _training(fused_call, x, fused),
        "fused kernel, bf16": _training(fused_call, x, [t.bfloat16() for t in fused]),
    }
    for name, call in other_implementations(x.value.device).items():
        paths[name] = _training(call, x, plain)
        if name.startswith(DEFORMOPS):
            paths[f"{name}, bf16 values"] = _training(call, x, [*half[:2], x.weights.bfloat16()])
    return paths


def _training(operator: Operator, x: Inputs, inputs: list[Tensor]) -> Callable[[], Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]  # value first
    grad = x.grad.to(inputs[0].dtype)

    def both() -> Tensor:
        out = operator(leaves[0], x.shapes, *leaves[1:])
        return torch.autograd.grad(out, leaves, grad)[0]

    return both


def bench_op(device: torch.device, repeats: int, sizes: dict[str, Size] | None = None) -> list[OperatorRow]:
    """Every path of every size, forward and with backward; `repeats` timed calls each, fewer where slow."""
    rows = []
    with one_thread():
        for name, size in (sizes or SIZES).items():
            x = make_inputs(size, device)
            rows += _measure(name, "forward", forward_paths(x), device, repeats)
            rows += _measure(name, BOTH, training_paths(x), device, repeats)
    return rows


def as_json(rows: list[OperatorRow]) -> list[dict[str, Any]]:
    """Rows as plain dictionaries."""
    return [asdict(row) for row in rows]


def _measure(size: str, work: str, paths: Paths, device: torch.device, repeats: int) -> list[OperatorRow]:
    peaks = {path: _peak_bytes(call, device) for path, call in paths.items()}  # also the warm-up
    times: dict[str, list[float]] = {path: [] for path in paths}
    began = time.monotonic()
    for _ in range(repeats):
        for path, call in paths.items():
            times[path].append(_seconds(call, device))
        if time.monotonic() - began > SECONDS_A_SIZE:
            break
    reference = median(times["reference"])
    return [
        OperatorRow(size, work, path, median(t), min(t), reference / median(t), peaks[path])
        for path, t in times.items()
    ]


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        return _seconds_on_gpu(call, device)
    alone = _cpu_seconds(call, 1)
    if alone > SECONDS_RUN_TWICE:
        return alone
    # The path before filled the caches with what it needed. While it ran, a virtual machine may have given
    # back to its host the memory that our call had freed: each huge page then costs 2 to 4.5 ms, not 0.2.
    return _cpu_seconds(call, max(1, round(SECONDS_A_TIMING / alone)))


def _cpu_seconds(call: Callable[[], Tensor], calls: int) -> float:
    began = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - began) / calls


def _seconds_on_gpu(call: Callable[[], Tensor], device: torch.device) -> float:
    call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    torch.cuda._sleep(CYCLES_TO_QUEUE_A_CALL)  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) / 1000


def _peak_bytes(call: Callable[[], Tensor], device: torch.device) -> int | None:
    """Memory above what was there before the call, result included; None where the system does not tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux, proc(5))
        before = _status("VmRSS")
    except (OSError, AttributeError):
        call()
        return None
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field}")


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, whose CPU time is then all there is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
