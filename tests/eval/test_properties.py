"""What holds for every evaluator: the truth scores 1, and neither the order of images nor of objects matters.

On frames in Cityscapes' layout, which all evaluators but LVIS's (test_lvis.py) measure.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_cases import SEEDS, cityscapes_case, write_maps
from PIL import Image

from gdseg.data.dataset import Dataset, open_dataset
from gdseg.data.label_maps import read_regions, with_masks
from gdseg.eval.maps import FoundMap, score_maps
from gdseg.eval.run import score_instances
from gdseg.eval.scores import Scores
from gdseg.recipe import Data


def frames(seed: int, root: Path, task: str) -> Dataset:
    """The generated frames, with the smallest objects, which cannot be found, turned into road."""
    maps, _, _ = cityscapes_case(seed)
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / "val" / "aa").mkdir(parents=True)
    for name, ids in maps.items():
        black = Image.fromarray(np.zeros((*ids.shape, 3), np.uint8))
        black.save(root / "leftImg8bit" / "val" / "aa" / f"{name}_leftImg8bit.png")
    write_maps(maps, root / "gtFine" / "val" / "aa")
    return open_dataset(Data(root=str(root)), ("val",), task=task)


def guesses(dataset: Dataset, noise: float, seed: int) -> list[dict[str, Any]]:
    """The true objects as detections, moved and of a wrong class at times with `noise`."""
    rng, results = np.random.default_rng(seed), list[dict[str, Any]]()
    for record in dataset.val:
        for annotation in with_masks(record, "instance").annotations or ():
            if annotation["iscrowd"]:
                continue
            label = int(rng.integers(8)) if rng.random() < noise else annotation["label"]
            result = {"image_id": record.image_id, "category_id": dataset.category_ids[label]}
            results.append(
                {**result, "score": 0.1 + 0.9 * rng.random(), "segmentation": annotation["segmentation"]}
            )
    return results


def found_maps(dataset: Dataset, noise: float, seed: int, names: np.ndarray | None = None) -> list[FoundMap]:
    """The true maps, some blocks of pixels replaced with `noise`; names: the number of each segment."""
    rng, maps = np.random.default_rng(seed), list[FoundMap]()
    for record in dataset.val:
        truth = read_regions(record, dataset.task)
        place = truth.place.copy()
        blocks = np.kron(rng.random((12, 20)) < noise, np.ones((8, 8), bool))
        place[blocks] = np.kron(rng.integers(0, len(truth.segments), (12, 20)), np.ones((8, 8), int))[blocks]
        labels = [segment.label for segment in truth.segments]
        if dataset.task == "semantic":
            maps.append(FoundMap(record.image_id, np.array([*labels, -1])[place]))
            continue
        numbers = np.arange(len(labels)) if names is None else names[: len(labels)]
        crowds = {i for i, segment in enumerate(truth.segments) if segment.is_crowd}
        kept = {int(numbers[i]): label for i, label in enumerate(labels) if i not in crowds}
        maps.append(FoundMap(record.image_id, np.append(numbers, -1)[place], kept))
    return maps


def scored(dataset: Dataset, noise: float, order: np.random.Generator | None = None) -> Scores:
    """Scores with boundaries; order: images and objects are shuffled, segments get other numbers."""
    if order is not None:
        dataset = replace(dataset, val=[dataset.val[i] for i in order.permutation(len(dataset.val))])
    unchanged = replace(dataset, val=sorted(dataset.val, key=lambda record: record.image_id))
    if dataset.task == "instance":
        results = guesses(unchanged, noise, 3)
        shuffled = results if order is None else [results[i] for i in order.permutation(len(results))]
        return score_instances(dataset, shuffled, 100, boundary=True)
    names = None if order is None else order.permutation(1000)
    maps = found_maps(unchanged, noise, 3, names)
    return score_maps(maps if order is None else maps[::-1], dataset, dataset.task, boundary=True)


NAMES = {
    "instance": ["mask_ap", "box_ap", "boundary_ap", "cityscapes_ap", "mask_ar1000"],
    "panoptic": ["pq", "sq", "rq", "pq_things", "pq_stuff", "boundary_pq"],
    "semantic": [
        "miou",
        "fwiou",
        "pixel_accuracy",
        "class_accuracy",
        "boundary_miou",
        "iiou",
        "category_iiou",
    ],
}


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_truth_scores_one_and_order_changes_nothing(task: str, seed: int, tmp_path: Path) -> None:
    dataset = frames(seed, tmp_path, task)
    perfect = scored(dataset, 0)
    there = {
        name: value for name, value in perfect.metrics.items() if not np.isnan(value) and "ar1" not in name
    }
    assert there == pytest.approx(dict.fromkeys(there, 1.0))
    assert there.keys() >= {name for name in NAMES[task] if "ar1" not in name}
    noisy, again = scored(dataset, 0.2), scored(dataset, 0.2, np.random.default_rng(seed))
    assert min(noisy.metrics[name] for name in NAMES[task] if name in noisy.metrics) > 0
    assert max(noisy.metrics[name] for name in NAMES[task] if name in noisy.metrics and name != "sq") < 1
    assert again.metrics == pytest.approx(noisy.metrics, abs=1e-12, nan_ok=True)
    for name, values in noisy.per_class.items():
        assert again.per_class[name] == pytest.approx(values, abs=1e-12, nan_ok=True)
