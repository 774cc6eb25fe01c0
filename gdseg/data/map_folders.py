"""Folders of images beside folders of label maps, paired by name. Called by the formats made of such."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from gdseg.data.images import image_size, list_images
from gdseg.data.label_maps import SUFFIXES
from gdseg.data.part import WORDS, Fault
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import LabelMap, Record

MAP_FOLDERS = ("annotations", "labels", "masks", "label_maps", "semantic")
Rename = Callable[[str], str | None]  # a file's path without suffix to its image's id; None: another file


def find_folders(root: Path, part: str, data: Data) -> tuple[Path, Path] | None:
    """The folders of a part's images and label maps, named by `data` or found; None if there are none.

    Raises DataError for a name that is no folder.
    """
    maps, images = (data.train, data.train_images) if part == "train" else (data.val, data.val_images)
    for name, given in ((part, maps), (f"{part}_images", images)):
        if given is not None and not (root / given).exists():
            raise DataError("no such folder", root / given, f"correct the recipe key data.{name}")
    pairs = [
        (root / images if images else root / first, root / maps if maps else root / second)
        for word in WORDS[part]
        for folder in MAP_FOLDERS
        for first, second in ((f"images/{word}", f"{folder}/{word}"), (f"{word}/images", f"{word}/{folder}"))
    ]
    return next((pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()), None)


def pair(
    images: Path,
    maps: Path,
    label_map: LabelMap,
    of_image: Rename = lambda name: name,
    of_map: Rename = lambda name: name,
) -> tuple[list[Record], list[Fault]]:
    """A record for each image that has a label map; `label_map` says what all of them mean.

    Its path is replaced by each map's own; its `below` or `classes` is the folder of a second map. An image's
    id is its path in the folder without suffix. Faults are noted: an image without map, two files of one
    name. Raises DataError when no image has a map.
    """
    faults: list[Fault] = []
    found = _named(maps, list_maps(maps), of_map, faults)
    second = label_map.below or label_map.classes
    others = {} if second is None else _named(second, list_maps(second), lambda name: name, faults)
    records = []
    for image_id, path in _named(images, list_images(images), of_image, faults).items():
        if image_id not in found or (second is not None and image_id not in others):
            where = maps if image_id not in found else second
            text = f"none of that name in {where}"
            faults.append(Fault("missing label map", text, image_id, files=(path,)))
            continue
        try:
            height, width = image_size(path)
        except DataError as error:
            text = f"{error.what} ({path})"
            faults.append(Fault("unreadable image", text, image_id, files=(path, found[image_id])))
            continue
        below = others.get(image_id) if label_map.below else None
        classes = others.get(image_id) if label_map.classes else None
        own = replace(label_map, path=found[image_id], below=below, classes=classes)
        records.append(Record(image_id, path, height, width, (), own))
    if not records:
        first = faults[0] if faults else "the folder holds no image"
        what = f"no image of {images} has a label map in {maps}: {first}"
        raise DataError(what, images, "an image and its map have the same name, as a.jpg and a.png")
    return records, faults


def list_maps(folder: Path) -> list[Path]:
    """Every file under a folder that may be a label map, hidden ones aside, sorted by path."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.name.startswith("."))


def _named(folder: Path, paths: Iterable[Path], rename: Rename, faults: list[Fault]) -> dict[str, Path]:
    """The files by their image's id; of two with one id the first is kept, the other a fault."""
    named: dict[str, Path] = {}
    for path in paths:
        name = rename(path.relative_to(folder).with_suffix("").as_posix())
        if name is None:
            continue
        if name in named:
            text = f"{named[name].name} and {path.name} in {folder}: remove one"
            faults.append(Fault("two files of one name", text, name, files=(path,)))
        else:
            named[name] = path
    return named
