"""`gdseg bench op`: the timed paths compute the same thing, the bars are judged right, the tables fit a terminal."""

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from gdseg.bench.one_thread_a_channel import LIBRARY as BASELINE
from gdseg.bench.operator import (
    BOTH,
    SIZES,
    OperatorRow,
    Size,
    as_json,
    bench_op,
    forward_paths,
    make_inputs,
    training_paths,
)
from gdseg.bench.operator_bars import BACKWARD, CPU, CUDA, DECODER, ENCODER, Bar, verdicts
from gdseg.bench.other_operators import (
    DEFORMOPS,
    FALLBACK,
    ONE_THREAD,
    TRANSFORMERS,
    other_implementations,
    why_not,
)
from gdseg.cli import bench as cli
from gdseg.cli.app import app
from gdseg.models.deform_attn import ms_deform_attn, ms_deform_attn_reference

TINY = Size(40, 56, (8, 16, 32), batch=2)
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU (make gpu)")
DEVICES = ["cpu", pytest.param("cuda", marks=(pytest.mark.gpu, no_gpu))]


@pytest.mark.parametrize("name", DEVICES)
def test_all_paths_compute_the_same(name):
    device = torch.device(name)
    others = other_implementations(device)
    assert FALLBACK in others
    assert (ONE_THREAD in others) == (name == "cuda" and BASELINE.exists())  # make gpu builds it
    inputs = make_inputs(TINY, device)
    for paths in (forward_paths(inputs), training_paths(inputs)):
        truth = paths["reference"]().float()
        assert len(paths) >= 5
        assert paths.keys() > others.keys()
        for path, call in paths.items():
            bound = 2e-2 if "bf16" in path else 1e-4
            assert (call().float() - truth).abs().max() <= bound * truth.abs().max(), path


@pytest.mark.parametrize("name", DEVICES)
def test_all_gradients_are_the_references(name):
    """The timed paths give the first one alone."""
    x = make_inputs(TINY, torch.device(name))
    leaves = [t.clone().requires_grad_() for t in (x.value, x.locations, x.weights)]

    def gradients(call):
        return torch.autograd.grad(call(leaves[0], x.shapes, *leaves[1:]), leaves, x.grad)

    truth = gradients(ms_deform_attn_reference)
    for path, call in {"kernel": ms_deform_attn, **other_implementations(x.value.device)}.items():
        for actual, expected in zip(gradients(call), truth, strict=True):
            assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max(), path


def test_what_is_not_timed_is_told_with_the_reason(caplog):
    def broken(*_):
        raise NotImplementedError("for other processors\nand more")

    assert why_not(broken, torch.device("cpu")) == "NotImplementedError: for other processors"
    other_implementations.cache_clear()
    with caplog.at_level("INFO", "gdseg"):
        found = other_implementations(torch.device("cpu"))
        other_implementations(torch.device("cpu"))
    told = [f"not timed: {TRANSFORMERS}: " in r.getMessage() for r in caplog.records]
    assert told == ([] if TRANSFORMERS in found else [True])


def test_a_run_tells_times_and_memory_of_every_path():
    rows = bench_op(torch.device("cpu"), 1, {"tiny": TINY})
    assert {row.work for row in rows} == {"forward", BOTH}
    assert all(row.median_s >= row.min_s > 0 for row in rows)
    assert [row.speedup for row in rows if row.path == "reference"] == [1.0, 1.0]
    assert as_json(rows)[0].keys() == {"size", "work", "path", "median_s", "min_s", "speedup", "peak_bytes"}


def row(path, ms, work="forward", size=ENCODER, peak=None):
    return OperatorRow(size, work, path, ms / 1000, ms / 1000, 1.0, peak)


def found(rows, device, what, work, gpu="NVIDIA H200"):
    [verdict] = [
        v
        for v in verdicts(rows, device, gpu)
        if v.what == what and v.where.endswith(f": {work}") and ENCODER in v.where
    ]
    return verdict.found, verdict.met


def test_bars_are_ratios_of_medians_and_of_memory():
    rows = [
        row("reference", 100),
        row("kernel", 5),
        row("kernel, bf16 values", 2),
        row(FALLBACK, 900, peak=80),
    ]
    assert found(rows, "cpu", "kernel / reference", "forward") == ("20.00", False)
    assert found(rows, "cpu", "kernel, bf16 values / reference", "forward") == ("50.00", True)
    assert found(rows, "cpu", f"memory: kernel / {FALLBACK}", "forward") == ("", None)
    rows[1] = row("kernel", 5, peak=2)
    assert found(rows, "cpu", f"memory: kernel / {FALLBACK}", "forward") == ("40.00", True)
    assert not [v for v in verdicts(rows, "cpu") if DECODER in v.where]


