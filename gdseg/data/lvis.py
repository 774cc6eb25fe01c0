"""LVIS (arXiv 1908.03195; versions 1 and 0.5): COCO's json for images searched for some classes only.

Its validation images lie in train2017/ too, so a json's images are named with their folder, by the end of
coco_url; version 0.5 has COCO 2014's file names instead. What an image was searched for and how frequent
classes are is read by coco.py, from any COCO json that says it. Called by dataset.py.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from gdseg.data.coco import read_content, read_json
from gdseg.data.coco_files import find_json, folder_of, given_images
from gdseg.data.part import Format, Part, Source
from gdseg.errors import DataError
from gdseg.recipe import Data

_PATTERNS = ("annotations/lvis_*{}.json", "lvis_*{}.json", "annotations/lvis*{}*.json", "lvis*{}*.json")


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The LVIS json of a part; None if there is none.

    A json that `data` names is this format's where data.format says so or its name begins with "lvis".
    """
    path = find_json(root, part, data, _PATTERNS)
    if path is None or not (path.name.startswith("lvis") or data.format == FORMAT.name):
        return None
    return partial(_read, root, part, path, data)


def _read(root: Path, part: str, path: Path, data: Data) -> Part:
    content = read_json(path)
    if not any("neg_category_ids" in image for image in content["images"][:10] if isinstance(image, dict)):
        what = "the json is not LVIS: its images have no neg_category_ids"
        raise DataError(what, path, "use data.format=coco for plain COCO annotations")
    content["images"] = [_named(image, part) for image in content["images"]]
    names = [image.get("file_name") for image in content["images"] if isinstance(image, dict)]
    folders = [root, root / "images", root / "coco", root.parent / "coco", path.parent]
    folders += [folder / f"{part}2017" for folder in folders]
    images = given_images(root, part, data) or folder_of(
        [name for name in names if isinstance(name, str)], folders, root, part, path
    )
    return read_content(content, path, images)


def _named(image: Any, part: str) -> Any:
    """The image with a file_name, as train2017/000000391895.jpg, where only LVIS's own keys say it."""
    if not isinstance(image, dict):
        return image
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str):
        old = re.fullmatch(r"COCO_\w+2014_(\d{12}\.jpg)", name)
        return {**image, "file_name": f"{part}2017/{old[1]}"} if old else image
    return {**image, "file_name": "/".join(url.split("/")[-2:])} if isinstance(url, str) else image


FORMAT = Format(
    "lvis",
    find,
    ("instance",),
    "annotations/lvis_*{part}.json with train2017/ and val2017/ (LVIS)",
)
