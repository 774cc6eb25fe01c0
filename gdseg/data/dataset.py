"""Finding a data set: which json and which folder are meant, and which images are labelled.

`open_dataset` looks for the usual layouts (COCO, Roboflow, a plain train/ and val/); the keys
data.train, data.train_images, data.val and data.val_images name them where looking fails. The word
'shapes' is the built-in data set. Called by every verb that needs data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gdseg.data.coco import CocoFile, Fault, load_coco, read_coco, read_json
from gdseg.data.images import image_size, list_images
from gdseg.data.shapes import builtin_shapes
from gdseg.data.split import Split
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import Record

WORDS = {"train": ("train",), "val": ("val", "valid", "validation")}


@dataclass
class Dataset:
    """Records of both parts. `classes[label]` is a name, `category_ids[label]` the id in the user's json."""

    root: Path
    train: list[Record]
    val: list[Record]
    classes: list[str]
    category_ids: list[int]
    train_json: Path | None = None
    val_json: Path | None = None
    faults: list[Fault] = field(default_factory=list)


def open_dataset(data: Data, parts: Sequence[str] = ("train", "val"), *, strict: bool = True) -> Dataset:
    """Find and check the annotations of `parts` ("train", "val"); the other part stays empty.

    strict False: faults are collected in `Dataset.faults` instead of raised. Raises DataError for a
    part that is not found (naming the key that would say where), for faulty annotations, and when
    the two parts declare different categories.
    """
    root = builtin_shapes() if data.root == "shapes" else Path(data.root).expanduser()
    if not root.is_dir():
        raise DataError(
            "no such data set", root, "set --data (data.root) to its folder, or use --data shapes"
        )
    files: dict[str, CocoFile] = {}
    for part in parts:
        if part == "val" and data.val == "none":
            continue
        path = _find_json(root, part, data.train if part == "train" else data.val)
        images = _find_images(root, part, path, data.train_images if part == "train" else data.val_images)
        files[part] = load_coco(path, images, root) if strict else read_coco(path, images)
    if not files:
        raise DataError(
            "there are no validation images", "data.val", "name their COCO json with data.val=FILE"
        )
    first = next(iter(files.values()))
    for other in files.values():
        _refuse_other_classes(first, other)
    train, val = files.get("train"), files.get("val")
    return Dataset(
        root,
        train.records if train else [],
        val.records if val else [],
        first.classes,
        first.category_ids,
        train.path if train else None,
        val.path if val else None,
        [replace(f, text=f"{f.text} ({file.path.name})") for file in files.values() for f in file.faults],
    )


def _refuse_other_classes(first: CocoFile, other: CocoFile) -> None:
    if (first.category_ids, first.classes) == (other.category_ids, other.classes):
        return
    ours, theirs = (dict(zip(f.category_ids, f.classes, strict=True)) for f in (first, other))
    different = sorted(set(ours.items()) ^ set(theirs.items()))
    what = f"{first.path.name} and {other.path.name} declare different categories"
    raise DataError(f"{what}; the first is {different[0]}", other.path, "give both the same 'categories'")


def _find_json(root: Path, part: str, given: str | None) -> Path:
    if given is not None:
        path = root / given
        if not path.is_file():
            raise DataError("no such annotation file", path, f"correct the recipe key data.{part}")
        return path
    patterns = ["annotations/instances_{}*.json", "{}/_annotations.coco.json", "annotations/{}*.json"]
    patterns += ["instances_{}*.json", "{}*.json", "{}/*.json"]
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
    looked = f"annotations/instances_{part}*.json, {part}/_annotations.coco.json, {part}*.json"
    raise DataError(
        f"no {part} annotations found (looked for {looked})",
        root,
        f"name the COCO json with data.{part}=FILE" + (", or train without: data.val=none" * (part == "val")),
    )


def _find_images(root: Path, part: str, json_path: Path, given: str | None) -> Path:
    """The folder in which the first image of the json lies."""
    if given is not None:
        if not (root / given).is_dir():
            raise DataError(
                "no such folder of images", root / given, f"correct the recipe key data.{part}_images"
            )
        return root / given
    images = read_json(json_path)["images"]
    names = [i["file_name"] for i in images if isinstance(i, dict) and isinstance(i.get("file_name"), str)]
    stem = json_path.stem.removeprefix("instances_")
    folders = [stem, part, *WORDS[part], "images", "."]
    candidates = [json_path.parent, *(root / top / folder for folder in folders for top in ("", "images"))]
    for name in [n for n in names if n and "\0" not in n][:10]:
        for folder in candidates:
            if (folder / name).is_file():
                return folder
    looked = ", ".join(sorted({str(folder) for folder in candidates if folder.is_dir()}))
    what = f"the images of {json_path.name} were not found (looked in {looked})"
    raise DataError(what, root, f"name their folder with data.{part}_images=FOLDER")


def labelled_records(records: Sequence[Record], split: Split) -> list[Record]:
    """The training records of the split, in the json's order."""
    chosen = set(split.ids)
    return [record for record in records if record.image_id in chosen]


def unlabelled_pool(records: Sequence[Record], split: Split, data: Data) -> list[Record]:
    """The images of the unlabelled stream: training images (labels taken away) and the folders of the recipe.

    Images of the split are among them if `data.unlabelled_has_labelled`. Raises DataError if none is left.
    """
    chosen = set() if data.unlabelled_has_labelled else set(split.ids)
    pool = [replace(record, annotations=None) for record in records if record.image_id not in chosen]
    pool += unlabelled_records([Path(folder) for folder in data.unlabelled])
    if not pool:
        raise DataError(
            "there is no unlabelled image",
            "data.unlabelled",
            "name a folder with --unlabelled, or use a smaller --ratio",
        )
    return pool


def unlabelled_records(folders: Sequence[Path]) -> list[Record]:
    """One unlabelled Record for each image under the folders; its id is its path.

    Raises DataError if a folder is missing or has none.
    """
    records = []
    for folder in folders:
        paths = list_images(folder.expanduser())
        if not paths:
            raise DataError(
                "the folder holds no image", folder, "jpg, png, webp, bmp and tif files are looked for"
            )
        for path in paths:  # a file that is no image is found now, not in the middle of a run
            height, width = image_size(path)
            records.append(Record(str(path), path, height, width))
    return records
