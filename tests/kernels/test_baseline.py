"""What three bars of `gdseg bench op` divide by: the baseline's CUDA source, run by the emulation on the CPU.

On a GPU tests/bench/test_operator.py compares it.
"""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gdseg.bench import one_thread_a_channel as baseline
from gdseg.models.deform_attn import ms_deform_attn_reference

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "kernels" / "baseline" / "one_thread_a_channel.cu"
COMPILER = shutil.which("g++")
RUNTIME = """#include "cuda_emulation.h"
using cudaStream_t = void*;
enum { cudaErrorInvalidValue = 1 };
inline int cudaGetLastError() { return 0; }
inline void __syncthreads() { __syncwarp(); }  // blocks of one warp
"""


@pytest.fixture
def emulated(tmp_path, monkeypatch):
    if COMPILER is None:
        pytest.skip("no g++ on this machine")
    text = SOURCE.read_text(encoding="utf-8").replace("#include <cuda_runtime.h>\n", RUNTIME)
    text, launches = re.subn(r"(\w+)<<<(.+?), 0, stream>>>\(", r"emulation::launch(\1, \2, ", text)
    assert launches == 2
    source, target = tmp_path / "baseline.cpp", tmp_path / "baseline.so"
    source.write_text(text, encoding="utf-8")
    flags = ["-std=c++17", "-O0", "-fPIC", "-shared", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    command = [COMPILER, *flags, "-static-libubsan", "-I", HERE, source, "-o", target]
    subprocess.run(command, check=True)
    monkeypatch.setattr(baseline, "_library", lambda: ctypes.CDLL(str(target)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=None))


def test_the_baseline_computes_deformable_attention_and_its_gradients(emulated):
    torch.manual_seed(0)
    shapes = [(5, 7), (3, 4), (1, 1)]
    value = torch.randn(2, 48, 3, 32)
    locations = torch.rand(2, 11, 3, 3, 4, 2) * 1.4 - 0.2  # some outside
    weights, grad = torch.rand(2, 11, 3, 3, 4), torch.randn(2, 11, 96)

    def run(call, dtype):
        inputs = [t.to(dtype).requires_grad_() for t in (value, locations, weights)]
        out = call(inputs[0], shapes, *inputs[1:])
        return [out, *torch.autograd.grad(out, inputs, grad.to(dtype))]

    truth = run(ms_deform_attn_reference, torch.float64)
    for actual, expected in zip(run(baseline.one_thread_a_channel, torch.float32), truth, strict=True):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_more_channels_than_a_block_holds_are_refused(emulated):
    value = torch.randn(1, 4, 1, 288, requires_grad=True)
    places = torch.rand(1, 1, 1, 1, 1, 2)
    out = baseline.one_thread_a_channel(value, [(2, 2)], places, places[..., 0])
    with pytest.raises(RuntimeError, match="one_thread_backward: CUDA error 1"):
        out.sum().backward()
