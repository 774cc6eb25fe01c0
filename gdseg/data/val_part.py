"""A folder of labels without a validation part made into one with both; images and maps are hard links.

For `gdseg data split --val-share`. What comes out is found by looking: COCO (instances or panoptic, what else
the json has as it was), or images/ and annotations/ of label maps with classes.json.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gdseg.data.coco import read_json
from gdseg.data.dataset import Dataset
from gdseg.data.inspect import Tell, silent
from gdseg.errors import UsageError
from gdseg.files import link, write_json
from gdseg.structures import ClassInfo, Record

Item = dict[str, Any]


def make_val_part(dataset: Dataset, val_ids: Sequence[int | str], target: Path, tell: Tell = silent) -> None:
    """Write a data set with the training images of `dataset`, those of `val_ids` as its validation part.

    Raises UsageError for a target that holds something, and for labels of other formats.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("there is something in the folder", target, "name a new one with --out")
    chosen, source = set(val_ids), dataset.train_json
    parts = {
        "train": [r for r in dataset.train if r.image_id not in chosen],
        "val": [r for r in dataset.train if r.image_id in chosen],
    }
    if source is not None and source.is_file() and source.suffix == ".json":
        links = list(_coco(source, parts, target))
    elif all(_is_plain(record, dataset.task) for record in dataset.train):
        links = list(_maps(parts, target))
        write_json(target / "classes.json", [_declared(info) for info in dataset.table])
    else:
        what = "only COCO json and folders of semantic label maps can be divided so"
        raise UsageError(what, dataset.root, "make COCO of it first, with 'gdseg data convert'")
    for number, (path, place) in enumerate(links, 1):
        link(path, place)
        tell(number, len(links))


def _coco(source: Path, parts: dict[str, list[Record]], target: Path) -> Iterator[tuple[Path, Path]]:
    """Write both json files; the (file, its place) of images and PNGs."""
    content = read_json(source)
    panoptic = any("segments_info" in item for item in content["annotations"][:1])
    kind = "panoptic" if panoptic else "instances"
    for part, records in parts.items():
        by_id = {record.image_id: record for record in records}
        images = [_renamed(item) for item in content["images"] if item["id"] in by_id]
        annotations = [item for item in content["annotations"] if item["image_id"] in by_id]
        if panoptic:
            annotations = [_renamed(item) for item in annotations]
        path = target / "annotations" / f"{kind}_{part}.json"
        write_json(path, {**content, "images": images, "annotations": annotations}, indent=None)
        for image in images:
            yield by_id[image["id"]].path, target / part / image["file_name"]
        for item in annotations if panoptic else ():
            label_map = by_id[item["image_id"]].label_map
            assert label_map is not None
            yield label_map.path, path.with_suffix("") / item["file_name"]


def _renamed(item: Item) -> Item:
    """An image or a PNG with a file_name that stays in its folder: its own, or its last part and a hash."""
    path = PurePosixPath(item["file_name"])
    if not path.is_absolute() and ".." not in path.parts:
        return item
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return {**item, "file_name": f"{digest}-{path.name}"}


def _is_plain(record: Record, task: str) -> bool:
    """Whether the values of a label map alone say the class of each pixel."""
    label_map = record.label_map
    return (
        task == "semantic"
        and label_map is not None
        and label_map.codes is not None
        and label_map.class_of is None
        and label_map.below is None
    )


def _maps(parts: dict[str, list[Record]], target: Path) -> Iterator[tuple[Path, Path]]:
    for part, records in parts.items():
        for record in records:
            assert record.label_map is not None
            name, maps = str(record.image_id), target / "annotations" / part
            yield record.path, target / "images" / part / f"{name}{record.path.suffix}"
            yield record.label_map.path, maps / f"{name}{record.label_map.path.suffix}"


def _declared(info: ClassInfo) -> Item:
    colour = {"color": list(info.colour)} if info.colour else {}
    return {"id": info.id, "name": info.name, "isthing": int(info.is_thing), **colour}
