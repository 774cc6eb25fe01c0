"""Image files of a data set: unreadable, of another size than labelled, there twice, in both parts.

Two images are one where their files have the same bytes or, decoded, the same pixels, as of a photo saved as
PNG or a file whose metadata was changed. What is not found is `NOT_FOUND`. Called by `gdseg data inspect`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gdseg.data.dataset import Dataset
from gdseg.data.images import find_file, image_size, read_image
from gdseg.data.inspect import Tell, files_of, silent
from gdseg.data.part import Fault
from gdseg.errors import DataError
from gdseg.files import file_sha256, tail_sha256
from gdseg.structures import Record

NOT_FOUND = "copies that were resized, cropped, turned or compressed anew with loss"
LEAK, COPY = "training image in val", "identical image"
_CHUNK = 256  # files handed to the threads at once, so that an interrupt is heard
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@dataclass(eq=False)
class _File:
    """One image file that could be read: its (height, width), and a digest that equal files share."""

    part: str
    record: Record
    size: tuple[int, int]
    digest: str

    def __str__(self) -> str:
        return f"{self.record.path.name} (image {self.record.image_id} of {self.part})"


def inspect_files(dataset: Dataset, *, pixels: bool = True, tell: Tell = silent) -> list[Fault]:
    """The faults of the image files of both parts.

    pixels: decode them all, which takes longest, to compare them and to find those cut off. tell: the
    files done, and to do, in the pass over them that is going on.
    """
    records = [("train", r) for r in dataset.train] + [("val", r) for r in dataset.val]
    looked = list(_in_threads(_look, records, tell))
    faults = [each for each in looked if isinstance(each, Fault)]
    files = [each for each in looked if isinstance(each, _File)]
    faults += [fault for file in files for fault in _wrong_size(file)]
    doubtful = [file for group in _groups(files, (file.digest for file in files)) for file in group]
    same = _groups(doubtful, _in_threads(_bytes, doubtful, tell))
    faults += [fault for group in same for fault in _copies(group, "its file is that of")]
    if pixels:
        later = {file for group in same for file in group if file is not _kept(group)}
        firsts = [file for file in files if file not in later]
        decoded = list(_in_threads(_pixels, firsts, tell))
        faults += [each for each in decoded if isinstance(each, Fault)]
        same = _groups(firsts, (None if isinstance(each, Fault) else each for each in decoded))
        faults += [fault for group in same for fault in _copies(group, "its pixels are those of")]
    return faults


def _in_threads(work: Callable[[_Item], _Found], items: Sequence[_Item], tell: Tell) -> Iterator[_Found]:
    """work(item) of each, in order."""
    threads = min(16, 2 * (os.cpu_count() or 1))
    # readers silence warnings each for itself, which threads could undo in the wrong order
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), _CHUNK):
            yield from pool.map(work, items[start : start + _CHUNK])
            tell(min(start + _CHUNK, len(items)), len(items))


def _look(item: tuple[str, Record]) -> _File | Fault | None:
    part, record = item
    if find_file(record.path.parent, record.path.name) is None:  # noted when the labels were read
        return None
    try:
        size = image_size(record.path)
        digest = tail_sha256(record.path)
    except (DataError, OSError) as error:
        return _unreadable(error.what if isinstance(error, DataError) else str(error.strerror), part, record)
    return _File(part, record, size, digest)


def _unreadable(why: str, part: str, record: Record) -> Fault:
    text = f"{why} ({record.path})"
    return Fault("unreadable image", text, record.image_id, part=part, files=files_of(record))


def _wrong_size(file: _File) -> Iterator[Fault]:
    record, (height, width) = file.record, file.size
    if file.size != (record.height, record.width):
        text = f"{record.path.name} is {width} x {height}, the labels say {record.width} x {record.height}"
        yield Fault("wrong image size", text, record.image_id, part=file.part, files=files_of(record))


def _groups(files: Iterable[_File], keys: Iterable[object]) -> list[list[_File]]:
    """The files of equal keys, where there are several; None is equal to nothing."""
    groups: dict[object, list[_File]] = {}
    for file, key in zip(files, keys, strict=True):
        groups.setdefault(key, []).append(file)
    return [group for key, group in groups.items() if len(group) > 1 and key is not None]


def _bytes(file: _File) -> str | None:
    """A digest of the whole file; None if it cannot be read any more."""
    try:
        return file_sha256(file.record.path)
    except OSError:
        return None


def _pixels(file: _File) -> bytes | Fault:
    """A digest of the decoded image."""
    try:
        image = np.ascontiguousarray(read_image(file.record.path, None).numpy())
    except DataError as error:
        return _unreadable(error.what, file.part, file.record)
    digest = hashlib.sha256(repr((image.shape, image.dtype)).encode())
    digest.update(image.data)
    return digest.digest()


def _kept(group: Sequence[_File]) -> _File:
    """The one of a group that stays: an image of val, else the first."""
    return next((file for file in group if file.part == "val"), group[0])


def _copies(group: Sequence[_File], how: str) -> Iterator[Fault]:
    """All but one of a group: training images that val has too, and copies in one part."""
    kept = _kept(group)
    for file in group:
        if file is kept:
            continue
        kind, image_id = (LEAK if file.part != kept.part else COPY), file.record.image_id
        files = files_of(file.record)
        yield Fault(kind, f"{how} {kept}", image_id, harmless=kind == COPY, part=file.part, files=files)
