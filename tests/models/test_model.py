"""The whole model: options, layouts, precisions, and batches with little or nothing in them."""

import pytest
import torch

from gdseg.models.denoising import _say_once
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import load_recipe, shipped_files
from gdseg.structures import Targets
from gdseg.train.counts import settle

SIZES = [(64, 96), (50, 70)]


def tiny(kind="maskdino", **changes):
    """A small recipe; changes as section__key=value."""
    recipe = Recipe()
    recipe.backbone.name, recipe.decoder.kind = "resnet18", kind
    for part in (recipe.pixel_decoder, recipe.decoder):
        part.channels, part.layers, part.ffn, part.heads = 32, 2, 64, 4
    recipe.pixel_decoder.mask_channels, recipe.decoder.queries = 16, 10
    recipe.decoder.denoising_queries = 6
    for key, value in changes.items():
        section, name = key.split("__")
        setattr(getattr(recipe, section), name, value)
    return recipe


def a_target(count=2):
    masks = torch.zeros(count, 64, 96, dtype=torch.bool)
    masks[:, 8:40, 16:60] = True
    boxes = torch.tensor([[0.4, 0.37, 0.46, 0.5]]).expand(count, 4)
    return Targets(torch.arange(count) % 3, masks, boxes, torch.ones(count))


def total(outputs):
    layers = list(outputs.layers) + ([outputs.encoder] if outputs.encoder else [])
    layers += outputs.denoising.layers if outputs.denoising else []
    parts = [t for x in layers for t in (x.logits, x.masks, x.boxes_cxcywh) if t is not None]
    assert all(part.isfinite().all() for part in parts)
    return sum(part.float().square().mean() for part in parts)


def run(recipe, targets=None, images=None):
    torch.manual_seed(0)
    model = build_model(recipe, 3)
    images = torch.rand(2, recipe.backbone.in_channels, 64, 96) * 255 if images is None else images
    outputs = model(images, SIZES, targets)
    total(outputs).backward()
    return model, outputs


