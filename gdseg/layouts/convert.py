"""A data set of any format that gdseg reads, written in another one. Called by `gdseg data convert`.

Readers say what a poorer task sees of richer labels (things of a panoptic map), so a layout asks for the task
whose labels it holds. Everything is written in a folder of its own first: `out` is whole or not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gdseg.data.dataset import Dataset, has_part, open_dataset
from gdseg.data.inspect import files_of
from gdseg.errors import DataError, UsageError
from gdseg.files import replace_folder
from gdseg.layouts.cityscapes import write_cityscapes
from gdseg.layouts.coco import write_coco, write_lvis
from gdseg.layouts.cvat import write_cvat
from gdseg.layouts.job import Job
from gdseg.layouts.label_studio import write_label_studio
from gdseg.layouts.labelme import write_labelme_folder
from gdseg.layouts.maps import write_coco_panoptic, write_semantic_folders
from gdseg.layouts.voc import write_voc
from gdseg.layouts.yolo import write_yolo_folders
from gdseg.recipe import Data
from gdseg.runs import refuse_non_empty


class Layout(NamedTuple):
    """The task whose labels a layout holds, and what writes a part of a data set in it."""

    task: str
    write: Callable[[Job], None]


TASKS = ("panoptic", "instance", "semantic")
LAYOUTS = {
    "coco": Layout("instance", write_coco),
    "lvis": Layout("instance", write_lvis),
    "yolo": Layout("instance", write_yolo_folders),
    "labelme": Layout("instance", write_labelme_folder),
    "cvat": Layout("instance", write_cvat),
    "label_studio": Layout("instance", write_label_studio),
    "voc": Layout("instance", write_voc),
    "coco_panoptic": Layout("panoptic", write_coco_panoptic),
    "cityscapes": Layout("panoptic", write_cityscapes),
    "semantic": Layout("semantic", write_semantic_folders),
}

_ENTRIES = {  # of the folders that LAYOUTS write
    *("annotations", "train", "val", "images", "labels", "data.yaml", "labels.txt", "classes.json"),
    *("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets", "labelmap.txt"),
    *("leftImg8bit", "gtFine"),
    *("annotations_train.xml", "annotations_val.xml", "labels_train.json", "labels_val.json"),
    *("label_studio_train.json", "label_studio_val.json", "label_config.xml"),
}


@dataclass
class Summary:
    """What was written: images, objects and crowds of each part; notes: what the layout could not hold."""

    out: str
    format: str
    task: str
    classes: int
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


def convert(
    data: Data,
    out: Path,
    to: str,
    how: str = "link",
    progress: Callable[[int, int], None] | None = None,
    *,
    overwrite: bool = False,
) -> Summary:
    """Write the data set that `data` names into the new folder `out` in the layout `to`, one of LAYOUTS.

    Parts that are not there are left out. how: see `Job`. progress: called with images done and in all.
    overwrite: a converted data set in `out` is replaced once the new one is whole. Raises UsageError for a
    folder that lies in the data set, is not empty, or holds anything but a converted data set; DataError as
    `open_dataset` and for faulty label maps, MachineError when writing fails; then `out` is as it was.
    """
    layout = LAYOUTS[to]
    refuse_non_empty(out, overwrite=overwrite)
    dataset = _open(data, layout.task)
    if out.resolve().is_relative_to(dataset.root.resolve()):
        raise UsageError("--out lies in the data set, which is left as it is", out, "name a folder beside it")
    if out.is_dir() and any(out.iterdir()):
        _refuse_to_replace(out, dataset)
    summary = Summary(str(out), to, layout.task, len(dataset.classes))
    tell = progress or (lambda done, total: None)
    replace_folder(out, lambda folder: _write(dataset, layout, folder, how, summary, tell))
    return summary


def _refuse_to_replace(out: Path, dataset: Dataset) -> None:
    """Raise UsageError unless `out` holds a data set, nothing else, and no file that `dataset` is made of."""
    if not any(_holds(out, part, task) for part in ("train", "val") for task in TASKS):
        what = "--overwrite replaces data sets only, this folder is none"
        raise UsageError(what, out, "name another --out")
    others = sorted(path for path in out.iterdir() if path.name not in _ENTRIES)
    if others:
        what = "--overwrite replaces converted data sets only, this is no part of one"
        raise UsageError(what, others[0], "move it elsewhere or name another --out")
    own = [dataset.root, *(file for r in dataset.train + dataset.val for file in files_of(r))]
    own += [path for path in (dataset.train_json, dataset.val_json) if path]
    if any(path.resolve().is_relative_to(out.resolve()) for path in own):
        raise UsageError("the data set has files in --out, which would be lost", out, "name another --out")


def _holds(folder: Path, part: str, task: str) -> bool:
    try:
        return has_part(Data(root=str(folder)), part, task)
    except DataError:  # a json that is no data set
        return False


def _open(data: Data, task: str) -> Dataset:
    parts = ("train", "val")
    there = [part for part in parts if has_part(data, part, task)]
    if not there:  # opening a part says what was looked for, and which other labels it has
        there = [part for part in parts if any(has_part(data, part, other) for other in TASKS)][:1] or [
            "train"
        ]
    return open_dataset(data, there, task=task)


def _write(
    dataset: Dataset,
    layout: Layout,
    folder: Path,
    how: str,
    summary: Summary,
    progress: Callable[[int, int], None],
) -> None:
    total, done = len(dataset.train) + len(dataset.val), Counter[str]()

    def tell() -> None:
        done["images"] += 1
        progress(done["images"], total)

    notes: Counter[str] = Counter()
    for part, records in (("train", dataset.train), ("val", dataset.val)):
        if records:
            job = Job(part, records, dataset.table, layout.task, folder, how, tell, notes=notes)
            layout.write(job)
            summary.parts[part] = {name: job.counts[name] for name in ("images", "objects", "crowds")}
    summary.notes = dict(notes)
