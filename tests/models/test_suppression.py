"""Duplicate suppression against pycocotools' overlaps and a plain greedy loop."""

import numpy as np
import torch
from pycocotools import mask as coco_mask

from gdseg.models.suppression import best_of_duplicates


def _greedy(masks: np.ndarray, scores: list[float], labels: list[int], max_iou: float) -> list[bool]:
    rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    iou = coco_mask.iou(rles, rles, [0] * len(rles))
    kept: list[int] = []
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if all(labels[i] != labels[j] or iou[i, j] <= max_iou for j in kept):
            kept.append(i)
    return [i in kept for i in range(len(masks))]


def test_equal_to_a_greedy_loop_over_pycocotools_overlaps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        masks = np.zeros((12, 16, 16), bool)
        for mask in masks:
            y, x, h, w = rng.integers(0, 8, 2).tolist() + rng.integers(3, 9, 2).tolist()
            mask[y : y + h, x : x + w] = True
        scores, labels = rng.permutation(12).astype(float).tolist(), rng.integers(0, 2, 12).tolist()
        max_iou = float(rng.choice([0.1, 0.3, 0.5]))
        found = best_of_duplicates(torch.tensor(masks), torch.tensor(scores), torch.tensor(labels), max_iou)
        assert found.tolist() == _greedy(masks, scores, labels, max_iou)


def test_a_suppressed_mask_suppresses_nothing_and_empty_input_is_empty() -> None:
    masks = torch.zeros(3, 1, 12, dtype=torch.bool)
    masks[0, 0, :6] = masks[1, 0, 3:9] = masks[2, 0, 6:] = True  # a chain: 0 and 2 do not touch
    labels = torch.zeros(3, dtype=torch.int64)
    keep = best_of_duplicates(masks, torch.tensor([0.9, 0.8, 0.7]), labels, 0.3)
    assert keep.tolist() == [True, False, True]
    empty = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert best_of_duplicates(empty, torch.ones(2), labels[:2], 0.5).tolist() == [True, True]
    assert best_of_duplicates(empty[:0], torch.ones(0), labels[:0], 0.5).tolist() == []
