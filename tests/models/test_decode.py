"""Decoding against a naive float64 computation of whole images, and its bounds."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from gdseg.models import decode_maps
from gdseg.models.decode import decode
from gdseg.recipe import Recipe
from gdseg.structures import Batch, LayerOutput, Outputs

SIZE, ORIGINAL, CLASSES = (50, 40), (75, 33), 3


def case(kind, queries=12):
    """Blobs of logits on a 16 x 12 grid of a 64 x 48 canvas."""
    torch.manual_seed(2)
    masks = F.interpolate(torch.randn(1, queries, 4, 3) * 6, (16, 12), mode="bicubic")
    masks[0, 5] = -4.0  # empty
    logits = torch.randn(1, queries, CLASSES + (kind == "mask2former")) * 2
    boxes = torch.rand(1, queries, 4) if kind == "maskdino" else None
    batch = Batch(["a"], torch.zeros(1, 3, 64, 48), [SIZE], [ORIGINAL], [None])
    recipe = Recipe()
    recipe.decoder.kind = kind
    recipe.postprocess.max_detections = 20
    return Outputs([LayerOutput("final", logits, masks, boxes)]), batch, recipe


def whole(masks):
    """Naive enlargement to the image on disk, float64."""
    padded = F.interpolate(masks.double(), (64, 48), mode="bilinear", align_corners=False)
    return F.interpolate(padded[..., : SIZE[0], : SIZE[1]], ORIGINAL, mode="bilinear", align_corners=False)[0]


@pytest.fixture(params=[1, 64 * 2**20])
def budget(request, monkeypatch):
    """One mask at a time, and all at once."""
    monkeypatch.setattr(decode_maps, "_CHUNK_BYTES", request.param)


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_instances(kind, budget):
    outputs, batch, recipe = case(kind)
    (found,) = decode(outputs, batch, recipe, CLASSES)
    logits = outputs.final.logits[0].double()
    classes = logits.sigmoid() if kind == "maskdino" else logits.softmax(-1)[:, :-1]
    best = classes.flatten().topk(20)
    full = whole(outputs.final.masks)
    expected = []
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        inside = full[index // CLASSES] > 0
        if inside.any():
            quality = full[index // CLASSES].sigmoid()[inside].mean().item()
            expected.append((score * quality, index % CLASSES, inside.numpy()))
    expected.sort(key=lambda item: -item[0])
    assert len(found) == len(expected) < 20
    assert found.labels.tolist() == [label for _, label, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected], rel=1e-5)
    for (_, _, inside), rle, box in zip(expected, found.rles, found.boxes_xyxy_px.tolist(), strict=True):
        assert rle["size"] == list(ORIGINAL)
        assert (coco_mask.decode(rle) == inside).all()
        ys, xs = np.nonzero(inside)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_boxes_of_the_head_and_scores_of_the_class():
    outputs, batch, recipe = case("maskdino")
    recipe.postprocess.boxes, recipe.postprocess.score = "head", "class"
    recipe.postprocess.max_detections = 1
    (found,) = decode(outputs, batch, recipe, CLASSES)
    scores = outputs.final.logits[0].sigmoid()
    query = int(scores.flatten().argmax()) // CLASSES
    cx, cy, w, h = (outputs.final.boxes_cxcywh[0, query] * torch.tensor([48, 64, 48, 64])).tolist()
    x, y = ORIGINAL[1] / SIZE[1], ORIGINAL[0] / SIZE[0]
    expected = [(cx - w / 2) * x, (cy - h / 2) * y, (cx + w / 2) * x, (cy + h / 2) * y]
    assert found.boxes_xyxy_px[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert found.scores[0] == scores.max()


def test_of_duplicates_the_one_of_the_best_reported_score_stays():
    """Query 0 leads by class score, query 1 by class times mask score."""
    recipe = Recipe()
    recipe.postprocess.mask_nms = 0.5
    masks = torch.full((1, 2, 8, 8), -9.0)
    masks[0, 0, 2:6, 2:6], masks[0, 1, 2:6, 2:6] = 0.1, 6.0
    logits = torch.logit(torch.tensor([[[0.9], [0.8]]]))
    batch = Batch(["a"], torch.zeros(1, 3, 32, 32), [(32, 32)], [(32, 32)], [None])
    for score, expected in (("class_mask", 0.8), ("class", 0.9)):
        recipe.postprocess.score = score
        (found,) = decode(Outputs([LayerOutput("final", logits, masks)]), batch, recipe, 1)
        assert found.scores.tolist() == pytest.approx([expected], abs=0.1)  # not 0.9 * 0.5


def test_semantic(budget):
    outputs, batch, recipe = case("mask2former")
    recipe.task = "semantic"
    (found,) = decode(outputs, batch, recipe, CLASSES)
    padded = F.interpolate(outputs.final.masks.double(), (64, 48), mode="bilinear", align_corners=False)[0]
    classes = outputs.final.logits[0].double().softmax(-1)[:, :-1]
    total = torch.einsum("qc,qhw->chw", classes, padded.sigmoid())[:, : SIZE[0], : SIZE[1]]
    expected = F.interpolate(total[None], ORIGINAL, mode="bilinear", align_corners=False)[0].argmax(0)
    assert found.semantic.equal(expected)
    assert len(found) == 0


def test_panoptic(budget):
    """Every pixel by hand; class 2 is stuff."""
    outputs, batch, recipe = case("mask2former")
    recipe.task, recipe.postprocess.object_threshold, recipe.postprocess.overlap_threshold = (
        "panoptic",
        0.2,
        0.1,
    )
    things = [True, True, False]
    (found,) = decode(outputs, batch, recipe, CLASSES, things)
    scores, labels = outputs.final.logits[0].double().softmax(-1).max(-1)
    keep = (labels < CLASSES) & (scores > 0.2)
    scores, labels, full = scores[keep], labels[keep], whole(outputs.final.masks)[keep].sigmoid()
    owner = (full * scores[:, None, None]).argmax(0)
    expected, segments, stuff = torch.zeros(ORIGINAL, dtype=torch.int32), [], {}
    for k, label in enumerate(labels.tolist()):
        mask = (owner == k) & (full[k] >= 0.5)
        if not mask.any() or (owner == k).sum() / (full[k] >= 0.5).sum() < 0.1:
            continue
        known = stuff.get(label)
        if known is None:
            segments.append({"id": len(segments) + 1, "label": label, "isthing": things[label]})
            known = len(segments)
            if not things[label]:
                stuff[label] = known
        expected[mask] = known
    assert found.panoptic.equal(expected)
    assert [{k: s[k] for k in ("id", "label", "isthing")} for s in found.segments] == segments
    assert len(segments) > 2
    assert set(found.labels.tolist()) <= {0, 1}


def test_panoptic_without_a_thing_among_the_best():
    outputs, batch, recipe = case("mask2former")
    recipe.task = "panoptic"
    (found,) = decode(outputs, batch, recipe, CLASSES, [False] * CLASSES)
    assert len(found) == len(found.rles) == 0
    assert found.boxes_xyxy_px.shape == (0, 4)
    assert found.panoptic.shape == ORIGINAL


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_nothing_found(task):
    outputs, batch, recipe = case("maskdino")
    recipe.task = task
    outputs.final.masks[:] = -5.0
    outputs.final.logits[:] = -9.0
    (found,) = decode(outputs, batch, recipe, CLASSES)
    assert len(found) == len(found.rles) == 0
    assert found.boxes_xyxy_px.shape == (0, 4)
    if task == "panoptic":
        assert found.panoptic.max() == 0
        assert found.segments == []


def test_a_large_photo_in_little_memory(monkeypatch):
    """No more pixels are held at a time than the budget allows."""
    monkeypatch.setattr(decode_maps, "_CHUNK_BYTES", 4 * 600 * 800 * 3)
    held = []
    enlarge = F.interpolate

    def watch(maps, size, **options):
        held.append(maps.shape[1] * size[0] * size[1])
        return enlarge(maps, size, **options)

    monkeypatch.setattr(F, "interpolate", watch)
    outputs, batch, recipe = case("maskdino", queries=40)
    batch.original_sizes[0] = (600, 800)
    (found,) = decode(outputs, batch, recipe, CLASSES)
    assert max(held) == 3 * 600 * 800
    assert len(found) > 5
