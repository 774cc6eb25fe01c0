"""Our networks against the official ones: same weights, images and draws, the same outputs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from gdseg.losses.criterion import Criterion
from gdseg.models.decode import decode
from gdseg.models.denoising import blocked_attention, noised_queries
from gdseg.recipe import Recipe
from gdseg.structures import Batch, LayerOutput, Outputs

sys.path.insert(0, str(Path(__file__).parent))
from golden import Golden, our_name, read_arrays

CONFIGS = [
    "m2f_inst_r18_tiny",
    "m2f_inst_r18_tiny_emptyimg",
    "m2f_pan_r18_tiny",
    "mdino_inst_4s_mask2box",
    "mdino_inst_dn_no",
    "mdino_inst_onestage",
    "mdino_pan_4s",
    "mdino_sem_ade_ce",
]


def named(outputs, prefix):
    """Golden names of every tensor in our outputs."""
    groups = [(prefix, outputs.layers)]
    if outputs.denoising:
        groups.append((f"{prefix}/dn", outputs.denoising.layers))
    if outputs.encoder:
        groups.append((prefix, [outputs.encoder]))
    for start, layers in groups:
        for layer in layers:
            place = {"final": "", "interm": "interm/"}.get(layer.name, f"aux{layer.name}/")
            for field, tensor in (
                ("pred_logits", layer.logits),
                ("pred_masks", layer.masks),
                ("pred_boxes", layer.boxes_cxcywh),
            ):
                if tensor is not None:
                    yield f"{start}/{place}{field}", tensor


@pytest.fixture(scope="module", params=CONFIGS)
def golden(request, shared_dir):
    return Golden(shared_dir, request.param)


@pytest.fixture(scope="module")
def evaluated(golden):
    """Our network's outputs in evaluation mode, with what its parts say on the way."""
    model, (images, sizes), seen = golden.model().eval(), golden.images(train=False), {}
    for name in ("backbone", "pixel_decoder"):
        part = getattr(model, name)
        part.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        return model(images, sizes), seen["backbone"], seen["pixel_decoder"]


def test_outputs(golden, evaluated):
    outputs, features, pyramid = evaluated
    pairs = {f"eval/backbone/{key}": value for key, value in features.items()}
    pairs["eval/mask_features"] = pyramid.mask_features
    pairs |= {f"eval/multi_scale/{i}": level for i, level in enumerate(pyramid.levels)}
    pairs |= dict(named(outputs, "eval"))
    assert {k for k in golden.manifest["tensors"] if k.startswith("eval/")} == set(pairs)
    worst = golden.worst(pairs)
    assert max(worst.values()) < 1, worst


def test_training_outputs_losses_and_gradients(golden):
    model = golden.model().train()
    images, sizes = golden.images(train=True)
    outputs = model(images, sizes, golden.targets(), golden.draws())
    pairs = dict(named(outputs, "train"))
    theirs = {k for k in golden.manifest["tensors"] if k.startswith("train/") and "/pred_" in k}
    if not golden.recipe().decoder.two_stage:  # officially computed, but without a loss
        theirs = {k for k in theirs if not k.startswith("train/dn/aux0")}
    assert theirs == set(pairs)
    worst = golden.worst(pairs)
    assert max(worst.values()) < 1, worst
    losses = Criterion(golden.recipe(), golden.results["num_classes"])(
        outputs, golden.targets(), None, golden.draws()
    )
    total = sum(losses.values())
    assert total.item() == pytest.approx(golden.results["total_loss"], rel=1e-4)
    total.backward()
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    norms = {our_name(key): norm for key, norm in golden.results["grad_l2"].items()}
    for key, norm in norms.items():
        assert float(ours[key].norm()) == pytest.approx(norm, rel=1e-3, abs=1e-5), key


def test_denoising_queries(golden):
    if "train/dn_in/attn_mask" not in golden.manifest["tensors"]:
        pytest.skip("no denoising in this configuration")
    model, options = golden.model(), golden.recipe().decoder
    noised = noised_queries(golden.targets(), model.decoder.label_enc, options, golden.draws())
    pairs = {"train/dn_in/query_label": noised.content, "train/dn_in/query_bbox": noised.anchors}
    worst = golden.worst(pairs)
    assert max(worst.values()) < 1, worst
    blocked = blocked_attention(noised.groups, noised.slots, options.queries, torch.device("cpu"))
    assert blocked.equal(torch.from_numpy(golden.arrays["train|dn_in|attn_mask"]).bool())


