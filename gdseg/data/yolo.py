"""YOLO-seg text files as ultralytics reads and writes them (docs.ultralytics.com/datasets/segment).

images/train/a.jpg has labels/train/a.txt: a row an object, its class and a polygon in shares of width and
height; several parts of an object are joined by lines there and back. data.yaml names classes and folders. An
empty file, and as in ultralytics none at all, is an image without objects. Called by dataset.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gdseg.data.coco import TOLERANCE
from gdseg.data.images import find_file, image_size, list_images
from gdseg.data.part import WORDS, Fault, Format, Part, Source
from gdseg.data.rle import SegmentationError, check_polygons, shorten
from gdseg.data.semantic_folder import declared_classes
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Record

_CONFIGS = ("data.yaml", "data.yml", "dataset.yaml", "*.yaml", "*.yml")
_HINT = "data.yaml with names, as names: [cat, dog], and the folders train: images/train, val: images/val"
_MAX_BYTES = 1 << 20


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """Images of a part beside labels of theirs, as `data`, data.yaml or the usual folders say; else None."""
    config = _config(root, data)
    given, images = (data.train, data.train_images) if part == "train" else (data.val, data.val_images)
    listed = [] if images or given else _listed(root, part, config)
    if images:
        sources = [root / images]
    elif given:
        sources = [_swapped(root / given, "labels", "images")]
    else:
        usual = [root / f for word in WORDS[part] for f in (f"images/{word}", f"{word}/images")]
        sources = listed or [folder for folder in usual if folder.is_dir()]
    labels = root / given if given and images else None
    named = listed or ("names" in config and any(path.is_file() for path in sources))
    if not (data.format == FORMAT.name or named or _has_texts(sources, labels)):
        return None
    there = [path for path in sources if path.exists()]
    return partial(_read, root, there, labels, config, data) if there else None


def _has_texts(sources: list[Path], labels: Path | None) -> bool:
    folders = (
        [labels] if labels else [_swapped(path, "images", "labels") for path in sources if path.is_dir()]
    )
    return any(next(folder.rglob("*.txt"), None) for folder in folders)


def _swapped(path: Path, old: str, new: str) -> Path:
    """The path with the last folder of name `old` called `new`; the path itself where there is none."""
    parts = list(path.parts)
    if old not in parts:
        return path
    parts[len(parts) - 1 - parts[::-1].index(old)] = new
    return Path(*parts)


def _config(root: Path, data: Data) -> dict[str, Any]:
    """The first yaml file in root that names classes, all its values as text; empty if there is none."""
    named = data.classes if data.classes and data.classes.endswith((".yaml", ".yml")) else None
    patterns = [named] if named else _CONFIGS
    paths = [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
    for path in paths:
        try:
            text = path.read_bytes()[: _MAX_BYTES + 1].decode("utf-8-sig")
            if len(text) > _MAX_BYTES or any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text)):
                continue
            content = yaml.load(text, Loader=yaml.BaseLoader)  # makes texts, lists and mappings only
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and "names" in content:
            return {**content, "": path}
    return {}


def _listed(root: Path, part: str, config: dict[str, Any]) -> list[Path]:
    """The folders and lists of images that data.yaml names for a part, as far as they are there."""
    entry = config.get(part) or (config.get("valid") if part == "val" else None)
    base = config.get("path")
    tops = [root / base, root] if isinstance(base, str) else [root]
    found = []
    for name in entry if isinstance(entry, list) else [entry]:
        if isinstance(name, str):
            shorter = name.removeprefix("../")  # of a file that lay one folder further down
            paths = [top / n for top in tops for n in (name, shorter)]
            found += [path for path in paths if find_file(path.parent, path.name) or _is_folder(path)][:1]
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _read(root: Path, sources: list[Path], labels: Path | None, config: dict[str, Any], data: Data) -> Part:
    table = _classes(root, config, data)
    by_id = {info.id: label for label, info in enumerate(table)}
    faults: list[Fault] = []
    records: dict[str, Record] = {}
    pairs = [pair for source in sources for pair in _pairs(source, root, labels)]
    missing = [path for path, text_file in pairs if not find_file(text_file.parent, text_file.name)]
    if len(missing) == len(pairs):
        what = f"no image of {sources[0]} has a label file" if pairs else "there is no image"
        where = _swapped(missing[0], "images", "labels").parent if missing else sources[0]
        raise DataError(what, where, "images/train/a.jpg has its objects in labels/train/a.txt")
    for path, text_file in pairs:
        image_id = _id(path) if _id(path) not in records else str(path)
        record = _record(path, image_id, text_file, by_id, faults)
        if record is not None:
            records[image_id] = record
    if missing:
        text = f"{len(missing)} count as images without objects, as in ultralytics; first: {missing[0]}"
        hint = "; if they are unlabelled, move them to a folder that data.unlabelled names"
        faults.append(Fault("images without label file", text + hint, harmless=True))
    return Part(sources[0], list(records.values()), table, faults)


def _pairs(source: Path, root: Path, labels: Path | None) -> list[tuple[Path, Path]]:
    """The images of a folder or list, each with its label file, which may not be there."""
    if source.is_dir():
        paths = list_images(source)
        if labels is not None:
            return [(path, (labels / path.relative_to(source)).with_suffix(".txt")) for path in paths]
    else:
        paths = _paths(source, root)
    return [(path, _swapped(path, "images", "labels").with_suffix(".txt")) for path in paths]


def _paths(listed: Path, root: Path) -> list[Path]:
    """The images that a text file lists, relative to its own folder or to root. Raises DataError."""
    try:
        lines = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError("cannot read the list of images", listed, "a text file, a path a line") from error
    return [find_file(listed.parent, line) or root / line for line in lines if line]


def _id(path: Path) -> str:
    """The image's path below the folder images/, without suffix."""
    parts = path.with_suffix("").parts
    last = max((i for i, name in enumerate(parts[:-1]) if name == "images"), default=len(parts) - 2)
    return "/".join(parts[last + 1 :])


