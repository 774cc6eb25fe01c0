"""Boundary AP, Boundary PQ and boundary IoU against the paper's formulas, done mask by mask with SciPy."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from gdseg.data.areas import COCO_LIMITS
from gdseg.data.rle import to_rle
from gdseg.eval.boundary import BoundaryIou, boundary
from gdseg.eval.coco import score
from gdseg.eval.panoptic import PanopticQuality, Truth
from gdseg.structures import Record


def rim(mask: np.ndarray) -> np.ndarray:
    """G_d of the paper: what as many erosions as 2 % of the diagonal has pixels take away."""
    steps = max(1, round(0.02 * np.hypot(*mask.shape)))
    padded = np.pad(mask.astype(bool), 1)
    eroded = ndimage.binary_erosion(padded, np.ones((3, 3)), iterations=steps)
    return mask.astype(bool) & ~eroded[1:-1, 1:-1]


def blobs(seed: int, classes: int, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """Smooth regions -1..classes - 1."""
    noise = np.random.default_rng(seed).normal(size=(classes + 1, *size))
    return ndimage.gaussian_filter(noise, (0, 6, 6)).argmax(0) - 1


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (60, 300), (210, 190)])
def test_the_boundary_of_a_map_is_that_of_each_region(size: tuple[int, int]) -> None:
    regions = blobs(1, 4, size)
    expected = sum(rim(regions == label) for label in range(-1, 4))
    assert (boundary(regions) == expected.astype(bool)).all()


class BoundaryEval(COCOeval):
    """COCOeval with the lesser of mask IoU and Boundary IoU; crowds keep the mask's."""

    def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802
        ious = super().computeIoU(image, category)
        truth, found = self._gts[image, category], self._dts[image, category]
        if len(ious):
            order = np.argsort([-d["score"] for d in found], kind="mergesort")[: self.params.maxDets[-1]]
            rims = [[self.rim(a) for a in side] for side in ([found[i] for i in order], truth)]
            crowd = np.array([t["iscrowd"] for t in truth], bool)
            ious = np.where(crowd, ious, np.minimum(ious, coco_mask.iou(*rims, [0] * len(truth))))
        return ious

    @staticmethod
    def rim(annotation: dict[str, Any]) -> dict[str, Any]:
        return to_rle(rim(coco_mask.decode(annotation["segmentation"])).astype(np.uint8))


def ap_case(seed: int) -> tuple[list[Record], list[dict[str, Any]]]:
    rng, size, records, results = np.random.default_rng(seed), (90, 120), [], []
    for image in range(1, 5):
        regions, annotations = blobs(10 * seed + image, 5), []
        for label in range(5):
            mask = regions == label
            if not mask.any():
                continue
            crowd = int(rng.random() < 0.15)
            annotations.append(
                {"label": label % 2, "segmentation": to_rle(mask.astype(np.uint8)), "iscrowd": crowd}
            )
            for _ in range(2):
                moved = ndimage.shift(mask.astype(np.uint8), rng.integers(-2, 3, 2), order=0)
                entry = {"image_id": image, "category_id": (3, 9)[label % 2], "score": round(rng.random(), 1)}
                results.append({**entry, "segmentation": to_rle(moved)})
        records.append(Record(image, Path("x"), *size, tuple(annotations)))
    return records, results


