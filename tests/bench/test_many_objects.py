"""`gdseg bench objects`: the data set it makes and what it reports, in one process and small."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gdseg.bench import many_objects as bench
from gdseg.data.dataset import open_dataset
from gdseg.data.geometry import Geometry, warp_masks
from gdseg.recipe import Data, Recipe

ENOUGH = ("decoder.queries=auto", "decoder.denoising_queries=auto", "postprocess.max_detections=auto")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def pool(_: int) -> Any:
        yield SimpleNamespace(apply=lambda call, arguments: call(*arguments))

    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=pool))
    monkeypatch.setattr(bench, "ROWS", 4)
    monkeypatch.setattr(bench, "COLUMNS", 5)


def test_every_object_is_a_disc_of_its_own(small: None, tmp_path: Path) -> None:
    bench.many_objects(tmp_path)
    dataset = open_dataset(Data(root=str(tmp_path)), task="instance")
    record = dataset.train[0]
    assert record.annotations is not None
    assert (record.height, record.width, len(record.annotations)) == (80, 100, 20)
    whole = Geometry((80, 100), (80, 100), (0, 0), (80, 100), (80, 100))
    masks = warp_masks(record.annotations, whole).numpy()
    assert masks.sum(0).max() == 1
    areas = masks.sum((1, 2))
    assert np.all((areas > np.pi * 4.4**2) & (areas < np.pi * 9.6**2))


def test_step_and_evaluation_are_measured(small: None, tiny_recipe: Callable[..., Recipe]) -> None:
    rows = bench.bench_objects(tiny_recipe("maskdino", *ENOUGH), torch.device("cpu"))
    assert [(row.what, row.found) for row in rows] == [("training step", 20), ("evaluation", 20)]
    assert all(row.seconds > 0 and row.bytes_peak >= row.bytes_before > 1e6 for row in rows)
