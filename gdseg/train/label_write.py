"""From the parts of `gdseg pseudo-label` to its files, one image in memory at a time, and what they hold.

Called by cli/pseudo_label.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from pycocotools import mask as coco_mask

from gdseg.data.images import read_image
from gdseg.data.label_maps import read_ids
from gdseg.data.rle import boxes_of, to_rle
from gdseg.eval.label_truth import LabelTruth
from gdseg.files import plain, replace_file
from gdseg.map_writers import coco_categories
from gdseg.models.checkpoint import Network
from gdseg.structures import Predictions
from gdseg.train.label_entry import Entry
from gdseg.train.label_parts import Parts
from gdseg.view.draw import displayable
from gdseg.view.sheets import Sheet


def write_document(parts: Parts, info: dict[str, Any], network: Network, target: Path) -> None:
    """The json of all entries. Raises MachineError.

    COCO as `coco_json.coco_document` makes it, COCO panoptic as `map_writers.panoptic_document`; of semantic
    maps their files and regions.
    """
    task = network.recipe.task
    categories: list[dict[str, Any]] = coco_categories(network.table)
    if task == "instance":
        named = zip(network.category_ids, network.classes, strict=True)
        categories = [{"id": i, "name": name} for i, name in named]
    annotations = _annotations(parts) if task == "instance" else _maps(parts)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write('{"info": ' + _text(info))
            _write_list(file, "images", _images(parts))
            _write_list(file, "maps" if task == "semantic" else "annotations", annotations)
            file.write(', "categories": ' + _text(categories) + "}\n")

    replace_file(target, write)


def _write_list(file: TextIO, name: str, items: Iterable[Any]) -> None:
    file.write(f', "{name}": [')
    for number, item in enumerate(items):
        file.write((", " if number else "") + _text(item))
    file.write("]")


def _text(value: Any) -> str:
    return json.dumps(plain(value), allow_nan=False)


def labelled(parts: Parts) -> Iterator[Entry]:
    """The entries of images that are in the document."""
    return (entry for entry in parts.entries() if "image" in entry)


def _images(parts: Parts) -> Iterator[Entry]:
    return ({"id": number, **entry["image"]} for number, entry in enumerate(labelled(parts), 1))


def _annotations(parts: Parts) -> Iterator[Entry]:
    count = 0
    for number, entry in enumerate(labelled(parts), 1):
        for annotation in entry["annotations"]:
            count += 1
            yield {"id": count, "image_id": number, **annotation}


def _maps(parts: Parts) -> Iterator[Entry]:
    return ({"image_id": number, **e["annotation"]} for number, e in enumerate(labelled(parts), 1))


@dataclass
class Summary:
    """What the labels hold: of each class the objects, the images with some, and the sum of their scores.

    done: images in the document; left_out: by the keep rule; failed: numbers and reasons; best: class score
    of anything seen, kept or not.
    """

    done: int = 0
    left_out: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    objects: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    scores: Counter[str] = field(default_factory=Counter)
    best: float = 0.0

    def add(self, entry: Entry, names: Mapping[int, str]) -> None:
        """Count an image; names: of the classes, by id."""
        if "failed" in entry:
            self.failed.append((entry["n"], entry["failed"]))
            return
        self.best = max(self.best, entry["best"])
        self.left_out += "left_out" in entry
        if "image" not in entry:
            return
        self.done += 1
        segments = entry["annotation"]["segments_info"] if "annotation" in entry else entry["annotations"]
        self.images.update({names[segment["category_id"]] for segment in segments})
        for segment in segments:
            name = names[segment["category_id"]]
            self.objects[name] += 1
            self.scores[name] += segment["score"]


def summarise(
    parts: Parts, network: Network, paths: Sequence[Path], sheet: Sheet, truth: LabelTruth | None
) -> Summary:
    """Go through all entries: count them, judge them, and put what is to be shown on the sheet."""
    summary, names = Summary(), dict(zip(network.category_ids, network.classes, strict=True))
    for entry in parts.entries():
        summary.add(entry, names)
        if "annotation" in entry:
            _look_at_map(entry, parts.maps, network, paths, sheet, truth)
        elif "annotations" in entry:
            _look_at_objects(entry, network, paths, sheet, truth)
    return summary


def _look_at_objects(
    entry: Entry, network: Network, paths: Sequence[Path], sheet: Sheet, truth: LabelTruth | None
) -> None:
    found = _found(entry, entry["annotations"], network)
    if truth is not None:
        truth.add_objects(entry["n"], found)
    if "below" in entry:
        path, below = paths[entry["n"]], _found(entry, entry["below"], network)
        pixels = displayable(read_image(path, network.recipe.backbone.in_channels))
        sheet.add(pixels, found, f"{path.name}: {len(found)} kept, {len(below)} below", dropped=below)


def _look_at_map(
    entry: Entry, maps: Path, network: Network, paths: Sequence[Path], sheet: Sheet, truth: LabelTruth | None
) -> None:
    if truth is None and "shown" not in entry:
        return
    ids, segments = read_ids(maps / entry["annotation"]["file_name"]), entry["annotation"]["segments_info"]
    labels = {segment["id"]: network.category_ids.index(segment["category_id"]) for segment in segments}
    if truth is not None:
        truth.add_map(entry["n"], ids, labels)
    if "shown" in entry:
        path = paths[entry["n"]]
        masks = [to_rle(ids == value) for value in labels]
        scores = [segment["score"] for segment in segments]
        found = _predictions(entry, [*labels.values()], scores, masks, network)
        unsure = to_rle(~np.isin(ids, [*labels]))
        share = float(coco_mask.area(unsure)) / ids.size
        pixels = displayable(read_image(path, network.recipe.backbone.in_channels))
        ignored = _predictions(entry, [-1], [float("nan")], [unsure], network)
        caption = f"{path.name}: {len(found)} kept, {share:.0%} of no class"
        sheet.add(pixels, found, caption, ignored if share else None)


def _found(entry: Entry, annotations: Sequence[Entry], network: Network) -> Predictions:
    """The annotations of an entry as Predictions."""
    size = entry["image"]["height"], entry["image"]["width"]
    rles = [
        {"size": list(size), "counts": annotation["segmentation"]["counts"].encode()}
        for annotation in annotations
    ]
    labels = [network.category_ids.index(annotation["category_id"]) for annotation in annotations]
    return _predictions(entry, labels, [annotation["score"] for annotation in annotations], rles, network)


def _predictions(
    entry: Entry, labels: list[int], scores: list[float], rles: list[dict[str, Any]], network: Network
) -> Predictions:
    return Predictions(
        entry["n"],
        (entry["image"]["height"], entry["image"]["width"]),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32),
        boxes_of(rles),
        rles,
        network.classes,
    )
