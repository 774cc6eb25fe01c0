"""Cityscapes AP and iIoU: the figures of cityscapesscripts on generated cases, and its rules by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_cases import FILE, SEEDS, SIZE, THINGS, cityscapes_case, labels_of, rectangle, write_maps
from PIL import Image

from gdseg.data.cityscapes import CLASSES
from gdseg.data.dataset import open_dataset
from gdseg.data.rle import to_rle
from gdseg.errors import DataError
from gdseg.eval.cityscapes import score_instances
from gdseg.eval.cityscapes_iou import InstanceIou
from gdseg.eval.maps import FoundMap, score_maps
from gdseg.eval.run import score_instances as score_dataset
from gdseg.eval.scores import Scores
from gdseg.recipe import Data

NAMES, IDS = [c.name for c in THINGS], [c.id for c in THINGS]
LABEL = np.full(256, -1)
LABEL[[c.id for c in CLASSES]] = range(len(CLASSES))


def instances(maps: dict[str, np.ndarray], results: list[dict[str, Any]], folder: Path) -> Scores:
    return score_instances(write_maps(maps, folder), NAMES, IDS, results)


def as_dataset(maps: dict[str, np.ndarray], root: Path, task: str):
    """The maps as a Cityscapes download, with black images."""
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / "val" / "aa").mkdir(parents=True, exist_ok=True)
    write_maps(maps, root / "gtFine" / "val" / "aa")
    for name, ids in maps.items():
        image = Image.fromarray(np.zeros((*ids.shape, 3), np.uint8))
        image.save(root / "leftImg8bit" / "val" / "aa" / f"{name}_leftImg8bit.png")
    return open_dataset(Data(root=str(root)), ("val",), task=task)


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_cityscapesscripts(seed: int, tmp_path: Path) -> None:
    official = json.loads(FILE.read_text())["cityscapes"][seed]
    maps, results, found = cityscapes_case(seed)
    scores = instances(maps, results, tmp_path)
    dataset = as_dataset(maps, tmp_path / "cs", "semantic")
    semantic = score_maps((FoundMap(f"aa/{n}", LABEL[m]) for n, m in found.items()), dataset, "semantic")
    metrics = scores.metrics | semantic.metrics
    for name in ("cityscapes_ap", "cityscapes_ap50", "iiou", "category_iou", "category_iiou"):
        assert metrics[name] == pytest.approx(official[name], abs=1e-12)
    for name, figures in official["per_class"].items():
        ours = scores.per_class[name] | {"iiou": semantic.per_class[name]["iiou"]}
        expected = [np.nan if value is None else value for value in figures]
        assert list(ours.values()) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_data_set_in_its_layout_gets_both_kinds_of_ap(tmp_path: Path) -> None:
    maps, results, _ = cityscapes_case(0)
    dataset = as_dataset(maps, tmp_path, "instance")
    named = [{**result, "image_id": f"aa/{result['image_id']}"} for result in results]
    metrics = score_dataset(dataset, named, 100).metrics
    assert metrics["cityscapes_ap"] == instances(maps, results, tmp_path).metrics["cityscapes_ap"]
    assert 0 < metrics["mask_ap"] != metrics["cityscapes_ap"]
    boxes = [{"bbox": [0, 0, 5, 5], "image_id": r["image_id"], "category_id": 24, "score": 1} for r in named]
    assert "cityscapes_ap" not in score_dataset(dataset, boxes, 100).metrics


def detection(x: int, w: int, h: int = 20, category: int = 26, confidence: float = 0.5) -> dict[str, Any]:
    mask = to_rle(rectangle(SIZE, x, 0, w, h))
    return {"image_id": "a", "category_id": category, "score": confidence, "segmentation": mask}


def street(*things: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    """A road with (value, x, width, height) on it."""
    ids = np.full(SIZE, 7)
    for value, x, w, h in things:
        ids[:h, x : x + w] = value
    return {"a": ids}


@pytest.mark.parametrize(
    ("beside", "ap"),
    [
        ((7, 40, 20, 20), 0.75),  # nothing: a false positive, precision 1, then 1/2 at recall 1
        ((26, 40, 20, 20), 1.0),  # on a group of cars
        ((24, 40, 20, 20), 0.75),  # on a group of persons
        ((3, 40, 20, 20), 1.0),  # on void
        ((26007, 40, 9, 11), 1.0),  # on a car below 100 pixels
    ],
)
def test_what_lies_on_void_groups_and_small_objects_is_not_judged(beside, ap: float, tmp_path: Path) -> None:
    w, h = beside[2:]
    more = detection(40, w, h, confidence=0.9)
    scores = instances(street((26001, 0, 20, 20), beside), [detection(0, 20), more], tmp_path)
    # with the wrong one first: precision 1/2 at recall 1, and a straight line to precision 1 at recall 0
    first = 1.0 if ap == 1 else (0 + 0.5) / 2
    assert scores.per_class["car"]["cityscapes_ap"] == pytest.approx(first)
    later = [detection(0, 20), {**more, "score": 0.1}]
    scores = instances(street((26001, 0, 20, 20), beside), later, tmp_path)
    assert scores.per_class["car"]["cityscapes_ap"] == pytest.approx(1.0)


def test_an_object_found_twice_is_wrong_once(tmp_path: Path) -> None:
    results = [detection(0, 20, confidence=0.9), detection(0, 19, confidence=0.8), detection(60, 20)]
    scores = instances(street((26001, 0, 20, 20), (26002, 60, 20, 20)), results, tmp_path)
    # points (recall, precision): (0, 1) (1/2, 1) (1/2, 1/2) (1, 2/3)
    assert scores.metrics["cityscapes_ap50"] == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert np.isnan(scores.per_class["person"]["cityscapes_ap"])
    assert np.isnan(instances(street(), [], tmp_path).metrics["cityscapes_ap"])
    assert instances(street((26001, 0, 20, 20)), [], tmp_path).metrics["cityscapes_ap"] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_truth_scores_one_and_order_changes_nothing(seed: int, tmp_path: Path) -> None:
    maps, results, _ = cityscapes_case(seed)
    perfect = [
        {"image_id": n, "category_id": int(v) // 1000, "score": 0.5, "segmentation": to_rle((m == v).astype(np.uint8))}
        for n, m in maps.items()
        for v in np.unique(m)
        if v // 1000 in IDS
    ]  # fmt: skip
    scores = instances(maps, perfect, tmp_path)
    assert scores.metrics == pytest.approx({"cityscapes_ap": 1, "cityscapes_ap50": 1})
    order = np.random.default_rng(seed).permutation(len(results))
    first, second = instances(maps, results, tmp_path), instances(maps, [results[i] for i in order], tmp_path)
    assert first.metrics == pytest.approx(second.metrics, abs=1e-12)


def test_iiou_by_hand(tmp_path: Path) -> None:
    """Two cars of 400 and 100 pixels, the small one missed: IoU 4/5, iIoU one half."""
    maps = street((26001, 0, 20, 20), (26002, 40, 10, 10))
    found = LABEL[labels_of(maps["a"])]
    found[:, 40:] = LABEL[7]
    dataset = as_dataset(maps, tmp_path, "semantic")
    scores = score_maps([FoundMap("aa/a", found)], dataset, "semantic")
    assert scores.per_class["car"]["iou"] == pytest.approx(4 / 5)
    assert scores.per_class["car"]["iiou"] == scores.metrics["iiou"] == pytest.approx(1 / 2)
    perfect = score_maps([FoundMap("aa/a", LABEL[labels_of(maps["a"])])], dataset, "semantic").metrics
    assert perfect == dict.fromkeys(perfect, 1.0)


def test_iiou_needs_maps_of_one_size(tmp_path: Path) -> None:
    paths = write_maps(street(), tmp_path)
    with pytest.raises(DataError, match="size"):
        InstanceIou(paths, [c.name for c in CLASSES], [c.id for c in CLASSES]).add("a", np.zeros((3, 3), int))
