"""GDSEG_KERNEL: which deformable attention runs, and what is said about it."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from gdseg.errors import MachineError, UsageError
from gdseg.models import deform_attn_kernel as kernel
from gdseg.models.checkpoint import load_network
from gdseg.models.deform_attn import MSDeformAttn, ms_deform_attn
from gdseg.train.convert.tensors import bare_model


def test_modes(monkeypatch, tmp_path):
    missing = kernel.load("require", tmp_path / "none.so")
    monkeypatch.setattr(kernel, "KERNEL", missing)
    with pytest.raises(MachineError, match="no compiled deformable attention for cpu") as error:
        kernel.runs_on("cpu")
    assert error.value.exit_code == 5
    assert "is not built" in kernel.describe()
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    assert "does not load" in kernel.load("auto", broken).why
    assert kernel.load("off").devices == frozenset()
    monkeypatch.setattr(kernel, "KERNEL", kernel.load("sometimes"))
    with pytest.raises(UsageError, match="GDSEG_KERNEL=sometimes is none of auto, require, off"):
        kernel.runs_on("cpu")


@pytest.mark.parametrize(("mode", "code"), [("require", 5), ("sometimes", 2)])
def test_what_a_file_holds_is_not_blamed_for_a_missing_kernel(
    monkeypatch, tmp_path, tiny_checkpoint, tiny_recipe, mode, code
):
    monkeypatch.setattr(kernel, "KERNEL", kernel.load(mode, tmp_path / "none.so"))
    for load in (lambda: load_network(tiny_checkpoint), lambda: bare_model(tiny_recipe("maskdino"), 2)):
        with pytest.raises((MachineError, UsageError)) as error:
            load()
        assert error.value.exit_code == code


def test_auto_says_once_that_the_slow_path_runs(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(kernel, "KERNEL", kernel.load("auto", tmp_path / "none.so"))
    monkeypatch.setattr(kernel, "_said", set())
    with caplog.at_level("INFO", "gdseg"):
        MSDeformAttn(32, 2, 4, 4)
        MSDeformAttn(32, 2, 4, 4)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "pure PyTorch" in caplog.text
    assert "make kernels" in caplog.text


@pytest.mark.parametrize("compiled", [False, True])
def test_auto_says_once_that_a_device_has_no_kernel(compiled, monkeypatch, caplog):
    """A library without CUDA on a machine with a GPU; here the CPU is the device that was left out."""
    monkeypatch.setattr(kernel, "KERNEL", kernel.Kernel("auto", frozenset({"cuda"}), "CUDA: none"))
    monkeypatch.setattr(kernel, "_said", set())
    call = torch.compile(ms_deform_attn, backend="eager", fullgraph=True) if compiled else ms_deform_attn
    with caplog.at_level("WARNING", "gdseg"):
        for _ in range(2):
            call(torch.randn(1, 4, 1, 8), [(2, 2)], torch.rand(1, 3, 1, 1, 4, 2), torch.rand(1, 3, 1, 1, 4))
        assert len(caplog.records) == 1
        assert "tensors on cpu take the slower PyTorch path" in caplog.text
        assert "CUDA: none" in caplog.text
        monkeypatch.setattr(kernel, "KERNEL", kernel.Kernel("auto", frozenset({"cpu"}), "CUDA: none"))
        assert not kernel.runs_on("cuda")
    assert "make kernels CUDA=1" in caplog.records[1].getMessage()


def test_the_compiled_path_is_told_where_it_is_asked_for(monkeypatch, caplog):
    """Building a network says nothing of what all expect; training and bench ask for the line."""
    monkeypatch.setattr(kernel, "KERNEL", kernel.Kernel("auto", frozenset({"cpu"}), "AVX2"))
    monkeypatch.setattr(kernel, "_said", set())
    with caplog.at_level("INFO", "gdseg"):
        MSDeformAttn(32, 2, 4, 4)
        assert caplog.records == []
        kernel.announce(logging.INFO)
        kernel.announce(logging.INFO)
    assert [r.getMessage() for r in caplog.records] == [f"deformable attention: {kernel.describe()}"]
    monkeypatch.setattr(kernel, "_said", set())
    with caplog.at_level("DEBUG", "gdseg"):
        MSDeformAttn(32, 2, 4, 4)
    assert caplog.records[-1].levelname == "DEBUG"


def test_another_library_is_loaded_where_one_is_named(tmp_path):
    code = "from gdseg.models import deform_attn_kernel as kernel; print(kernel.LIBRARY); print(kernel.describe())"
    other = tmp_path / "other.so"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GDSEG_KERNEL": "auto", "GDSEG_KERNEL_LIBRARY": str(other)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines()[0] == str(other)
    assert f"{other} is not built" in run.stdout


def test_off_is_the_reference():
    code = (
        "import torch; from gdseg.models import deform_attn as d; torch.manual_seed(0);"
        "a = (torch.randn(1, 4, 1, 8), [(2, 2)], torch.rand(1, 3, 1, 1, 4, 2), torch.rand(1, 3, 1, 1, 4));"
        "assert torch.equal(d.ms_deform_attn(*a), d.ms_deform_attn_reference(*a)); print(d.kernel_in_use())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GDSEG_KERNEL": "off"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GDSEG_KERNEL=off" in run.stdout
