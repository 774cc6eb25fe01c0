"""Finding a data set: which format it has, where its parts are, and which images are labelled.

`open_dataset` asks each format that has labels for the task whether the folder holds it; the keys of
`data:` name files and folders where looking fails. The word 'shapes' is the built-in data set. Called by
every verb that needs data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gdseg.data import (
    ade20k,
    ade20k_full,
    cityscapes,
    coco_files,
    coco_panoptic,
    cvat,
    label_studio,
    labelme,
    lvis,
    mapillary,
    semantic_folder,
    voc,
    yolo,
)
from gdseg.data.images import SUFFIXES, image_size, list_images
from gdseg.data.label_weights import with_label_weights
from gdseg.data.map_folders import MAP_FOLDERS
from gdseg.data.part import WORDS, Fault, Format, Part, Source
from gdseg.data.scenes import builtin_scenes
from gdseg.data.shapes import builtin_shapes
from gdseg.data.split import Split
from gdseg.errors import DataError
from gdseg.files import file_sha256, tail_sha256
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Record
from gdseg.words import counted

FORMATS: tuple[Format, ...] = (  # in the order they are asked
    labelme.FORMAT,
    cvat.FORMAT,
    label_studio.FORMAT,
    coco_files.FORMAT,
    lvis.FORMAT,
    cityscapes.FORMAT,
    mapillary.FORMAT,
    ade20k.FORMAT,
    voc.FORMAT,
    yolo.FORMAT,
    semantic_folder.FORMAT,
    coco_panoptic.FORMAT,
    ade20k_full.FORMAT,
)
_FLAT = [*(("images", folder) for folder in MAP_FOLDERS), ("leftImg8bit", "gtFine")]  # without parts
_OF_LABELS = {".json", ".txt", ".xml", ".yaml", ".yml"}


@dataclass
class Dataset:
    """Records of both parts. `classes[label]` is a name, `category_ids[label]` the user's id of it.

    `table[label]` also says what is a thing, and its colour; train_json: the file or folder of labels.
    """

    root: Path
    train: list[Record]
    val: list[Record]
    classes: list[str]
    category_ids: list[int]
    train_json: Path | None = None
    val_json: Path | None = None
    faults: list[Fault] = field(default_factory=list)
    table: list[ClassInfo] = field(default_factory=list)
    task: str = "instance"

    @property
    def things(self) -> list[bool]:
        """Whether each label is a thing."""
        return [c.is_thing for c in self.table] or [True] * len(self.classes)


def open_dataset(
    data: Data,
    parts: Sequence[str] = ("train", "val"),
    *,
    task: str = "instance",
    strict: bool = True,
    complete: bool = True,
) -> Dataset:
    """Find and check the labels of `parts` ("train", "val") for a task; the other part stays empty.

    strict False: faults are collected in `Dataset.faults` instead of raised. complete False: a part without
    any labels is left empty, if another has some. Raises DataError for a part that is not found (naming the
    key that would say where), for faulty annotations, and when the two parts declare different categories.
    """
    root = _builtin(task) if data.root == "shapes" else Path(data.root).expanduser()
    if root.is_file():
        hint = "name its folder, and the file by a key of it, as data.train=FILE or data.val=FILE"
        raise DataError("a data set is a folder, this is a file", root, hint)
    if not root.is_dir():
        raise DataError(
            "no such data set", root, "set --data (data.root) to its folder, or use --data shapes"
        )
    found: dict[str, Part] = {}
    missing: _NoLabelsError | None = None
    for part in parts:
        if _is_off(data, part):
            continue
        try:
            content = _find(root, part, data, task)()
        except _NoLabelsError as error:
            if complete:
                raise
            missing = missing or error
            continue
        content = with_label_weights(content, data.label_weights)
        found[part] = content.without_faults(root) if strict else content
    if not found:
        name, word = parts[-1], WORDS[parts[-1]][-1]
        hint = f"name their labels with data.{name}=FILE"
        raise missing or DataError(f"there are no {word} images", f"data.{name}", hint)
    first = next(iter(found.values()))
    for other in found.values():
        _refuse_other_classes(first, other)
    train, val = found.get("train"), found.get("val")
    return Dataset(
        root,
        train.records if train else [],
        val.records if val else [],
        first.classes,
        first.category_ids,
        train.path if train else None,
        val.path if val else None,
        [
            replace(f, text=f"{f.text} ({part.path.name})", part=name)
            for name, part in found.items()
            for f in part.faults
        ],
        first.table,
        task,
    )


class _NoLabelsError(DataError):
    """A part has no labels for any task."""


def _is_off(data: Data, part: str) -> bool:
    return (data.train if part == "train" else data.val) == "none"


def richest_task(data: Data, *parts: str) -> str:
    """The task whose labels tell most of what the folder's format holds; instance if none fits.

    It is that of the first of the parts that has labels.
    """
    root, there = Path(data.root).expanduser(), [part for part in parts if not _is_off(data, part)]
    return next((task for part in there for task, _ in _tasks_there(root, part, data)), "instance")


def has_part(data: Data, part: str, task: str) -> bool:
    """Whether the folder holds labels of a part for a task. Raises DataError where that is doubtful."""
    if data.root == "shapes" or _is_off(data, part):
        return not _is_off(data, part)
    root = Path(data.root).expanduser()
    formats = [f for f in FORMATS if task in f.tasks and data.format in ("auto", f.name)]
    return root.is_dir() and any(each.find(root, part, data, task) is not None for each in formats)


def _tasks_there(root: Path, part: str, data: Data) -> Iterator[tuple[str, str]]:
    """(task, format) of all labels of a part, those of one format from the richest task to the poorest."""
    formats = [f for f in FORMATS if data.format in ("auto", f.name)] if root.is_dir() else []
    for each in formats:
        for task in each.tasks:
            if each.find(root, part, data, task) is not None:
                yield task, each.name


def _builtin(task: str) -> Path:
    return builtin_shapes() if task == "instance" else builtin_scenes(task)


def _find(root: Path, part: str, data: Data, task: str) -> Source:
    """The first format that has labels for the task and says that the folder is its own."""
    formats = [f for f in FORMATS if task in f.tasks and data.format in ("auto", f.name)]
    if not formats:
        what = f"data.format: {data.format} has no labels for task: {task}"
        raise DataError(what, "data.format", "use data.format=auto")
    for each in formats:
        source = each.find(root, part, data, task)
        if source is not None:
            return source
    raise _not_found(root, part, data, task, formats)


def _not_found(root: Path, part: str, data: Data, task: str, formats: Sequence[Format]) -> DataError:
    """What to tell of a part without labels for the task."""
    looked = "".join(f"\n    {f.looked_for.format(part=part, word=WORDS[part][-1])}" for f in formats)
    labels = "annotations" if task == "instance" else f"{task} labels"
    kind = DataError
    try:
        others = ", ".join(f"{other} ({name})" for other, name in _tasks_there(root, part, data))
        kind = DataError if others else _NoLabelsError
    except DataError:  # of a format that was not asked for
        others = ""
    if kind is _NoLabelsError and _holds_images_only(root):
        hint = f"name it with --unlabelled {root}, or its labels with data.{part}=FILE"
        return kind("the folder holds images but no labels", root, hint)
    only = f", only {others}" if others else ""
    flat = next((pair for pair in _FLAT if all((root / name).is_dir() for name in pair)), None)
    name = f"data.{part}={flat[1]} data.{part}_images={flat[0]}" if flat else f"data.{part}=FILE"
    hint = f"name them with {name}" + (", or train without: data.val=none" * (part == "val"))
    return kind(f"no {WORDS[part][-1]} images with {labels}{only}: looked for{looked}", root, hint)


def _holds_images_only(root: Path) -> bool:
    """Whether there are images, and nothing that could be labels."""
    found = False
    for _, folders, names in os.walk(root):
        suffixes = {Path(name).suffix.lower() for name in names}
        if suffixes & _OF_LABELS or not {*MAP_FOLDERS, "gtFine"}.isdisjoint(folders):
            return False
        found = found or bool(suffixes & SUFFIXES)
    return found


def _refuse_other_classes(first: Part, other: Part) -> None:
    if (first.category_ids, first.classes) == (other.category_ids, other.classes):
        return
    ours, theirs = (dict(zip(f.category_ids, f.classes, strict=True)) for f in (first, other))
    different = sorted(set(ours.items()) ^ set(theirs.items()))
    what = f"{first.path.name} and {other.path.name} declare different categories"
    raise DataError(f"{what}; the first is {different[0]}", other.path, "give both the same 'categories'")


def labelled_records(records: Sequence[Record], split: Split) -> list[Record]:
    """The training records of the split, in the json's order."""
    chosen = set(split.ids)
    return [record for record in records if record.image_id in chosen]


