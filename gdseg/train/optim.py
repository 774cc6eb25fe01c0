"""AdamW with the official parameter groups, and the learning rate as a pure function of the step.

Groups follow Mask2Former (MIT) and Mask DINO (Apache-2.0): the backbone learns at a tenth of the
rate; norms, embeddings and position tables have no weight decay. Called by pretrain and distill.
"""

import math

from torch import nn
from torch.optim import AdamW, Optimizer

from gdseg.recipe import Train

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)
_TABLES = ("relative_position_bias_table", "absolute_pos_embed")
_TOKENS = ("pos_embed", "cls_token", "reg_token")


def build_optimizer(model: nn.Module, train: Train) -> AdamW:
    """AdamW over the trainable parameters of `model`; each group carries `base_lr` for `set_lr`."""
    as_one = bool(getattr(getattr(model, "backbone", None), "trains_as_one", False))
    undecayed_names = _TABLES if as_one else (*_TABLES, *_TOKENS)
    members: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            # the pyramid beside a plain ViT is new, it learns at the full rate; officially at the ViT's
            in_backbone = module_name.startswith("backbone") and (as_one or ".pyramid" not in module_name)
            undecayed = isinstance(module, (*_NORMS, nn.Embedding)) or name in undecayed_names
            members.setdefault((in_backbone, not undecayed), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "base_lr": train.lr * (train.backbone_lr_factor if in_backbone else 1.0),
            "weight_decay": train.weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), parameters in members.items()
    ]
    return AdamW(groups, lr=train.lr)


def lr_factor(step: int, total_steps: int, train: Train) -> float:
    """Share of the base rate at `step` (0-based) of `total_steps`: linear warm-up times the schedule."""
    factor = 1.0
    if step < train.warmup_steps:
        share = step / train.warmup_steps
        factor = train.warmup_factor * (1 - share) + share
    progress = step / total_steps
    if train.schedule == "step":
        # a drop holds from the step itself on, as with detectron2's WarmupMultiStepLR (Apache-2.0)
        factor *= train.gamma ** sum(step >= round(m * total_steps) for m in train.milestones)
    elif train.schedule == "poly":
        factor *= (1 - progress) ** train.power
    elif train.schedule == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * progress))
    return factor


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times its base rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
