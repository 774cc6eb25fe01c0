"""A small data set, a run with two networks, and a way to call `gdseg` in a folder of the test's own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from gdseg.cli.app import app
from gdseg.cli.console import err, out
from gdseg.data.rle import to_rle


@pytest.fixture
def gdseg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """gdseg("eval", "--json") -> Result; errors are in result.exception. The working folder is tmp_path."""
    monkeypatch.chdir(tmp_path)
    for console in (out, err):  # which took the width of wherever they were made
        monkeypatch.setattr(console, "width", 120)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """train and val of three 64 x 48 images with one bright square each, the classes of tiny_checkpoint."""
    root = tmp_path / "small"
    (root / "annotations").mkdir(parents=True)
    for part in ("train", "val"):
        document: dict[str, Any] = {"categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}]}
        document |= {"images": [], "annotations": []}
        (root / part).mkdir()
        for i in range(3):
            pixels = np.random.default_rng((i, part == "val")).integers(0, 90, (48, 64, 3), dtype=np.uint8)
            mask = np.zeros((48, 64), dtype=bool)
            mask[5 + i : 30, 10 : 40 + i] = True
            pixels[mask] = 250
            Image.fromarray(pixels).save(root / part / f"{i}.png")
            document["images"].append({"id": 10 + i, "file_name": f"{i}.png", "height": 48, "width": 64})
            annotation = {
                "image_id": 10 + i,
                "category_id": (5, 9)[i % 2],
                "iscrowd": 0,
                "segmentation": to_rle(mask),
            }
            document["annotations"].append({"id": i + 1, **annotation})
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(document))
    return root


@pytest.fixture
def small_run(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """runs/R with a student and a teacher, as distill leaves it."""
    run = tmp_path / "runs" / "R"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"verb": "distill", "burn_in_steps": 5}))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 9, "loss": 2.0}\n')
    for name in ("best", "best-student", "best-teacher"):
        shutil.copy(tiny_checkpoint, run / "checkpoints" / f"{name}.safetensors")
    return run


@pytest.fixture
def held() -> Callable[[Path], AbstractContextManager[None]]:
    """held(folder): another process has `gdseg.lock.hold` of it meanwhile."""

    @contextmanager
    def hold(folder: Path) -> Iterator[None]:
        script = "from pathlib import Path; from gdseg.lock import hold\n"
        script += f"with hold(Path({str(folder)!r})): print('held', flush=True); input()"
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield
            process.communicate("\n")

    return hold
