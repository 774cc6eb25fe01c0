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

    Its path is replaced by each map's own. An image's id is its path in the folder without suffix. Raises
    DataError when no image has a map.
    """
    found = _named(maps, (p for p in sorted(maps.rglob("*")) if p.suffix.lower() in SUFFIXES), of_map)
    records, faults = [], []
    for image_id, path in _named(images, list_images(images), of_image).items():
        if image_id not in found:
            faults.append(Fault("missing label map", f"none of that name in {maps}", image_id))
            continue
        try:
            height, width = image_size(path)
        except DataError as error:
            faults.append(Fault("unreadable image", f"{error.what} ({path})", image_id))
            continue
        own = replace(label_map, path=found[image_id])
        records.append(Record(image_id, path, height, width, (), own))
    if not records:
        first = faults[0] if faults else "the folder holds no image"
        what = f"no image of {images} has a label map in {maps}: {first}"
        raise DataError(what, images, "an image and its map have the same name, as a.jpg and a.png")
    return records, faults


def _named(folder: Path, paths: Iterable[Path], rename: Rename) -> dict[str, Path]:
    names = [(rename(path.relative_to(folder).with_suffix("").as_posix()), path) for path in paths]
    return {name: path for name, path in names if name is not None}
