"""eval/coco.py against pycocotools' own summary, the COCO API's published figures and cases done by hand."""

import contextlib
import copy
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gdseg.data.areas import COCO_LIMITS, area_limits, thirds
from gdseg.data.coco import read_coco
from gdseg.data.rle import to_rle
from gdseg.eval.coco import score
from gdseg.structures import Record

SIZE = 64
TABLE = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
TABLE += ["ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]  # as COCOeval prints them


def square(x: int, y: int, side: int) -> dict[str, Any]:
    """RLE of a square."""
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[y : y + side, x : x + side] = 1
    return to_rle(mask)


def record(image_id: int | str, *things: tuple[int, dict[str, Any]], crowd: bool = False) -> Record:
    annotations = tuple({"label": label, "segmentation": rle, "iscrowd": int(crowd)} for label, rle in things)
    return Record(image_id, Path(f"{image_id}.png"), SIZE, SIZE, annotations)


def result(
    image_id: int | str, category_id: int, rle: dict[str, Any], confidence: float = 0.9
) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "segmentation": rle, "score": confidence}


def official(truth: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """The twelve figures of COCOeval.summarize."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(truth))
        evaluator = COCOeval(data, data.loadRes(copy.deepcopy(results)), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


PUBLISHED = {  # cocoapi, results/val2014_fake_eval_res.txt has three digits of them
    "box": [0.50458, 0.69697, 0.57298, 0.58563, 0.5194, 0.5014, 0.38681, 0.59368, 0.59535, 0.63981, 0.56642, 0.56429],
    "mask": [0.31955, 0.56229, 0.29893, 0.38737, 0.31018, 0.32693, 0.26823, 0.41545, 0.41684, 0.46945, 0.37676, 0.38147],
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "coco_kind"), [("bbox", "box", "bbox"), ("segm", "mask", "segm")])
def test_the_24_figures_of_the_coco_example(shared_dir: Path, name: str, kind: str, coco_kind: str) -> None:
    folder = shared_dir / "data" / "coco_eval_fixtures"
    truth = folder / "instances_val2014_100.json"
    results = json.loads((folder / f"instances_val2014_fake{name}100_results.json").read_text())
    content = read_coco(truth, folder)
    scores = score(content.records, content.classes, content.category_ids, results)
    ours = [scores.metrics[f"{kind}_{metric}"] for metric in TABLE]
    assert ours == pytest.approx(PUBLISHED[kind], abs=5e-6)
    assert ours == pytest.approx(official(truth, results, coco_kind), abs=1e-12)
    text = (folder / "val2014_fake_eval_res.txt").read_text().split(f"type={coco_kind}")[1].split("type=")[0]
    assert [f"{value:.3f}" for value in ours] == re.findall(r"= (\d\.\d{3})", text)


def random_case(tmp_path: Path, ids: list[int]) -> tuple[Path, list[dict[str, Any]]]:
    """Truth and detections with all sizes of object, crowds, duplicates and images without either."""
    rng = np.random.default_rng(3)
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 200, "width": 200} for i in ids],
        "categories": [{"id": c, "name": f"c{c}"} for c in (7, 3, 90)],
        "annotations": [],
    }
    results = []
    for image_id in ids[:-1]:
        for number in range(int(rng.integers(1, 9))):
            x, y = rng.integers(0, 60, 2)
            w, h = rng.integers(8, 130, 2)
            mask = np.zeros((200, 200), dtype=np.uint8)
            mask[y : y + h, x : x + w] = 1
            entry = {
                "id": len(truth["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(rng.choice([3, 7])),
                "segmentation": to_rle(mask),
                "area": int(mask.sum()),
                "bbox": [int(x), int(y), int(w), int(h)],
                "iscrowd": int(number == 4),
            }
            truth["annotations"].append(entry)
            for _ in range(int(rng.integers(0, 3))):
                moved = np.roll(mask, tuple(rng.integers(-6, 7, 2)), (0, 1))
                results.append(result(image_id, entry["category_id"], to_rle(moved), float(rng.random())))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path / "truth.json", results


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_agrees_with_pycocotools(tmp_path: Path, kind: str) -> None:
    truth, results = random_case(tmp_path, [5, 139, 2, 44, 0, 17])
    content = read_coco(truth, tmp_path)
    metrics = score(content.records, content.classes, content.category_ids, results).metrics
    ours = [metrics[f"{kind}_{name}"] for name in TABLE]
    if kind == "box":
        with contextlib.redirect_stdout(io.StringIO()):
            boxes = COCO(str(truth)).loadRes(copy.deepcopy(results)).dataset["annotations"]
        results = [
            {k: b[k] for k in ("image_id", "category_id", "score")} | {"bbox": b["bbox"].tolist()}
            for b in boxes
        ]
    theirs = official(truth, results, {"mask": "segm", "box": "bbox"}[kind])
    assert 0.1 < theirs[0] < 0.9
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_bbox_beside_the_mask_does_not_change_mask_ap(tmp_path: Path) -> None:
    """COCO.loadRes takes the box's area for the mask's when both are there; the mask is what is compared."""
    truth, results = random_case(tmp_path, [1, 2, 3, 4])
    content = read_coco(truth, tmp_path)
    with_box = [{**r, "bbox": [0.0, 0.0, 200.0, 200.0]} for r in results]
    a = score(content.records, content.classes, content.category_ids, results).metrics
    b = score(content.records, content.classes, content.category_ids, with_box).metrics
    assert {k: v for k, v in a.items() if "mask" in k} == {k: v for k, v in b.items() if "mask" in k}


def test_a_perfect_and_a_half_answer() -> None:
    records = [
        record("a", (0, square(2, 2, 20)), (1, square(30, 30, 10))),
        record("b", (0, square(5, 5, 30))),
    ]
    everything = [
        result("a", 4, square(2, 2, 20)),
        result("a", 9, square(30, 30, 10)),
        result("b", 4, square(5, 5, 30)),
    ]
    scores = score(records, ["x", "y"], [4, 9], everything, areas=COCO_LIMITS)
    assert (
        scores.metrics["mask_ap"]
        == scores.metrics["box_ap"]
        == scores.metrics["mask_ar100"]
        == pytest.approx(1)
    )
    assert math.isnan(scores.metrics["mask_ap_large"])  # no object is larger than 96 x 96
    half = score(records, ["x", "y"], [4, 9], everything[:1])
    # class x: recall 0.5 at precision 1: 51 of the 101 recall levels; class y: 0
    assert half.metrics["mask_ap"] == pytest.approx(51 / 101 / 2)
    assert half.per_class["x"] == pytest.approx(
        {"mask_ap": 51 / 101, "mask_ap50": 51 / 101, "box_ap": 51 / 101, "box_ap50": 51 / 101, "objects": 2}
    )
    assert half.per_class["y"]["mask_ap"] == 0


def test_classes_go_by_label_not_by_id() -> None:
    scores = score(
        [record(1, (0, square(2, 2, 20)))], ["late", "early"], [90, 3], [result(1, 90, square(2, 2, 20))]
    )
    assert scores.per_class["late"]["mask_ap"] == pytest.approx(1)
    assert math.isnan(scores.per_class["early"]["mask_ap"])


def test_no_predictions_score_zero_and_no_truth_is_nan() -> None:
    metrics = score([record(1, (0, square(0, 0, 9)))], ["x"], [1], []).metrics
    assert metrics["mask_ap"] == metrics["box_ap"] == metrics["mask_ar100"] == 0
    empty = score([record(1)], ["x"], [1], [result(1, 1, square(0, 0, 9))]).metrics
    assert math.isnan(empty["mask_ap"])
    assert math.isnan(score([], ["x"], [1], []).metrics["box_ap"])


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong() -> None:
    crowd = record("a", (0, square(0, 0, 40)), crowd=True)
    thing = record("b", (0, square(0, 0, 20)))
    results = [result("a", 1, square(4, 4, 9), 0.99), result("b", 1, square(0, 0, 20), 0.5)]
    scores = score([crowd, thing], ["x"], [1], results)
    assert scores.metrics["mask_ap"] == pytest.approx(1)
    assert scores.per_class["x"]["objects"] == 1


def test_the_number_of_detections_follows_the_recipe_and_the_data() -> None:
    small = [square(4 * (i % 15), 4 * (i // 15), 3) for i in range(120)]
    results = [result(1, 1, rle, 1 - i / 1000) for i, rle in enumerate(small)]
    few = [record(1, *((0, rle) for rle in small[90:]))]  # 30 objects, found by detections 91 to 120
    metrics = score(few, ["x"], [1], results).metrics
    assert metrics["mask_ar100"] == pytest.approx(10 / 30)  # COCO judges the first hundred of a class
    assert score(few, ["x"], [1], results, max_detections=5).metrics == pytest.approx(metrics, nan_ok=True)
    assert score(few, ["x"], [1], results, max_detections=200).metrics["mask_ar200"] == 1
    metrics = score([record(1, *((0, rle) for rle in small))], ["x"], [1], results).metrics
    assert metrics["mask_ap"] == metrics["mask_ar120"] == pytest.approx(1)  # as many as there are objects
    assert "mask_ar100" not in metrics


def test_limits_of_areas_follow_the_data() -> None:
    sides = (4, 5, 6, 10, 11, 12, 20, 21, 22)
    cells = [record(i, (0, square(0, 0, side))) for i, side in enumerate(sides)]  # all small by COCO's limits
    results = [result(i, 1, square(0, 0, side)) for i, side in enumerate(sides[:6])]
    scores = score(cells, ["x"], [1], results)
    assert 36 < scores.areas[0] < 100
    assert 144 < scores.areas[1] < 400
    assert scores.metrics["mask_ap_small"] == scores.metrics["mask_ap_medium"] == pytest.approx(1)
    assert scores.metrics["mask_ap_large"] == 0
    scores = score(cells, ["x"], [1], results, areas=COCO_LIMITS)
    assert np.isnan(scores.metrics["mask_ap_large"])
    assert score([record(1)], ["x"], [1], []).areas == COCO_LIMITS
    given = score(cells, ["x"], [1], results, areas=(26.0, 1000.0)).metrics
    assert (given["mask_ar_small"], given["mask_ar_medium"]) == pytest.approx((1, 4 / 7))
    assert area_limits([100.0, 2000.0, 10000.0]) == COCO_LIMITS
    assert thirds([100.0, 2000.0, 10000.0]) != COCO_LIMITS


@pytest.mark.parametrize("seed", range(3))
def test_order_changes_nothing(tmp_path: Path, seed: int) -> None:
    truth, results = random_case(tmp_path, [5, 139, 2, 44])
    content, draw = read_coco(truth, tmp_path), np.random.default_rng(seed)
    results = [{**r, "score": i / len(results)} for i, r in enumerate(draw.permutation(np.array(results)))]
    first = score(content.records, content.classes, content.category_ids, results)
    records = [
        replace(r, annotations=tuple(draw.permutation(np.array(r.annotations)))) for r in content.records
    ]
    shuffled = list(draw.permutation(np.array(results)))
    second = score(records[::-1], content.classes, content.category_ids, shuffled)
    assert first.metrics == pytest.approx(second.metrics, abs=1e-12, nan_ok=True)


def test_results_stay_as_they_were() -> None:
    results = [result(1, 1, square(0, 0, 9))]
    before = copy.deepcopy(results)
    score([record(1, (0, square(0, 0, 9)))], ["x"], [1], results)
    assert results == before
