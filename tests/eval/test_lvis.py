"""AP by LVIS's rules: the figures of the `lvis` package on generated cases, and its rules by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_cases import FILE, SEEDS, lvis_case

from gdseg.data.areas import COCO_LIMITS
from gdseg.data.rle import to_rle
from gdseg.eval.coco import score
from gdseg.eval.scores import Scores
from gdseg.structures import Federated, Record

SIZE = (40, 40)


def scored(truth: dict[str, Any], results: list[dict[str, Any]]) -> Scores:
    ids = [c["id"] for c in truth["categories"]]
    label = {category: i for i, category in enumerate(ids)}
    records = []
    for image in truth["images"]:
        mine = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        annotations = tuple({**a, "label": label[a["category_id"]]} for a in mine)
        absent, partial = (
            frozenset(label[c] for c in image[key])
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        sides = image["height"], image["width"]
        records.append(Record(image["id"], Path("x"), *sides, annotations, None, Federated(absent, partial)))
    names, often = [c["name"] for c in truth["categories"]], [c["frequency"] for c in truth["categories"]]
    return score(records, names, ids, results, areas=COCO_LIMITS, frequencies=often)


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_the_lvis_package(seed: int) -> None:
    official = json.loads(FILE.read_text())["lvis"][seed]
    metrics = scored(*lvis_case(seed)).metrics
    for kind, figures in official.items():
        ours = {name: metrics[f"{kind}_{name}"] for name in figures}
        expected = {name: np.nan if value is None else value for name, value in figures.items()}
        assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert len({value for value in figures.values() if value}) > 9  # it says something


def mask(x: int, side: int = 10) -> dict[str, Any]:
    square = np.zeros(SIZE, dtype=np.uint8)
    square[5 : 5 + side, x : x + side] = 1
    return to_rle(square)


def found(category: int, x: int, confidence: float) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "segmentation": mask(x), "score": confidence}


def one_image(absent: list[int], partial: list[int]) -> dict[str, Any]:
    """One object of class 1; classes 2 and 3 have none."""
    image = {"id": 1, "height": 40, "width": 40, "neg_category_ids": absent}
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": mask(0),
        "area": 100,
        "iscrowd": 0,
    }
    return {
        "images": [{**image, "not_exhaustive_category_ids": partial}],
        "annotations": [annotation],
        "categories": [{"id": i, "name": f"c{i}", "frequency": "rcf"[i - 1]} for i in (1, 2, 3)],
    }


@pytest.mark.parametrize(("partial", "ap"), [([], 0.5), ([1], 1.0)])
def test_more_of_a_class_than_is_marked_is_wrong_unless_marks_are_partial(
    partial: list[int], ap: float
) -> None:
    metrics = scored(one_image([], partial), [found(1, 20, 0.9), found(1, 0, 0.8)]).metrics
    assert metrics["mask_ap"] == metrics["box_ap"] == metrics["mask_ap_rare"] == pytest.approx(ap)
    assert np.isnan(metrics["mask_ap_common"])


def test_classes_nobody_looked_for_are_not_judged() -> None:
    truth = one_image([2], [])
    second = {**truth["images"][0], "id": 2, "neg_category_ids": []}
    truth["images"].append(second)
    truth["annotations"].append({**truth["annotations"][0], "id": 2, "image_id": 2, "category_id": 2})
    right = {**found(2, 0, 0.5), "image_id": 2}
    searched, not_searched = found(2, 0, 0.9), {**found(1, 0, 0.9), "image_id": 2}
    results = [found(1, 0, 0.8), right, not_searched]
    assert scored(truth, results).metrics["mask_ap"] == pytest.approx(1)
    assert scored(truth, [*results, searched]).per_class["c2"]["mask_ap"] == pytest.approx(0.5)


def test_the_best_300_of_an_image_count() -> None:
    noise = [{**found(2, 20, 0.9), "score": 0.9 + i / 1e4} for i in range(300)]
    assert scored(one_image([2], []), [*noise[:299], found(1, 0, 0.5)]).metrics["mask_ap"] == pytest.approx(1)
    assert scored(one_image([2], []), [*noise, found(1, 0, 0.5)]).metrics["mask_ap"] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_truth_scores_one_and_order_changes_nothing(seed: int) -> None:
    truth, results = lvis_case(seed)
    perfect = [{**a, "score": 0.5} for a in truth["annotations"]]
    metrics = scored(truth, perfect).metrics
    assert all(v == pytest.approx(1) for k, v in metrics.items() if v == v and "ar1" not in k)
    apart = [{**result, "score": i / len(results)} for i, result in enumerate(results)]  # no equal scores
    draw = np.random.default_rng(seed)
    shuffled = {**truth, "annotations": [truth["annotations"][i] for i in draw.permutation(len(perfect))]}
    other = scored(shuffled, [apart[i] for i in draw.permutation(len(apart))])
    assert other.metrics == pytest.approx(scored(truth, apart).metrics, nan_ok=True)
