"""`gdseg doctor`: versions, device, which deformable-attention kernel runs and why, disk."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gdseg import __version__
from gdseg.models.deform_attn import kernel_in_use
from gdseg.models.deform_attn_kernel import LIBRARY, kernel_problem

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "pycocotools",
    "safetensors",
    "typer",
    "rich",
    "pillow",
)


def examine() -> dict[str, Any]:
    """Facts about this machine, section by section; nothing is changed and nothing is fetched."""
    return {
        "gdseg": {
            "version": __version__,
            "where": str(Path(__file__).parent),
            "python": platform.python_version(),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "device": _devices(),
        "kernel": _kernel(),
        "disk": {"free here": f"{shutil.disk_usage('.').free / 1e9:.1f} GB"},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _kernel() -> dict[str, str]:
    found = {
        "GDSEG_KERNEL": os.environ.get("GDSEG_KERNEL", "auto (not set)"),
        "deformable attention": kernel_in_use(),
        "this CPU": torch.backends.cpu.get_cpu_capability(),
        "library": str(LIBRARY) if LIBRARY.exists() else f"{LIBRARY} is not there: make kernels",
    }
    if problem := kernel_problem():
        found["problem"] = problem
    return found


def _devices() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": f"{cores} cores, torch uses {torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = (
            f"{about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}"
        )
    if not torch.cuda.is_available():
        found["cuda"] = "none: training runs on the CPU"
    return found
