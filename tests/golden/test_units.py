"""Single functions against float64 records: deformable attention, embeddings, proposals, boxes, points."""

import pytest
import torch
from golden_cases import cases

from gdseg.losses.boxes import cxcywh_to_xyxy, giou, masks_to_boxes_cxcywh
from gdseg.losses.points import sample_logits, uncertain_points
from gdseg.models.deform_attn import MSDeformAttn, ms_deform_attn
from gdseg.models.layers import inverse_sigmoid, sine_anchor, sine_position
from gdseg.models.pixel_decoder import pixel_centres
from gdseg.models.two_stage import anchors_from_masks, token_anchors

CASES = pytest.mark.parametrize("case", cases("units"))
CHECKED = {
    "msda",
    "msda_init",
    "pos_sine",
    "gen_sineembed",
    "inverse_sigmoid",
    "proposals",
    "enc_reference_points",
}
CHECKED |= {"uncertain", "giou", "mask_boxes"}
UNUSED = {"pos_sine_masked"}  # official code never masks padding


@CASES
def test_nothing_recorded_is_left_out(case):
    assert {key.split("|")[0] for key in case.arrays} - UNUSED == CHECKED


@CASES
def test_deformable_attention(case):
    for name, facts in case.manifest.items():
        if not name.startswith("msda|"):
            continue
        value, locations, weights, grad_out = (
            case.tensor(f"{name}|{k}") for k in ("value", "loc", "weight", "grad_out")
        )
        inputs = [x.requires_grad_() for x in (value, locations, weights)]
        out = ms_deform_attn(value, [tuple(s) for s in facts["shapes"]], locations, weights)
        grads = torch.autograd.grad(out, inputs, grad_out)
        torch.testing.assert_close(out.detach(), case.tensor(f"{name}|out"))
        smooth = _between_pixels(locations.detach(), facts["shapes"])
        for key, grad, where in zip(("value", "loc", "weight"), grads, (..., smooth, ...), strict=True):
            expected = case.tensor(f"{name}|grad_{key}")
            torch.testing.assert_close(grad[where], expected[where], msg=f"{name} {key}")


def _between_pixels(locations: torch.Tensor, shapes: list) -> torch.Tensor:
    """Where a sample lies on no pixel's centre line.

    Elsewhere the gradient is one-sided, a matter of choice.
    """
    sizes = torch.tensor([[w, h] for h, w in shapes])[:, None]
    place = locations * sizes - 0.5
    return ((place - place.round()).abs() > 1e-9).all(-1)


@CASES
def test_start_of_the_offsets(case):
    for key in case.arrays:
        if not key.startswith("msda_init|") or not key.endswith("sampling_offsets.bias"):
            continue
        heads, levels, points = (int(part.strip("headslvpoint")) for part in key.split("|")[1].split("_"))
        bias = MSDeformAttn(64, levels, heads, points).sampling_offsets.bias
        torch.testing.assert_close(bias.double(), case.tensor(key), rtol=1e-5, atol=1e-5)


@CASES
def test_embeddings(case):
    for key in case.arrays:
        if key.startswith("pos_sine|"):
            _, half, size = key.split("|")
            h, w = map(int, size.split("x"))
            expected = case.tensor(key)
            torch.testing.assert_close(sine_position(h, w, 2 * int(half), expected), expected.flatten(1).T)
    ours = sine_anchor(case.tensor("gen_sineembed|in"), 256)
    torch.testing.assert_close(ours, case.tensor("gen_sineembed|out4"))
    logits = inverse_sigmoid(case.tensor("inverse_sigmoid|in"))
    torch.testing.assert_close(logits, case.tensor("inverse_sigmoid|out"))


@CASES
def test_proposals_and_centres(case):
    like = case.tensor("proposals|memory_in")
    logits, valid = token_anchors([tuple(s) for s in case.manifest["proposals"]["shapes"]], like)
    torch.testing.assert_close(logits[None], case.tensor("proposals|proposals"))
    torch.testing.assert_close(like.masked_fill(~valid, 0.0), case.tensor("proposals|memory_out"))
    for key in case.arrays:
        if key.startswith("enc_reference_points|"):
            expected = case.tensor(key)
            sizes = [tuple(map(int, size.split("x"))) for size in key.split("|")[1].split("_")]
            centres = torch.cat([pixel_centres(h, w, expected) for h, w in sizes])
            for level in range(expected.shape[2]):
                torch.testing.assert_close(centres[None], expected[:, :, level])


@CASES
@pytest.mark.parametrize(("exact", "name"), [(True, "bitmask"), (False, "mask2box")])
def test_anchors_from_masks(case, exact, name):
    masks = case.tensor("mask_boxes|masks").float() - 0.5
    expected = case.tensor(f"mask_boxes|{name}_refpoint_logit").float()
    torch.testing.assert_close(anchors_from_masks(masks[None], exact)[0], expected, rtol=1e-5, atol=1e-5)


@CASES
def test_boxes(case):
    boxes = cxcywh_to_xyxy(case.tensor("giou|cxcywh"))
    pairwise = case.tensor("giou|pairwise5x4")
    torch.testing.assert_close(giou(boxes[:5, None], boxes[None, 5:]), pairwise, rtol=1e-9, atol=1e-9)
    masks = case.tensor("mask_boxes|masks")
    h, w = masks.shape[-2:]
    xyxy = cxcywh_to_xyxy(masks_to_boxes_cxcywh(masks)) * torch.tensor([w, h, w, h])
    torch.testing.assert_close(xyxy, case.tensor("mask_boxes|bitmask"), rtol=0, atol=1e-5)


@CASES
def test_uncertain_points(case):
    logits, points, sampled = (case.tensor(f"uncertain|{k}").float() for k in ("logits", "points", "sampled"))
    torch.testing.assert_close(sample_logits(logits, points), sampled, rtol=1e-5, atol=1e-5)
    kept = uncertain_points(logits[:, 0], points, points[:, :3], 7)
    nearest = sampled[:, 0].abs().sort(dim=1).values[:, :7]
    found = sample_logits(logits, kept[:, :7])[:, 0].abs().sort(dim=1).values
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept[:, 7:], points[:, :3])
