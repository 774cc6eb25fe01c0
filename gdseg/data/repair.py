"""A repaired copy of a data set, for `gdseg data inspect --fix`: without the faults found, each said.

The copy is the folder itself as hard links (copies where the file system has none), without the images that
cannot be used; json files of COCO with faults are written anew, annotations that had none as they were
(repair_coco.py, repair_panoptic.py). Nothing of the original is written to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gdseg.data.coco import read_json
from gdseg.data.coco_files import find_images
from gdseg.data.dataset import Dataset
from gdseg.data.inspect import Tell, files_of, silent
from gdseg.data.part import Fault
from gdseg.data.repair_coco import repair_instances
from gdseg.data.repair_panoptic import repair_panoptic
from gdseg.errors import DataError, UsageError
from gdseg.files import link, write_atomic
from gdseg.recipe import Data
from gdseg.structures import Record

_OF_IMAGES = (  # kinds of faults that leaving out the image repairs
    "unreadable image",
    "wrong image size",
    "missing image file",
    "bad label map",
    "missing label map",
    "training image in val",
    "identical image",
)
_PATHS = ("train", "train_images", "train_maps", "val", "val_images", "val_maps", "classes")  # keys of Data
Files = dict[Path, bytes]


def repair_dataset(
    dataset: Dataset, data: Data, faults: Sequence[Fault], target: Path, tell: Tell = silent
) -> list[Fault]:
    """Write the repaired copy into the folder `target`; returns faults with what was done about them as text.

    dataset: opened with strict=False from `data`; faults: all that inspection found. Raises UsageError for a
    target that holds something or labels that do not lie in the data set's folder, DataError where no image
    of a part is left, MachineError where it cannot write.
    """
    check_target(dataset, target)
    done, files, left_out, kept_files = list[Fault](), Files(), set[Path](), set[Path]()
    for part, path in (("train", dataset.train_json), ("val", dataset.val_json)):
        records = dataset.train if part == "train" else dataset.val
        own, notes = [fault for fault in faults if fault.part == part], list[Fault]()
        is_json = path is not None and path.is_file()
        lost = set(_leave_out_images(own, notes, left_out, bool(is_json) and dataset.task != "instance"))
        if path is not None and is_json and own:
            images = find_images(dataset.root, part, path, data)
            content = _repair_json(path, images, records, own, lost, notes, files)
            left = {item["id"] for item in content["images"]}
            files[path] = json.dumps(content).encode()
            records = [record for record in records if record.image_id in left]
        records = [record for record in records if record.image_id not in lost]
        if path is not None and not records:
            what = f"no image of {part} is without a fault that cannot be repaired; first: {own[0]}"
            raise DataError(what, path, "see them all with 'gdseg data inspect'")
        kept_files |= {file for record in records for file in files_of(record)}
        done += [replace(fault, part=part) for fault in notes]
    _mirror(dataset.root, target, files, left_out - kept_files, tell)
    return done


def check_target(dataset: Dataset, target: Path) -> None:
    """Raise UsageError unless a copy of the data set's folder into `target` is possible."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("there is something in the folder of the copy", target, "name a new folder")
    root = dataset.root.resolve()
    for path in (dataset.train_json, dataset.val_json):
        if path is not None and not path.resolve().is_relative_to(root):
            what = f"the labels {path} do not lie in the folder that is copied"
            raise UsageError(what, dataset.root, "name the folder that holds labels and images")


def relative_keys(data: Data) -> Data:
    """`data` whose keys that lead into its folder in any way are relative to it, as a copy needs them."""
    root, found = Path(data.root).expanduser(), replace(data)
    for key in _PATHS:
        if (value := getattr(data, key)) is not None:
            for plain in (os.path.realpath, os.path.abspath):  # links followed, or rather as they are written
                path, top = Path(plain(root / value)), plain(root)
                if path.is_relative_to(top):
                    setattr(found, key, str(path.relative_to(top)))
    return found


def _leave_out_images(
    faults: Sequence[Fault], notes: list[Fault], left_out: set[Path], maps_are_repaired: bool
) -> Iterator[int | str]:
    """The ids of the images that are left out; their files are added to `left_out`."""
    seen = set[int | str]()
    for fault in faults:
        of_image = fault.kind in _OF_IMAGES and not (fault.kind == "bad label map" and maps_are_repaired)
        if of_image and fault.image_id is not None:
            left_out |= set(fault.files)
            if fault.image_id not in seen:
                notes.append(replace(fault, text=f"the image is left out: {fault.text}"))
            seen.add(fault.image_id)
            yield fault.image_id
        elif fault.files and not maps_are_repaired:
            left_out |= set(fault.files)
            names = ", ".join(path.name for path in fault.files)
            notes.append(replace(fault, text=f"left out: {names}"))


def _repair_json(
    path: Path,
    images: Path,
    records: Sequence[Record],
    faults: Sequence[Fault],
    lost: set[int | str],
    notes: list[Fault],
    files: Files,
) -> dict[str, list[Any]]:
    content = read_json(path)
    if any(isinstance(item, dict) and "segments_info" in item for item in content["annotations"][:10]):
        repaired, maps = repair_panoptic(content, images, records, faults, lost, notes.append)
        files |= maps
        return repaired
    twice = {
        f.annotation_id for f in faults if f.kind == "identical annotations" and f.annotation_id is not None
    }
    return repair_instances(content, images, lost, twice, notes.append)


def _mirror(root: Path, target: Path, files: Files, left_out: set[Path], tell: Tell) -> None:
    """The folder once more as links, `files` with the content given, without `left_out`."""
    written = {_plain(path): content for path, content in files.items()}
    without = {_plain(path) for path in left_out}
    there = [path for path in _walk(root, target) if _plain(path) not in without]
    for number, path in enumerate(there, 1):
        content, place = written.get(_plain(path)), target / path.relative_to(root)
        if content is not None:
            write_atomic(place, content)
        else:
            link(path, place)
        tell(number, len(there))


def _walk(root: Path, target: Path) -> Iterator[Path]:
    """Every file under a folder, linked folders too, but no hidden ones, nor those in `target`."""
    own = target.resolve()
    for folder, below, names in os.walk(root, followlinks=True):
        here = Path(folder).resolve()
        places = {name: (here / name).resolve() for name in sorted(below) if not name.startswith(".")}
        # a link to a folder above would go round in a circle
        below[:] = [n for n, real in places.items() if real != own and not here.is_relative_to(real)]
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        yield from (path for path in files if path.is_file())


def _plain(path: Path) -> str:
    return os.path.normpath(path.absolute())
