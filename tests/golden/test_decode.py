"""Instance, panoptic and semantic decoding of stored logits, at every recorded threshold."""

import numpy as np
import pytest
import torch
from golden_cases import all_cases

from gdseg.losses.boxes import cxcywh_to_xyxy
from gdseg.models.decode import decode
from gdseg.recipe import Recipe
from gdseg.structures import Batch, LayerOutput, Outputs

POSTS = [
    (case, name) for case in all_cases() if case.kind == "criterion" for name in case.manifest.get("post", {})
]
EACH = pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{case.name}-{name}") for case, name in POSTS]
    or [pytest.param(None, "", marks=pytest.mark.skip(reason="no golden decoding here (GDSEG_GOLDEN)"))],
)


def decoded(case, name: str, task: str):
    """(what we find, what is recorded, the arrays' prefix)."""
    facts = case.manifest["post"][name]
    masks, boxes, logits = (case.tensor(f"post|{k}") for k in ("mask_logits", "boxes_cxcywh", "cls_logits"))
    size, maskdino = tuple(masks.shape[-2:]), "transform_eval" in facts
    recipe = Recipe(task=task)
    recipe.decoder.kind = "maskdino" if maskdino else "mask2former"
    recipe.decoder.class_loss = "softmax" if facts.get("semantic_ce_loss") else "focal"
    post = recipe.postprocess
    post.max_detections, post.boxes = facts["test_topk_per_image"], "head"
    post.object_threshold, post.overlap_threshold = facts["object_mask_threshold"], facts["overlap_threshold"]
    post.temperature = facts.get("pano_temp", 0.0) if facts.get("transform_eval") else 0.0
    post.softmax_score = "sigmoid"
    post.score = "class" if facts.get("focus_on_box") else "class_mask"
    if facts["class_logits"].endswith("- 4.0"):
        logits = logits[:, :-1] - 4
    outputs = Outputs([LayerOutput("final", logits[None], masks[None], boxes[None] if maskdino else None)])
    batch = Batch([0], torch.zeros(1, 3, *size), [size], [size], [None])
    count, things = (
        case.manifest["post_setup"]["C"],
        [c < 80 for c in range(case.manifest["post_setup"]["C"])],
    )
    return decode(outputs, batch, recipe, count, things)[0], facts, f"post|{name}|"


@EACH
@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_instances(case, name, task):
    found, facts, prefix = decoded(case, name, task)
    key = "pan_on" if task == "panoptic" else "pan_off"
    scores, classes, boxes = (case.tensor(f"{prefix}{key}|{k}") for k in ("scores", "classes", "boxes"))
    filled = torch.tensor([bool(_area(rle)) for rle in facts[f"masks_rle_{key}"]])
    assert found.labels.tolist() == classes[filled].tolist()
    torch.testing.assert_close(found.scores, scores[filled].float())
    if facts.get("transform_eval") is not None:
        h, w = found.size  # recorded as given: shares, centre and size
        corners = cxcywh_to_xyxy(boxes[filled].float()) * torch.tensor([w, h, w, h])
        torch.testing.assert_close(found.boxes_xyxy_px, corners, rtol=1e-4, atol=1e-3)
    for rle, theirs in zip(found.rles, np.array(facts[f"masks_rle_{key}"])[filled.numpy()], strict=True):
        assert rle["counts"].decode() == theirs["counts"]


def _area(rle) -> int:
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(rle))


@EACH
def test_panoptic(case, name):
    found, facts, prefix = decoded(case, name, "panoptic")
    if prefix + "panoptic" not in case.arrays:
        pytest.skip("not recorded")
    assert found.panoptic.numpy().tolist() == case.arrays[prefix + "panoptic"].tolist()
    kinds = [(s["id"], s["isthing"], s["label"]) for s in found.segments]
    assert kinds == [(s["id"], s["isthing"], s["category_id"]) for s in facts["segments_info"]]


@EACH
def test_semantic(case, name):
    found, _, prefix = decoded(case, name, "semantic")
    different = found.semantic.numpy() != case.arrays[prefix + "sem_argmax"]
    assert different.mean() < 1e-3  # near ties