@pytest.mark.parametrize("seed", range(3))
def test_boundary_ap(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    records, results = ap_case(seed)
    scores = score(records, ["a", "b"], [3, 9], results, boundary=True, areas=COCO_LIMITS)
    sides, common = [], {"images": [{"id": r.image_id, "height": 90, "width": 120} for r in records]}
    common["categories"] = [{"id": 3}, {"id": 9}]
    truth = [(r.image_id, a) for r in records for a in r.annotations or ()]
    entries = [{**a, "image_id": i, "category_id": (3, 9)[a["label"]]} for i, a in truth]
    for annotations in (entries, copy.deepcopy(results)):
        for number, each in enumerate(annotations, 1):
            each |= {"id": number, "area": int(coco_mask.area(each["segmentation"]))}
        side = COCO()
        side.dataset = {**common, "annotations": annotations}
        side.createIndex()
        sides.append(side)
    evaluator = BoundaryEval(*sides, "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    names = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100"]
    ours = [scores.metrics[f"boundary_{name}"] for name in names]
    expected = np.where(evaluator.stats[:9] == -1, np.nan, evaluator.stats[:9])
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert 0 < ours[0] < scores.metrics["mask_ap"]


def test_the_truth_has_boundary_ap_one() -> None:
    records, _ = ap_case(5)
    annotations = [(r.image_id, a) for r in records for a in r.annotations or () if not a["iscrowd"]]
    perfect = [
        {"image_id": i, "category_id": (3, 9)[a["label"]], "score": 0.5, "segmentation": a["segmentation"]}
        for i, a in annotations
    ]
    assert score(records, ["a", "b"], [3, 9], perfect, boundary=True).metrics["boundary_ap"] == pytest.approx(
        1
    )


@pytest.mark.parametrize("seed", range(4))
def test_boundary_iou_of_classes(seed: int) -> None:
    """Sums over two images; what is found where the truth is void counts for nothing."""
    total, sums = BoundaryIou(4), np.zeros((2, 4))
    for image in range(2):
        truth, found = blobs(seed + image, 4), blobs(seed + image + 50, 5)
        total.add(truth, found)
        for label in range(4):
            true, mine = rim(truth == label), rim((found == label) & (truth >= 0))
            sums[:, label] += (true & mine).sum(), (true | mine).sum()
    scores = total.scores(list("abcd"))
    assert [v["boundary_iou"] for v in scores.per_class.values()] == pytest.approx(sums[0] / sums[1])
    assert scores.metrics["boundary_miou"] == pytest.approx((sums[0] / sums[1]).mean())


def test_boundary_iou_of_the_truth_is_one_whatever_lies_on_void() -> None:
    truth, total = blobs(3, 3), BoundaryIou(4)
    total.add(truth, np.where(truth < 0, blobs(4, 4), truth))
    scores = total.scores(list("abcd"))
    assert scores.metrics["boundary_miou"] == 1
    assert np.isnan(scores.per_class["d"]["boundary_iou"])  # the truth never holds it
    assert np.isnan(BoundaryIou(2).scores(["a", "b"]).metrics["boundary_miou"])


@pytest.mark.parametrize("seed", range(4))
def test_boundary_pq(seed: int) -> None:
    """The rules of the paper's code (boundary-iou-api, coco_panoptic_api/evaluation.py), pair by pair."""
    truth, found = blobs(seed, 7), blobs(seed, 7)
    found = np.where(np.random.default_rng(seed).random(truth.shape) < 0.02, -1, np.roll(found, seed, 1))
    segments = [Truth(i % 2, is_crowd=i == 6) for i in range(7)]
    labels = {i: i % 2 for i in range(7)}
    quality = PanopticQuality(2, by_boundary=True)
    quality.add(truth, segments, found, labels)
    iou, matched = np.zeros(2), np.zeros(2, int)
    for t in range(6):
        for f in range(7):
            each = []
            for true, mine in (((truth == t), (found == f)), (rim(truth == t), rim(found == f))):
                union = true.sum() + mine.sum() - (true & mine).sum() - (mine & (truth == -1)).sum()
                each.append((true & mine).sum() / union if union else 0)
            if t % 2 == f % 2 and min(each) > 0.5:
                iou[t % 2] += min(each)
                matched[t % 2] += 1
    assert quality.iou == pytest.approx(iou)
    assert (quality.true_positives == matched).all()
    assert matched.sum() == 6 or seed > 1  # moved by two pixels or more, some boundaries no longer match
    perfect = PanopticQuality(2, by_boundary=True)
    perfect.add(truth, segments, truth, labels)
    assert perfect.scores(["a", "b"], [True, False]).metrics["pq"] == 1
