"""Our networks against recorded official ones.

Same weights, images and draws, same outputs, losses, gradients.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from golden_cases import Case, cases, our_loss_name
from golden_network import THINGS, Network, named
from pycocotools import mask as coco_mask

from gdseg.losses import matcher
from gdseg.losses.criterion import Criterion
from gdseg.losses.truth import Layers, Truth
from gdseg.models.decode import decode
from gdseg.models.decode_maps import Canvas, ClassScores
from gdseg.models.denoising import blocked_attention, noised_queries
from gdseg.structures import Batch

CASES = pytest.mark.parametrize("case", cases("network"), scope="module")  # all tests of a case in a row


UNKNOWN = pytest.mark.parametrize("case", cases("unknown"))


@UNKNOWN
def test_a_folder_of_no_known_kind_fails(case):
    pytest.fail(f"{case.folder}: its manifest.json is of no known kind, or cannot be read")


@lru_cache(maxsize=1)  # one network at a time: full-size ones are large
def evaluated(case: Case):
    """(network, outputs in evaluation mode, every tensor on the way by its recorded name)."""
    network = Network(case)
    if not network.recorded("eval/"):
        assert network.recorded("train/"), "nothing is recorded"
        pytest.skip("recorded in training only")
    return network, *network.evaluated()


@lru_cache(maxsize=1)
def trained(case: Case):
    """(network, model after one forward pass in training mode, outputs)."""
    network = Network(case)
    if not network.recorded("train/"):
        pytest.skip("recorded in evaluation only")
    return network, *network.trained()


@CASES
def test_outputs(case):
    network, _, pairs = evaluated(case)
    errors = {name: network.error(name, pairs[name]) for name in network.recorded("eval/")}
    assert max(errors.values()) < 1, errors


@CASES
def test_training_outputs(case):
    network, model, outputs = trained(case)
    pairs = dict(named(outputs, "train"))
    theirs = network.recorded("train/", "/pred_")
    if not network.recipe.decoder.two_stage:  # officially computed, but without a loss
        theirs = {k for k in theirs if not k.startswith("train/dn/aux0")}
    assert theirs
    errors = {name: network.error(name, pairs[name]) for name in theirs}
    assert max(errors.values()) < 1, errors
    state = model.state_dict()
    for name in network.recorded("train/", "running_"):  # statistics after the step
        place = name.split("/", 2)[-1].replace("/", ".")
        ours = {own for key, own in network.our_names.items() if f".{key}".endswith(f".{place}")}
        assert len(ours) == 1, f"{name} is recorded, which is {sorted(ours) or 'no tensor of the network'}"
        assert network.error(name, state[ours.pop()], 1e-4) < 1, name


@CASES
def test_losses_and_gradients(case):
    network, model, outputs = trained(case)
    things = [c < THINGS for c in range(network.classes)]
    criterion = Criterion(network.recipe, network.classes, things)
    losses = criterion(outputs, network.targets(), None, network.draws)
    expected = {our_loss_name(k): v for k, v in network.results["losses_weighted"].items()}
    never = {k for k, v in expected.items() if k.endswith("_dn") and v == 0} - set(losses)  # without targets
    assert set(losses) == set(expected) - never
    allowed = network.allowed("loss_rel_max", 1e-4)
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name], rel=allowed, abs=1e-6), name
    total = torch.stack(list(losses.values())).sum()
    assert total.item() == pytest.approx(network.results["total_loss"], rel=allowed)
    model.zero_grad()
    total.backward(retain_graph=True)
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    allowed = network.allowed("grad_l2_rel_max", 1e-3)
    for key, norm in network.results["grad_l2"].items():
        grad = grads[network.our_names[key]]
        found = 0.0 if grad is None else float(grad.norm())
        assert found == pytest.approx(norm or 0.0, rel=allowed, abs=1e-5), key
    norms = [grad.norm() for grad in grads.values() if grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(network.results["grad_total_norm"], rel=allowed)
    for name in network.recorded("train/grad/"):
        own = network.our_names[name.removeprefix("train/grad/")]
        grad = model.get_parameter(own) * 0.0 if grads[own] is None else grads[own]
        assert network.error(name, grad, 1e-3) < 1, name


@CASES
def test_assignments(case):
    network, _, outputs = trained(case)
    layers = Layers.of([*outputs.layers, *([outputs.encoder] if outputs.encoder else [])])
    truth = Truth.of(network.targets())
    pairs = matcher.match(layers, truth, network.recipe, network.draws, range(len(truth.counts)))
    for layer, name in enumerate(layers.names):
        for b, expected in enumerate(network.results["indices"][name]):
            here = pairs.images == b
            assert [pairs.queries[layer, here].tolist(), pairs.targets[layer, here].tolist()] == expected


@CASES
def test_denoising_queries(case):
    if "train/dn_in/attn_mask" not in case.manifest["tensors"]:
        pytest.skip("no denoising in this case")
    network = Network(case)
    options = network.recipe.decoder
    noised = noised_queries(network.targets(), network.model.decoder.label_enc, options, network.draws)
    assert network.error("train/dn_in/query_label", noised.content) < 1
    assert network.error("train/dn_in/query_bbox", noised.anchors) < 1
    blocked = blocked_attention(noised.groups, noised.slots, options.queries, torch.device("cpu"))
    expected, found = network.pair("train/dn_in/attn_mask", blocked)
    assert found.equal(expected)


@CASES
def test_predictions(case):
    if not any(name.startswith("post") for name in case.manifest["tensors"]):
        pytest.skip("no predictions in this case")
    network, outputs, _ = evaluated(case)
    images, sizes = network.images(train=False)
    count, classes = len(sizes), network.classes
    originals = [tuple(s[2:]) for s in network.results["eval_input_sizes"]]
    batch, things = (
        Batch(list(range(count)), images, sizes, originals, [None] * count),
        [c < THINGS for c in range(classes)],
    )
    for b in range(count):
        truth = {k.split("|", 1)[1]: a for k, a in case.arrays.items() if k.startswith(f"post{b}|")}
        official = network.results["postproc"][b]
        for task in ("semantic", "instance", "panoptic"):
            recipe = replace(network.recipe, task=task)
            if task == "semantic" and "sem_argmax" in truth:
                check_semantic(decode(outputs, batch, recipe, classes, things)[b], truth)
                if "sem_seg" in truth:
                    scores = class_scores(outputs, batch, recipe, b)
                    assert network.error(f"post{b}/sem_seg", scores) < 1
            elif task == "panoptic" and "panoptic_seg" in truth:
                found = decode(outputs, batch, recipe, classes, things)[b]
                check_panoptic(found, truth, official)
                check_instances(found, truth, official, recipe.postprocess.boxes == "head")
            elif task == "instance" and "inst_scores" in truth and "panoptic_seg" not in truth:
                found = decode(outputs, batch, recipe, classes, things)[b]
                check_instances(found, truth, official, recipe.postprocess.boxes == "head")


def class_scores(outputs, batch, recipe, b) -> torch.Tensor:
    """The score of every class at every pixel of an image: float32 [C, H, W]."""
    logits, masks = outputs.final.logits[b], outputs.final.masks[b]
    scores = ClassScores.of(logits, masks, Canvas.of(batch, b), recipe)
    return scores.finish(scores.sums(slice(None)))


def check_semantic(found, truth):
    clear = torch.from_numpy(truth["sem_top2_gap"].astype("float32")) > 1e-3
    assert clear.float().mean() > 0.1
    assert found.semantic[clear].equal(torch.from_numpy(truth["sem_argmax"].astype("int64"))[clear])


def check_panoptic(found, truth, official):
    assert (found.panoptic.numpy() != truth["panoptic_seg"]).sum() <= 2 * max(len(found.segments), 1)
    kinds = [(s["id"], s["isthing"], s["label"]) for s in found.segments]
    assert kinds == [(s["id"], s["isthing"], s["category_id"]) for s in official["segments_info"]]


def check_instances(found, truth, official, has_boxes):
    """Each official instance is ours: label, score, mask within two pixels (equals may change places)."""
    areas = [int(coco_mask.area(rle)) for rle in official["inst_masks_rle"]]
    real = np.flatnonzero(np.array(areas) > 0)  # official inference keeps empty masks
    assert len(found) == len(real)
    left = list(range(len(found)))
    for i in real:
        mask = coco_mask.decode(official["inst_masks_rle"][i])
        same = [
            j
            for j in left
            if found.labels[j] == truth["inst_classes"][i]
            and float(found.scores[j]) == pytest.approx(float(truth["inst_scores"][i]), rel=1e-4, abs=1e-5)
            and (coco_mask.decode(found.rles[j]) != mask).sum() <= 2
        ]
        assert same, i
        left.remove(same[0])
        if has_boxes:
            boxes = torch.from_numpy(truth["inst_boxes"][i])
            torch.testing.assert_close(found.boxes_xyxy_px[same[0]], boxes, rtol=1e-4, atol=1e-2)
