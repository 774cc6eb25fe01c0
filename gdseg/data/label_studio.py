"""Label Studio's JSON export (labelstud.io): tasks with the annotations of people, or with predictions alone.

Brush, polygon, rectangle and ellipse regions are areas, each an object. Of several annotations of a task that
of ground truth counts, else the newest; predictions count where there is none; skipped tasks are left out. A
task of several images is a fault. A region's score and what its note says, as "weight=0.5" or "iscrowd", are
the object's. The parts are label_studio_train.json and _val.json, or train.json and val.json; a
project-*.json is for training. Called by dataset.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gdseg.data.coco import peek
from gdseg.data.images import SUFFIXES, find_file
from gdseg.data.label_studio_regions import Region, regions, said_of, segmentation
from gdseg.data.named_classes import named_classes
from gdseg.data.part import WORDS, Fault, Format, Part, Source, label_names, shape_fault, size_or_fault
from gdseg.data.rle import SegmentationError, shorten
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import Record

_PATTERNS = ("label_studio_{}.json", "{}.json", "annotations/{}.json")
_WHOLE = ("label_studio.json", "project-*.json")
_WORDS = (b'"annotations"', b'"predictions"', b'"annotation_id"')
_HINT = 'export the project as "JSON"'
_PREFIX = 9  # of an uploaded file's name: eight digits and a "-"


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The json of a part; None if there is none that lists tasks."""
    path = _path(root, part, data)
    return None if path is None else partial(_read, root, part, path, data)


def _path(root: Path, part: str, data: Data) -> Path | None:
    for name in label_names(data, part, _PATTERNS):
        if _is_ours(root / name):
            return root / name
    for pattern in _WHOLE if part == "train" and not data.train else ():
        found = [path for path in sorted(root.glob(pattern)) if _is_ours(path)]
        if len(found) > 1:
            listed = ", ".join(path.name for path in found)
            raise DataError(f"several exports fit: {listed}", root, "choose one with data.train=FILE")
        if found:
            return found[0]
    return None


def _is_ours(path: Path) -> bool:
    """Whether a json is a list, and names one of its tasks' keys near its beginning."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except (OSError, ValueError):
        return False
    return (
        path.suffix == ".json"
        and head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
        and any(w in head for w in _WORDS)
    )


def _read(root: Path, part: str, path: Path, data: Data) -> Part:
    tasks, faults = _tasks(path), list[Fault]()

    def used() -> Iterator[str]:
        other = _path(root, "val" if part == "train" else "train", data) if data.val != "none" else None
        for task in [*tasks, *(_tasks(other) if other else [])]:
            for _, region in _regions_of(task, []):
                yield from region.labels[:1]

    table = named_classes(root, data, used)
    labels = {info.name: label for label, info in enumerate(table)}
    given = data.train_images if part == "train" else data.val_images
    names = [*WORDS[part], "images", ""]
    folders = [root / given] if given else [base / name for base in (path.parent, root) for name in names]
    records: dict[str, Record] = {}
    files: dict[Path, int] = {}
    for number, task in enumerate(tasks, 1):
        record = _record(task, number, folders, faults)
        first = number if record is None else files.setdefault(record.path.resolve(), number)
        if record is not None and (first != number or record.image_id in records):
            text = f"task {number} has the image of another"
            faults.append(Fault("duplicate image", text, record.image_id))
        elif record is not None and _annotation(task) is None:
            text = "skipped, or not yet annotated: it is left out"
            faults.append(Fault("task without annotation", text, record.image_id, harmless=True))
        elif record is not None and (several := _several(task)):
            hint = "; gdseg takes one: make a task of each"
            faults.append(Fault("several images", f"task {number} {several}{hint}", record.image_id))
        elif record is not None:
            records[str(record.image_id)] = _labelled(record, task, labels, faults)
    if not records and not any(not fault.harmless for fault in faults):
        raise DataError("no task is annotated", path, _HINT)
    return Part(path, list(records.values()), table, faults)


def _tasks(path: Path) -> list[dict[str, Any]]:
    tasks = peek(path)
    good = isinstance(tasks, list) and all(
        isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks
    )
    if not good or not tasks:
        what = "the json lists no tasks with their data (JSON-MIN has none)"
        raise DataError(what if tasks else "the json lists no task", path, _HINT)
    return list(tasks)


def _annotation(task: dict[str, Any]) -> dict[str, Any] | None:
    """The annotation of a task that counts, or its last prediction; None: it has neither, or was skipped."""
    made, predicted = (
        [a for a in task.get(key) or () if isinstance(a, dict) and isinstance(a.get("result"), list)]
        if isinstance(task.get(key), list)
        else []
        for key in ("annotations", "predictions")
    )
    done = [a for a in made if not a.get("was_cancelled")]
    newest = sorted(done, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at") or "")))
    if newest:
        return newest[-1]
    return predicted[-1] if predicted and not made else None


def _regions_of(task: dict[str, Any], faults: list[str]) -> Iterator[tuple[int, Region]]:
    """Number and region of each object of a task; faults: told why there are none."""
    annotation = _annotation(task)
    try:
        yield from enumerate(regions(annotation["result"] if annotation else []), 1)
    except SegmentationError as error:
        faults.append(str(error))


def _record(task: dict[str, Any], number: int, folders: list[Path], faults: list[Fault]) -> Record | None:
    """The image of a task; None, and a fault, where it is not there."""
    names = _images(task)
    for name in names[:1]:
        for short in _shortened(name):
            path = next((f for folder in folders if (f := find_file(folder, short))), None)
            if path is not None:
                size = size_or_fault(path, short, faults)
                return None if size is None else Record(short, path, *size)
    said = names[0] if names else [text for text in task["data"].values() if isinstance(text, str)]
    text = f"task {number}: {shorten(said, 100)} is not there"
    faults.append(Fault("missing image file", text, number))
    return None


def _images(task: dict[str, Any]) -> list[str]:
    """The distinct paths of a task's images, that of its key "image" first."""
    texts = [text for text in task["data"].values() if isinstance(text, str)]
    named = [_image_name(text) for text in sorted(texts, key=lambda text: text != task["data"].get("image"))]
    return list(dict.fromkeys(n for n in named if PurePosixPath(n).suffix.lower() in SUFFIXES))


