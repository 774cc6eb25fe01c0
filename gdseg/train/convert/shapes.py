"""The architecture that official tensors' names and shapes tell, as recipe keys.

Called by `convert.identify`. What shapes cannot tell (heads of plain attention, thresholds, how anchors
start) comes from options or from the published configuration that fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gdseg.errors import CheckpointError
from gdseg.train.convert.names import PIXEL, PREDICTOR

Shapes = Mapping[str, tuple[int, ...]]

RESNETS = {
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
    (2, 2, 2, 2): "resnet18",
    (3, 4, 6, 3): "resnet50",
}
SWINS = {  # width, depth of the third stage, window
    (96, 6, 7): "swin_tiny_patch4_window7_224",
    (96, 18, 7): "swin_small_patch4_window7_224",
    (128, 18, 7): "swin_base_patch4_window7_224",
    (128, 18, 12): "swin_base_patch4_window12_384",
    (192, 18, 7): "swin_large_patch4_window7_224",
    (192, 18, 12): "swin_large_patch4_window12_384",
}
VITS = {  # width, patch, position embeddings
    (384, 14, 1370): "vit_small_patch14_dinov2",
    (768, 14, 1370): "vit_base_patch14_dinov2",
    (1024, 14, 1370): "vit_large_patch14_dinov2",
    (768, 16, 577): "deit_base_patch16_384",
    (768, 16, 197): "deit_base_patch16_224",
}
COUNTER = "num_batches_tracked"  # batch norms that learn have it
POINTS, HEADS = 4, 8  # never anything else in the official decoders


def architecture(shapes: Shapes) -> dict[str, Any]:
    """Recipe keys (dotted) and `num_classes` that the shapes tell.

    Raises CheckpointError where they tell none.
    """
    found = backbone_keys(shapes)
    with _complete("looks like Mask2Former or Mask DINO"):
        found |= _pixel_decoder(shapes)
        found |= _maskdino(shapes) if PREDICTOR + "label_enc.weight" in shapes else _mask2former(shapes)
    if found["decoder.kind"] == "mask2former" and "pixel_decoder.heads" in found:
        found["decoder.heads"] = found["pixel_decoder.heads"]  # one option, and only the encoder's shows
    wide = found["pixel_decoder.channels"] == found["decoder.channels"]
    found["decoder.input_projection"] = wide and PREDICTOR + "input_proj.0.weight" in shapes
    return found


def backbone_keys(shapes: Shapes) -> dict[str, Any]:
    """Recipe keys of the backbone, under its official names. Raises CheckpointError for one not published."""
    with _complete("looks like a backbone that gdseg knows"):
        return _backbone(shapes)


@contextmanager
def _complete(looks: str) -> Iterator[None]:
    """Turns what missing tensors and wrong numbers of dimensions cause into a CheckpointError."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{looks}, but lacks {error}", hint="is the file complete?") from error
    except (IndexError, ValueError, ArithmeticError) as error:
        what = f"{looks}, but its tensors' shapes make no sense ({error})"
        raise CheckpointError(what, hint="is the file complete?") from error


