"""ADE20K as its challenges have it (arXiv 1608.05442): the downloads as they are, without preparation.

images/ and annotations/ (values 1..150, 0 of no class) serve the semantic task. annotations_instance/ (red:
one of 100 classes of things, green: the object's number) serves instances; with it, panoptic is what official
Mask2Former prepares (datasets/prepare_ade20k_pan_seg.py, MIT): stuff from annotations/, over it the things.
objectInfo150.txt names the classes, ade20k_classes.py where it is missing. Called by dataset.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from gdseg.data.ade20k_classes import NAMES, classes
from gdseg.data.map_folders import find_folders, pair
from gdseg.data.part import WORDS, Format, Part, Source, kept_classes
from gdseg.data.semantic_folder import CLASS_FILES
from gdseg.recipe import Data
from gdseg.structures import BELOW, ClassInfo, Code, LabelMap

_INSTANCES = "annotations_instance"
CLASSES = classes(NAMES)


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """images/training and annotations/training (validation), whose files are named ADE_..; else None.

    Where classes are declared the folder is a semantic one, whatever its files are called.
    """
    folders = find_folders(root, part, data)
    if folders is None or not next(folders[0].glob("ADE_*"), None):
        return None
    if data.format == "auto" and any((root / name).is_file() for name in CLASS_FILES):
        return None
    if task == "semantic":
        return partial(_read_semantic, root, *folders)
    things = next((p for word in WORDS[part] if (p := root / _INSTANCES / word).is_dir()), None)
    return None if things is None else partial(_read_things, root, *folders, things, task)


def _read_semantic(root: Path, images: Path, maps: Path) -> Part:
    table = classes(_names(root))
    codes = {info.id: Code(label, info.is_thing) for label, info in enumerate(table)}
    records, faults = pair(images, maps, LabelMap(maps, codes, frozenset({0})))
    return Part(maps, records, table, faults)


def _read_things(root: Path, images: Path, stuff: Path, things: Path, task: str) -> Part:
    values = classes(_names(root))
    below = stuff if task == "panoptic" else None
    label_map = LabelMap(things, _codes(values, task), class_of=_class_of, below=below)
    records, faults = pair(images, things, label_map)
    # the official preparation numbers its categories from 0
    table = [replace(info, id=info.id - 1) for info in kept_classes(values, task)]
    return Part(things, records, table, faults)


def _codes(values: list[ClassInfo], task: str) -> dict[int, Code]:
    """Things by their number among the things, stuff by its value in the map below."""
    labels = {info: label for label, info in enumerate(kept_classes(values, task))}
    things = [info for info in values if info.is_thing]
    codes = {number: Code(labels[info], True) for number, info in enumerate(things, 1)}
    return codes | {BELOW + i.id: Code(labels[i], False) for i in labels if not i.is_thing}


def _class_of(value: int) -> int:
    """Of red + 256 green: red, where green numbers an object; a value of the map below: itself."""
    if value >= BELOW:
        return value
    return value % 256 if value // 256 % 256 else 0


def _names(root: Path) -> list[str]:
    try:
        lines = (root / "objectInfo150.txt").read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, ValueError):
        return NAMES
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines]
    return names if len(names) == len(NAMES) else NAMES


FORMAT = Format(
    "ade20k",
    find,
    ("panoptic", "instance", "semantic"),
    "images/{word} and annotations/{word}, for things annotations_instance/{word} (ADE20K)",
)
