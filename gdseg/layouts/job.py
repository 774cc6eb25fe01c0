"""One part of a data set on its way into another layout: its images, put in place, and what was dropped.

Called by the writers of the layouts, made by convert.py.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gdseg.data.label_maps import Regions, read_regions, with_masks
from gdseg.data.label_weights import LOSS_WEIGHT, SAID, said
from gdseg.errors import DataError
from gdseg.files import link
from gdseg.structures import ClassInfo, Record
from gdseg.writers import unique_name

IMAGES = ("link", "copy", "symlink")
Rename = Callable[[PurePosixPath], PurePosixPath]


def flat(name: PurePosixPath) -> PurePosixPath:
    """The name for a layout without folders."""
    return PurePosixPath("_".join(name.parts))


@dataclass
class Job:
    """What a writer gets: the records of `part` ("train" or "val") with their classes, and the folder `out`.

    how: one of IMAGES. tell: called after each image. counts: images, objects, crowds. notes: what the layout
    cannot hold, and how often.
    """

    part: str
    records: Sequence[Record]
    table: list[ClassInfo]
    task: str
    out: Path
    how: str = "link"
    tell: Callable[[], None] = lambda: None
    counts: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def each(self, folder: str, rename: Rename = lambda name: name) -> Iterator[tuple[Record, PurePosixPath]]:
        """Each record, and its image's path in `folder` of `out`, where it has been put.

        Paths are those below the images' common folder, without "..", no two alike but for the suffix, nor
        like one that another part has put there; rename: what the layout makes of them. Raises MachineError
        when an image cannot be put there.
        """
        for record, name in zip(self.records, self._names(self.out / folder, rename), strict=True):
            link(record.path, self.out / folder / name, self.how)
            self.counts["images"] += 1
            yield record, name
            self.tell()

    def _names(self, folder: Path, rename: Rename) -> list[PurePosixPath]:
        paths = [Path(os.path.abspath(record.path)) for record in self.records]
        top = os.path.commonpath([path.parent for path in paths]) if paths else ""
        taken: dict[PurePosixPath, set[str]] = {}
        names = []
        for path in paths:
            below = rename(PurePosixPath(path.relative_to(top).as_posix()))
            if below.parent not in taken:
                taken[below.parent] = {path.stem.lower() for path in (folder / below.parent).glob("*")}
            unique = unique_name(Path(below.name), taken[below.parent])
            names.append(below.parent / f"{unique}{below.suffix}")
        return names

    def objects(self, record: Record) -> list[dict[str, Any]]:
        """A record's annotations, counted; those of a label map as masks. Raises DataError for a bad map.

        A weight that data.label_weights took is their "weight".
        """
        found = [_weighted(a) for a in with_masks(record, self.task).annotations or ()]
        for annotation in found:
            self.counts["crowds" if annotation["iscrowd"] else "objects"] += 1
        return found

    def regions(self, record: Record) -> Regions:
        """What a record's label map holds, counted. Raises DataError for a bad map."""
        found = read_regions(record, self.task)
        for segment in found.segments:
            self.counts["crowds" if segment.is_crowd else "objects"] += 1
        return found


def names_of(table: Sequence[ClassInfo], program: str, key: Callable[[str], str] = str) -> list[str]:
    """The classes' names, for a program that tells classes apart by `key` of their name.

    Raises DataError, with the names, where they are not distinct or no lines of text.
    """
    names = [info.name for info in table]
    counts = Counter(map(key, names))
    bad = [n for n in names if counts[key(n)] > 1 or not _is_line(n)]
    if bad:
        what = f"{program} knows classes by name only, and these are no distinct lines of text: {bad[:8]}"
        raise DataError(what, hint="rename the classes")
    return names


def _is_line(name: str) -> bool:
    return is_text(name) and name == name.strip() and name.splitlines() == [name]


def is_text(name: str) -> bool:
    """Whether UTF-8 can hold a name; one of a file may be any bytes."""
    return name.encode(errors="ignore").decode() == name


def _weighted(annotation: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in annotation.items() if key != LOSS_WEIGHT}
    return {**kept, "weight": annotation[LOSS_WEIGHT]} if LOSS_WEIGHT in annotation else kept


def sureness(annotation: dict[str, Any]) -> dict[str, float]:
    """The weight and the score of an annotation, as far as it has them and they are numbers."""
    found = {key: said(annotation, key) for key in SAID}
    return {
        key: float(value)
        for key, value in found.items()
        if type(value) in (int, float) and math.isfinite(value)
    }


def size_of(record: Record) -> tuple[int, int]:
    """(height, width); every reader knows them."""
    assert record.height is not None
    assert record.width is not None
    return record.height, record.width
