"""Matches are those of pycocotools, crowds and all; counts against a hand-made case."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gdseg.data.rle import to_rle
from gdseg.eval.matching import NONE, SPARED, Tally, overlaps
from gdseg.structures import Federated, Predictions, Record

SIZE = (40, 50)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[y0:y1, x0:x1] = 1
    return to_rle(mask)


def found(*objects: tuple[int, float, dict[str, Any]]) -> Predictions:
    labels, scores, rles = ([o[i] for o in objects] for i in range(3))
    boxes = torch.zeros(len(objects), 4)
    return Predictions(1, SIZE, torch.tensor(labels).long(), torch.tensor(scores).double(), boxes, rles)


def record(*objects: tuple[int, dict[str, Any], bool], federated: Federated | None = None) -> Record:
    annotations = tuple({"label": c, "segmentation": rle, "iscrowd": int(crowd)} for c, rle, crowd in objects)
    return Record(1, Path("a.png"), *SIZE, annotations, federated=federated)


def random_rectangle(rng: np.random.Generator) -> dict[str, Any]:
    x, y = rng.integers(0, 38), rng.integers(0, 28)
    w, h = rng.integers(4, 12, 2)
    return rectangle(x, y, x + w, y + h)


def coco_matches(predictions: Predictions, truth: Record, at: float) -> dict[int, int]:
    """Detection -> true object, -1 for wrong, -2 for ignored, as COCOeval sees it."""
    sides = COCO(), COCO()
    image = {"id": 1, "height": SIZE[0], "width": SIZE[1]}
    for side in sides:
        side.dataset = {"images": [image], "categories": [{"id": c} for c in (0, 1)], "annotations": []}
    for i, a in enumerate(truth.annotations or (), 1):
        area = float(coco_mask.area(a["segmentation"]))
        sides[0].dataset["annotations"].append(
            {
                "id": i,
                "image_id": 1,
                "category_id": a["label"],
                "segmentation": a["segmentation"],
                "iscrowd": a["iscrowd"],
                "area": area,
            }
        )
    for i, rle in enumerate(predictions.rles, 1):
        sides[1].dataset["annotations"].append(
            {
                "id": i,
                "image_id": 1,
                "category_id": int(predictions.labels[i - 1]),
                "segmentation": rle,
                "iscrowd": 0,
                "score": float(predictions.scores[i - 1]),
                "area": float(coco_mask.area(rle)),
            }
        )
    for side in sides:
        side.createIndex()
    evaluator = COCOeval(*sides, "segm")
    evaluator.params.iouThrs = np.array([at])
    evaluator.evaluate()
    matches = {}
    for entry in filter(None, evaluator.evalImgs[:: len(evaluator.params.areaRng)]):  # areas: all
        ids, true, ignored = entry["dtIds"], entry["dtMatches"][0], entry["dtIgnore"][0]
        for d, g, spared in zip(ids, true, ignored, strict=True):
            matches[int(d) - 1] = SPARED if spared else int(g) - 1 if g else NONE
    return matches


@pytest.mark.parametrize("seed", range(40))
def test_matches_are_those_of_pycocotools(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(seed)
    truth = [(int(rng.integers(2)), random_rectangle(rng), bool(rng.random() < 0.2)) for _ in range(8)]
    near = [(c, coco_mask.merge([rle, rectangle(0, 0, 1, 1)])) for c, rle, _ in truth for _ in range(2)]
    guesses = [*near, *((int(rng.integers(2)), random_rectangle(rng)) for _ in range(6))]
    scores = rng.permutation(len(guesses)) / 100 + 0.1
    predictions = found(*((c, s, rle) for (c, rle), s in zip(guesses, scores.tolist(), strict=True)))
    for at in (0.3, 0.5, 0.75):
        matched = overlaps(predictions, record(*truth)).match(predictions.scores.numpy(), at)
        assert dict(enumerate(matched.tolist())) == coco_matches(predictions, record(*truth), at)


def test_a_score_of_nan_takes_no_part() -> None:
    mask = rectangle(0, 0, 10, 10)
    image = overlaps(found((0, 0.9, mask), (0, 0.5, mask)), record((0, mask, False)))
    assert image.match(np.array([np.nan, 0.5])).tolist() == [NONE, 0]


def test_nothing_found_or_nothing_there() -> None:
    mask = rectangle(0, 0, 10, 10)
    assert overlaps(found(), record((0, mask, False))).match(np.zeros(0)).tolist() == []
    assert overlaps(found((1, 0.5, mask)), record()).match(np.array([0.5])).tolist() == [NONE]


def test_what_nobody_looked_for_is_no_error() -> None:
    mask, other = rectangle(0, 0, 10, 10), rectangle(20, 20, 30, 30)
    known = Federated(absent=frozenset({1}), partial=frozenset({0}))
    predictions = found((0, 0.9, mask), (0, 0.8, other), (1, 0.7, other), (2, 0.6, other))
    matched = overlaps(predictions, record((0, mask, False), federated=known)).match(
        predictions.scores.numpy()
    )
    # found; perhaps unmarked; surely absent; not looked for
    assert matched.tolist() == [0, SPARED, NONE, SPARED]


def test_tally() -> None:
    a, b = rectangle(0, 0, 10, 10), rectangle(20, 20, 30, 30)
    predictions = found((0, 0.9, a), (0, 0.8, a), (1, 0.7, a), (1, 0.2, b))
    image = overlaps(predictions, record((0, a, False), (1, b, False), (1, rectangle(40, 30, 50, 40), False)))
    matched = image.match(predictions.scores.numpy())
    tally = Tally.of(2)
    tally.add(image, matched, predictions.scores.numpy() >= 0.5)
    assert (tally.right.tolist(), tally.wrong.tolist(), tally.missed.tolist()) == ([1, 0], [1, 1], [0, 2])
    tally.add(image, matched, predictions.scores.numpy() >= 0.1)
    assert (tally.right.tolist(), tally.wrong.tolist(), tally.missed.tolist()) == ([2, 1], [2, 2], [0, 3])
    assert tally.precision([1]) == pytest.approx(1 / 3)
    assert tally.recall() == pytest.approx(3 / 6)
    assert np.isnan(Tally.of(2).precision())
