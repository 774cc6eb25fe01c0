"""One pass over validation images: the same scores as `evaluate`, the best confidence, each image's quality."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdseg.data.dataset import open_dataset
from gdseg.data.rle import to_rle
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions, make_shapes
from gdseg.eval.matching import overlaps
from gdseg.eval.run import evaluate
from gdseg.eval.single_images import CONFIDENCES, _object_quality, f1, review
from gdseg.models.checkpoint import Network
from gdseg.models.model import build_model
from gdseg.recipe_yaml import load_recipe
from gdseg.structures import Predictions, Record

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_scores_are_those_of_evaluate(task: str, tiny_settings: list[str], tmp_path: Path) -> None:
    options = ShapesOptions(train=1, val=3, size=64)
    if task == "instance":
        make_shapes(tmp_path / "d", options)
    else:
        make_scenes(tmp_path / "d", options, task)
    name = "shapes_maskdino" if task == "instance" else f"shapes_{task}"
    recipe = load_recipe(name, [*tiny_settings, f"data.root={tmp_path / 'd'}"])
    dataset = open_dataset(recipe.data, task=task)
    torch.manual_seed(0)
    model = build_model(recipe, len(dataset.classes)).eval()
    network = Network(model, recipe, dataset.classes, dataset.category_ids, table=dataset.table)
    told: list[tuple[int, int]] = []
    reviewed = review(network, dataset, CPU, lambda done, total: told.append((done, total)))
    expected = evaluate(model, dataset, recipe, CPU)
    assert {k: v for k, v in reviewed.scores.metrics.items() if v == v} == {
        k: v for k, v in expected.metrics.items() if v == v
    }
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert reviewed.quality.keys() <= {record.image_id for record in dataset.val}
    assert all(0 <= value <= 1 for value in reviewed.quality.values())
    if task == "instance":
        assert reviewed.confidence in CONFIDENCES
        best = reviewed.tallies[CONFIDENCES.index(reviewed.confidence)]
        assert f1(best) == max(map(f1, reviewed.tallies))
        assert reviewed.scores.precision is not None
        assert reviewed.scores.precision.shape == (10, 101, len(dataset.classes))
        mean = reviewed.scores.precision[reviewed.scores.precision > -1].mean()
        assert mean == pytest.approx(expected.metrics["mask_ap"])
    else:
        # of a single image the quality is that of a data set that holds it alone
        record = dataset.val[0]
        alone = evaluate(model, replace(dataset, val=[record]), recipe, CPU)
        if task == "semantic":
            assert reviewed.quality[record.image_id] == pytest.approx(alone.metrics["miou"])


def square(x: int, size: int = 10) -> dict[str, Any]:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[:size, x : x + 10] = 1
    return to_rle(mask)


def test_quality_of_an_image_is_its_pooled_pq() -> None:
    truth = tuple({"label": 0, "segmentation": square(x)} for x in (0, 20, 40))
    record = Record(1, Path("a.png"), 40, 60, truth)
    rles = [square(0, 8), square(20), square(10)]  # IoU 0.8, IoU 1, nothing there; one is missed
    labels, scores = torch.zeros(3).long(), torch.tensor([0.9, 0.8, 0.7])
    image = overlaps(Predictions(1, (40, 60), labels, scores, torch.zeros(3, 4), rles), record)
    matched = image.match(scores.numpy())
    assert _object_quality(image, matched, np.ones(3, dtype=bool)) == pytest.approx(1.8 / (2 + 1 / 2 + 1 / 2))
    assert _object_quality(image, matched, np.zeros(3, dtype=bool)) == 0
    nothing = overlaps(
        Predictions(1, (40, 60), labels[:0], scores[:0], torch.zeros(0, 4), []),
        replace(record, annotations=()),
    )
    assert math.isnan(_object_quality(nothing, np.zeros(0, dtype=int), np.zeros(0, dtype=bool)))
