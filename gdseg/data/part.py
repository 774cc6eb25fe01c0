"""What every reader of a format returns: the records of one part of a data set, its classes, its faults.

A format is one small module with a `FORMAT`, listed in `dataset.py`. A reader opens no more of an image
than its header; pixels are read when a sample is made (label_maps.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gdseg.data.images import image_size
from gdseg.data.rle import SegmentationError, shorten
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Record

WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a data set. `kind` groups faults; harmless ones are repaired or left out.

    part: "train" or "val", where it is known; files: those without which the fault would be gone.
    """

    kind: str
    text: str
    image_id: int | str | None = None
    annotation_id: int | str | None = None
    harmless: bool = False
    part: str | None = None
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """Kind, where, what."""
        places = [("image", self.image_id), ("annotation", self.annotation_id)]
        where = ", ".join(f"{name} {shorten(value)}" for name, value in places if value is not None)
        return f"{self.kind}: {where + ': ' if where else ''}{self.text}"


@dataclass
class Part:
    """One part of a data set ("train" or "val"). `table[label]` describes the class of a label.

    `path`: the file or folder of its labels.
    """

    path: Path
    records: list[Record]
    table: list[ClassInfo]
    faults: list[Fault] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return [c.name for c in self.table]

    @property
    def category_ids(self) -> list[int]:
        """The user's class ids by label."""
        return [c.id for c in self.table]

    def without_faults(self, root: Path) -> Part:
        """The part itself. Raises DataError if it has faults that would make training wrong."""
        serious = [fault for fault in self.faults if not fault.harmless]
        if serious:
            kinds = Counter(fault.kind for fault in serious)
            counts = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
            hint = f"run 'gdseg data inspect {root}' for all of them"
            raise DataError(f"{counts}; first: {serious[0]}", self.path, hint)
        return self


Source = Callable[[], Part]  # what a format found; calling it reads


@dataclass(frozen=True)
class Format:
    """A format: `find(root, part, data keys, task)` is None where the folder does not hold it.

    tasks: those it has labels for. looked_for: what `find` looks for, for error messages, with
    "{part}" ("train", "val") and "{word}" ("training", "validation") in it.
    """

    name: str
    find: Callable[[Path, str, Data, str], Source | None]
    tasks: tuple[str, ...]
    looked_for: str


def label_names(data: Data, part: str, patterns: Sequence[str]) -> list[str]:
    """The paths below the root where a part's labels may be: the key's alone, else the patterns' for it."""
    given = data.train if part == "train" else data.val
    return [given] if given else [p.format(word) for word in WORDS[part] for p in patterns]


def size_or_fault(path: Path, image_id: int | str, faults: list[Fault]) -> tuple[int, int] | None:
    """(height, width) of an image from its header; None, and a fault, where it cannot be read."""
    try:
        return image_size(path)
    except DataError as error:
        faults.append(Fault("unreadable image", f"{error.what} ({path})", image_id))
        return None


def shape_fault(error: SegmentationError, word: str, image_id: int | str | None, number: int) -> Fault:
    """What is wrong with shape (word) `number` of an image, as a tool drew it; an empty one is harmless."""
    return Fault(error.kind, f"{word} {number}: {error}", image_id, number, error.kind == "empty object")


def kept_classes(classes: Sequence[ClassInfo], task: str) -> list[ClassInfo]:
    """The classes a task has: instance knows things only."""
    return [c for c in classes if c.is_thing or task != "instance"]
