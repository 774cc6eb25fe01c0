"""Hugging Face's Mask2Former (`model.safetensors` beside `config.json`) under official names.

Renaming only, but for attentions whose three projections are one tensor officially. What `config.json`
states is `huggingface_config.py`. Called by `files.py`.
Names: transformers (Apache-2.0), `modeling_mask2former.py` and `modeling_swin.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gdseg.errors import CheckpointError
from gdseg.train.convert.names import PIXEL, PREDICTOR

FAMILY = "Mask2Former (Hugging Face)"
_ENCODER = r"^model\.pixel_level_module\.encoder\."
_PIXEL = r"^model\.pixel_level_module\.decoder\."
_DECODER = r"^model\.transformer_module\.decoder\."
_NAMES = [  # the first match counts; what matches nothing keeps its name and is then unexplained
    (
        _ENCODER + r"(?:embeddings|model\.embeddings)\.patch_embeddings\.projection\.",
        "backbone.patch_embed.proj.",
    ),
    (_ENCODER + r"(?:model\.)?embeddings\.norm\.", "backbone.patch_embed.norm."),
    (_ENCODER + r"hidden_states_norms\.stage(\d)\.", r"backbone.norm<\1>."),
    (_ENCODER + r"(?:model\.)?encoder\.layers\.(\d)\.blocks\.(\d+)\.", r"backbone.layers.\1.blocks.\2."),
    (_ENCODER + r"(?:model\.)?encoder\.layers\.", "backbone.layers."),
    (_PIXEL + r"(adapter|layer)_(\d)\.0\.", PIXEL + r"\1_\2."),
    (_PIXEL + r"(adapter|layer)_(\d)\.1\.", PIXEL + r"\1_\2.norm."),
    (_PIXEL + r"input_projections\.", PIXEL + "input_proj."),
    (_PIXEL + r"level_embed$", PIXEL + "transformer.level_embed"),
    (_PIXEL + r"mask_projection\.", PIXEL + "mask_features."),
    (
        _PIXEL + r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.",
        PIXEL + r"transformer.encoder.layers.\1.norm1.",
    ),
    (_PIXEL + r"encoder\.layers\.(\d+)\.final_layer_norm\.", PIXEL + r"transformer.encoder.layers.\1.norm2."),
    (_PIXEL + r"encoder\.layers\.(\d+)\.fc(\d)\.", PIXEL + r"transformer.encoder.layers.\1.linear\2."),
    (_PIXEL + r"encoder\.", PIXEL + "transformer.encoder."),
    (r"^model\.transformer_module\.queries_embedder\.", PREDICTOR + "query_embed."),
    (r"^model\.transformer_module\.queries_features\.", PREDICTOR + "query_feat."),
    (r"^model\.transformer_module\.level_embed\.", PREDICTOR + "level_embed."),
    (r"^model\.transformer_module\.input_projections\.", PREDICTOR + "input_proj."),
    (_DECODER + r"layernorm\.", PREDICTOR + "decoder_norm."),
    (_DECODER + r"mask_predictor\.mask_embedder\.(\d)\.0\.", PREDICTOR + r"mask_embed.layers.\1."),
    (r"^class_predictor\.", PREDICTOR + "class_embed."),
]
_LAYER = _DECODER + r"layers\.(\d+)\."
_NAMES += [
    (_LAYER + r"self_attn_layer_norm\.", PREDICTOR + r"transformer_self_attention_layers.\1.norm."),
    (_LAYER + r"self_attn\.", PREDICTOR + r"transformer_self_attention_layers.\1.self_attn."),
    (_LAYER + r"cross_attn_layer_norm\.", PREDICTOR + r"transformer_cross_attention_layers.\1.norm."),
    (_LAYER + r"cross_attn\.", PREDICTOR + r"transformer_cross_attention_layers.\1.multihead_attn."),
    (_LAYER + r"final_layer_norm\.", PREDICTOR + r"transformer_ffn_layers.\1.norm."),
    (_LAYER + r"fc(\d)\.", PREDICTOR + r"transformer_ffn_layers.\1.linear\2."),
]
_SWIN_BLOCK = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.self.relative": "attn.relative",
    "attention.output.dense.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
}
_SPLIT = [  # three projections that are one tensor officially: names, in order, and the joint name
    (("attention.self.query.", "attention.self.key.", "attention.self.value."), "attn.qkv."),
    (("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."), "self_attn.in_proj_"),
]


def is_huggingface(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of transformers' Mask2Former."""
    return "model.transformer_module.queries_features.weight" in tensors


def as_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under official names. Raises CheckpointError when a joint projection misses a part."""
    official: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for parts, joint in _SPLIT:
            part = next((p for p in parts if p in name), None)
            if part is None:
                continue
            if part == parts[0]:
                try:
                    value = torch.cat([tensors[name.replace(part, p)] for p in parts])
                except KeyError as error:
                    raise CheckpointError(f"lacks {error}") from error
                official[_rename(name.replace(part, joint))] = value
            break
        else:
            official[_rename(name)] = tensor
    return official


def _rename(name: str) -> str:
    for pattern, replacement in _NAMES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            break
    else:
        return name
    renamed = re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) - 1), renamed)
    if renamed.startswith("backbone.layers.") and ".blocks." in renamed:
        for theirs, ours in _SWIN_BLOCK.items():
            if f".{theirs}" in renamed:
                return renamed.replace(theirs, ours)
    return renamed
