"""What Hugging Face's `config.json` states beside a Mask2Former's weights. Called by `files.py`.

Tensors do not tell how many heads plain attention has, or whether norms come first; the configuration does.
Names: transformers (Apache-2.0), `configuration_mask2former.py` and `configuration_swin.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdseg.errors import CheckpointError
from gdseg.train.convert.shapes import SWINS, timm_name

_MAX_BYTES = 1 << 24
_KEYS = {  # transformers' option -> recipe keys
    "feature_size": ("pixel_decoder.channels",),
    "mask_feature_size": ("pixel_decoder.mask_channels",),
    "encoder_layers": ("pixel_decoder.layers",),
    "encoder_feedforward_dim": ("pixel_decoder.ffn",),
    "num_attention_heads": ("pixel_decoder.heads", "decoder.heads"),
    "dropout": ("pixel_decoder.dropout", "decoder.dropout"),
    "hidden_dim": ("decoder.channels",),
    "dim_feedforward": ("decoder.ffn",),
    "num_queries": ("decoder.queries",),
    "pre_norm": ("decoder.pre_norm",),
    "no_object_weight": ("loss.no_object",),
    "class_weight": ("loss.class_weight", "loss.class_cost"),
    "mask_weight": ("loss.mask_weight", "loss.mask_cost"),
    "dice_weight": ("loss.dice_weight", "loss.dice_cost"),
    "train_num_points": ("loss.points",),
    "oversample_ratio": ("loss.oversample",),
    "importance_sample_ratio": ("loss.importance",),
    "use_auxiliary_loss": ("loss.deep_supervision",),
}
_ONLY: dict[str, Any] = {  # the value that gdseg has a part for
    "model_type": "mask2former",
    "activation_function": "relu",
    "common_stride": 4,
    "feature_strides": [4, 8, 16, 32],
}
_ONLY_SWIN: dict[str, Any] = {
    "model_type": "swin",
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
    "patch_size": 4,
}


@dataclass
class Stated:
    """Class names, label by label, and recipe keys; both empty where there is no config.json."""

    names: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)


def read_config(folder: Path) -> Stated:
    """What `config.json` in `folder` states.

    Raises CheckpointError when it cannot be read, or asks for a part that gdseg does not have.
    """
    file = folder / "config.json"
    if not file.is_file():
        return Stated()
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError("too large for a configuration")
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        labels = {int(number): str(name) for number, name in config["id2label"].items()}
        names = [labels[i] for i in range(len(labels))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"config.json has no usable id2label ({error})", file) from error
    try:
        return Stated(names, _recipe_keys(config))
    except CheckpointError as error:
        error.where = str(file)
        raise
    except (TypeError, AttributeError, LookupError) as error:
        raise CheckpointError(f"config.json makes no sense ({error})", file) from error


def _recipe_keys(config: dict[str, Any]) -> dict[str, Any]:
    _check(config, _ONLY, "")
    found = {key: config[option] for option, keys in _KEYS.items() if option in config for key in keys}
    if "decoder_layers" in config:  # the prediction before the first counts as one
        found["decoder.layers"] = config["decoder_layers"] - 1
    swin = config.get("backbone_config") or {}
    _check(swin, _ONLY_SWIN, "backbone_config.")
    if "drop_path_rate" in swin:
        found["backbone.drop_path"] = swin["drop_path_rate"]
    if {"embed_dim", "depths", "window_size"} <= set(swin):
        sizes = (swin["embed_dim"], swin["depths"][2], swin["window_size"])
        found["backbone.name"] = timm_name(SWINS, sizes, "Swin")
    return found


def _check(given: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
    """Raises CheckpointError for the first option whose value is not the known one."""
    for option, value in known.items():
        if given.get(option, value) != value:
            shown = str(given[option])[:80]
            raise CheckpointError(f"config.json says {prefix}{option}: {shown}; gdseg has {value}")
