"""What the deformable-attention operator is held to, and whether a run of `gdseg bench op` reached it.

Each bar is a share of time or memory against another path of the same run, so that it holds on any machine of
its kind, or a time on an H200, judged on no other GPU. Called by `cli/bench.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gdseg.bench.operator import BOTH, OperatorRow
from gdseg.bench.other_operators import DEFORMOPS, FALLBACK, ONE_THREAD

ENCODER, SMALL, DECODER = "encoder 800x1066, 4 levels", "encoder 256x256", "decoder, 300 queries"
BACKWARD = "backward"  # forward and backward, less forward


@dataclass(frozen=True)
class Bar:
    """`path` must be `least` times as fast as `base` (or need so much less memory), or take `most_us`.

    Times are medians; `size` and `work` are those of the rows compared.
    """

    work: str
    path: str
    base: str = "reference"
    least: float = 0.0
    most_us: float = 0.0
    size: str = ENCODER
    memory: bool = False


CPU = (
    Bar("forward", "kernel", least=25),
    Bar("forward", "kernel, bf16 values", least=35),
    Bar(BOTH, "kernel", least=18),
    Bar("forward", "kernel", least=14, size=SMALL),
    Bar(BOTH, "kernel", least=13, size=SMALL),
    Bar("forward", "kernel", least=6, size=DECODER),
    Bar("forward", "fused kernel", least=6, size=DECODER),
    Bar(BOTH, "kernel", least=6, size=DECODER),
    Bar(BOTH, "fused kernel", least=6, size=DECODER),
    Bar("forward", "fused kernel", "preparation + kernel", least=1.5),
    Bar("forward", "kernel", FALLBACK, least=40, memory=True),
    Bar(BOTH, "kernel", FALLBACK, least=9, memory=True),
)
TIMED_ON = "H200"  # the GPU of the bars in microseconds
CUDA = (
    Bar("forward", "kernel, bf16 values", most_us=80),
    Bar("forward", "fused kernel, bf16", most_us=80),
    Bar("forward", "kernel, bf16 values", ONE_THREAD, least=3),
    Bar(BACKWARD, "kernel, bf16 values", most_us=600),
    Bar(BACKWARD, "kernel", most_us=600),
    Bar(BACKWARD, "kernel, bf16 values", ONE_THREAD, least=2),
    Bar(BACKWARD, "kernel", ONE_THREAD, least=2),
    Bar("forward", "kernel", DEFORMOPS, least=1),
    Bar("forward", "kernel, bf16 values", f"{DEFORMOPS}, bf16 values", least=1),
    Bar(BACKWARD, "kernel", DEFORMOPS, least=1),
    Bar(BACKWARD, "kernel, bf16 values", f"{DEFORMOPS}, bf16 values", least=1),
)


@dataclass(frozen=True)
class Verdict:
    """A bar in words and what was found; `met` is None where a path is missing or the GPU is another."""

    where: str
    what: str
    bar: str
    found: str
    met: bool | None


def verdicts(rows: Sequence[OperatorRow], device: str, gpu: str = "") -> list[Verdict]:
    """The bars of this kind of device ("cpu" or "cuda") whose size was measured; `gpu`: the GPU's name."""
    sizes = {row.size for row in rows}
    bars = [bar for bar in (CPU if device == "cpu" else CUDA) if bar.size in sizes]
    return [_judge(bar, rows, gpu) for bar in sorted(bars, key=lambda bar: (bar.size, bar.work))]


def _judge(bar: Bar, rows: Sequence[OperatorRow], gpu: str) -> Verdict:
    where, measure = f"{bar.size}: {bar.work}", _bytes if bar.memory else _seconds
    ours = measure(bar, rows, lambda path: path == bar.path)
    if bar.most_us:
        us = 1e6 * ours if ours else None
        met = us <= bar.most_us if us is not None and TIMED_ON in gpu else None
        return Verdict(where, bar.path, f"<= {bar.most_us:.0f} us", "" if us is None else f"{us:.1f}", met)
    theirs = measure(bar, rows, lambda path: _is(bar.base, path))
    times = theirs / ours if ours and theirs else None
    kind = bar.base.partition(", ")[2]  # said once
    path = bar.path.removesuffix(f", {kind}")
    what = f"{'memory: ' if bar.memory else ''}{path} / {bar.base}"
    found = "" if times is None else f"{times:.2f}"
    return Verdict(where, what, f">= {bar.least:g}", found, None if times is None else times >= bar.least)


def _is(base: str, path: str) -> bool:
    """Whether a path is the one compared with; of deformops each backend is, and the fastest counts."""
    start, comma, kind = base.partition(", ")
    if start != DEFORMOPS:
        return path == base
    return path.startswith(start) and path.endswith(comma + kind) and ("," in path) == bool(comma)


def _seconds(bar: Bar, rows: Sequence[OperatorRow], is_path: Callable[[str], bool]) -> float | None:
    def times(work: str) -> dict[str, float]:
        of_work = [row for row in rows if (row.size, row.work) == (bar.size, work)]
        return {row.path: row.median_s for row in of_work if is_path(row.path)}

    if bar.work != BACKWARD:
        return min(times(bar.work).values(), default=None)
    forward = times("forward")
    return min((s - forward[path] for path, s in times(BOTH).items() if path in forward), default=None)


def _bytes(bar: Bar, rows: Sequence[OperatorRow], is_path: Callable[[str], bool]) -> float | None:
    of_work = [row for row in rows if (row.size, row.work) == (bar.size, bar.work)]
    return min((row.peak_bytes for row in of_work if is_path(row.path) and row.peak_bytes), default=None)
