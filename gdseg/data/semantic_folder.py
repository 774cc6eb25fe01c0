"""Semantic labels as folders: images/ beside annotations/ with an index map or a colour map for each image.

classes.txt (one name a line, the first is value 0) or classes.json (id, name, color) names the classes.
Where the maps have three channels their colours are the classes', and black is of no class unless it is a
class's colour; else their values are the ids, and `data.ignore_label` is of no class. Called by dataset.py.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from gdseg.data.coco import read_categories
from gdseg.data.label_maps import SUFFIXES, map_kind, read_ids
from gdseg.data.map_folders import find_folders, list_maps, pair
from gdseg.data.part import Fault, Format, Part, Source
from gdseg.data.rle import shorten
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Code, LabelMap

_CLASSES_HINT = 'a text file with one name a line, or json as [{"id": 0, "name": "sky"}]'
CLASS_FILES = ("classes.json", "classes.txt")
_SHOWN = 20  # maps whose values are listed where classes are not declared


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The folders of a part's images and label maps; None if there are none."""
    folders = find_folders(root, part, data)
    if folders is None or not any(path.suffix.lower() in SUFFIXES for path in folders[1].rglob("*")):
        return None
    return partial(_read, root, *folders, data)


def _read(root: Path, images: Path, maps: Path, data: Data) -> Part:
    table = _classes(root, maps, data)
    first = next(iter(list_maps(maps)), None)
    if first is not None and _is_colour(first):
        codes = _by_colour(table, maps)
        void = frozenset({0}) - codes.keys()  # black, unless it is a class's colour
    else:
        codes, void = _by_value(table, maps, data.ignore_label), frozenset({data.ignore_label})
    records, faults = pair(images, maps, LabelMap(maps, codes, void))
    return Part(maps, records, table, faults)


def _classes(root: Path, maps: Path, data: Data) -> list[ClassInfo]:
    """The declared classes. Raises DataError where there are none, naming the values of the first maps."""
    path = root / data.classes if data.classes else _first_file(*(root / name for name in CLASS_FILES))
    if path is None:
        files = list_maps(maps)[:_SHOWN]
        values = sorted({int(v) for p in files for v in np.unique(read_ids(p))})
        what = f"the classes have no names; values of the first {len(files)} label maps: {shorten(values)}"
        raise DataError(what, root, "write classes.txt, one name a line from value 0 on, or set data.classes")
    return declared_classes(path)


def declared_classes(path: Path) -> list[ClassInfo]:
    """The classes of a file: a name a line, counted from 0, or json (id, name, color). Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8")
        items = json.loads(text) if path.suffix == ".json" else None
    except OSError as error:
        raise DataError(f"cannot read the classes: {error.strerror}", path, "correct data.classes") from error
    except (ValueError, RecursionError) as error:
        what = f"the classes are not readable: {shorten(str(error), 100)}"
        raise DataError(what, path, _CLASSES_HINT) from error
    if items is None:
        return [ClassInfo(i, name.strip(), False) for i, name in enumerate(text.splitlines()) if name.strip()]
    faults: list[Fault] = []
    table = read_categories(items if isinstance(items, list) else [items], faults)
    if faults or not table:
        raise DataError(str(faults[0]) if faults else "there is no class", path, _CLASSES_HINT)
    return table


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _is_colour(path: Path) -> bool:
    try:
        return map_kind(path)[0] in ("RGB", "RGBA")
    except DataError:  # said when the map is read
        return False


def _by_value(table: list[ClassInfo], maps: Path, ignore_label: int) -> dict[int, Code]:
    ignored = next((c for c in table if c.id == ignore_label), None)
    if ignored is not None:
        what = f"{shorten(ignored.name)} has the value {ignore_label}, which data.ignore_label excludes"
        hint = (
            "leave the class out (in classes.txt: an empty line), or set data.ignore_label to another value"
        )
        raise DataError(what, maps, hint)
    return {c.id: Code(label, c.is_thing) for label, c in enumerate(table)}


def _by_colour(table: list[ClassInfo], maps: Path) -> dict[int, Code]:
    without = [c.name for c in table if c.colour is None]
    if without:
        what = (
            f"the label maps are coloured, and {len(without)} classes have no colour: {shorten(without[:5])}"
        )
        raise DataError(what, maps, 'classes.json as [{"id": 0, "name": "sky", "color": [70, 130, 180]}]')
    codes: dict[int, Code] = {}
    for label, info in enumerate(table):
        assert info.colour is not None
        value = info.colour[0] + 256 * info.colour[1] + 65536 * info.colour[2]
        if value in codes:
            names = f"{shorten(table[codes[value].label].name)} and {shorten(info.name)}"
            raise DataError(f"{names} have the same colour {info.colour}", maps, "give each class its own")
        codes[value] = Code(label, info.is_thing)
    return codes


FORMAT = Format(
    "semantic", find, ("semantic",), "images/{part} and annotations/{part} with classes.txt (label maps)"
)
