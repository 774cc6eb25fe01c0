"""Pseudo-labels judged against truths made from themselves, where right and wrong are known by construction."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.data.dataset import open_dataset
from gdseg.data.images import read_image
from gdseg.predict import Predictor, load_model
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import load_recipe
from gdseg.report.pseudo_review import THRESHOLDS, Fate, Reviewer
from gdseg.structures import Code, LabelMap, LayerOutput, Outputs, Predictions, Record
from gdseg.train.label_images import label_image

Runs = Callable[[str], tuple[Path, Path]]


def with_rule(recipe: Recipe, **keys: Any) -> Recipe:
    return replace(recipe, distill=replace(recipe.distill, **keys))


def opened(runs_of: Runs, task: str) -> tuple[Predictor, Recipe, Record]:
    run = runs_of(task)[1]
    recipe = load_recipe(str(run / "recipe.yaml"))
    return load_model(run, "cpu"), recipe, open_dataset(recipe.data, task=task).train[0]


def masks(found: Predictions) -> set[tuple[int, bytes]]:
    return set(zip(found.labels.tolist(), (rle["counts"] for rle in found.rles), strict=True))


def truth_of(found: Predictions, record: Record, labels: list[int]) -> Record:
    made = [
        {"label": c, "segmentation": rle, "iscrowd": 0} for c, rle in zip(labels, found.rles, strict=True)
    ]
    return replace(record, annotations=tuple(made))


def reviewed(
    predictor: Predictor, recipe: Recipe, record: Record, truth: Record | None
) -> tuple[Reviewer, Fate]:
    reviewer = Reviewer(predictor, recipe, [True] * len(predictor.classes))
    return reviewer, reviewer.add(read_image(record.path), record, truth)


SCORES = (0.92, 0.81, 0.73, 0.52, 0.41, 0.22, 0.03)  # class scores of seven squares


@pytest.fixture
def objects(runs_of: Runs, monkeypatch: pytest.MonkeyPatch) -> tuple[Predictor, Recipe, Record]:
    """A network that sees a row of sure squares in an image of 64 x 64; three are kept, two ignored."""
    predictor, recipe, record = opened(runs_of, "instance")
    batch, _ = predictor.outputs(read_image(record.path))
    count, classes = len(SCORES), len(predictor.classes)
    logits, masks = torch.full((1, count, classes), -9.0), torch.full((1, count, 16, 16), -7.0)
    for i, score in enumerate(SCORES):
        logits[0, i, i % classes] = torch.tensor(score).logit()
        masks[0, i, 2 * i : 2 * i + 3, 2 * i : 2 * i + 3] = 9.0
    seen = Outputs([LayerOutput("final", logits, masks)])
    monkeypatch.setattr(Predictor, "outputs", lambda *_: (batch, seen))
    return predictor, with_rule(recipe, class_threshold=0.6, ignore_threshold=0.3, min_area=5.0), record


def test_fates_are_those_of_training(objects: tuple[Predictor, Recipe, Record]) -> None:
    predictor, recipe, record = objects
    reviewer, fate = reviewed(predictor, recipe, record, None)
    kept, uncertain, _ = label_image(predictor, read_image(record.path), recipe.distill)
    assert masks(fate.kept) == masks(kept)
    assert masks(fate.ignored) == masks(uncertain)
    for part, scores in ((fate.kept, SCORES[:3]), (fate.ignored, SCORES[3:5]), (fate.dropped, SCORES[5:6])):
        assert part.scores.tolist() == pytest.approx(scores)
    assert fate.right == [None] * 3
    assert (reviewer.by_rule.images, reviewer.by_rule.judged) == (1, 0)
    assert reviewer.by_rule.found.sum() == 3


@pytest.mark.parametrize("ignore", [0.0, 0.3])
def test_objects_in_tiles_are_those_that_pseudo_label_writes(
    objects: tuple[Predictor, Recipe, Record], monkeypatch: pytest.MonkeyPatch, ignore: float
) -> None:
    """Four tiles of 64 pixels a side, each with the same squares: three kept and two below in each."""
    predictor, recipe, record = objects
    looks = replace(predictor.network.recipe.inference, tile=64, overlap=0)
    network = replace(predictor.network, recipe=replace(predictor.network.recipe, inference=looks))
    monkeypatch.setattr(predictor, "network", network)
    image, recipe = torch.zeros(3, 128, 128), with_rule(recipe, ignore_threshold=ignore)
    kept, below, _ = label_image(predictor, image, recipe.distill)
    reviewer = Reviewer(predictor, recipe, [True] * len(predictor.classes))
    fate = reviewer.add(image, record, truth_of(kept, record, kept.labels.tolist()))
    assert masks(fate.kept) == masks(kept)
    assert masks(fate.ignored if ignore else fate.dropped) == masks(below)
    assert len(fate.dropped if ignore else fate.ignored) == 0
    assert len(kept) == 4 * 3 == sum(fate.right)
    assert (reviewer.by_rule.found.sum(), reviewer.by_rule.judged) == (12, 1)
    assert (reviewer.by_rule.tallies[0].precision(), reviewer.by_rule.tallies[0].recall()) == (1, 1)
    assert reviewer.sweep.images == 0  # no threshold but the recipe's


def test_right_wrong_and_missed_objects(objects: tuple[Predictor, Recipe, Record]) -> None:
    predictor, recipe, record = objects
    _, fate = reviewed(predictor, recipe, record, None)
    labels, classes = fate.kept.labels.tolist(), len(predictor.classes)
    everything, own = reviewed(predictor, recipe, record, truth_of(fate.kept, record, labels))
    assert own.right == [True] * 3
    assert (everything.by_rule.tallies[0].precision(), everything.by_rule.tallies[0].recall()) == (1, 1)
    assert (everything.by_rule.fits[0].mask_iou, everything.by_rule.fits[0].area_ratio) == (1, 1)
    other = [(labels[0] + 1) % classes, *labels[1:]]
    one_wrong, own = reviewed(predictor, recipe, record, truth_of(fate.kept, record, other))
    assert own.right.count(False) == 1
    assert one_wrong.by_rule.tallies[0].precision() == pytest.approx(2 / 3)
    assert one_wrong.by_rule.tallies[0].recall() == pytest.approx(2 / 3)
    ignored, own = reviewed(
        predictor, recipe, record, truth_of(fate.ignored, record, fate.ignored.labels.tolist())
    )
    assert ignored.by_rule.tallies[0].missed.sum() + ignored.by_rule.tallies[0].right.sum() == 2


def test_the_sweep_at_a_threshold_is_the_rule_at_it(objects: tuple[Predictor, Recipe, Record]) -> None:
    predictor, recipe, record = objects
    _, fate = reviewed(predictor, recipe, record, None)
    reviewer, _ = reviewed(predictor, recipe, record, truth_of(fate.kept, record, fate.kept.labels.tolist()))
    for number, threshold in enumerate(THRESHOLDS):
        above, tally = sum(score > threshold for score in SCORES), reviewer.sweep.tallies[number]
        assert reviewer.sweep.found[number].sum() == above
        assert (tally.right.sum(), tally.wrong.sum()) == (min(above, 3), max(above - 3, 0))
        assert tally.missed.sum() == 3 - min(above, 3)


def test_right_wrong_and_missed_pixels(runs_of: Runs, tmp_path: Path) -> None:
    predictor, recipe, record = opened(runs_of, "semantic")
    recipe = with_rule(recipe, region_threshold=0.0, class_threshold=1.0, ignore_threshold=0.0)
    _, fate = reviewed(predictor, recipe, record, None)
    assert len(fate.ignored) == 0
    values = np.full(fate.kept.size, 255, dtype=np.uint8)
    for i, label in enumerate(fate.kept.labels.tolist()):
        values[fate.kept.mask(i).numpy()] = label
    assert (values < 255).all()
    classes = len(predictor.classes)
    codes = {label: Code(label, False) for label in range(classes)}

    def judged(values: Any) -> tuple[float, float]:
        Image.fromarray(values).save(tmp_path / "truth.png")
        map_of = LabelMap(tmp_path / "truth.png", codes, frozenset({255}))
        reviewer, _ = reviewed(predictor, recipe, record, replace(record, annotations=(), label_map=map_of))
        tally = reviewer.by_rule.tallies[0]
        return tally.precision(), tally.recall()

    assert judged(values) == (1, 1)
    half = values.copy()
    half[:, half.shape[1] // 2 :] = (half[:, half.shape[1] // 2 :] + 1) % classes
    assert judged(half) == (0.5, 0.5)
    half[:, half.shape[1] // 2 :] = 255  # unknown truth counts for nothing
    assert judged(half) == (1, 1)


def test_unsure_pixels_are_ignored(runs_of: Runs) -> None:
    predictor, recipe, record = opened(runs_of, "panoptic")
    recipe = with_rule(recipe, region_threshold=1.0, class_threshold=1.0, ignore_threshold=0.0)
    _, fate = reviewed(predictor, recipe, record, None)
    assert len(fate.kept) == 0
    assert fate.ignored.mask(0).all()
    assert fate.ignored.labels.tolist() == [-1]
    assert torch.isnan(fate.ignored.scores).all()


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_moved_thresholds_are_the_rules_own(task: str, runs_of: Runs) -> None:
    """All classes but one at 1: only that one is kept; the sweep has one threshold for all as before."""
    predictor, recipe, record = opened(runs_of, task)
    recipe = with_rule(recipe, class_threshold=0.0, region_threshold=0.0, ignore_threshold=0.0, min_area=0.0)
    things = [True] * len(predictor.classes)
    plain = Reviewer(predictor, recipe, things)
    found = plain.add(read_image(record.path), record, None).kept.labels.unique()
    only = int(found[0])
    thresholds = torch.ones(len(things))
    thresholds[only] = 0.0
    moved = Reviewer(predictor, recipe, things, thresholds)
    kept = moved.add(read_image(record.path), record, None).kept.labels.unique().tolist()
    assert kept == [only]
    assert np.array_equal(moved.sweep.found, plain.sweep.found)
