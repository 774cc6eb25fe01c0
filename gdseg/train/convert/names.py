"""Names of official tensors: for each of ours, what Mask2Former, Mask DINO and Guided Distillation call it.

One direction is written down; the other is its inverse. The first name is the one that official code trains,
the others are copies of the same tensor that its state dicts also hold. Called by `convert.tensors`.
"""

from __future__ import annotations

import re

from gdseg.recipe import Recipe

PREDICTOR, PIXEL = "sem_seg_head.predictor.", "sem_seg_head.pixel_decoder."

_Rules = list[tuple[str, str]]  # pattern over our name, official replacement; the first match counts

_RESNET: _Rules = [
    (r"^backbone\.body\.conv1\.", "backbone.stem.conv1."),
    (r"^backbone\.body\.bn1\.", "backbone.stem.conv1.norm."),
    (r"^backbone\.body\.layer(\d)\.(\d+)\.downsample\.0\.", r"backbone.res<\1>.\2.shortcut."),
    (r"^backbone\.body\.layer(\d)\.(\d+)\.downsample\.1\.", r"backbone.res<\1>.\2.shortcut.norm."),
    (r"^backbone\.body\.layer(\d)\.(\d+)\.bn(\d)\.", r"backbone.res<\1>.\2.conv\3.norm."),
    (r"^backbone\.body\.layer(\d)\.", r"backbone.res<\1>."),
]
_SWIN: _Rules = [  # timm merges patches where a stage starts, official code where the one before ends
    (r"^backbone\.body\.patch_embed\.", "backbone.patch_embed."),
    (r"^backbone\.body\.layers_(\d)\.downsample\.", r"backbone.layers.[\1].downsample."),
    (r"^backbone\.body\.layers_(\d)\.", r"backbone.layers.\1."),
    (r"^backbone\.norms\.(\d)\.", r"backbone.norm\1."),
]
_VIT: _Rules = [
    (r"^backbone\.body\.model\.", "backbone.model."),
    (r"^backbone\.pyramid\.norm\.", "backbone.model.norm."),
    (r"^backbone\.pyramid\.convs\.", "backbone.convs."),
]
_PIXEL: _Rules = [
    (r"^pixel_decoder\.lateral\.(\d)\.0\.", PIXEL + r"adapter_{\1}."),
    (r"^pixel_decoder\.lateral\.(\d)\.1\.", PIXEL + r"adapter_{\1}.norm."),
    (r"^pixel_decoder\.output\.(\d)\.0\.", PIXEL + r"layer_{\1}."),
    (r"^pixel_decoder\.output\.(\d)\.1\.", PIXEL + r"layer_{\1}.norm."),
    (r"^pixel_decoder\.layers\.", PIXEL + "transformer.encoder.layers."),
    (r"^pixel_decoder\.level_embed$", PIXEL + "transformer.level_embed"),
    (r"^pixel_decoder\.", PIXEL),
]
_LAYER = r"^decoder\.layers\.(\d+)\."
_M2F: _Rules = [
    (_LAYER + r"cross_attn\.", PREDICTOR + r"transformer_cross_attention_layers.\1.multihead_attn."),
    (_LAYER + r"norm1\.", PREDICTOR + r"transformer_cross_attention_layers.\1.norm."),
    (_LAYER + r"self_attn\.", PREDICTOR + r"transformer_self_attention_layers.\1.self_attn."),
    (_LAYER + r"norm2\.", PREDICTOR + r"transformer_self_attention_layers.\1.norm."),
    (_LAYER + r"norm3\.", PREDICTOR + r"transformer_ffn_layers.\1.norm."),
    (_LAYER, PREDICTOR + r"transformer_ffn_layers.\1."),
    (r"^decoder\.norm\.", PREDICTOR + "decoder_norm."),
    (r"^decoder\.", PREDICTOR),
]
_MASKDINO: _Rules = [
    (r"^decoder\.norm\.", PREDICTOR + "decoder_norm."),
    (r"^decoder\.bbox_embed\.", PREDICTOR + "decoder.bbox_embed.0."),
    (r"^decoder\.(layers|ref_point_head)\.", PREDICTOR + r"decoder.\1."),
    (r"^decoder\.mask_prior\.", ""),  # ours alone
    (r"^decoder\.", PREDICTOR),
]
_OLD_NAMES = {  # released Mask2Former files: the first spelling of a tensor that was renamed since
    PREDICTOR + "query_feat.": PREDICTOR + "static_query.",
}


def official_names(key: str, recipe: Recipe) -> list[str]:
    """What official code calls our tensor `key`: its name, then its copies.

    Empty if it has no such tensor.
    """
    maskdino = recipe.decoder.kind == "maskdino"
    for pattern, replacement in [*_RESNET, *_SWIN, *_VIT, *_PIXEL, *(_MASKDINO if maskdino else _M2F)]:
        name, found = re.subn(pattern, replacement, key)
        if not found:
            continue
        if not replacement:
            return []
        name = re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) + 1), name)
        name = re.sub(r"\[(\d)\]", lambda stage: str(int(stage[1]) - 1), name)
        name = re.sub(r"\{(\d)\}", lambda step: str(_fpn_steps(recipe) - int(step[1])), name)
        return [name, *(_copies(name, recipe.decoder.layers) if maskdino else [])]
    return []


def old_names(name: str) -> list[str]:
    """Other spellings of an official name that released files use."""
    renamed = [name.replace(new, old) for new, old in _OLD_NAMES.items() if name.startswith(new)]
    short = [name.replace(PIXEL, "sem_seg_head.")] if name.startswith(PIXEL) else []
    return renamed + short


def modern_name(name: str) -> str:
    """Today's spelling of an official name."""
    for new, old in _OLD_NAMES.items():
        name = name.replace(old, new)
    short = name.startswith("sem_seg_head.") and not name.startswith((PIXEL, PREDICTOR))
    return name.replace("sem_seg_head.", PIXEL) if short else name


def _fpn_steps(recipe: Recipe) -> int:
    """How many FPN steps lead to stride 4.

    Official code counts them from the finest, we from the coarsest.
    """
    return max(int(min(recipe.pixel_decoder.inputs)[3:]) - 2, 1)


def _copies(name: str, layers: int) -> list[str]:
    """The other names of Mask DINO's shared modules: one box head and one norm serve all layers."""
    norm, box = PREDICTOR + "decoder_norm.", PREDICTOR + "decoder.bbox_embed.0."
    if name.startswith(norm):
        return [name.replace(norm, PREDICTOR + "decoder.norm.")]
    if not name.startswith(box):
        return []
    homes = [f"decoder.bbox_embed.{i}." for i in range(1, layers)]
    homes += ["_bbox_embed.", *(f"bbox_embed.{i}." for i in range(layers))]
    return [name.replace(box, PREDICTOR + home) for home in homes]
