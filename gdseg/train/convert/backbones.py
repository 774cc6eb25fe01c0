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
from gdseg.train.convert.caffe import is_caffe, modern_tensors
from gdseg.train.convert.names import official_names
from gdseg.train.convert.report import Report
from gdseg.train.convert.shapes import backbone_keys
from gdseg.train.convert.tensors import bare_model, misfit

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
    return any(name in tensors for name in marks) or is_caffe(tensors)


def convert_backbone(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], Report]:
    """(timm name, tensors under timm's names, report). Raises CheckpointError for anything unexplained."""
    report = Report("backbone", license="that of its source")
    theirs = {name: name for name in tensors}
    if is_caffe(tensors):
        tensors, theirs = modern_tensors(tensors)
        report.adapted[theirs["stem.conv1.weight"]] = "from BGR images of standard deviation 1 to a recipe's"
        report.use.append("backbone.stride_in_1x1=true")
    official = {f"backbone.{_as_official(name, tensors)}": name for name in tensors}
    facts = backbone_keys({name: tuple(tensors[source].shape) for name, source in official.items()})
    recipe = Recipe()
    recipe.backbone.name, recipe.backbone.norm = facts["backbone.name"], "frozen"
    recipe.backbone.pyramid = facts.get("backbone.pyramid", "simple")
    recipe.decoder.kind = "mask2former"
    body = bare_model(recipe, 1).backbone.body
    found: dict[str, Tensor] = {}
    used, faults = set(), []
    for key, own in body.state_dict().items():
        names = official_names(f"backbone.body.{key}", recipe)
        source = next((official[name] for name in names if name in official), None)
        if source is None:
            if not key.endswith("num_batches_tracked"):
                faults.append(f"lacks {key}")
            continue
        used.add(source)
        fault = misfit(theirs.get(source, source), tensors[source], own)
        if fault:
            faults.append(fault)
            continue
        found[key] = tensors[source].to(own.dtype).contiguous()
        if source in theirs:
            report.mapped[theirs[source]] = key
        else:
            report.missing[key] = "Caffe2's norms hold scale and bias alone"
    faults += _left_over(set(tensors) - used, theirs, report, recipe.backbone.name)
    if faults:
        raise CheckpointError(f"a backbone, but {'; '.join(sorted(faults)[:3])}")
    report.parameters = sum(p.numel() for p in body.parameters())
    report.configuration = recipe.backbone.name
    report.use.insert(0, f"backbone.name={recipe.backbone.name}")
    return recipe.backbone.name, found, report


def _left_over(names: set[str], theirs: Mapping[str, str], report: Report, model: str) -> list[str]:
    """What has found no place and no reason; reasons go to the report."""
    faults = []
    for name in names:
        why = next((reason for pattern, reason in _IGNORED if re.search(pattern, name)), None)
        if why is None:
            faults.append(f"has {theirs[name]}, which {model} lacks")
        else:
            report.ignored[theirs[name]] = why
    return faults


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