OPTIONS = [
    {"kind": "mask2former"},
    {"kind": "mask2former", "decoder__pre_norm": True, "decoder__dropout": 0.1, "decoder__channels": 48},
    {"kind": "mask2former", "pixel_decoder__inputs": ["res2", "res3", "res4", "res5"]},
    {
        "pixel_decoder__extra_levels": 1,
        "pixel_decoder__level_order": "fine_first",
        "decoder__box_init": "exact",
    },
    {"pixel_decoder__extra_levels": 2, "decoder__learned_content": True, "decoder__box_init": "none"},
    {"pixel_decoder__inputs": ["res2", "res3", "res4", "res5"], "pixel_decoder__extra_levels": 1},
    {"pixel_decoder__inputs": ["res5", "res4"], "pixel_decoder__points": 2, "decoder__points": 3},
    {"decoder__two_stage": False, "decoder__box_init": "none", "decoder__class_loss": "softmax"},
    {"decoder__initial_prediction": False, "decoder__box_init": "none", "decoder__denoising": "box"},
    {"decoder__denoising": "none", "decoder__channels": 48, "decoder__dropout": 0.1},
    {"pixel_decoder__layers": 0, "pixel_decoder__channels": 40, "decoder__layers": 1},
    {"backbone__in_channels": 5, "backbone__mean": [0.0] * 5, "backbone__std": [255.0] * 5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_option_trains(options):
    recipe = tiny(**options)
    model, outputs = run(recipe, [a_target(2), a_target(3)])
    first = recipe.decoder.kind == "mask2former" or recipe.decoder.initial_prediction
    names = [str(i) for i in range(recipe.decoder.layers - 1 + first)]
    assert [layer.name for layer in outputs.layers] == [*names, "final"]
    logits = 3 + recipe.softmax_classes
    assert outputs.final.logits.shape == (2, 10, logits)
    assert all(layer.masks.shape == (2, 10, 16, 24) for layer in outputs.layers)
    lacking = {key.split(".")[1] for key, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert lacking <= {"input_proj", "level_embed"}  # of levels that so few layers never look at
    if recipe.decoder.kind == "maskdino" and recipe.decoder.denoising != "none":
        assert (outputs.denoising.groups, outputs.denoising.slots) == (2, 3)
        assert outputs.denoising.layers[-1].logits.shape == (2, 6, logits)


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_eval_needs_no_targets_and_fewer_masks(kind):
    model, _ = run(tiny(kind), [a_target(), a_target()])
    model.eval()
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, 64, 96), SIZES)
    assert outputs.denoising is None
    assert [x.masks is None for x in outputs.layers] == [kind == "maskdino"] * 2 + [False]


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_empty_targets(kind):
    some_empty = run(tiny(kind), [a_target(), Targets.empty(64, 96)])[1]
    assert (some_empty.denoising is not None) == (kind == "maskdino")
    model, all_empty = run(tiny(kind), [Targets.empty(64, 96)] * 2)
    assert all_empty.denoising is None
    assert all(p.grad is not None for key, p in model.named_parameters() if "label_enc" in key)


def test_more_targets_than_denoising_queries():
    _say_once.cache_clear()
    with pytest.warns(UserWarning, match="denoising_queries"):
        _, outputs = run(tiny(), [a_target(9), a_target(1)])
    assert (outputs.denoising.groups, outputs.denoising.slots) == (1, 6)
    assert [len(kept) for kept in outputs.denoising.kept] == [6, 1]


def test_the_matching_part_does_not_see_the_denoising_part():
    model, with_dn = run(tiny(), [a_target(), a_target(3)])
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        with_dn, without = model(images, SIZES, [a_target(), a_target(3)]), model(images, SIZES)
    torch.testing.assert_close(with_dn.final.masks, without.final.masks, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(with_dn.final.logits, without.final.logits, rtol=1e-4, atol=1e-4)


def test_fewer_tokens_than_queries():
    recipe = tiny(decoder__queries=200, decoder__learned_content=True)
    _, outputs = run(recipe, [a_target(), a_target()])
    assert outputs.final.logits.shape[1] == 8 * 12 + 4 * 6 + 2 * 3


def test_the_padding_has_no_influence():
    model, _ = run(tiny("mask2former"))
    model.eval()
    images = torch.rand(2, 3, 64, 96) * 255
    other = images.clone()
    other[1, :, 50:] = 7.0
    other[1, :, :, 70:] = 7.0
    with torch.no_grad():
        first, second = model(images, SIZES), model(other, SIZES)
    assert first.final.masks.equal(second.final.masks)
    assert images[1, 0, 60, 90] > 0  # the caller's images are left alone


@pytest.mark.parametrize("width", [32, 48])
@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_bf16_autocast_and_channels_last(kind, width):
    recipe = tiny(kind, backbone__channels_last=True, decoder__channels=width)
    torch.manual_seed(0)
    model = build_model(recipe, 3)
    images = (torch.rand(2, 3, 64, 96) * 255).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images, SIZES, [a_target(), a_target()])
        loss = total(outputs)
    loss.backward()
    assert outputs.final.masks.dtype == torch.bfloat16
    if kind == "maskdino":
        assert outputs.final.boxes_cxcywh.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_official_sizes_on_the_meta_device():
    """Parameter counts read from the official models (Mask2Former and Mask DINO, COCO instances)."""
    recipe = Recipe()
    recipe.pixel_decoder.extra_levels, recipe.pixel_decoder.ffn = 1, 2048
    with torch.device("meta"):
        dino = build_model(recipe, 80)
        recipe.decoder.kind, recipe.decoder.queries = "mask2former", 100
        recipe.pixel_decoder.extra_levels, recipe.pixel_decoder.ffn = 0, 1024
        r50 = build_model(recipe, 80)
        recipe.backbone.name = "swin_large_patch4_window12_384"
        recipe.decoder.queries = 200
        swin = build_model(recipe, 80)
    counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (dino, r50, swin)]
    assert counts == [52058004, 43970257, 215521989]


def test_class_prior():
    model = build_model(tiny(decoder__class_prior=0.01), 3)
    assert model.decoder.class_embed.bias.sigmoid().mean().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("name", shipped_files())
def test_every_recipe_builds_its_model(name):
    recipe = settle(load_recipe(name))
    with torch.device("meta"):
        model = build_model(recipe, 5, load_weights=False)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    assert model.decoder.class_embed.out_features == 5 + recipe.softmax_classes
