"""Our networks against the official ones: same weights, images and draws, the same outputs."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from golden import Golden

CONFIGS = [
    "m2f_inst_r18_tiny",
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


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs(shared_dir, name):
    golden = Golden(shared_dir, name)
    model = golden.model().eval()
    images, sizes = golden.images(train=False)
    with torch.no_grad():
        outputs = model(images, sizes)
        features = model.backbone(_normalised(model, images, sizes))
        pyramid = model.pixel_decoder(features)
    pairs = {f"eval/backbone/{key}": value for key, value in features.items()}
    pairs["eval/mask_features"] = pyramid.mask_features
    pairs |= {f"eval/multi_scale/{i}": level for i, level in enumerate(pyramid.levels)}
    pairs |= dict(named(outputs, "eval"))
    assert {k for k in golden.manifest["tensors"] if k.startswith("eval/")} == set(pairs)
    worst = golden.worst(pairs)
    assert max(worst.values()) < 1, worst


@pytest.mark.parametrize("name", CONFIGS)
def test_training_outputs(shared_dir, name):
    golden = Golden(shared_dir, name)
    model = golden.model().train()
    images, sizes = golden.images(train=True)
    outputs = model(images, sizes, golden.targets(), golden.draws())
    pairs = dict(named(outputs, "train"))
    missing = {k for k in golden.manifest["tensors"] if k.startswith("train/") and "pred_" in k and "grad" not in k} - set(pairs)
    print(missing, set(pairs)-set(golden.manifest["tensors"]))
    worst = golden.worst(pairs)
    assert max(worst.values()) < 1, worst


def _normalised(model, images, sizes):
    normalised = (images - model.mean) / model.std
    for image, (h, w) in zip(normalised, sizes, strict=True):
        image[:, h:] = 0
        image[:, :, w:] = 0
    return normalised
