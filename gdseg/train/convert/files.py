"""Conversion of files, in both directions. Called by `gdseg convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gdseg.errors import CheckpointError, UsageError
from gdseg.files import replace_file
from gdseg.models.checkpoint import Network, load_network, save_network
from gdseg.models.model import build_model
from gdseg.runs import find_checkpoint
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.backbones import convert_backbone, is_backbone
from gdseg.train.convert.classes import named, numbered
from gdseg.train.convert.families import LICENSES
from gdseg.train.convert.huggingface import FAMILY, as_official, is_huggingface
from gdseg.train.convert.huggingface_config import Stated, read_config
from gdseg.train.convert.identify import published
from gdseg.train.convert.official_limits import unsaid
from gdseg.train.convert.readers import read_tensors
from gdseg.train.convert.report import Report
from gdseg.train.convert.yaml_files import read_options
from gdseg.words import counted


@dataclass
class Wanted:
    """What the user says: role of an ensemble, configuration (published name or yaml file), class names."""

    role: str | None = None
    config: str | None = None
    classes: list[str] | None = None


def convert_file(source: Path, target: Path, wanted: Wanted) -> Report:
    """Write the network (or backbone) in `source` to `target` as safetensors. Raises CheckpointError."""
    source = _weights_of(source)
    tensors = read_tensors(source)
    try:
        return _convert(tensors, source, target, wanted)
    except CheckpointError as error:
        error.where = error.where or str(source)
        raise


def _weights_of(path: Path) -> Path:
    """A Hugging Face folder stands for the weights in it."""
    return path / "model.safetensors" if path.is_dir() else path


def _convert(tensors: dict[str, Any], source: Path, target: Path, wanted: Wanted) -> Report:
    if is_backbone(tensors):
        _none_given(wanted)
        name, found, report = convert_backbone(tensors)
        metadata = {"backbone": name}
        replace_file(target, lambda temporary: save_file(found, temporary, metadata), SafetensorError)
        return report
    stated, foreign = Stated(), is_huggingface(tensors)
    if foreign:
        tensors, stated = as_official(tensors), read_config(source.parent)
    options = read_options(wanted.config) if wanted.config else _by_file_name(source)
    recipe, state, report = convert_state_dict(tensors, options, wanted.role, stated.keys)
    if foreign:
        report.family, report.license = FAMILY, LICENSES[FAMILY]
    _name_classes(report, wanted.classes, stated.names)
    model = build_model(recipe, report.num_classes, load_weights=False)
    model.load_state_dict(state)
    role = report.role or "teacher"
    network = Network(model, recipe, report.classes, report.category_ids, role, table=report.table)
    save_network(network, target)
    return report


def _none_given(wanted: Wanted) -> None:
    for option in ("role", "config", "classes"):
        if getattr(wanted, option) is not None:
            raise UsageError(f"--{option} is for whole networks; this file holds a backbone alone")


def _name_classes(report: Report, given: list[str] | None, inside: list[str]) -> None:
    """Names that the user gives, or that stand beside the weights, for those that were assumed.

    Category ids and kinds stay those of the known data set; but names beside the weights that are mostly
    others' are of other data, whose ids nobody knows.
    """
    names = given or inside
    if not names:
        return
    if len(names) != report.num_classes:
        raise CheckpointError(
            f"{counted(len(names), 'class name')}, but the network has {counted(report.num_classes, 'class')}"
        )
    same = sum(own == known for own, known in zip(names, report.classes, strict=True))
    foreign = not given and same * 2 < len(names)
    report.table = named(numbered(len(names)) if foreign else report.table, names)
    report.classes_from = "--classes" if given else "config.json"


@dataclass
class Exported:
    """Tensors of our network and of the official file; keys by which official decoding will differ."""

    tensors: int
    official: int
    differs: list[str]


def export_official(source: Path, target: Path, role: str | None = None) -> Exported:
    """Write one of our networks as a .pth that official code loads (`model` inside).

    source is a file or a run; role, which network of a run. Raises CheckpointError when the recipe asks for
    something that official code does not do.
    """
    if role is not None and source.is_file():
        raise UsageError(f"--role {role} chooses a network of a run; this is a file", source)
    network = load_network(find_checkpoint(source, role))
    state = to_official(network.model.state_dict(), network.recipe, len(network.classes))
    replace_file(target, lambda temporary: torch.save({"model": state}, temporary), RuntimeError)
    return Exported(len(network.model.state_dict()), len(state), unsaid(network.recipe))


def _by_file_name(source: Path) -> str | None:
    """The published configuration whose released file has this name; None too if several have."""
    names = [name for name, keys in published().items() if source.name in keys.get("files", [])]
    return names[0] if len(names) == 1 else None
