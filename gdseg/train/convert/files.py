"""Conversion of files, in both directions. Called by `gdseg convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gdseg.errors import CheckpointError
from gdseg.files import replace_file
from gdseg.models.checkpoint import Network, load_network, save_network
from gdseg.models.model import build_model
from gdseg.runs import find_checkpoint
from gdseg.structures import ClassInfo
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.backbones import convert_backbone, is_backbone
from gdseg.train.convert.classes import is_thing
from gdseg.train.convert.huggingface import FAMILY, as_official, class_names, is_huggingface
from gdseg.train.convert.identify import published
from gdseg.train.convert.readers import read_tensors
from gdseg.train.convert.report import Report
from gdseg.train.convert.yaml_files import read_options


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
        name, found, report = convert_backbone(tensors)
        metadata = {"backbone": name}
        replace_file(target, lambda temporary: save_file(found, temporary, metadata), SafetensorError)
        return report
    names: list[str] = []
    foreign = is_huggingface(tensors)
    if foreign:
        tensors, names = as_official(tensors), class_names(source.parent)
    options = read_options(wanted.config) if wanted.config else _by_file_name(source)
    recipe, state, report = convert_state_dict(tensors, options, wanted.role)
    if foreign:
        report.family = FAMILY
    _name_classes(report, wanted.classes or names)
    model = build_model(recipe, report.num_classes, load_weights=False)
    model.load_state_dict(state)
    network = Network(model, recipe, report.classes, report.category_ids, report.role or "teacher")
    pairs = zip(report.category_ids, report.classes, strict=True)
    network.table = [ClassInfo(number, name, is_thing(report.dataset, number)) for number, name in pairs]
    save_network(network, target)
    return report


def _name_classes(report: Report, names: list[str]) -> None:
    if not names:
        return
    if len(names) != report.num_classes:
        raise CheckpointError(f"{len(names)} class names, but the network has {report.num_classes} classes")
    if names != report.classes:
        report.classes, report.category_ids, report.dataset = names, list(range(len(names))), ""


def export_official(source: Path, target: Path) -> dict[str, int]:
    """Write one of our networks as a .pth that official code loads (`model` inside); counts of tensors.

    source is a file or a run. Raises CheckpointError when the architecture has no official counterpart.
    """
    network = load_network(find_checkpoint(source))
    state = to_official(network.model.state_dict(), network.recipe, len(network.classes))
    replace_file(target, lambda temporary: torch.save({"model": state}, temporary), RuntimeError)
    return {"tensors": len(network.model.state_dict()), "official": len(state)}


def _by_file_name(source: Path) -> str | None:
    """The published configuration whose released file has this name."""
    return next((name for name, keys in published().items() if source.name in keys.get("files", [])), None)
