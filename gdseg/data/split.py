"""Which training images count as labelled: seeded nested splits, or ids from a file.

One order of all images a seed: each id goes by the hash of seed and id, so that 1 % is part of 5 % is
part of 10 %, whatever the order in the json, the platform or the library versions. Saved with its
sha256 as split.json in every run. Called by train and `gdseg data split`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from gdseg.data.rle import shorten
from gdseg.errors import DataError, UsageError
from gdseg.files import write_json
from gdseg.recipe import Data
from gdseg.structures import Record


@dataclass(frozen=True)
class Split:
    """The labelled images. `sha256` is of the sorted ids; seed and ratio are None for ids from a file."""

    ids: tuple[int | str, ...]
    sha256: str
    source: str
    seed: int | None = None
    ratio: float | None = None


def choose_split(records: Sequence[Record], data: Data, seed: int) -> Split:
    """The labelled part of the training records that the recipe asks for: `data.split`, else `data.ratio`."""
    return load_split(Path(data.split), records) if data.split else split_by_ratio(records, data.ratio, seed)


def split_by_ratio(records: Sequence[Record], ratio: float, seed: int) -> Split:
    """A share of the images, drawn without replacement; a smaller ratio gives a part of a larger one's.

    The count is ratio * images, rounded half up. Raises UsageError for a ratio outside (0, 1] and
    DataError when it leaves no image.
    """
    if not 0 < ratio <= 1:
        raise UsageError(
            f"the ratio is {ratio}, it must lie in (0, 1]",
            "--ratio, data.ratio",
            "0.1 uses 10 % of the labels",
        )
    count = int(Fraction(str(ratio)) * len(records) + Fraction(1, 2))  # exact: 0.29 * 50 is 14.5
    if not count:
        what = f"a ratio of {ratio} of {len(records)} training images leaves none"
        raise DataError(what, "--ratio, data.ratio", f"use at least {1 / max(len(records), 1):.2g}")
    ids = sorted((record.image_id for record in records), key=lambda i: (_hash(f"{seed}:{i!r}"), repr(i)))
    return _split(ids[:count], "ratio", seed=seed, ratio=ratio)


def _split(
    ids: Sequence[int | str], source: str, seed: int | None = None, ratio: float | None = None
) -> Split:
    ordered = sorted(ids, key=lambda i: (isinstance(i, str), i))
    return Split(tuple(ordered), _hash(json.dumps(ordered)), source, seed, ratio)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def save_split(split: Split, path: Path) -> None:
    """Write split.json, whole or not at all. Raises MachineError."""
    write_json(path, asdict(split))


def load_split(path: Path, records: Sequence[Record]) -> Split:
    """A split from split.json, or from a text file with one image id or file name a line.

    Raises DataError for an unreadable file, an unknown image, no image at all, or a changed split.json.
    """
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DataError(f"cannot read the split: {reason}", path, "check --split") from error
    if text.lstrip().startswith("{"):
        return _from_json(text, path, records)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    known = _known(records)
    ids = [next((known[name] for name in _readings(line) if name in known), None) for line in lines]
    _refuse_unknown([line for line, i in zip(lines, ids, strict=True) if i is None], lines, path)
    return _split(list({i for i in ids if i is not None}), str(path))


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


def _from_json(text: str, path: Path, records: Sequence[Record]) -> Split:
    hint = "expected a split.json of gdseg, or a text file with one id a line"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("the split is not json", path, hint) from error
    ids = content.get("ids")
    if not isinstance(ids, list) or not all(type(i) in (int, str) for i in ids):
        raise DataError("the split has no list of ids", path, hint)
    known = {record.image_id for record in records}
    _refuse_unknown([i for i in ids if i not in known], ids, path)
    seed, ratio = content.get("seed"), content.get("ratio")
    split = _split(
        list(set(ids)),
        str(path),
        seed if type(seed) is int else None,
        ratio if isinstance(ratio, float | int) else None,
    )
    if content.get("sha256") not in (None, split.sha256):
        raise DataError(
            "the ids of the split do not fit its sha256", path, "it was edited: remove the line sha256"
        )
    return split


def _refuse_unknown(unknown: Sequence[int | str], ids: Sequence[int | str], path: Path) -> None:
    if unknown:
        what = f"{len(unknown)} of {len(ids)} images of the split are not in the training set; first: "
        raise DataError(what + shorten(unknown[0]), path, "is it the split of another data set?")
    if not ids:
        raise DataError("the split names no image", path, "one image id or file name a line")