def _several(task: dict[str, Any]) -> str:
    """Why regions of a task may be of another image than its first; empty: they are not.

    A region names its image by the tag of the labelling interface, which an export does not hold.
    """
    tags = {str(region.result.get("to_name")) for _, region in _regions_of(task, [])}
    if len(tags) > 1:
        return f"has regions of {', '.join(map(shorten, sorted(tags)))}"
    images = _images(task)
    return f"has the images {', '.join(map(shorten, images))}" if len(images) > 1 else ""


def _image_name(text: str) -> str:
    """The path in a task's address of an image: of local files "?d=" says it."""
    try:
        parts = urlsplit(text)
        local = parse_qs(parts.query, errors="surrogateescape").get("d")
    except ValueError:
        return text
    return local[0] if local else unquote(parts.path, errors="surrogateescape").lstrip("/")


def _shortened(name: str) -> Iterator[str]:
    """The path without more and more of its first folders, at last without an upload's prefix of its name."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for i in range(len(parts)):
        yield "/".join(parts[i:])
    if parts and len(parts[-1]) > _PREFIX and parts[-1][_PREFIX - 1] == "-":
        yield parts[-1][_PREFIX:]


def _labelled(record: Record, task: dict[str, Any], labels: Mapping[str, int], faults: list[Fault]) -> Record:
    """The record with an annotation for each region; what is wrong with one is noted."""
    assert record.height is not None
    assert record.width is not None
    annotations: list[dict[str, Any]] = []
    said: list[str] = []
    for number, region in _regions_of(task, said):
        name = region.labels[0] if region.labels else None
        try:
            if name is None or name not in labels:
                raise SegmentationError("undeclared category", f"its label is {shorten(name)}")
            found = segmentation(region.result, record.height, record.width)
        except SegmentationError as error:
            faults.append(shape_fault(error, "region", record.image_id, number))
            continue
        common = {"id": len(annotations) + 1, "label": labels[name], "category_id": labels[name]}
        annotations.append({**common, **said_of(region.result), "segmentation": found})
    faults += [Fault("bad region", text, record.image_id) for text in said]
    return replace(record, annotations=tuple(annotations))


FORMAT = Format(
    "label_studio",
    find,
    ("instance",),
    "label_studio_{part}.json, {part}.json with tasks, for training also project-*.json (Label Studio)",
)
