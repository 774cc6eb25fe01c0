"""From the parts of `gdseg pseudo-label` to its files, one image in memory at a time, and what they hold.

Called by cli/pseudo_label.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from gdseg.data.images import read_image
from gdseg.data.rle import boxes_of
from gdseg.eval.label_truth import LabelTruth
from gdseg.files import plain, replace_file
from gdseg.models.checkpoint import Network
from gdseg.structures import Predictions
from gdseg.train.label_entry import Entry
from gdseg.train.label_parts import Parts
from gdseg.view.draw import displayable
from gdseg.view.sheets import Sheet


def write_document(
    parts: Parts, info: dict[str, Any], classes: Sequence[str], category_ids: Sequence[int], target: Path
) -> None:
    """The COCO json of all entries, as `coco_json.coco_document` makes it. Raises MachineError."""
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, classes, strict=True)]

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write('{"info": ' + _text(info))
            _write_list(file, "images", _images(parts))
            _write_list(file, "annotations", _annotations(parts))
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

    def add(self, entry: Entry, found: Predictions | None) -> None:
        """Count an image; found: its labels, None where it is left out or could not be read."""
        if "failed" in entry:
            self.failed.append((entry["n"], entry["failed"]))
            return
        self.best = max(self.best, entry["best"])
        self.left_out += found is None
        if found is None:
            return
        self.done += 1
        names = [found.names[label] for label in found.labels.tolist()]
        self.objects.update(names)
        self.images.update(set(names))
        for name, score in zip(names, found.scores.tolist(), strict=True):
            self.scores[name] += score


def summarise(
    parts: Parts, network: Network, paths: Sequence[Path], sheet: Sheet, truth: LabelTruth | None
) -> Summary:
    """Go through all entries: count them, judge them, and put what is to be shown on the sheet."""
    summary = Summary()
    for entry in parts.entries():
        found = _found(entry, entry["annotations"], network) if "image" in entry else None
        summary.add(entry, found)
        if found is None:
            continue
        if truth is not None:
            truth.add_objects(entry["n"], found)
        if "below" in entry:
            path = paths[entry["n"]]
            below = _found(entry, entry["below"], network)
            caption = f"{path.name}: {len(found)} kept, {len(below)} below"
            pixels = displayable(read_image(path, network.recipe.backbone.in_channels))
            sheet.add(pixels, found, caption, dropped=below)
    return summary


def _found(entry: Entry, annotations: Sequence[Entry], network: Network) -> Predictions:
    """The annotations of an entry as Predictions."""
    size = entry["image"]["height"], entry["image"]["width"]
    rles = [
        {"size": list(size), "counts": annotation["segmentation"]["counts"].encode()}
        for annotation in annotations
    ]
    labels = [network.category_ids.index(annotation["category_id"]) for annotation in annotations]
    return Predictions(
        entry["n"],
        size,
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor([annotation["score"] for annotation in annotations], dtype=torch.float32),
        boxes_of(rles),
        rles,
        network.classes,
    )
