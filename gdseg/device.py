"""Which device runs the networks, and in which number format. Called by predict, eval, train and the CLI."""

from __future__ import annotations

import sys

import torch

from gdseg.errors import MachineError, UsageError


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a word means: auto (CUDA if there is one, else the CPU), cpu, cuda, cuda:1, mps.

    Raises UsageError for a word that names no device and MachineError for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is no device", "--device", "auto, cpu, cuda, cuda:1 or mps") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in count:
        raise UsageError(f"'{name}' cannot be used", "--device", "auto, cpu, cuda, cuda:1 or mps")
    if (device.index or 0) >= count[device.type]:
        found = f"{count[device.type]} {device.type} device(s) found"
        raise MachineError(
            f"there is no device '{name}' ({found})", "--device", "use --device cpu, or see: gdseg doctor"
        )
    return device


def amp_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The autocast dtype of the recipe's `train.precision` on `device`; float32 means no autocast."""
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        # bf16 arithmetic begins with compute capability 8.0; older devices only emulate it
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory this process has held so far, in MiB: peak_rss_mib, on a GPU peak_cuda_mib too.

    Data loading processes are not in it. Where the system does not tell (Windows), peak_rss_mib is missing.
    """
    peak = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak["peak_rss_mib"] = round(held / (2**20 if sys.platform == "darwin" else 2**10), 1)
    if device.type == "cuda":
        peak["peak_cuda_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peak
