"""The full ADE20K (arXiv 1608.05442; release 2021_17_01, and others of its form), as it is downloaded.

Beside NAME.jpg lie NAME_seg.png (class red / 10 * 256 + green, object blue) and NAME.json, whose objects
name their classes. The index that comes with it is a pickle, which can run code: it is not read. Classes are
those that occur in training and in validation, as in official MaskFormer (847 of the 2021 release). Called by
dataset.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from gdseg.data.images import image_size
from gdseg.data.part import WORDS, Fault, Format, Part, Source
from gdseg.data.rle import shorten
from gdseg.data.semantic_folder import declared_classes
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Code, LabelMap, Record

_MAP = "_seg.png"
_CLASSES_HINT = 'or name them with data.classes=FILE, a json list as [{"id": 2978, "name": "wall"}]'


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The folder of a part that holds ADE_.._seg.png, named by `data` or found; None if there is none."""
    folder = _folder(root, part, data)
    if folder is None:
        return None
    other = _folder(root, "val" if part == "train" else "train", data)
    return partial(_read, root, folder, other, data)


def _folder(root: Path, part: str, data: Data) -> Path | None:
    given = data.train if part == "train" else data.val
    tops = [root / "images" / "ADE", root / "images"]
    folders = [root / given] if given else [top / word for top in tops for word in WORDS[part]]
    # the names of folders as far as the first image, not a list of the million files that there are
    return next((f for f in folders if f.is_dir() and next(f.rglob(f"ADE_*{_MAP}"), None)), None)


def _read(root: Path, folder: Path, other: Path | None, data: Data) -> Part:
    maps = sorted(folder.rglob(f"ADE_*{_MAP}"))
    if data.classes:
        table = declared_classes(root / data.classes)
    else:
        names = _names(maps)
        others = _names(other.rglob(f"ADE_*{_MAP}")) if other is not None else {}
        # a class that is never evaluated, or never seen, is of no use
        table = [ClassInfo(i, name) for i, name in sorted(names.items()) if i in others or not others]
    if not table:
        what = "the classes have no names: no NAME.json beside the images names one of them"
        raise DataError(what, folder, f"unpack the json files too, {_CLASSES_HINT}")
    codes = {info.id: Code(label, True) for label, info in enumerate(table)}
    faults: list[Fault] = []
    records = [r for path in maps if (r := _record(path, codes, faults)) is not None]
    return Part(folder, records, table, faults)


def _record(path: Path, codes: dict[int, Code], faults: list[Fault]) -> Record | None:
    image = _beside(path, ".jpg")
    try:
        height, width = image_size(image)
    except DataError as error:
        faults.append(Fault("unreadable image", f"{error.what} ({image})", image.stem, files=(image, path)))
        return None
    label_map = LabelMap(path, codes, class_of=_class_of)
    return Record(image.stem, image, height, width, (), label_map)


def _class_of(value: int) -> int:
    """The class of red + 256 green + 65536 blue."""
    return value % 256 // 10 * 256 + value // 256 % 256


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(_MAP) + suffix)


def _names(maps: Iterable[Path]) -> dict[int, str]:
    """The classes of the whole objects (not parts) that the images' json files list, by number."""
    found: dict[int, str] = {}
    for path in maps:
        for thing in _objects(_beside(path, ".json")):
            number, name = thing.get("name_ndx"), thing.get("name")
            parts = thing.get("parts")
            level = parts.get("part_level") if isinstance(parts, dict) else 0
            if type(number) is int and number > 0 and isinstance(name, str) and level in (0, "0"):
                found.setdefault(number, name)
    return found


def _objects(path: Path) -> list[dict[str, Any]]:
    """The objects in an image's json; none where it is missing. Raises DataError if it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        objects = content["annotation"]["object"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        what = f"not a json file of ADE20K: {shorten(str(error), 100)}"
        raise DataError(what, path, f"unpack it again, {_CLASSES_HINT}") from error
    listed = objects if isinstance(objects, list) else [objects]
    return [thing for thing in listed if isinstance(thing, dict)]


FORMAT = Format(
    "ade20k_full",
    find,
    ("semantic", "instance"),
    "images/ADE/{word} with ADE_.._seg.png beside the images (full ADE20K)",
)
