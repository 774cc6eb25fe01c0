"""What all tests share: one thread (so that results are repeatable), no display, and the reference data."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
SHARED = Path(os.environ.get("GDSEG_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden vectors and real data; tests that need it are skipped where it is missing."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("the reference data (GDSEG_SHARED) is not on this machine")
    return SHARED
