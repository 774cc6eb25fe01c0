"""Other implementations of deformable attention, timed beside ours by `operator.py`.

`stacked_grid_sample` is what the official projects run without their CUDA kernel, `one_thread_a_channel.py`
what they run with it. Where installed: `transformers` (PyPI, Apache-2.0), which also stacks, and `deformops`
(PyPI, MIT; CUDA and Triton, Python >= 3.12), called through its public `deformops.registry.msda`, version 3;
each of its backends is a path of its own. Nothing here is a dependency.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gdseg.bench.one_thread_a_channel import level_tables, one_thread_a_channel
from gdseg.models.deform_attn import Shapes

Operator = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]
FALLBACK = "stacked grid_sample"
TRANSFORMERS = "transformers fallback"
ONE_THREAD = "one thread a channel"
DEFORMOPS = "deformops"  # the names of its paths start so


@cache
def other_implementations(device: torch.device) -> dict[str, Operator]:
    """Name -> operator with the signature of `ms_deform_attn`, for what is installed and runs on `device`.

    Looked for once in a process; what is missing is logged with the reason.
    """
    found: dict[str, Operator] = {FALLBACK: stacked_grid_sample}
    missing = _add_transformers(found)
    if device.type == "cuda":
        found[ONE_THREAD] = one_thread_a_channel
        missing |= _add_deformops(found)
    missing |= {name: why for name, call in found.items() if (why := why_not(call, device))}
    for name, why in missing.items():
        logging.getLogger("gdseg").info("not timed: %s: %s", name, why)
    return {name: call for name, call in found.items() if name not in missing}


def stacked_grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable DETR (arXiv 2010.04159) equation 3: all samples side by side, weighted, summed."""
    (N, _, M, D), Q = value.shape, locations.shape[1]
    levels = torch.split(value.permute(0, 2, 3, 1).flatten(0, 1), [h * w for h, w in shapes], -1)
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # L, N * M, Q, P, 2
    samples = [
        F.grid_sample(level.reshape(N * M, D, *shape), grid, align_corners=False)
        for level, shape, grid in zip(levels, shapes, grids, strict=True)
    ]
    shares = weights.transpose(1, 2).reshape(N * M, 1, Q, -1)
    out = (torch.stack(samples, -2).flatten(-2) * shares).sum(-1)  # of N * M, D, Q, L * P
    return out.view(N, M * D, Q).transpose(1, 2).contiguous()


def why_not(call: Operator, device: torch.device) -> str | None:
    """Why a small call fails, if so: a backend may be there by name only, or for other processors."""
    value = torch.zeros(1, 4, 1, 32, device=device)
    locations = torch.full((1, 1, 1, 1, 4, 2), 0.5, device=device)
    try:
        call(value, [(2, 2)], locations, locations[..., 0])
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # a kernel fails after its launch
    except Exception as error:  # another project's errors are of any type
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def _add_transformers(found: dict[str, Operator]) -> dict[str, str]:
    try:
        module = import_module("transformers.models.mask2former.modeling_mask2former")
        found[TRANSFORMERS] = module.multi_scale_deformable_attention
    except (ImportError, AttributeError) as error:
        return {TRANSFORMERS: f"{error} (pip install transformers)"}
    return {}


def _add_deformops(found: dict[str, Operator]) -> dict[str, str]:
    try:
        registry = import_module("deformops.registry")
        for backend in registry.Backend:
            found[f"{DEFORMOPS} {backend.name.lower()}"] = _deformops(registry, backend)
    except (ImportError, AttributeError) as error:
        return {DEFORMOPS: f"{error} (pip install deformops, version 3, Python 3.12 or newer)"}
    return {}


def _deformops(registry: Any, backend: Any) -> Operator:
    def call(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        tables = level_tables(tuple(shapes), value.device)
        out: Tensor = registry.msda(value, *tables, locations, weights, backend=backend)
        return out

    return call