def test_bars_on_a_gpu_take_the_best_of_the_others_and_backward_as_the_rest():
    names = ("kernel", "kernel, bf16 values", ONE_THREAD, "deformops cuda", "deformops triton",
             "deformops cuda, bf16 values")  # fmt: skip
    rows = [row(n, ms) for n, ms in zip(names, (0.1, 0.06, 0.24, 0.2, 0.09, 0.12), strict=True)]
    rows += [row(n, ms, BOTH) for n, ms in zip(names, (0.5, 0.46, 1.44, 0.9, 0.59, 0.62), strict=True)]
    assert found(rows, "cuda", "kernel, bf16 values", "forward") == ("60.0", True)
    assert found(rows, "cuda", "fused kernel, bf16", "forward") == ("", None)
    assert found(rows, "cuda", f"kernel, bf16 values / {ONE_THREAD}", "forward") == ("4.00", True)
    assert found(rows, "cuda", f"kernel / {DEFORMOPS}", "forward") == ("0.90", False)
    assert found(rows, "cuda", "kernel", BACKWARD) == ("400.0", True)
    assert found(rows, "cuda", f"kernel / {ONE_THREAD}", BACKWARD) == ("3.00", True)
    assert found(rows, "cuda", f"kernel / {DEFORMOPS}", BACKWARD) == ("1.25", True)
    assert found(rows, "cuda", f"kernel / {DEFORMOPS}, bf16 values", BACKWARD) == ("1.25", True)


def test_microseconds_are_judged_on_the_gpu_they_are_for():
    rows = [row("kernel, bf16 values", 0.06), row(ONE_THREAD, 0.24)]
    h100 = "NVIDIA H100 80GB HBM3"
    assert found(rows, "cuda", "kernel, bf16 values", "forward", h100) == ("60.0", None)
    assert found(rows, "cuda", f"kernel, bf16 values / {ONE_THREAD}", "forward", h100) == ("4.00", True)


@pytest.mark.parametrize(("check", "least", "code"), [(True, 1e9, 1), (True, 1e-9, 0), (False, 1e9, 0)])
def test_a_missed_bar_fails_the_command_where_asked(check, least, code, monkeypatch):
    monkeypatch.setattr(cli, "_operator", lambda *_, **__: [row("reference", 2), row("kernel", 1)])
    monkeypatch.setattr("gdseg.bench.operator_bars.CPU", (Bar("forward", "kernel", least=least),))
    arguments = ["bench", "op", "--device", "cpu", *["--check"] * check]
    assert CliRunner().invoke(app, arguments).exit_code == code
    assert CliRunner().invoke(app, [*arguments, "--json"]).exit_code == code


def test_every_bar_names_what_is_timed():
    inputs = make_inputs(TINY, torch.device("cpu"))
    paths = {"forward": forward_paths(inputs), BOTH: training_paths(inputs)}
    paths[BACKWARD] = paths[BOTH]
    others = {FALLBACK, ONE_THREAD, DEFORMOPS, f"{DEFORMOPS}, bf16 values"}
    for bar in (*CPU, *CUDA):
        assert bar.size in SIZES
        assert bar.path in paths[bar.work]
        assert bar.base in paths[bar.work] or bar.base in others
        assert (bar.least > 0) != (bar.most_us > 0)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_tables_fit_eighty_columns_with_a_path_a_line(device, monkeypatch, capsys):
    narrow = Console(width=80, force_terminal=True, color_system=None, markup=False, highlight=False)
    monkeypatch.setattr("gdseg.cli.console.out", narrow)
    monkeypatch.setattr(cli, "out", narrow)
    monkeypatch.setattr(cli, "_name", lambda device: "NVIDIA RTX PRO 6000 Blackwell" * (device.type != "cpu"))
    names = ["other path", "preparation + other", "deformops triton, bf16 values", FALLBACK]
    works = ("forward", BOTH)
    rows = [row(n, 12345.6, work, s, 9_999_900_000) for s in SIZES for work in works for n in names]
    cli._print_operator(rows, torch.device(device))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in names:
        mine = [line for line in lines if line.startswith(f"│ {name} ") and "12345.6" in line]
        assert len(mine) == len(works) * len(SIZES)
    assert all(line.endswith("│") == line.startswith("│") for line in lines)
    assert sum("not run" in line for line in lines) == len(CPU if device == "cpu" else CUDA)
