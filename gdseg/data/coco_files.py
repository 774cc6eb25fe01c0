"""COCO instances: which json and which folder of images are meant.

Looks for the usual layouts (COCO, Roboflow, a plain train/ and val/); the keys data.train,
data.train_images, data.val and data.val_images name them where looking fails. Called by dataset.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gdseg.data.coco import peek_json, read_coco
from gdseg.data.images import find_file
from gdseg.data.part import WORDS, Format, Source
from gdseg.errors import DataError
from gdseg.recipe import Data

_PATTERNS = (
    "annotations/instances_{}*.json",
    "{}/_annotations.coco.json",
    "annotations/{}*.json",
    "instances_{}*.json",
    "{}*.json",
    "{}/*.json",
)
_OTHERS = (".txt", ".yaml", ".yml", ".xml")  # what other formats' keys name


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The instance json of a part and the folder of its images; None if there is none.

    A json that `data` names as LVIS names its own is left to lvis.py, one of segments to coco_panoptic.py.
    """
    path = find_json(root, part, data, _PATTERNS)
    if path is None or (path.name.startswith("lvis") and data.format == "auto"):
        return None
    images = find_images(root, part, path, data)
    if any(isinstance(a, dict) and "segments_info" in a for a in peek_json(path)["annotations"][:10]):
        return None
    return partial(read_coco, path, images)


def find_json(root: Path, part: str, data: Data, patterns: tuple[str, ...]) -> Path | None:
    """The json that `data` names for the part, or the only one that fits the first fitting pattern.

    Raises DataError for a name that is no file and for several files that fit.
    """
    given = data.train if part == "train" else data.val
    if given is not None:
        path = root / given
        if not path.exists():
            raise DataError("no such annotation file", path, f"correct the recipe key data.{part}")
        return path if path.is_file() and path.suffix.lower() not in _OTHERS else None
    for word in WORDS[part]:
        for pattern in patterns:
            found = sorted(root.glob(pattern.format(word)))
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise DataError(
                    f"several annotation files fit: {names}", root, f"choose one with data.{part}=FILE"
                )
            if found:
                return found[0]
    return None


def find_images(root: Path, part: str, json_path: Path, data: Data) -> Path:
    """The folder in which the first image of the json lies. Raises DataError if it is not found."""
    given = given_images(root, part, data)
    if given is not None:
        return given
    images = peek_json(json_path)["images"]
    names = [i["file_name"] for i in images if isinstance(i, dict) and isinstance(i.get("file_name"), str)]
    stem = json_path.stem.removeprefix("instances_").removeprefix("panoptic_")
    folders = [stem, part, *WORDS[part], "images", "."]
    candidates = [json_path.parent, *(root / top / folder for folder in folders for top in ("", "images"))]
    return folder_of(names, candidates, root, part, json_path)


def folder_of(names: list[str], candidates: list[Path], root: Path, part: str, json_path: Path) -> Path:
    """The first folder that holds one of the first ten names. Raises DataError if none does."""
    for name in [n for n in names if n][:10]:
        for folder in candidates:
            if find_file(folder, name):
                return folder
    looked = ", ".join(sorted({str(folder) for folder in candidates if folder.is_dir()}))
    what = f"the images of {json_path.name} were not found (looked in {looked})"
    raise DataError(what, root, f"name their folder with data.{part}_images=FOLDER")


def given_images(root: Path, part: str, data: Data) -> Path | None:
    """The folder of images that `data` names for the part. Raises DataError if it is none."""
    given = data.train_images if part == "train" else data.val_images
    if given is not None and not (root / given).is_dir():
        raise DataError(
            "no such folder of images", root / given, f"correct the recipe key data.{part}_images"
        )
    return None if given is None else root / given


FORMAT = Format(
    "coco",
    find,
    ("instance",),
    "annotations/instances_{part}*.json, {part}/_annotations.coco.json, {part}*.json (COCO)",
)
