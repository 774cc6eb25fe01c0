"""Weights of official Mask2Former, Mask DINO and Guided Distillation as gdseg's, and back.

`convert_state_dict` reads tensors: which project (`families`), which model (`identify`: options, shapes,
published configurations), and where each tensor goes (`names`, `tensors`). Files are `files.py`. Called by
`gdseg convert`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gdseg.recipe import Recipe
from gdseg.train.convert.classes import classes_of, numbered
from gdseg.train.convert.families import LICENSES, family_of, one_network
from gdseg.train.convert.identify import identify
from gdseg.train.convert.names import modern_name
from gdseg.train.convert.report import Report
from gdseg.train.convert.tensors import StateDict, from_official, to_official

__all__ = ["Report", "convert_state_dict", "to_official"]


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
    options: Mapping[str, Any] | str | None = None,
    role: str | None = None,
    stated: Mapping[str, Any] | None = None,
) -> tuple[Recipe, StateDict, Report]:
    """(model recipe, our state dict, report) of an official state dict; build with `report.num_classes`.

    options: the official configuration (the MODEL node, all of it, or a record of built modules), or the name
    of a published one; None: the published one that fits the tensors. role: teacher or student of an
    ensemble. stated: recipe keys that a configuration beside the tensors states, above options and an error
    where the tensors contradict them. The result loads strictly. Tensors may be numpy arrays, or on the meta
    device. Raises CheckpointError for anything unexplained.
    """
    tensors = {name.removeprefix("module."): torch.as_tensor(value) for name, value in state_dict.items()}
    report = Report(family_of(tensors))
    tensors, report.role = one_network(tensors, role)
    report.license = LICENSES[report.family]
    shapes = {modern_name(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    recipe = identify(shapes, options, report, stated or {})
    converted = from_official(tensors, recipe, report)
    if report.blue_first:
        _red_first(converted, report)
    known = classes_of(report.dataset, report.num_classes)
    report.table = known or numbered(report.num_classes)
    report.classes_from = _who_says(known is not None, options is None, report)
    return recipe, converted, report


def _red_first(converted: StateDict, report: Report) -> None:
    """A network for BGR images becomes one for RGB: its first convolution's channels change places."""
    stem = next(key for key in converted if key.endswith(("body.conv1.weight", "patch_embed.proj.weight")))
    converted[stem] = converted[stem].flip(1).contiguous()
    source = next(name for name, key in report.mapped.items() if key == stem)
    report.adapted[source] = "channels from BGR to RGB"


def _who_says(known: bool, guessed: bool, report: Report) -> str:
    if not known:
        return "nothing: numbers stand for names (--classes FILE gives them)"
    if guessed:
        return f"a guess: {report.dataset}, the data of the configuration that fits best"
    return f"{report.dataset}, which the configuration names"
