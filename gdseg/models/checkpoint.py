"""One safetensors file holds one network: weights, and in its metadata role, recipe, classes, step, metrics.

Written under a temporary name and renamed, so that a full disk or a crash leaves the old file.
Reading never unpickles. Called by train, eval, predict. The state to resume from is `train/checkpoint.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from gdseg import __version__
from gdseg.errors import CheckpointError, GdsegError
from gdseg.files import replace_file
from gdseg.models.deform_attn_kernel import announce
from gdseg.models.model import SegmentationModel, build_model
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import dump_recipe, parse_recipe
from gdseg.structures import ClassInfo

_FORMAT = "gdseg-1"
_FOREIGN_HINT = (
    "'gdseg convert' makes one of Mask2Former, Mask DINO, Guided Distillation and Hugging Face weights; those"
    " of a backbone go into backbone.weights; a run's own are its checkpoints/*.safetensors"
)


@dataclass
class Network:
    """A model and what it needs to be used: recipe, class names, the user's category ids, origin."""

    model: SegmentationModel
    recipe: Recipe
    classes: list[str]
    category_ids: list[int]
    role: str = "teacher"
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    split_sha256: str = ""
    table: list[ClassInfo] = field(default_factory=list)

    @property
    def things(self) -> list[bool]:
        """Whether each label is a thing; all are where nothing is known of them."""
        return [c.is_thing for c in self.table] or [True] * len(self.classes)


def save_network(network: Network, path: Path) -> None:
    """Write `network` to `path` atomically. Raises MachineError when the disk is full."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.model.state_dict().items()}
    metadata = {
        "format": _FORMAT,
        "gdseg_version": __version__,
        "recipe": dump_recipe(network.recipe),
        "classes": json.dumps(
            {
                "names": network.classes,
                "category_ids": network.category_ids,
                "things": network.things,
                "colours": [c.colour for c in network.table],
            }
        ),
        "role": network.role,
        "step": str(network.step),
        "metrics": json.dumps(network.metrics),
        "split_sha256": network.split_sha256,
    }
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata), SafetensorError)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a gdseg checkpoint. Raises CheckpointError when `path` is not one."""
    if not path.is_file():
        raise CheckpointError("no such checkpoint", path, "give a .safetensors file or a run directory")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        what = "not a safetensors file, as networks of gdseg are"
        if path.suffix == ".safetensors":
            raise CheckpointError(f"cannot be read ({error})", path, "is the file whole?") from error
        raise CheckpointError(what, path, _FOREIGN_HINT) from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError("a safetensors file, but not of gdseg (no recipe inside)", path, _FOREIGN_HINT)
    return dict(metadata)


def load_network(path: Path | str, device: torch.device | str = "cpu") -> Network:
    """Read a network, in eval mode on `device`.

    Raises CheckpointError for anything that does not fit, and what `announce` raises.
    """
    path = Path(path)
    announce()  # a kernel that is required and missing is no fault of the file
    metadata = read_metadata(path)
    try:
        recipe = parse_recipe(metadata["recipe"], "its recipe")
        classes = json.loads(metadata["classes"])
        names, category_ids = [str(n) for n in classes["names"]], [int(i) for i in classes["category_ids"]]
        metrics = {str(k): float(v) for k, v in json.loads(metadata["metrics"]).items()}
        step = int(metadata["step"])
        table = _table(names, category_ids, classes)
        with torch.device("meta"):  # a hostile recipe costs no memory before its shapes are compared
            check_weights(build_model(recipe, len(names), load_weights=False), path)
    except CheckpointError:
        raise
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
        GdsegError,
    ) as error:
        raise CheckpointError(f"its metadata cannot be used: {error}", path) from error
    model = build_model(recipe, len(names), load_weights=False)
    with safe_open(str(path), framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in model.state_dict()})
    model = model.to(device).eval()
    role, split = metadata.get("role", "teacher"), metadata.get("split_sha256", "")
    return Network(model, recipe, names, category_ids, role, step, metrics, split, table)


def _table(names: list[str], category_ids: list[int], stored: dict[str, Any]) -> list[ClassInfo]:
    """What is known of each class; older files say nothing of things and colours. Raises ValueError."""
    things = stored.get("things", [True] * len(names))
    colours = stored.get("colours") or [None] * len(names)
    if not len(names) == len(category_ids) == len(things) == len(colours):
        raise ValueError("classes, category ids, things and colours differ in number")
    triples = [None if c is None else (int(c[0]), int(c[1]), int(c[2])) for c in colours]
    rows = zip(category_ids, names, things, triples, strict=True)
    return [ClassInfo(number, name, bool(thing), colour) for number, name, thing, colour in rows]


def check_weights(model: nn.Module, path: Path) -> None:
    """Raise CheckpointError unless the file's tensors have the model's names and shapes."""
    with safe_open(str(path), framework="pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    faults = [f"lacks {name}" for name in own if name not in stored]
    faults += [f"has {name}, which the model lacks" for name in stored if name not in own]
    faults += [
        f"{name} is {stored[name]}, the model's {shape}"
        for name, shape in own.items()
        if stored.get(name, shape) != shape
    ]
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise CheckpointError(f"weights of another architecture: {shown}", path)
