"""Lists of labelled images as others write them, read as ids of a data set's images.

A text file with an id or file name a line (the Cityscapes lists of Guided Distillation and S4M); a json list
of them; a split.json of gdseg; a COCO json of the labelled part (Guided Distillation, SoftTeacher,
MMDetection); COCO_supervision.txt (Unbiased Teacher). Called by split.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gdseg.data.rle import shorten
from gdseg.errors import DataError
from gdseg.structures import Record

_HINT = "expected a split.json of gdseg, a COCO json, or a text file with one id or file name a line"


def read_list(text: str, path: Path, records: Sequence[Record], entry: str | None = None) -> list[int | str]:
    """The ids of the images that a list names, each once. entry: PERCENT/SEED of a COCO_supervision.txt.

    Raises DataError: not readable, an image that is not there or doubtful, no image at all.
    """
    content = _json(text, path) if text.lstrip()[:1] in ("{", "[") else None
    if isinstance(content, dict) and content and all(isinstance(v, dict) for v in content.values()):
        return _of_supervision(content, path, records, entry)
    if entry is not None:
        raise DataError("the file holds one split, it has no entries", path, "leave --entry away")
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        names: Sequence[Any] = [_image_name(image, path) for image in content["images"]]
    elif isinstance(content, dict):
        return _of_ids(content.get("ids"), path, records)
    elif isinstance(content, list):
        names = content
    else:
        lines = [line.strip() for line in text.splitlines()]
        names = [line for line in lines if line and not line.startswith("#")]
    if not all(type(name) in (int, str) for name in names):
        raise DataError("the split has no list of ids", path, _HINT)
    known = _known(records)
    ids = [next((known[name] for name in _readings(str(n)) if name in known), None) for n in names]
    _refuse_unknown([name for name, i in zip(names, ids, strict=True) if i is None], names, path)
    return list({i for i in ids if i is not None})


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("the split is not json", path, _HINT) from error


def _image_name(image: Any, path: Path) -> str:
    """Files have names of their own; ids may have been given anew."""
    name = image.get("file_name") if isinstance(image, dict) else None
    if not isinstance(name, str):
        raise DataError(f"an image of the json has no file_name: {shorten(image)}", path, _HINT)
    return name


def _of_ids(ids: Any, path: Path, records: Sequence[Record]) -> list[int | str]:
    if not isinstance(ids, list) or not all(type(i) in (int, str) for i in ids):
        raise DataError("the split has no list of ids", path, _HINT)
    known = {record.image_id for record in records}
    _refuse_unknown([i for i in ids if i not in known], ids, path)
    return list(set(ids))


def _of_supervision(
    content: Mapping[str, Any], path: Path, records: Sequence[Record], entry: str | None
) -> list[int | str]:
    """The images of one percentage and seed. Numbers count the images in the order of their ids.

    Unbiased Teacher (MIT, ubteacher/data/build.py) counts those that have an object, crowds aside; others
    count all. The length of the list, which is rounded down from the percentage, tells.
    """
    entries = {
        f"{percent}/{seed}": numbers for percent, seeds in content.items() for seed, numbers in seeds.items()
    }
    if entry is None or entry not in entries:
        what = "the file holds several splits" if entry is None else f"the file has no split '{entry}'"
        raise DataError(
            f"{what}: {shorten(list(entries), 200)}",
            path,
            "choose one: gdseg data split --from FILE --entry 10.0/1",
        )
    numbers = entries[entry]
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise DataError(f"the split '{entry}' is no list of numbers", path, _HINT)
    every = sorted((r.image_id for r in records), key=lambda i: (isinstance(i, str), i))
    filled = {r.image_id for r in records if any(not a["iscrowd"] for a in r.annotations or ())}
    for ids in ([i for i in every if i in filled], every):
        if _expected(entry, len(ids)) == len(numbers) and all(0 <= number < len(ids) for number in numbers):
            return [ids[number] for number in set(numbers)]
    percent, counts = entry.split("/")[0], f"{len(filled)} images with objects, nor of {len(every)}"
    what = f"{len(numbers)} images are no {percent} % of {counts}"
    raise DataError(what, path, "is it the split of another data set?")


def _expected(entry: str, images: int) -> int | None:
    try:
        return int(float(entry.split("/")[0]) / 100 * images)  # in floating point, as theirs
    except (ValueError, OverflowError):
        return None


def _known(records: Sequence[Record]) -> dict[str, int | str]:
    """The image that each name means which a list may call it by: ids, and file names that mean only one."""
    named: dict[str, set[int | str]] = {}
    for record in records:
        path, frame = record.path, str(record.image_id).rpartition("/")[2]
        for name in (path.name, path.stem, frame, f"{path.parent.name}/{path.name}"):
            named.setdefault(name, set()).add(record.image_id)
    known = {name: next(iter(ids)) for name, ids in named.items() if len(ids) == 1}
    return known | {str(record.image_id): record.image_id for record in records}


def _readings(line: str) -> Iterator[str]:
    """What a line may mean, the likeliest first.

    Itself; its first column (lists of images and label maps); the end of that path; the image whose label
    map it names (lists of Cityscapes frames).
    """
    yield line
    column = re.split(r"[\s,]", line, maxsplit=1)[0]
    parts = column.split("/")
    yield from (column, "/".join(parts[-2:]), parts[-1])
    yield re.sub(r"_(gtFine|gtCoarse)_\w+\.\w+$", "_leftImg8bit.png", parts[-1])


def _refuse_unknown(unknown: Sequence[int | str], ids: Sequence[int | str], path: Path) -> None:
    if unknown:
        what = f"{len(unknown)} of {len(ids)} images of the split are not in the training set; first: "
        raise DataError(what + shorten(unknown[0]), path, "is it the split of another data set?")
    if not ids:
        raise DataError("the split names no image", path, "one image id or file name a line")