def test_predictions(golden, evaluated):
    recipe, classes = golden.recipe(), golden.results["num_classes"]
    images, sizes = golden.images(train=False)
    originals = [tuple(s[2:]) for s in golden.results["eval_input_sizes"]]
    batch, outputs = Batch([0, 1], images, sizes, originals, [None, None]), evaluated[0]
    for b, found in enumerate(decode(outputs, batch, recipe, classes, [c < 80 for c in range(classes)])):
        truth = {key.split("|", 1)[1]: a for key, a in golden.arrays.items() if key.startswith(f"post{b}|")}
        if recipe.task == "semantic":
            clear = torch.from_numpy(truth["sem_top2_gap"].astype("float32")) > 1e-3
            assert clear.float().mean() > 0.5
            assert found.semantic[clear].equal(torch.from_numpy(truth["sem_argmax"].astype("int64"))[clear])
            continue
        official = golden.results["postproc"][b]
        real = truth["inst_scores"] > 0  # official inference keeps empty masks, scored 0
        assert found.labels.tolist() == truth["inst_classes"][real].tolist()
        torch.testing.assert_close(
            found.scores, torch.from_numpy(truth["inst_scores"][real]), rtol=1e-4, atol=1e-5
        )
        if recipe.decoder.kind == "maskdino":
            boxes = torch.from_numpy(truth["inst_boxes"][real])
            torch.testing.assert_close(found.boxes_xyxy_px, boxes, rtol=1e-4, atol=1e-2)
        for rle, theirs in zip(found.rles, np.array(official["inst_masks_rle"])[real], strict=True):
            assert (coco_mask.decode(rle) != coco_mask.decode(theirs)).sum() <= 2
        if recipe.task == "panoptic":
            assert (found.panoptic.numpy() != truth["panoptic_seg"]).sum() <= 2
            kinds = [(s["id"], s["isthing"], s["label"]) for s in found.segments]
            assert kinds == [(s["id"], s["isthing"], s["category_id"]) for s in official["segments_info"]]


def synthetic(shared_dir, family):
    folder = shared_dir / "reference" / "golden" / f"synth_{family}"
    cases = json.loads((folder / "manifest.json").read_text())["post"]
    return cases, read_arrays(folder / "tensors.npz")


@pytest.mark.parametrize("family", ["m2f", "mdino"])
@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_decode_of_stored_logits(shared_dir, family, task):
    cases, arrays = synthetic(shared_dir, family)
    masks, boxes, logits = (
        torch.from_numpy(arrays[f"post|{k}"]) for k in ("mask_logits", "boxes_cxcywh", "cls_logits")
    )
    size = tuple(masks.shape[-2:])
    batch = Batch([0], torch.zeros(1, 3, *size), [size], [size], [None])
    for name, case in cases.items():
        if name == "semce":
            continue
        recipe = Recipe(task=task)
        recipe.decoder.kind = "mask2former" if family == "m2f" else "maskdino"
        post = recipe.postprocess
        post.max_detections, post.boxes = case["test_topk_per_image"], "head"
        post.object_threshold, post.overlap_threshold = (
            case["object_mask_threshold"],
            case["overlap_threshold"],
        )
        post.temperature = case.get("pano_temp", 0.0) if case.get("transform_eval") else 0.0
        scores = logits if family == "m2f" else logits[:, :-1] - 4
        head = None if family == "m2f" else boxes[None]
        outputs = Outputs([LayerOutput("final", scores[None], masks[None], head)])
        (found,) = decode(outputs, batch, recipe, 133, [c < 80 for c in range(133)])
        key = "pan_on" if task == "panoptic" else "pan_off"
        truth = {k: arrays[f"post|{name}|{key}|{k}"] for k in ("scores", "classes")}
        real = truth["scores"] > 0
        assert found.labels.tolist() == truth["classes"][real].tolist()
        torch.testing.assert_close(found.scores, torch.from_numpy(truth["scores"][real]).float())
        for rle, theirs in zip(found.rles, np.array(case[f"masks_rle_{key}"])[real], strict=True):
            assert rle["counts"].decode() == theirs["counts"]
        if task == "panoptic":
            assert found.panoptic.numpy().tolist() == arrays[f"post|{name}|panoptic"].tolist()
            kinds = [(s["id"], s["isthing"], s["label"]) for s in found.segments]
            assert kinds == [(s["id"], s["isthing"], s["category_id"]) for s in case["segments_info"]]
