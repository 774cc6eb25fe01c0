"""`gdseg bench objects`: the data set it makes and what it reports, in one process and small."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdseg.bench import many_objects as bench
from gdseg.data.dataset import open_dataset
from gdseg.data.geometry import Geometry, warp_masks
from gdseg.errors import UsageError
from gdseg.eval.run import find
from gdseg.recipe import Data, Recipe
from gdseg.recipe_yaml import load_recipe

ENOUGH = ("decoder.queries=auto", "decoder.denoising_queries=auto")


@pytest.fixture
def small(one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_step_and_evaluation_are_measured(
    small: None, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step has the image's twenty objects, the evaluation what was found; no data of the recipe's is used."""
    results: list[dict[str, Any]] = []

    def recorded(*arguments: Any) -> list[dict[str, Any]]:
        results.extend(find(*arguments))
        return results

    monkeypatch.setattr(bench, "find", recorded)
    mine = ("data.root=elsewhere", "data.format=yolo", "data.train=mine.json", "data.ratio=0.1")
    recipe = tiny_recipe("maskdino", *ENOUGH, *mine, "postprocess.max_detections=auto")
    rows = bench.bench_objects(recipe, torch.device("cpu"))
    assert [(row.what, row.found) for row in rows] == [("training step", 20), ("evaluation", len(results))]
    assert len(results) not in (0, 20)
    assert all(row.seconds > 0 and row.bytes_peak >= row.bytes_before > 1e6 for row in rows)


def test_tasks_without_instances_are_refused(small: None) -> None:
    with pytest.raises(UsageError, match="counts instances, the recipe's task is semantic") as error:
        bench.bench_objects(load_recipe("shapes_semantic"), torch.device("cpu"))
    assert error.value.exit_code == 2
