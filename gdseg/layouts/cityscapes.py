"""Cityscapes' leftImg8bit/ and gtFine/, of labels whose classes are Cityscapes'. Called by convert.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from gdseg.data.cityscapes import CLASSES, IMAGE, OBJECTS
from gdseg.errors import DataError
from gdseg.layouts.job import Job
from gdseg.words import counted
from gdseg.writers import save_picture

_IDS = {info.name: info.id for info in CLASSES}


def write_cityscapes(job: Job) -> None:
    """leftImg8bit/PART with the images, gtFine/PART with instanceIds and labelIds, in folders as cities are.

    Pixels of no class are 0. Raises DataError for other classes than Cityscapes', and for an image with more
    than 1000 objects of one.
    """
    unknown = [info.name for info in job.table if info.name not in _IDS]
    if unknown:
        what = f"{counted(len(unknown), 'class')} that Cityscapes lacks: {unknown[:5]}"
        raise DataError(what, hint=f"its classes are {', '.join(_IDS)}")
    for record, name in job.each(f"leftImg8bit/{job.part}", lambda n: _frame(n, job.part)):
        regions, count = job.regions(record), Counter[str]()
        values = [0]  # of pixels of no class, which are number -1
        for segment in regions.segments:
            info = job.table[segment.label]
            numbered = segment.is_thing and not segment.is_crowd
            values.insert(-1, _IDS[info.name] * OBJECTS + count[info.name] if numbered else _IDS[info.name])
            count[info.name] += numbered
        if max(count.values(), default=0) > OBJECTS:
            what = f"an image has more than {OBJECTS} objects of a class"
            raise DataError(what, record.path, "use --to coco_panoptic")
        ids = np.array(values, dtype=np.uint16)[regions.place]
        labels = np.where(ids < OBJECTS, ids, ids // OBJECTS).astype(np.uint8)
        start = f"{job.out}/gtFine/{job.part}/{name.parent}/{name.stem.removesuffix(IMAGE)}_gtFine_"
        save_picture(Image.fromarray(ids), Path(f"{start}instanceIds.png"))
        save_picture(Image.fromarray(labels), Path(f"{start}labelIds.png"))


def _frame(name: PurePosixPath, part: str) -> PurePosixPath:
    """The image's path as Cityscapes would have it: in a folder, and with its ending."""
    folder = name.parent if name.parent.parts else PurePosixPath(part)
    return folder / f"{name.stem.removesuffix(IMAGE)}{IMAGE}{name.suffix}"
