"""Official tensors under our names and back, every one accounted for. Called by `convert`.

Nothing is loaded leniently: a tensor without a place, a place without a tensor and a wrong shape are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gdseg.errors import CheckpointError, GdsegError
from gdseg.models.deform_attn_kernel import announce
from gdseg.models.model import SegmentationModel, build_model
from gdseg.recipe import Recipe
from gdseg.train.convert.names import official_names, old_names
from gdseg.train.convert.official_limits import inexpressible
from gdseg.train.convert.report import Report
from gdseg.train.convert.shapes import COUNTER

StateDict = dict[str, Tensor]

_IGNORED = [  # tensors of official state dicts that are no part of a network
    (r"^(ssl_)?criterion\.empty_weight$", "loss weight of no-object: recipe key loss.no_object"),
    (r"relative_position_index$", "follows from the window's size"),
    (r"attn_mask$", "follows from the window's size"),
    (r"^pixel_(mean|std)$", "recipe keys backbone.mean and backbone.std"),
    (r"^backbone\.model\.mask_token$", "DINOv2's own pre-training"),
    (r"^model\.pixel_level_module\.encoder\.(swin\.)?layernorm\.", "the classifier's norm"),
]


def bare_model(recipe: Recipe, num_classes: int) -> SegmentationModel:
    """The model on the meta device: names and shapes, no memory.

    Raises CheckpointError if it cannot be built, and what `announce` raises.
    """
    announce()  # a kernel that is required and missing is no fault of the file
    try:
        with torch.device("meta"):
            return build_model(recipe, num_classes, load_weights=False)
    except GdsegError as error:
        raise CheckpointError(f"its architecture cannot be built: {error.what}", hint=error.hint) from error


def from_official(tensors: Mapping[str, Tensor], recipe: Recipe, report: Report) -> StateDict:
    """Our state dict, complete, from an official one. Raises CheckpointError naming what does not fit."""
    model = bare_model(recipe, report.num_classes)
    report.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    converted: StateDict = {}
    faults: list[str] = []
    for key, own in model.state_dict().items():
        found = [name for name in _spellings(key, recipe) if name in tensors]
        if not found:
            if key.endswith(COUNTER):  # frozen norms count nothing
                converted[key] = torch.zeros((), dtype=torch.int64)
                report.missing[key] = "0"
            else:
                faults.append(f"lacks {(_spellings(key, recipe) or [key])[0]}")
            continue
        tensor = tensors[found[0]]
        fault = misfit(found[0], tensor, own)
        if fault:
            faults.append(fault)
            report.mapped |= dict.fromkeys(found, key)
            continue
        faults += [
            f"{copy} differs from {found[0]}, one tensor in the model" for copy in _unlike(tensors, found)
        ]
        converted[key] = tensor.detach().to(own.dtype).contiguous()
        report.mapped[found[0]] = key
        report.merged |= dict.fromkeys(found[1:], key)
    faults += _left_over(tensors, report)
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise CheckpointError(f"its tensors do not fit {report.configuration}: {shown}")
    return converted


def misfit(name: str, tensor: Tensor, own: Tensor) -> str:
    """What keeps a file's tensor from being the model's `own`; empty if nothing does."""
    if tensor.shape != own.shape:
        return f"{name} is {list(tensor.shape)}, the model's {list(own.shape)}"
    if tensor.is_floating_point() != own.is_floating_point():
        return f"{name} holds {tensor.dtype}, the model's {own.dtype}"
    return ""


def to_official(state: Mapping[str, Tensor], recipe: Recipe, num_classes: int) -> StateDict:
    """An official state dict, copies and derived buffers included, from ours.

    Raises CheckpointError when official code cannot do what the recipe asks of a network.
    """
    faults = inexpressible(recipe)
    if faults:
        hint = "only official architectures convert; these weights would predict something else there"
        raise CheckpointError(f"official code has no counterpart of {'; '.join(faults)}", hint=hint)
    official: StateDict = {}
    for key, tensor in state.items():
        names = official_names(key, recipe)
        if key.endswith(COUNTER) and _is_frozen(names, recipe):
            continue
        if not names or not _known(names[0]):
            raise CheckpointError(f"official code has no counterpart of {key}")
        official |= dict.fromkeys(names, tensor)
        if key.endswith("relative_position_bias_table"):
            index = names[0].replace("bias_table", "index")
            official[index] = _position_index((int(len(tensor) ** 0.5) + 1) // 2)
    weight = torch.ones(num_classes + 1)
    weight[-1] = recipe.loss.no_object
    official["criterion.empty_weight"] = weight
    return official


def _spellings(key: str, recipe: Recipe) -> list[str]:
    names = official_names(key, recipe)
    return names + [old for name in names[:1] for old in old_names(name)]


def _unlike(tensors: Mapping[str, Tensor], found: list[str]) -> list[str]:
    first = tensors[found[0]]
    if first.is_meta:
        return []
    return [name for name in found[1:] if not torch.equal(tensors[name], first)]


def _left_over(tensors: Mapping[str, Tensor], report: Report) -> list[str]:
    """What of the file has found no place; reasons go to the report."""
    faults = []
    for name in tensors:
        if name in report.mapped or name in report.merged:
            continue
        why = next((reason for pattern, reason in _IGNORED if re.search(pattern, name)), None)
        if why is None:
            faults.append(f"has {name}, which the model lacks")
        else:
            report.ignored[name] = why
    return faults


def _known(name: str) -> bool:
    """Whether an official name is of a backbone or head that official code has."""
    return not name.startswith(("backbone.body.", "backbone.pyramid."))


def _is_frozen(names: list[str], recipe: Recipe) -> bool:
    """Whether a norm of the backbone is officially a frozen one, which counts no steps."""
    stage = re.match(r"backbone\.(?:stem|res(\d))\.", names[0] if names else "")
    frozen = stage is not None and int(stage[1] or 1) <= recipe.backbone.freeze_stages
    return frozen or recipe.backbone.norm == "frozen"


def _position_index(window: int) -> Tensor:
    """Swin's relative position of each pair of a window's pixels, as its buffer (arXiv 2103.14030 §3.2)."""
    steps = torch.arange(window)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)
    apart = grid[:, :, None] - grid[:, None] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]
