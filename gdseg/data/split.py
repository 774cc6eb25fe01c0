"""Which training images count as labelled: seeded nested splits, or ids from a file.

One order of all images a seed: each id goes by the hash of seed and id, so that 1 % is part of 5 % is
part of 10 %, whatever the order in the json, the platform or the library versions. Saved with its
sha256 as split.json in every run; lists of others: split_lists.py. Called by train and `gdseg data split`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

from gdseg.data.split_lists import read_list
from gdseg.errors import DataError, UsageError
from gdseg.files import write_json
from gdseg.recipe import Data
from gdseg.structures import Record
from gdseg.words import counted


@dataclass(frozen=True)
class Split:
    """The labelled images. `sha256` is of the sorted ids; seed and ratio are None for ids from a file.

    source: "ratio", "count" or a file's path; stratified: whether the order was `stratify.stratified_order`.
    """

    ids: tuple[int | str, ...]
    sha256: str
    source: str
    seed: int | None = None
    ratio: float | None = None
    stratified: bool = False


def choose_split(records: Sequence[Record], data: Data, seed: int) -> Split:
    """The labelled part of the training records that the recipe asks for: `data.split`, else `data.ratio`."""
    return load_split(Path(data.split), records) if data.split else split_by_ratio(records, data.ratio, seed)


def random_order(records: Sequence[Record], seed: int) -> list[int | str]:
    """The ids of all images in the order in which a seed takes them."""
    return sorted((r.image_id for r in records), key=lambda i: (_hash(f"{seed}:{i!r}"), repr(i)))


def split_by_ratio(
    records: Sequence[Record], ratio: float, seed: int, order: Sequence[int | str] | None = None
) -> Split:
    """A share of the images, drawn without replacement; a smaller ratio gives a part of a larger one's.

    The count is ratio * images, rounded half up; order: of all ids, in place of the random one. Raises
    UsageError for a ratio outside (0, 1] and DataError when it leaves no image.
    """
    if not 0 < ratio <= 1:
        raise UsageError(
            f"the ratio is {ratio}, it must lie in (0, 1]",
            "--ratio, data.ratio",
            "0.1 uses 10 % of the labels",
        )
    count = int(Fraction(str(ratio)) * len(records) + Fraction(1, 2))  # exact: 0.29 * 50 is 14.5
    if not count:
        what = f"a ratio of {ratio} of {counted(len(records), 'training image')} leaves none"
        raise DataError(what, "--ratio, data.ratio", f"use at least {1 / max(len(records), 1):.2g}")
    first = (order or random_order(records, seed))[:count]
    return _split(first, "ratio", seed, ratio, stratified=order is not None)


def split_by_count(
    records: Sequence[Record], count: int, seed: int, order: Sequence[int | str] | None = None
) -> Split:
    """As `split_by_ratio`, for a number of images. Raises DataError where there are not as many."""
    if not 0 < count <= len(records):
        what = f"{count} of {len(records)} training images cannot be chosen"
        raise DataError(what, "--count", f"use 1 to {len(records)}")
    first = (order or random_order(records, seed))[:count]
    return _split(first, "count", seed, stratified=order is not None)


def _split(
    ids: Sequence[int | str],
    source: str,
    seed: int | None = None,
    ratio: float | None = None,
    *,
    stratified: bool = False,
) -> Split:
    ordered = sorted(ids, key=lambda i: (isinstance(i, str), i))
    return Split(tuple(ordered), _hash(json.dumps(ordered)), source, seed, ratio, stratified)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def save_split(split: Split, path: Path) -> None:
    """Write split.json, whole or not at all. Raises MachineError."""
    write_json(path, asdict(split))


def load_split(
    path: Path, records: Sequence[Record], entry: str | None = None, named_by: str = "--split (data.split)"
) -> Split:
    """A split from split.json, or from a list of another's making; entry: see `split_lists.read_list`.

    named_by: where the user named the file, for the error message.
    Raises DataError for an unreadable file, an unknown image, no image at all, or a changed split.json.
    """
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DataError(f"cannot read the split: {reason}", path, f"check {named_by}") from error
    split = _split(read_list(text, path, records, entry), str(path))
    if not text.lstrip().startswith("{"):
        return split
    content = json.loads(text)
    seed, ratio, stratified = (content.get(name) for name in ("seed", "ratio", "stratified"))
    if content.get("sha256") not in (None, split.sha256):
        raise DataError(
            "the ids of the split do not fit its sha256", path, "it was edited: remove the line sha256"
        )
    return replace(
        split,
        seed=seed if type(seed) is int else None,
        ratio=ratio if isinstance(ratio, float | int) else None,
        stratified=stratified is True,
    )
