"""Other implementations of deformable attention that may be installed, timed beside ours by `operator.py`.

`transformers` (PyPI, Apache-2.0) runs what the official projects run without their CUDA kernel: all levels
sampled by `grid_sample`, stacked, then summed. `deformops` (PyPI, MIT; CUDA and Triton, Python >= 3.12) is
called through its public `deformops.registry.msda`, version 3; each of its backends is a path of its own.
Nothing here is a dependency.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gdseg.bench.one_thread_a_channel import level_tables, one_thread_a_channel
from gdseg.models.deform_attn import Shapes

Operator = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]
FALLBACK = "transformers fallback"
ONE_THREAD = "one thread a channel"
DEFORMOPS = "deformops"  # the names of its paths start so


def other_implementations(device: torch.device) -> dict[str, Operator]:
    """Name -> operator with the signature of `ms_deform_attn`, for what is installed and runs on `device`."""
    found: dict[str, Operator] = {}
    with suppress(ImportError):
        fallback = import_module("transformers.models.mask2former.modeling_mask2former")
        found[FALLBACK] = fallback.multi_scale_deformable_attention
    if device.type == "cuda":
        found[ONE_THREAD] = one_thread_a_channel
        with suppress(ImportError):
            registry = import_module("deformops.registry")
            for backend in registry.Backend:
                found[f"{DEFORMOPS} {backend.name.lower()}"] = _deformops(registry, backend)
    return {name: call for name, call in found.items() if _runs(call, device)}


def _deformops(registry: Any, backend: Any) -> Operator:
    def call(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        tables = level_tables(tuple(shapes), value.device)
        out: Tensor = registry.msda(value, *tables, locations, weights, backend=backend)
        return out

    return call


def _runs(call: Operator, device: torch.device) -> bool:
    """Whether a small call works: a backend may be there by name only, or for other processors."""
    value = torch.zeros(1, 4, 1, 32, device=device)
    locations = torch.full((1, 1, 1, 1, 4, 2), 0.5, device=device)
    try:
        call(value, [(2, 2)], locations, locations[..., 0])
    except Exception:  # another project's errors are of any type
        return False
    return True
