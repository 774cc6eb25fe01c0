"""Small networks, one for each path through decoders, losses and decoding, and the numbers they must give.

Weights, images, targets and draws follow from names and seeds through numpy's frozen RandomState, so nothing
but numbers is stored. `python tests/own_vectors/own_cases.py` rewrites `vectors.json`; do so only at a commit
at which every recorded run of the official code (tests/golden) passes: there the stored numbers are as good
as official ones.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from gdseg.draws import Draws
from gdseg.losses.criterion import Criterion
from gdseg.models.decode import decode
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Targets
from gdseg.train.convert.identify import recipe_of

FILE = Path(__file__).with_name("vectors.json")
CLASSES, SIZES = 6, [(64, 96), (80, 60)]
SMALL = {
    "backbone.name": "resnet18", "pixel_decoder.channels": 32, "pixel_decoder.mask_channels": 16, "pixel_decoder.layers": 1,
    "pixel_decoder.ffn": 32, "decoder.channels": 32, "decoder.layers": 2, "decoder.ffn": 32, "decoder.queries": 12,
    "decoder.heads": 4, "pixel_decoder.heads": 4, "decoder.denoising_queries": 9, "loss.points": 64, "postprocess.max_detections": 8,
}  # fmt: skip
M2F = {
    "decoder.kind": "mask2former",
    "decoder.class_loss": "softmax",
    "decoder.box_init": "none",
    "decoder.denoising": "none",
}
FINE = {"pixel_decoder.extra_levels": 1, "pixel_decoder.level_order": "fine_first"}
CASES = {
    "m2f_instance": M2F,
    "m2f_panoptic_bn": {**M2F, "task": "panoptic", "backbone.norm": "live", "postprocess.object_threshold": 0.1},
    "m2f_semantic_prenorm_proj": {**M2F, "task": "semantic", "decoder.pre_norm": True, "decoder.channels": 48},
    "m2f_swin": {**M2F, "backbone.name": "swin_tiny_patch4_window7_224", "backbone.norm": "live"},
    "dino_fine_mask_to_box": FINE,
    "dino_five_levels_swapped_exact": {
        "pixel_decoder.extra_levels": 2, "pixel_decoder.extra_positions": "swapped", "decoder.box_init": "exact",
    },
    "dino_five_levels_own_by_stride": {
        "pixel_decoder.extra_levels": 2, "decoder.proposal_size": "stride", "decoder.denoising": "box",
    },
    "dino_res2_no_initial": {
        "pixel_decoder.inputs": ["res2", "res3", "res4", "res5"], "pixel_decoder.level_order": "fine_first",
        "decoder.box_init": "none", "decoder.initial_prediction": False,
    },
    "dino_learned_projected": {**FINE, "decoder.learned_content": True, "pixel_decoder.channels": 48},
    "dino_panoptic": {**FINE, "task": "panoptic", "loss.box_things_only": True, "postprocess.object_threshold": 0.1},
    "dino_one_stage_softmax": {
        "task": "semantic", "decoder.two_stage": False, "decoder.box_init": "none", "decoder.class_loss": "softmax",
    },
    "dino_semantic_focal": {"task": "semantic", "decoder.two_stage": False, "decoder.box_init": "none"},
}  # fmt: skip


def generator(tag: str) -> np.random.RandomState:
    return np.random.RandomState(int.from_bytes(hashlib.sha256(tag.encode()).digest()[:4], "little"))


class NamedDraws(Draws):
    """Draws that follow from tag and layer."""

    def rand(self, tag, layers, shape, device):
        drawn = [generator(f"{tag}/{layer}").random_sample(tuple(shape)) for layer in layers]
        return torch.from_numpy(np.array(drawn, np.float32).reshape(len(layers), *shape)).to(device)

    def randint(self, tag, high, shape, device):
        return torch.from_numpy(generator(tag).randint(0, high, tuple(shape)).astype(np.int64)).to(device)


def fill(model: torch.nn.Module) -> None:
    """Weights that make every part matter: nothing saturates, masks have both signs, classes differ."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            draw = generator(name).standard_normal(tuple(tensor.shape))
            if name.endswith("running_var"):
                value = 0.5 + np.abs(draw)
            elif not tensor.is_floating_point():
                continue
            elif tensor.dim() <= 1:
                value = 0.1 * draw + (1.0 if name.endswith("weight") else 0.0)
            else:
                scale = {"class_embed": 3.0, "query_feat": 2.0}.get(name.split(".")[1], 1.0)
                fan = (
                    1.0
                    if "embed.weight" in name and "class" not in name
                    else float(np.prod(tensor.shape[1:]))
                )
                value = scale * draw / np.sqrt(fan)
            tensor.copy_(torch.from_numpy(np.asarray(value, np.float32)))


