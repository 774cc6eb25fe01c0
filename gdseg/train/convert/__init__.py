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
from gdseg.train.convert.classes import classes_of
from gdseg.train.convert.families import LICENSES, family_of, one_network
from gdseg.train.convert.identify import identify
from gdseg.train.convert.names import modern_name
from gdseg.train.convert.report import Report
from gdseg.train.convert.tensors import StateDict, from_official, to_official

__all__ = ["Report", "convert_state_dict", "to_official"]


def convert_state_dict(
    state_dict: Mapping[str, Tensor], options: Mapping[str, Any] | str | None = None, role: str | None = None
) -> tuple[Recipe, StateDict, Report]:
    """(model recipe, our state dict, report) of an official state dict; build with `report.num_classes`.

    options: the official configuration (the MODEL node, all of it, or a record of built modules), or the name
    of a published one; None: the published one that fits the tensors. role: teacher or student of an
    ensemble. The result loads strictly. Tensors may be numpy arrays, or on the meta device. Raises
    CheckpointError for anything unexplained.
    """
    tensors = {name.removeprefix("module."): torch.as_tensor(value) for name, value in state_dict.items()}
    report = Report(family_of(tensors))
    tensors, report.role = one_network(tensors, role)
    report.license = LICENSES[report.family]
    shapes = {modern_name(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    recipe = identify(shapes, options, report)
    converted = from_official(tensors, recipe, report)
    report.classes, report.category_ids = classes_of(report.dataset, report.num_classes)
    return recipe, converted, report