def _count(shapes: Iterable[str], pattern: str) -> int:
    """One more than the largest number that `pattern` finds at the start of a name."""
    found = (re.match(pattern, name) for name in shapes)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _backbone(shapes: Shapes) -> dict[str, Any]:
    if "backbone.stem.conv1.weight" in shapes:
        return _resnet(shapes)
    if "backbone.layers.0.blocks.0.attn.qkv.weight" in shapes:
        depths = tuple(_count(shapes, rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in range(4))
        width = shapes["backbone.patch_embed.proj.weight"][0]
        table = shapes["backbone.layers.0.blocks.0.attn.relative_position_bias_table"][0]
        window = (int(table**0.5) + 1) // 2
        return {
            "backbone.name": timm_name(SWINS, (width, depths[2], window), "Swin"),
            "backbone.norm": "live",
        }
    if "backbone.model.pos_embed" in shapes:
        width, _, patch, _ = shapes["backbone.model.patch_embed.proj.weight"]
        name = timm_name(VITS, (width, patch, shapes["backbone.model.pos_embed"][1]), "ViT")
        return {"backbone.name": name, "backbone.pyramid": "nearest", "backbone.norm": "live"}
    raise CheckpointError("its backbone is neither ResNet, Swin nor ViT", hint="gdseg converts these three")


def _resnet(shapes: Shapes) -> dict[str, Any]:
    depths = tuple(_count(shapes, rf"backbone\.res{i}\.(\d+)\.") for i in range(2, 6))
    name = str(timm_name(RESNETS, depths, "ResNet"))
    if "backbone.res2.0.conv3.weight" not in shapes:  # two convolutions a block
        name = str(timm_name({"resnet50": "resnet34", "resnet18": "resnet18"}, name, "ResNet without conv3"))
    found: dict[str, Any] = {"backbone.name": name, "backbone.norm": "frozen"}  # frozen norms do not count
    counts = [
        any(key.startswith(f"backbone.{stage}.") and key.endswith(COUNTER) for key in shapes)
        for stage in ("stem", "res2", "res3", "res4", "res5")
    ]
    if any(counts):
        found |= {"backbone.norm": "live", "backbone.freeze_stages": counts.index(True)}
    return found


def timm_name(table: Mapping[Any, str], facts: Any, family: str) -> str:
    """The network of these sizes in `table`. Raises CheckpointError where there is none."""
    if facts not in table:
        raise CheckpointError(
            f"a {family} of sizes {facts} is not one of those published", hint=f"known: {sorted(table)}"
        )
    return table[facts]


def _pixel_decoder(shapes: Shapes) -> dict[str, Any]:
    encoder = PIXEL + "transformer.encoder.layers."
    masks, channels = shapes[PIXEL + "mask_features.weight"][:2]
    levels = shapes[PIXEL + "transformer.level_embed"][0]
    projections = [shapes[f"{PIXEL}input_proj.{i}.0.weight"] for i in range(levels)]
    inputs = [p for p in projections if p[-1] == 1]
    found = {
        "pixel_decoder.channels": channels,
        "pixel_decoder.mask_channels": masks,
        "pixel_decoder.layers": _count(shapes, re.escape(encoder) + r"(\d+)\."),
        "pixel_decoder.inputs": ["res2", "res3", "res4", "res5"][-len(inputs) :],
        "pixel_decoder.extra_levels": levels - len(inputs),
    }
    if len(inputs) > 1:
        coarse = inputs[0][1] > inputs[-1][1]
        found["pixel_decoder.level_order"] = "coarse_first" if coarse else "fine_first"
    if found["pixel_decoder.layers"]:
        found["pixel_decoder.ffn"] = shapes[encoder + "0.linear1.weight"][0]
        rows = shapes[encoder + "0.self_attn.attention_weights.weight"][0]
        found["pixel_decoder.heads"] = rows // (levels * POINTS)
    return found


def _mask2former(shapes: Shapes) -> dict[str, Any]:
    queries = shapes[PREDICTOR + "query_feat.weight"]
    return {
        "decoder.kind": "mask2former",
        "decoder.queries": queries[0],
        "decoder.channels": queries[1],
        "decoder.layers": _count(shapes, re.escape(PREDICTOR) + r"transformer_ffn_layers\.(\d+)\."),
        "decoder.ffn": shapes[PREDICTOR + "transformer_ffn_layers.0.linear1.weight"][0],
        "num_classes": shapes[PREDICTOR + "class_embed.weight"][0] - 1,
    }


def _maskdino(shapes: Shapes) -> dict[str, Any]:
    classes, channels = shapes[PREDICTOR + "label_enc.weight"]
    outputs = shapes[PREDICTOR + "class_embed.weight"][0]
    learned = PREDICTOR + "query_feat.weight" in shapes
    two_stage = PREDICTOR + "enc_output.weight" in shapes
    found = {
        "decoder.kind": "maskdino",
        "decoder.channels": channels,
        "decoder.layers": _count(shapes, re.escape(PREDICTOR) + r"decoder\.layers\.(\d+)\."),
        "decoder.ffn": shapes[PREDICTOR + "decoder.layers.0.linear1.weight"][0],
        "decoder.class_loss": "softmax" if outputs > classes else "focal",
        "decoder.two_stage": two_stage,
        "decoder.learned_content": two_stage and learned,
        "num_classes": classes,
    }
    if two_stage and outputs > classes:  # in official code, always; no published configuration has it
        found["decoder.token_score"] = "all"
    if learned:
        found["decoder.queries"] = shapes[PREDICTOR + "query_feat.weight"][0]
    return found
