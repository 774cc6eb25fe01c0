"""How much of what `gdseg pseudo-label` wrote is right, where a file or folder says the truth of its images.

Objects count by COCO's matching at IoU 0.5 (matching.py), segments as for panoptic quality, semantic maps
pixel by pixel (pseudo_quality.py). An image and its truth are of one name: that of the truth, with the
folders it has, ends the image's path. Called by cli/pseudo_label.py and train/label_write.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdseg.data import coco_panoptic
from gdseg.data.coco import read_content, read_json
from gdseg.data.label_maps import read_regions
from gdseg.data.map_folders import list_maps
from gdseg.data.part import Part
from gdseg.errors import DataError
from gdseg.eval.matching import Tally, overlaps
from gdseg.eval.panoptic import Truth
from gdseg.eval.pseudo_quality import Sweep
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Code, LabelMap, Predictions, Record

_HINT = "the truth's file names, with their folders, must end the images' paths"


@dataclass
class LabelTruth:
    """The records of some of the images, by the images' number, and what was counted so far.

    Labels are the network's. `other_size`: numbers of the images that have not the size the truth says.
    """

    records: dict[int, Record]
    task: str
    num_classes: int
    other_size: list[int] = field(default_factory=list)
    counted: Sweep = field(init=False)

    def __post_init__(self) -> None:
        self.counted = Sweep([0.0], self.num_classes)

    @property
    def tally(self) -> Tally:
        """Right, wrong and missed ones of each class."""
        return self.counted.tallies[0]

    @property
    def measure(self) -> str:
        """What is counted, for a table's title."""
        return {
            "instance": "objects, right at IoU 0.5; precision and recall, %",
            "panoptic": "segments, right above IoU 0.5; precision and recall, %",
            "semantic": "pixels; precision and recall, %",
        }[self.task]

    @property
    def judged(self) -> int:
        """Images judged so far."""
        return self.counted.judged

    def add_objects(self, n: int, found: Predictions) -> None:
        """Judge the objects found in image n; without a truth nothing is counted."""
        record = self._record(n, found.size)
        if record is None:
            return
        image, chosen = overlaps(found, record), np.ones(len(found), dtype=bool)
        self.counted.add_objects(0, image, found.scores.numpy(), chosen)

    def add_map(self, n: int, ids_HW: NDArray[np.integer], labels: Mapping[int, int]) -> None:
        """Judge the map of image n; labels: of its values, others are of no class.

        Raises DataError for a true map that cannot be read.
        """
        record = self._record(n, (ids_HW.shape[0], ids_HW.shape[1]))
        if record is None:
            return
        regions = read_regions(record, self.task)
        if self.task == "panoptic":
            segments = [Truth(segment.label, segment.is_crowd) for segment in regions.segments]
            place = np.where(np.isin(ids_HW, [*labels]), ids_HW, -1)
            self.counted.add_segments(0, regions.place, segments, place, labels)
            return
        true = np.array([*(segment.label for segment in regions.segments), -1])
        found = np.full(ids_HW.shape, -1, dtype=np.int64)
        for value, label in labels.items():
            found[ids_HW == value] = label
        self.counted.add_pixels(0, true[np.where(regions.place < 0, -1, regions.place)], found)

    def _record(self, n: int, size: tuple[int, int]) -> Record | None:
        record = self.records.get(n)
        if record is None:
            return None
        if (record.height, record.width) not in (size, (None, None)):
            self.other_size.append(n)
            return None
        self.counted.judged += 1
        return replace(record, height=size[0], width=size[1])

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Precision and recall, overall and of each class, with the counts they are of; NaN: of nothing.

        Of objects also `mask_iou` and `area_ratio` of those that are right (`Fit`).
        """
        tally, fit = self.tally, self.counted.fits[0]
        masks = {"mask_iou": fit.mask_iou, "area_ratio": fit.area_ratio} if self.task == "instance" else {}
        return {
            **masks,
            "judged": self.judged,
            "precision": tally.precision(),
            "recall": tally.recall(),
            "classes": {
                name: {
                    "right": int(tally.right[label]),
                    "wrong": int(tally.wrong[label]),
                    "missed": int(tally.missed[label]),
                    "precision": tally.precision([label]),
                    "recall": tally.recall([label]),
                }
                for label, name in enumerate(classes)
            },
        }


def read_truth(
    truth: Path, task: str, images: Sequence[Path], table: Sequence[ClassInfo], ignore_label: int
) -> LabelTruth:
    """The truth of those of `images` that it names. table: the network's classes, by label.

    truth: COCO json of instances, COCO panoptic json with its PNGs, or a folder of semantic label maps whose
    values are the classes' ids. Raises DataError where it cannot be read, has other classes, names none of
    the images, or one name fits two of them.
    """
    if not truth.exists():
        raise DataError("no such file or folder", truth, "correct --truth")
    if task == "semantic":
        named = _semantic(truth, table, ignore_label)
    else:
        part = _instances(truth) if task == "instance" else _panoptic(truth)
        named = _named(part, [info.name for info in table])
    records: dict[int, Record] = {}
    taken: dict[str, Path] = {}
    for n, path in enumerate(images):
        name = _ending(path.with_suffix("") if task == "semantic" else path, named)
        if name is None:
            continue
        if name in taken:
            what = f"'{name}' of the truth fits two images: {taken[name]} and {path}"
            raise DataError(what, truth, "give file names with their folders, or label one folder at a time")
        taken[name] = path
        records[n] = named[name]
    if not records:
        shown = f"it names '{next(iter(named), '')}', the first image is {images[0]}"
        raise DataError(f"the truth names none of the images: {shown}", truth, _HINT)
    return LabelTruth(records, task, len(table))


def _ending(path: Path, named: Mapping[str, Record]) -> str | None:
    """The longest name that the path ends with, folder by folder."""
    whole = path.absolute()
    if whole.as_posix() in named:
        return whole.as_posix()
    parts = whole.parts[1:]
    return next((name for i in range(len(parts)) if (name := "/".join(parts[i:])) in named), None)


def _instances(truth: Path) -> Part:
    return read_content(read_json(truth), truth, truth.parent)


def _panoptic(truth: Path) -> Part:
    if truth.is_dir():
        raise DataError(
            "a folder, expected the json of COCO panoptic", truth, "its PNGs are looked for beside"
        )
    data = Data(train=str(truth.absolute()), train_images=str(truth.parent.absolute()))
    source = coco_panoptic.find(truth.parent, "train", data, "panoptic")
    if source is None:
        raise DataError("not a json of COCO panoptic", truth, "its annotations list segments_info")
    return source()


def _named(part: Part, classes: Sequence[str]) -> dict[str, Record]:
    """The part's records by file name, their labels those of `classes`."""
    wrong = [f for f in part.faults if not f.harmless and f.kind != "missing image file"]
    if wrong:
        raise DataError(
            f"the truth has {len(wrong)} faults; the first: {wrong[0]}", part.path, "correct them"
        )
    if sorted(part.classes) != sorted(classes):
        other = sorted(set(part.classes) ^ set(classes))
        what = f"the truth and the network have other classes; the first that one lacks: {other[0]}"
        raise DataError(what, part.path, "give labels of the network's classes")
    labels = [classes.index(name) for name in part.classes]
    return {
        record.path.relative_to(part.path.parent).as_posix()
        if record.path.is_relative_to(part.path.parent)
        else record.path.as_posix(): replace(
            record,
            annotations=tuple({**a, "label": labels[a["label"]]} for a in record.annotations or ()),
            federated=record.federated and record.federated.renumbered(labels),
        )
        for record in part.records
    }


def _semantic(truth: Path, table: Sequence[ClassInfo], ignore_label: int) -> dict[str, Record]:
    if not truth.is_dir():
        raise DataError("a file, expected a folder of label maps", truth, "name the folder of PNGs")
    codes = {info.id: Code(label, info.is_thing) for label, info in enumerate(table)}
    label_map = LabelMap(truth, codes, frozenset({ignore_label}) - codes.keys())
    maps = {path.relative_to(truth).with_suffix("").as_posix(): path for path in list_maps(truth)}
    return {
        name: Record(name, path, None, None, (), replace(label_map, path=path)) for name, path in maps.items()
    }
