"""What the arguments of deformable attention must look like, said with expected and actual.

The compiled operators check sizes themselves (`kernels/ms_deform_attn.h`); the PyTorch path would broadcast
or reshape what does not fit. Called by `deform_attn.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def levels_of(shapes: Shapes) -> list[tuple[int, int]]:
    """(height, width) of each level, from lists, tuples or a tensor [L, 2]; RuntimeError on anything else."""
    if isinstance(shapes, Tensor):
        shapes = shapes.tolist()
    try:
        levels = [(height, width) for height, width in shapes]
    except (TypeError, ValueError):
        levels = [("not", "two")]  # type: ignore[list-item]
    whole = (isinstance(side, int) or hasattr(side, "__index__") for level in levels for side in level)
    if not all(whole):
        raise _misfit("shapes", "(height, width) of each level, whole numbers", shapes)
    return levels


def check_dtypes(**tensors: Tensor) -> None:
    """RuntimeError unless each is a tensor of a dtype that the operator knows."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES:
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise _misfit(name, "float32, float64, bfloat16 or float16", got)


def check_plain(value: Tensor, levels: Shapes, locations: Tensor, weights: Tensor) -> None:
    """RuntimeError unless value [N, S, M, D], locations [N, Q, M, L, P, 2], weights [N, Q, M, L, P] fit."""
    _check_value(value, levels)
    N, _, M, _ = value.shape
    _check_dims("locations", locations, 6, "[N, Q, M, L, P, 2]")
    Q, P = locations.shape[1], locations.shape[4]
    _check_shape("locations", locations, (N, Q, M, len(levels), P, 2))
    _check_shape("weights", weights, (N, Q, M, len(levels), P))


def check_fused(value: Tensor, levels: Shapes, references: Tensor, offsets: Tensor, logits: Tensor) -> None:
    """The same for references [N or 1, Q, 2 or 4], offsets [N, Q, M, L, P, 2], logits [N, Q, M, L * P]."""
    _check_value(value, levels)
    N, _, M, _ = value.shape
    _check_dims("references", references, 3, "[N or 1, Q, 2 or 4]")
    _check_dims("offsets", offsets, 6, "[N, Q, M, L, P, 2]")
    Q, P = offsets.shape[1], offsets.shape[4]
    _check_shape("offsets", offsets, (N, Q, M, len(levels), P, 2))
    _check_shape("logits", logits, (N, Q, M, len(levels) * P))
    images = 1 if references.shape[0] == 1 else N
    _check_shape("references", references, (images, Q, 4 if references.shape[2] == 4 else 2))


def _check_value(value: Tensor, levels: Shapes) -> None:
    _check_dims("value", value, 4, "[N, S, M, D]")
    for i, (height, width) in enumerate(levels):
        if height < 0 or width < 0:
            raise _misfit("shapes", "sizes of at least 0", f"{height} x {width} at level {i}")
    tokens = sum(height * width for height, width in levels)
    if tokens != value.shape[1]:
        raise _misfit("shapes", f"areas that sum to value's {value.shape[1]} tokens", tokens)


def _check_dims(name: str, tensor: Tensor, dims: int, layout: str) -> None:
    if tensor.dim() != dims:
        raise _misfit(name, layout, list(tensor.shape))


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise _misfit(name, f"shape {list(expected)}", list(tensor.shape))


def _misfit(name: str, expected: str, got: object) -> RuntimeError:
    return RuntimeError(f"ms_deform_attn: {name}: expected {expected}, got {got}")
