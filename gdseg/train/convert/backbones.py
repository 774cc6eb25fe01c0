"""Files that hold a backbone alone, as a file for the recipe key `backbone.weights`. Called by `files.py`.

torchvision and timm ResNets, detectron2's ImageNet .pkl, official Swin, DINOv2 and DeiT, and whatever timm
names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from gdseg.errors import CheckpointError
from gdseg.recipe import Recipe
from gdseg.train.convert.names import official_names
from gdseg.train.convert.report import Report
from gdseg.train.convert.shapes import _backbone
from gdseg.train.convert.tensors import bare_model

_IGNORED = [
    (r"^(fc|head|classifier|stem\.fc|linear)\.", "classifier"),
    (r"^head_dist\.|^dist_token$", "distillation token of DeiT"),
    (r"^(norm|fc_norm)\.(weight|bias)$", "the classifier's norm"),
    (r"(relative_position_index|attn_mask)$", "follows from the window's size"),
    (r"^mask_token$|^dino_|^ibot_", "DINOv2's own pre-training"),
    (r"num_batches_tracked$", "counts training steps"),
]
_TORCHVISION = [  # torchvision and timm names as detectron2's
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", r"res<\1>.\2.shortcut."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", r"res<\1>.\2.shortcut.norm."),
    (r"^layer(\d)\.(\d+)\.bn(\d)\.", r"res<\1>.\2.conv\3.norm."),
    (r"^layer(\d)\.", r"res<\1>."),
]


def is_backbone(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a known backbone alone."""
    marks = ("stem.conv1.weight", "conv1.weight", "patch_embed.proj.weight")
    return any(name in tensors for name in marks)


def convert_backbone(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], Report]:
    """(timm name, tensors under timm's names, report). Raises CheckpointError for anything unexplained."""
    report = Report("backbone", license="that of its source")
    official = {f"backbone.{_as_official(name, tensors)}": name for name in tensors}
    facts = _backbone({name: tuple(tensors[source].shape) for name, source in official.items()})
    recipe = Recipe()
    recipe.backbone.name, recipe.backbone.norm = facts["backbone.name"], "frozen"
    recipe.backbone.pyramid = facts.get("backbone.pyramid", "simple")
    recipe.decoder.kind = "mask2former"
    body = bare_model(recipe, 1).backbone.body
    found: dict[str, Tensor] = {}
    faults = []
    for key, own in body.state_dict().items():
        source = next(
            (official[n] for n in official_names(f"backbone.body.{key}", recipe) if n in official), None
        )
        if source is None:
            if not key.endswith("num_batches_tracked"):
                faults.append(f"lacks {key}")
        elif tensors[source].shape != own.shape:
            faults.append(
                f"{source} is {list(tensors[source].shape)}, {recipe.backbone.name} has {list(own.shape)}"
            )
        else:
            found[key], report.mapped[source] = tensors[source].contiguous(), key
    for name in set(tensors) - set(report.mapped):
        why = next((reason for pattern, reason in _IGNORED if re.search(pattern, name)), None)
        if why is None:
            faults.append(f"has {name}, which {recipe.backbone.name} lacks")
        else:
            report.ignored[name] = why
    if faults:
        raise CheckpointError(f"a backbone, but {'; '.join(sorted(faults)[:3])}")
    report.parameters = sum(p.numel() for p in body.parameters())
    report.configuration = recipe.backbone.name
    return recipe.backbone.name, found, report


def _as_official(name: str, tensors: Mapping[str, Tensor]) -> str:
    if "pos_embed" in tensors:
        return f"model.{name}"
    merged_early = "layers.0.downsample.reduction.weight" not in tensors  # timm's own Swin
    if merged_early and (match := re.match(r"layers\.(\d)\.downsample\.(.*)", name)):
        return f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
    for pattern, replacement in _TORCHVISION:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) + 1), renamed)
    return name