def _record(
    path: Path, image_id: str, text_file: Path, labels: dict[int, int], faults: list[Fault]
) -> Record | None:
    """The record of one image; None, and a fault, where the image is not readable."""
    try:
        height, width = image_size(path)
        there = find_file(text_file.parent, text_file.name)
        text = "" if there is None else there.read_text(encoding="utf-8")
    except DataError as error:
        kind = "unreadable image" if find_file(path.parent, path.name) else "missing image file"
        faults.append(Fault(kind, f"{error.what} ({path})", image_id))
        return None
    except (OSError, ValueError):
        faults.append(Fault("unreadable labels", f"{text_file} is no text file", image_id))
        return None
    annotations = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if words := line.split():
                annotations.append({"id": number, **_object(words, height, width, labels)})
        except SegmentationError as error:
            where = f"row {number} of {text_file.name}: {error}"
            faults.append(Fault(error.kind, where, image_id, number, harmless=error.kind == "empty object"))
    return Record(image_id, path, height, width, tuple(annotations))


def _object(words: list[str], height: int, width: int, labels: dict[int, int]) -> dict[str, Any]:
    """One row as an annotation, its polygon in pixels. Raises SegmentationError."""
    try:
        number, *shares = (float(word) for word in words)
    except ValueError as error:
        raise SegmentationError("bad row", f"expected numbers, found {shorten(' '.join(words))}") from error
    if number not in labels:
        raise SegmentationError("undeclared category id", f"the class is {words[0][:20]}")
    if len(shares) == 4:
        raise SegmentationError("box without mask", "it holds a box, expected class x1 y1 x2 y2 x3 y3 ..")
    if len(shares) % 2:
        raise SegmentationError("bad row", f"{len(shares)} numbers follow the class, expected x y pairs")
    points = np.array(shares).reshape(-1, 2) * (width, height)
    polygons = check_polygons([points.ravel().tolist()], height, width, TOLERANCE)
    return {"label": labels[int(number)], "category_id": int(number), "iscrowd": 0, "segmentation": polygons}


def _classes(root: Path, config: dict[str, Any], data: Data) -> list[ClassInfo]:
    """The classes of `data.classes`, data.yaml or classes.txt. Raises DataError where there are none."""
    plain = root / (data.classes or "classes.txt")
    if (data.classes and plain.suffix not in (".yaml", ".yml")) or (
        "names" not in config and plain.is_file()
    ):
        return [ClassInfo(c.id, c.name) for c in declared_classes(plain)]
    names = config.get("names")
    if names is None:
        raise DataError("the classes have no names: there is no data.yaml", root, f"write {_HINT}")
    items = (
        list(enumerate(names))
        if isinstance(names, list)
        else names.items()
        if isinstance(names, dict)
        else []
    )
    try:
        found = {int(number): name for number, name in items}
    except ValueError:
        found = {}
    if not found or min(found) < 0 or not all(isinstance(name, str) and name for name in found.values()):
        raise DataError(f"names are not class names: {shorten(names)}", config[""], _HINT)
    if config.get("nc", str(len(found))) != str(len(found)):
        what = f"nc is {shorten(config['nc'])}, and there are {len(found)} names"
        raise DataError(what, config[""], "correct one of them")
    return [ClassInfo(number, found[number]) for number in sorted(found)]


FORMAT = Format(
    "yolo",
    find,
    ("instance",),
    "images/{part} and labels/{part} with *.txt, and data.yaml (YOLO-seg)",
)
