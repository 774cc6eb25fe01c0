"""What the built library asks of the machine it is loaded on: libtorch's Stable ABI and nothing else of torch."""

import re
import shutil
import subprocess

import pytest

from gdseg.models.deform_attn_kernel import LIBRARY

pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="the operators are not built (make kernels)"),
    pytest.mark.skipif(not (shutil.which("nm") and shutil.which("readelf")), reason="no nm or readelf"),
]
STABLE = re.compile(
    r"(aoti_torch|torch)_[a-z0-9_]+"
)  # C functions: torch/csrc/{inductor/aoti_torch/c,stable/c}
SYSTEM = re.compile(r".*@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+")


def output(*command: str) -> str:
    return subprocess.run([*command, str(LIBRARY)], capture_output=True, text=True, check=True).stdout


def test_only_stable_functions_of_torch_are_used() -> None:
    undefined = [line.split()[-2:] for line in output("nm", "-D", "--undefined-only").splitlines()]
    required = [name for kind, name in undefined if kind == "U"]
    assert any(name == "torch_call_dispatcher" for name in required)
    assert not [name for name in required if not STABLE.fullmatch(name) and not SYSTEM.fullmatch(name)]


def test_torch_for_cpus_is_the_only_library_of_torch_it_needs() -> None:
    """libtorch_cuda and a CUDA runtime would keep it from loading beside a torch for CPUs."""
    dynamic = output("readelf", "-d")
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert "libtorch_cpu.so" in needed
    assert not [n for n in needed if re.match(r"lib(c10|cu|nv|python|torch(?!_cpu\.))", n)]
    assert not re.search(r"R(UN)?PATH", dynamic)