def inputs() -> tuple[torch.Tensor, list[Targets]]:
    """Two images on one canvas of 96 x 96, with three targets and one."""
    images, targets = torch.zeros(2, 3, 96, 96), []
    for i, ((h, w), count) in enumerate(zip(SIZES, (3, 1), strict=True)):
        draw = generator(f"image{i}")
        images[i, :, :h, :w] = torch.from_numpy(
            draw.randint(0, 256, (3, h // 4, w // 4)).repeat(4, 1).repeat(4, 2)
        ).float()
        masks = torch.zeros(count, 96, 96, dtype=torch.bool)
        boxes = torch.zeros(count, 4)
        for k in range(count):
            y, x = draw.randint(4, h // 2), draw.randint(4, w // 2)
            masks[k, y : y + 20 + 3 * k, x : x + 24] = True
            boxes[k] = torch.tensor([x + 12, y + 10 + 1.5 * k, 24, 20 + 3 * k]) / 96
        targets.append(
            Targets(torch.from_numpy(draw.randint(0, CLASSES, count)), masks, boxes, torch.ones(count))
        )
    return images, targets


def recipe(name: str) -> Recipe:
    return recipe_of({**SMALL, **CASES[name]})


def numbers(name: str) -> dict:
    """What the network of this case says: samples of outputs, losses, gradient norms, predictions."""
    own = recipe(name)
    model = build_model(own, CLASSES, load_weights=False)
    fill(model)
    images, targets = inputs()
    things = [label < 4 for label in range(CLASSES)]
    model.eval()
    with torch.no_grad():
        outputs = model(images, SIZES)
    batch = Batch([0, 1], images, SIZES, [(50, 70), (100, 75)], [None, None])
    found = decode(outputs, batch, own, CLASSES, things)
    final = outputs.final
    eval_tensors = {"logits": final.logits, "masks": final.masks, "boxes": final.boxes_cxcywh}
    model.train()
    outputs = model(images, SIZES, targets, NamedDraws())
    losses = Criterion(own, CLASSES, things)(outputs, targets, None, NamedDraws())
    torch.stack(list(losses.values())).sum().backward()
    parts: dict[str, list[torch.Tensor]] = {}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(".".join(key.split(".")[:3]), []).append(parameter.grad.norm())
    return {
        "outputs": {key: sampled(value) for key, value in eval_tensors.items() if value is not None},
        "losses": {key: value.item() for key, value in losses.items()},
        "gradients": {key: torch.stack(norms).norm().item() for key, norms in parts.items()},
        "predictions": [summary(prediction) for prediction in found],
    }


def sampled(tensor: torch.Tensor) -> dict:
    flat = tensor.detach().flatten()
    index = generator("samples").randint(0, len(flat), 60)
    return {"shape": list(tensor.shape), "std": flat.std().item(), "values": flat[index].tolist()}


def summary(found) -> dict:
    """Labels, scores, mask areas; areas of segments or labels."""
    result = {
        "labels": found.labels.tolist(),
        "scores": found.scores.tolist(),
        "areas": found.masks.flatten(1).sum(1).tolist() if len(found) else [],
    }
    if found.panoptic is not None:
        result["segments"] = [
            [s["label"], s["isthing"], int((found.panoptic == s["id"]).sum())] for s in found.segments
        ]
    if found.semantic is not None:
        result["semantic"] = torch.bincount(found.semantic.flatten(), minlength=CLASSES).tolist()
    return result


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    rows = (f"{json.dumps(name)}: {json.dumps(rounded(numbers(name)))}" for name in CASES)
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
