"""Pascal VOC's SegmentationClass and SegmentationObject. Called by convert.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdseg.data.rle import annotation_mask, shorten
from gdseg.data.voc import BACKGROUND_NAMES, CLASSES, LISTS, OBJECTS, palette_colour
from gdseg.errors import DataError
from gdseg.files import write_atomic
from gdseg.layouts.job import Job, flat, is_text, size_of
from gdseg.structures import Record
from gdseg.writers import save_picture

VOID = 255


def write_voc(job: Job) -> None:
    """JPEGImages, the two kinds of PNG, the part's list, and labelmap.txt with names and colours.

    A pixel has one object: of two the smaller one is in front. Crowds are of the value 255, which nobody
    judges. Raises DataError for more than 254 classes, and for names that labelmap.txt cannot hold.
    """
    names = [info.name for info in job.table]
    bad = [
        n
        for n in names
        if n in BACKGROUND_NAMES or n != n.strip() or n.startswith("#") or set(n) & set(":\n")
    ]
    if len(names) >= VOID or bad or len(set(names)) < len(names):
        what = f"VOC holds 254 classes of distinct plain names, not {len(names)}, as {(bad or names)[:5]}"
        raise DataError(what, hint="rename or merge classes")
    listed = []
    for record, name in job.each("JPEGImages", flat):
        if not is_text(name.stem):
            where = f"image {shorten(str(record.path), 200)}"
            raise DataError("its name is not UTF-8, which VOC's lists are", where, "rename it")
        listed.append(name.stem)
        classes, objects = _maps(record, job)
        save_picture(_picture(classes), job.out / CLASSES / f"{name.stem}.png")
        save_picture(_picture(objects), job.out / OBJECTS / f"{name.stem}.png")
    write_atomic(job.out / LISTS / f"{job.part}.txt", "".join(f"{name}\n" for name in listed))
    lines = [
        f"{name}:{','.join(map(str, palette_colour(i)))}::\n" for i, name in enumerate(["background", *names])
    ]
    write_atomic(job.out / "labelmap.txt", "".join(lines))


def _maps(record: Record, job: Job) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """The values of SegmentationClass and SegmentationObject."""
    size = size_of(record)
    classes, objects = np.zeros(size, dtype=np.uint16), np.zeros(size, dtype=np.uint16)
    found = [(annotation, annotation_mask(annotation, *size) > 0) for annotation in job.objects(record)]
    areas: dict[int, int] = {}
    for annotation, mask in sorted(found, key=lambda pair: (not pair[0]["iscrowd"], -pair[1].sum())):
        if annotation["iscrowd"]:
            job.notes["crowd regions become pixels of no class, to be ignored"] += 1
            classes[mask] = objects[mask] = VOID
        else:
            number = len(areas) + 1 + (len(areas) + 1 >= VOID)
            areas[number] = int(mask.sum())
            classes[mask], objects[mask] = annotation["label"] + 1, number
    left = dict(zip(*np.unique(objects, return_counts=True), strict=True))
    for number, area in areas.items():
        if number not in left:
            job.notes["objects that others cover are left out"] += 1
        elif left[number] < area:
            job.notes["objects lose the pixels in which they overlap a smaller one"] += 1
    return classes, objects


def _picture(values: NDArray[np.uint16]) -> Image.Image:
    """An index PNG with VOC's palette; of 16 bits where an image has more objects than a palette."""
    if values.max(initial=0) > VOID:
        return Image.fromarray(values)
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette([channel for i in range(256) for channel in palette_colour(i)])
    return picture
