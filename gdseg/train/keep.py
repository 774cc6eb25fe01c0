"""`gdseg pseudo-label --keep FILE`: which pseudo-labels are kept, a YAML file read as strictly as a recipe.

Keys that a recipe has too (class_threshold, mask_threshold) replace those of the network's rule, for all
classes or for one; the others leave out, of what the rule takes, objects by class and size, and images by
their number of objects. Called by cli/pseudo_label.py; label_entry.py applies it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from gdseg.errors import RecipeError
from gdseg.recipe import Distill, key
from gdseg.recipe_yaml import Fault, compose, fill, read_text

_NEVER = 2.0  # a class threshold that no score reaches


@dataclass
class ClassKeep:
    """What is asked of the objects of one class; null: what is asked of all."""

    class_threshold: float | None = key(None, "class score above this", low=0.0, high=1.0)
    min_pixels: int | None = key(None, "pixels of the image that it has at least", low=0)
    max_pixels: int | None = key(None, "pixels of the image that it has at most", low=1)


@dataclass
class Keep:
    """The file. Pixels are those of the image on disk; null: the network's own rule, or no limit."""

    class_threshold: float | None = key(None, "class score above this", low=0.0, high=1.0)
    mask_threshold: float | None = key(None, "mean mask probability at least this", low=0.0, high=1.0)
    min_pixels: int = key(0, "pixels that an object has at least", low=0)
    max_pixels: int | None = key(None, "pixels that an object has at most", low=1)
    min_objects: int = key(0, "an image with fewer is left out; 1: images without any are", low=0)
    max_objects: int | None = key(None, "an image with more is left out", low=0)
    max_instances: int | None = key(None, "objects kept of an image, best first", low=1)
    leave_out: list[str] = key([], "classes none of whose objects are kept")
    classes: dict[str, ClassKeep] = field(default_factory=dict)

    def thresholds_given(self) -> list[str]:
        """The keys with thresholds of objects that the file has."""
        names = [name for name in ("class_threshold", "mask_threshold") if getattr(self, name) is not None]
        of_classes = [name for name, own in self.classes.items() if own.class_threshold is not None]
        return names + [f"classes.{name}.class_threshold" for name in of_classes]

    def rule(self, rule: Distill) -> Distill:
        """The network's rule with the keys that the file has for all classes."""
        own = {name: getattr(self, name) for name in ("class_threshold", "mask_threshold")}
        changed = replace(rule, **{name: value for name, value in own.items() if value is not None})
        if self.class_threshold is not None:  # a band below another threshold has no meaning
            changed.ignore_threshold = min(rule.ignore_threshold, self.class_threshold)
        return changed

    def thresholds(self, names: Sequence[str], rule: Distill, moved: Tensor | None) -> Tensor | None:
        """float32 [C]: class thresholds, of `rule` as `self.rule` made it; None: all are the rule's.

        moved: those that training moved, which give way to the file's.
        """
        base = moved if self.class_threshold is None else None
        values = [rule.class_threshold] * len(names) if base is None else base.tolist()
        for label, name in enumerate(names):
            own = self.classes.get(name, ClassKeep()).class_threshold
            values[label] = values[label] if own is None else own
            if name in self.leave_out:
                values[label] = _NEVER
        if base is None and values == [rule.class_threshold] * len(names):
            return None
        return torch.tensor(values, dtype=torch.float32)

    def chosen(self, names: Sequence[str], pixels: Sequence[int]) -> list[int] | None:
        """Which objects of an image are kept, by their place; None: the image is left out.

        names, pixels: of each object, best first.
        """
        kept = [i for i, (name, area) in enumerate(zip(names, pixels, strict=True)) if self._fits(name, area)]
        too_many = self.max_objects is not None and len(kept) > self.max_objects
        return None if too_many or len(kept) < self.min_objects else kept[: self.max_instances]

    def _fits(self, name: str, pixels: int) -> bool:
        own = self.classes.get(name, ClassKeep())
        least = self.min_pixels if own.min_pixels is None else own.min_pixels
        most = self.max_pixels if own.max_pixels is None else own.max_pixels
        return name not in self.leave_out and least <= pixels and (most is None or pixels <= most)


def read_keep(path: Path, names: Sequence[str]) -> Keep:
    """The file, for a network whose classes are `names`. Raises RecipeError with all faults, one a line."""
    node = compose(read_text(path), str(path))
    keep = Keep()
    by_hand = {
        "leave_out": lambda value: _leave_out(keep, value, names),
        "classes": lambda value: _classes(keep, value, names),
    }
    faults = [] if node is None else [*fill(keep, node, "", Keep, by_hand)]
    lines = [f"{path}:{line}: {fault}" for line, fault in faults] or [
        f"{path}: {fault}" for fault in _contradictions(keep, names)
    ]
    if lines:
        what = lines[0] if len(lines) == 1 else f"{len(lines)} faults\n  " + "\n  ".join(lines)
        raise RecipeError(what, hint="'gdseg pseudo-label --help' shows such a file with all keys")
    return keep


def _leave_out(keep: Keep, node: yaml.Node, names: Sequence[str]) -> Iterator[Fault]:
    if not isinstance(node, yaml.SequenceNode):
        yield node.start_mark.line + 1, "'leave_out' must be a list, as [a, b]"
        return
    for item in node.value:
        yield from _unknown_class("leave_out", item, names)
        keep.leave_out.append(str(item.value))


def _classes(keep: Keep, node: yaml.Node, names: Sequence[str]) -> Iterator[Fault]:
    if not isinstance(node, yaml.MappingNode):
        yield node.start_mark.line + 1, "'classes' must be classes with their keys, as {cat: {min_pixels: 9}}"
        return
    for name_node, value in node.value:
        name = str(name_node.value)
        yield from _unknown_class("classes", name_node, names)
        if name in keep.classes:
            yield name_node.start_mark.line + 1, f"'classes' names '{name}' twice"
        own = keep.classes[name] = ClassKeep()
        yield from fill(own, value, f"classes.{name}.", ClassKeep)


def _unknown_class(where: str, node: yaml.Node, names: Sequence[str]) -> Iterator[Fault]:
    name = str(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
    if name in names:
        return
    near = difflib.get_close_matches(name, names, 1)
    shown = ", ".join(names[:8]) + (", .." if len(names) > 8 else "")
    hint = f"did you mean '{near[0]}'?" if near else f"the network's are {shown}"
    yield node.start_mark.line + 1, f"'{where}': there is no class '{name}', {hint}"


def _contradictions(keep: Keep, names: Sequence[str]) -> Iterator[str]:
    """What no object or no image can fulfil."""
    if keep.max_objects is not None and keep.max_objects < keep.min_objects:
        yield f"max_objects {keep.max_objects} is less than min_objects {keep.min_objects}"
    for name in (None, *keep.classes):
        own = keep.classes.get(name or "", ClassKeep())
        least = keep.min_pixels if own.min_pixels is None else own.min_pixels
        most = keep.max_pixels if own.max_pixels is None else own.max_pixels
        if most is not None and most < least:
            yield f"max_pixels {most} is less than min_pixels {least}" + (f" ({name})" if name else "")
        if name in keep.leave_out:
            yield f"'{name}' is in leave_out and in classes"
    if set(names) <= set(keep.leave_out):
        yield "leave_out names all classes: nothing would be kept"
