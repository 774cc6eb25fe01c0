"""Stratified splits: nested, seeded, every class where possible, shares nearer to the whole than by chance."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gdseg.data.dataset import open_dataset
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.data.split import random_order, split_by_count, split_by_ratio
from gdseg.data.stratify import Labels, count_labels, stratified_order
from gdseg.recipe import Data
from gdseg.structures import Record


def long_tailed(seed: int, images: int = 400, classes: int = 20) -> tuple[list[Record], Labels]:
    """Class c is in about 60 % / (c + 1) ** 1.5 of the images; some images hold none."""
    chance = 0.6 / (np.arange(classes) + 1.0) ** 1.5
    there = np.random.default_rng(seed).random((images, classes)) < chance
    records = [Record(i, Path(f"{i}.jpg"), 8, 8, ()) for i in range(images)]
    labels = {i: Counter({int(c): 1 + i % 3 for c in np.flatnonzero(there[i])}) for i in range(images)}
    return records, labels


def deviation(ids: list[int | str], labels: Labels) -> np.ndarray:
    """Of each class: the images in the part beyond its share in the whole."""
    whole = Counter(c for found in labels.values() for c in found)
    part = Counter(c for i in ids for c in labels[i])
    return np.array([part[c] - n * len(ids) / len(labels) for c, n in whole.items()])


@pytest.mark.parametrize("seed", range(3))
def test_every_beginning_has_the_shares_of_the_whole(seed: int) -> None:
    records, labels = long_tailed(seed)
    order, plain = stratified_order(records, labels, seed), random_order(records, seed)
    assert sorted(order) == sorted(plain) == list(range(400))
    for count in (80, 120, 200):
        ours, chance = (np.abs(deviation(ids[:count], labels)) for ids in (order, plain))
        assert ours.max() <= 1
        assert ours.mean() < 0.4 * chance.mean()
        empty = sum(not labels[i] for i in order[:count]) / count
        assert empty == pytest.approx(sum(not found for found in labels.values()) / 400, abs=0.02)


def test_every_class_is_there_with_few_images() -> None:
    records, labels = long_tailed(5)
    classes = {c for found in labels.values() for c in found}
    order = stratified_order(records, labels, 0)
    assert {c for i in order[: len(classes)] for c in labels[i]} == classes
    assert {c for i in random_order(records, 0)[: len(classes)] for c in labels[i]} != classes


def test_one_image_that_holds_all_is_preferred() -> None:
    records = [Record(i, Path(f"{i}.jpg"), 8, 8, ()) for i in range(4)]
    labels: Labels = {0: Counter([0]), 1: Counter([1]), 2: Counter([0, 1, 2]), 3: Counter([2])}
    assert stratified_order(records, labels, 0)[0] == 2


def test_splits_are_nested_seeded_and_independent_of_the_order_in_the_json() -> None:
    records, labels = long_tailed(1)
    order = stratified_order(records, labels, 7)
    assert stratified_order(records[::-1], labels, 7) == order
    assert stratified_order(records, labels, 8) != order
    small, large = (split_by_ratio(records, ratio, 7, order) for ratio in (0.05, 0.3))
    assert set(small.ids) < set(large.ids)
    assert (small.stratified, len(small.ids), small.seed) == (True, 20, 7)
    assert set(split_by_count(records, 20, 7, order).ids) == set(small.ids)


def test_no_objects_at_all() -> None:
    records = [Record(i, Path(f"{i}.jpg"), 8, 8, ()) for i in range(5)]
    assert sorted(stratified_order(records, {i: Counter() for i in range(5)}, 0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_labels_are_counted_in_maps_too(tmp_path: Path, task: str) -> None:
    make_scenes(tmp_path / "D", ShapesOptions(3, 1, 48), task)
    dataset = open_dataset(Data(root=str(tmp_path / "D")), ("train",), task=task)
    labels = count_labels(dataset.train, task)
    assert list(labels) == [record.image_id for record in dataset.train]
    assert all(found.total() >= 2 for found in labels.values())
    if task == "panoptic":
        wanted = [Counter(a["label"] for a in record.annotations or ()) for record in dataset.train]
        assert list(labels.values()) == wanted
