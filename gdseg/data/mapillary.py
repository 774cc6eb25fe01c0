"""Mapillary Vistas (Neuhold et al., ICCV 2017; versions 1.2 and 2.0), as it is downloaded.

training/images/ beside labels/, instances/ and panoptic/, in training/v1.2/ or training/v2.0/ where there are
both. config.json (config_v1.2.json) says of the values of labels/ what they are; those of instances/ are 256
times that value plus the object's number. Panoptic is its COCO panoptic json where that is there. Called by
dataset.py.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from gdseg.data.coco import read_colour
from gdseg.data.coco_panoptic import read_panoptic
from gdseg.data.map_folders import pair
from gdseg.data.part import WORDS, Format, Part, Source
from gdseg.data.rle import shorten
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Code, LabelMap

_OBJECTS = 256  # numbers of one class in an image
_KINDS = {"semantic": ("labels", "instances"), "instance": ("instances",), "panoptic": ("instances",)}
_VERSIONS = ("v1.2", "v2.0")


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """training/ (validation/) with images and a config of the classes in root; None if they are not there.

    `data` may name the folder of labels/ and instances/, as data.train=training/v2.0. Raises DataError where
    two versions are there and none is named.
    """
    given, images = (data.train, data.train_images) if part == "train" else (data.val, data.val_images)
    for word in WORDS[part]:
        folder = root / (images or f"{word}/images")
        tops = [root / given] if given else [root / word / version for version in _VERSIONS] + [root / word]
        there = [top for top in tops if any((top / kind).is_dir() for kind in ("labels", "instances"))]
        named = data.format == FORMAT.name or data.classes or next(root.glob("config*.json"), None)
        if folder.is_dir() and there and named:
            if len(there) > 1:
                names = " and ".join(str(top.relative_to(root)) for top in there)
                hint = f"choose one with data.{part}={there[0].relative_to(root)}"
                raise DataError(f"there are two versions of the labels: {names}", root, hint)
            return partial(_read, root, folder, there[0], data, task)
    return None


def _read(root: Path, images: Path, top: Path, data: Data, task: str) -> Part:
    listed = next(iter(sorted((top / "panoptic").glob("panoptic*.json"))), None)
    if task == "panoptic" and listed is not None:
        return read_panoptic(listed, images, top / "panoptic", task)
    kind = next((kind for kind in _KINDS[task] if (top / kind).is_dir()), None)
    if kind is None:
        what = f"task: {task} needs the folder {_KINDS[task][-1]}"
        raise DataError(what, top, "unpack it from the download, or use --task semantic")
    path = _config(root, top, data)
    labels = _labels(path)
    kept = [info for info, used in labels if used and (info.is_thing or task != "instance")]
    codes = {info.id: Code(label, info.is_thing) for label, info in enumerate(kept)}
    # classes that are not evaluated; other values are faults
    void = None if task == "instance" else frozenset(info.id for info, used in labels if not used)
    class_of = _class_of if kind == "instances" else None
    records, faults = pair(images, top / kind, LabelMap(top / kind, codes, void, class_of))
    return Part(top / kind, records, kept, faults)


def _class_of(value: int) -> int:
    return value // _OBJECTS


def _config(root: Path, top: Path, data: Data) -> Path:
    """The file that lists the classes. Raises DataError if there is none."""
    own = [f"config_{top.name}.json"] if top.name in _VERSIONS else []
    names = [data.classes] if data.classes else [*own, "config.json"]
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        what = f"the classes are not named: there is no {' or '.join(names)}"
        raise DataError(what, root, "copy it from the download, or name it with data.classes=FILE")
    return path


def _labels(path: Path) -> list[tuple[ClassInfo, bool]]:
    """Each class, whose id is its place in the file, and whether it is evaluated. Raises DataError."""
    hint = 'expected {"labels": [{"readable": "Bird", "color": [165, 42, 42], "instances": true}, ..]}'
    try:
        labels = json.loads(path.read_bytes())["labels"]
        return [
            (
                ClassInfo(
                    number, str(item["readable"]), bool(item["instances"]), read_colour(item.get("color"))
                ),
                bool(item.get("evaluate", True)),
            )
            for number, item in enumerate(labels)
        ]
    except OSError as error:
        raise DataError(f"cannot read the classes: {error.strerror}", path, "check the path") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a config of Mapillary: {shorten(repr(error), 100)}", path, hint) from error


FORMAT = Format(
    "mapillary",
    find,
    ("panoptic", "instance", "semantic"),
    "{word}/images beside labels, instances or panoptic, and config.json (Mapillary Vistas)",
)