def unlabelled_pool(
    records: Sequence[Record], split: Split, data: Data, val: Sequence[Record] = ()
) -> tuple[list[Record], int]:
    """The images of the unlabelled stream: training images (labels taken away) and the folders of the recipe.

    Images of the split are among them if `data.unlabelled_has_labelled`. Files in the folders that equal one
    of `val` are left out, for these judge the student; how many is told second. Raises DataError if none is
    left.
    """
    chosen = set() if data.unlabelled_has_labelled else set(split.ids)
    pool = [
        replace(record, annotations=None, label_map=None)
        for record in records
        if record.image_id not in chosen
    ]
    others = unlabelled_records([Path(folder) for folder in data.unlabelled])
    copies = _copies(others, val)
    pool += [record for record in others if record.path not in copies]
    if not pool:
        but = f" but {counted(len(copies), 'file')} that equal validation images" if copies else ""
        raise DataError(
            f"there is no unlabelled image{but}",
            "data.unlabelled",
            "name a folder with --unlabelled, or use a smaller --ratio",
        )
    return pool, len(copies)


def _copies(records: Sequence[Record], originals: Sequence[Record]) -> set[Path]:
    """Which files of `records` hold what one of `originals` holds."""
    ours = {record.path for record in records}
    theirs = {record.path for record in originals if records and record.path.is_file()}
    for look in (_size, tail_sha256, file_sha256):  # each reads only what was alike so far
        found, known = {path: look(path) for path in ours}, {path: look(path) for path in theirs}
        both = set(found.values()) & set(known.values())
        ours, theirs = ({path for path in each if each[path] in both} for each in (found, known))
    return ours


def _size(path: Path) -> int:
    return path.stat().st_size


def unlabelled_records(folders: Sequence[Path]) -> list[Record]:
    """One unlabelled Record for each image under the folders; its id is its path.

    Raises DataError if a folder is missing or has none, and for files that are no image, all at once.
    """
    records, broken = [], list[DataError]()
    for folder in folders:
        paths = list_images(folder.expanduser())
        if not paths:
            raise DataError(
                "the folder holds no image", folder, "jpg, png, webp, bmp, tif and npy files are looked for"
            )
        for path in paths:  # a file that is no image is found now, not in the middle of a run
            try:
                records.append(Record(str(path), path, *image_size(path)))
            except DataError as error:
                broken.append(error)
    if broken:
        others = [str(error.where) for error in broken[1:]]
        named = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
        more = f"; {counted(len(others), 'other unlabelled file')} cannot be read either: {named}"
        raise DataError(broken[0].what + more * bool(others), broken[0].where, broken[0].hint)
    return records
