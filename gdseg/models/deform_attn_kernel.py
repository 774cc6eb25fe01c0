"""Which deformable attention runs: the compiled operators or plain PyTorch, and why.

`make kernels` builds `gdseg/_lib/libgdseg_ops.so`, which registers `torch.ops.gdseg.*` for CPU
and CUDA. GDSEG_KERNEL chooses: `auto` (the kernel where it is, else PyTorch), `require` (the kernel or an
error), `off` (PyTorch). GDSEG_KERNEL_LIBRARY names another file, for `make sanitize`.
Called by `deform_attn.py` and, for its words, `doctor.py` and `bench`.
"""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from gdseg.errors import MachineError, UsageError
from gdseg.models.deform_attn_ops import complete_operators

BUILT = Path(__file__).parent.parent / "_lib" / "libgdseg_ops.so"
LIBRARY = Path(os.environ.get("GDSEG_KERNEL_LIBRARY") or BUILT)
MODES = ("auto", "require", "off")
BUILD_HINT = "make kernels (needs g++; CUDA joins where nvcc is), or GDSEG_KERNEL=auto"


@dataclass(frozen=True)
class Kernel:
    """What GDSEG_KERNEL asks for and what was found: `devices` with compiled operators, and `why`."""

    mode: str
    devices: frozenset[str]
    why: str


def load(mode: str, library: Path = LIBRARY) -> Kernel:
    """Load and complete the operators, unless `mode` is off. Never raises: `why` tells what is wrong."""
    if mode not in MODES:
        return Kernel(mode, frozenset(), f"GDSEG_KERNEL={mode} is none of {', '.join(MODES)}")
    if mode == "off":
        return Kernel(mode, frozenset(), "GDSEG_KERNEL=off")
    if not library.exists():
        return Kernel(mode, frozenset(), f"{library} is not built (make kernels)")
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        complete_operators()
        cpu = _text_from(library, "gdseg_cpu_path")
        build = _text_from(library, "gdseg_build")
    except (OSError, AttributeError, RuntimeError) as error:
        return Kernel(mode, frozenset(), f"{library} does not load: {str(error).splitlines()[0]}")
    devices = [d for d, key in (("cpu", "CPU"), ("cuda", "CUDA")) if _registered(key)]
    return Kernel(mode, frozenset(devices), f"CPU: {cpu}; {build}")


def _text_from(library: Path, function: str) -> str:
    call = getattr(ctypes.CDLL(str(library)), function)
    call.restype = ctypes.c_char_p
    return str(call().decode())


def _registered(key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key("gdseg::ms_deform_attn", key))


# Read once, so that compiled graphs see a constant.
KERNEL = load(os.environ.get("GDSEG_KERNEL", "auto"))
_said: set[str] = set()


def runs_on(device: str) -> bool:
    """Whether tensors on a "cpu" or "cuda" device take the compiled path; `auto` warns once if not.

    Raises MachineError (exit code 5) where GDSEG_KERNEL=require cannot be met, UsageError for other words.
    """
    if device in KERNEL.devices:
        return True
    _refuse(device)
    if KERNEL.mode == "auto" and device != "meta":
        _warn(device)
    return False


def _refuse(device: str) -> None:
    if KERNEL.mode == "require" and device not in KERNEL.devices:
        raise MachineError(f"no compiled deformable attention for {device}", KERNEL.why, BUILD_HINT)
    if KERNEL.mode not in MODES:
        raise UsageError(KERNEL.why, "environment variable GDSEG_KERNEL")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # said while a graph is traced, too
def _warn(device: str) -> bool:
    if not KERNEL.devices:
        return _say(logging.WARNING, describe())
    hint = "to build it: make kernels CUDA=1 (needs nvcc)" if device == "cuda" else "there is none to build"
    slow = f"tensors on {device} take the slower PyTorch path, no compiled operator is for them"
    return _say(logging.WARNING, f"{slow} ({KERNEL.why}); {hint}")


def _say(level: int, text: str) -> bool:
    """Log a line once; whether it was said now."""
    log = logging.getLogger("gdseg")
    if text in _said or not log.isEnabledFor(level):
        return False
    _said.add(text)
    log.log(level, "deformable attention: %s", text)
    return True


def describe() -> str:
    """One line: which path runs on which device, and why."""
    if not KERNEL.devices:
        return f"pure PyTorch (grid_sample): {KERNEL.why}"
    rest = "" if "cuda" in KERNEL.devices else "; CUDA tensors: pure PyTorch"
    return f"compiled kernel for {' and '.join(sorted(KERNEL.devices))} ({KERNEL.why}){rest}"


def kernel_problem() -> str | None:
    """What `runs_on("cpu")` would raise, in one line; None if all is as GDSEG_KERNEL asks."""
    try:
        _refuse("cpu")
    except (MachineError, UsageError) as error:
        return error.what
    return None


def announce(level: int = logging.DEBUG) -> None:
    """Log once which path runs and why, and raise as `runs_on` does.

    level: of the compiled path, which is what one expects; the slow one is told as information where it was
    asked for, else `runs_on` warns.
    """
    if runs_on("cpu"):
        _say(level, describe())
    elif KERNEL.mode == "off":
        _say(logging.INFO, describe())
