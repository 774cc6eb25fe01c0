"""Cityscapes (arXiv 1604.01685): leftImg8bit/ and gtFine/ (or gtCoarse/) as they are downloaded.

Values of instanceIds are a class id, or 1000 class ids + number for one object; a class of things without a
number is a group, a crowd. Class ids, names, colours and which have instances: cityscapesScripts
(helpers/labels.py, MIT); the 19 classes that its benchmark evaluates. Called by dataset.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gdseg.data.map_folders import pair
from gdseg.data.part import WORDS, Format, Part, Source, kept_classes
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Code, LabelMap

IMAGE, _MAPS = "_leftImg8bit", ("_gtFine_", "_gtCoarse_")
OBJECTS = 1000  # numbers of one class in an image
CLASSES = [
    ClassInfo(7, "road", False, (128, 64, 128)),
    ClassInfo(8, "sidewalk", False, (244, 35, 232)),
    ClassInfo(11, "building", False, (70, 70, 70)),
    ClassInfo(12, "wall", False, (102, 102, 156)),
    ClassInfo(13, "fence", False, (190, 153, 153)),
    ClassInfo(17, "pole", False, (153, 153, 153)),
    ClassInfo(19, "traffic light", False, (250, 170, 30)),
    ClassInfo(20, "traffic sign", False, (220, 220, 0)),
    ClassInfo(21, "vegetation", False, (107, 142, 35)),
    ClassInfo(22, "terrain", False, (152, 251, 152)),
    ClassInfo(23, "sky", False, (70, 130, 180)),
    ClassInfo(24, "person", True, (220, 20, 60)),
    ClassInfo(25, "rider", True, (255, 0, 0)),
    ClassInfo(26, "car", True, (0, 0, 142)),
    ClassInfo(27, "truck", True, (0, 0, 70)),
    ClassInfo(28, "bus", True, (0, 60, 100)),
    ClassInfo(31, "train", True, (0, 80, 100)),
    ClassInfo(32, "motorcycle", True, (0, 0, 230)),
    ClassInfo(33, "bicycle", True, (119, 11, 32)),
]


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """leftImg8bit/ and gtFine/ of a part, or the folders that `data` names; None if they are not there."""
    maps, images = (data.train, data.train_images) if part == "train" else (data.val, data.val_images)
    places = [
        (root / (images or f"leftImg8bit/{word}"), root / (maps or f"gtFine/{word}")) for word in WORDS[part]
    ]
    for first, second in places:
        if first.is_dir() and second.is_dir() and next(first.rglob(f"*{IMAGE}.*"), None):
            ending = _ending(second, task)
            if ending is None and _ending(second, "semantic") is None:
                what = f"no *{_MAPS[0]}instanceIds.png and no *{_MAPS[0]}labelIds.png"
                hint = "download gtFine_trainvaltest.zip, or make them with cityscapesScripts"
                raise DataError(what, second, hint)
            return None if ending is None else partial(_read, first, second, ending, task)
    return None


def _ending(maps: Path, task: str) -> str | None:
    """What the names of the task's maps end with; None if there are none.

    labelIds serve the semantic task; instanceIds the others, and it too where there is nothing else.
    """
    kinds = ("labelIds", "instanceIds") if task == "semantic" else ("instanceIds",)
    endings = (prefix + kind for kind in kinds for prefix in _MAPS)
    return next((ending for ending in endings if next(maps.rglob(f"*{ending}.png"), None)), None)


def _read(images: Path, maps: Path, ending: str, task: str) -> Part:
    table = kept_classes(CLASSES, task)
    codes = _codes(table)
    records, faults = pair(
        images, maps, LabelMap(maps, codes), lambda n: _frame(n, IMAGE), lambda n: _frame(n, ending)
    )
    return Part(maps, records, table, faults)


def _codes(table: list[ClassInfo]) -> dict[int, Code]:
    codes = {}
    for label, info in enumerate(table):
        codes[info.id] = Code(label, info.is_thing, is_crowd=info.is_thing)
        if info.is_thing:
            first = info.id * OBJECTS
            codes |= {value: Code(label, True) for value in range(first, first + OBJECTS)}
    return codes


def _frame(name: str, ending: str) -> str | None:
    """ "aachen/aachen_000000_000019" of its file's name; None for a file of another kind."""
    return name.removesuffix(ending) if name.endswith(ending) else None


FORMAT = Format(
    "cityscapes",
    find,
    ("panoptic", "instance", "semantic"),
    "leftImg8bit/{part} and gtFine/{part} with *_instanceIds.png (Cityscapes)",
)
