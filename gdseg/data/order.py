"""In which order images are seen: a pure function of seed, stream and position, so that runs resume exactly.

Every epoch shuffles anew without replacement. Repeat-factor sampling (LVIS, arXiv 1908.03195 §B.2)
shows images of rare classes more often, with the fraction rounded at random in each epoch. Called
by data/loader.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gdseg.data.label_maps import read_regions
from gdseg.structures import Record


def rng_for(seed: int, *names: object) -> np.random.Generator:
    """A generator of its own for every seed and place (stream, epoch, position)."""
    digest = hashlib.sha256(":".join(map(str, (seed, *names))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def repeat_factors(records: Sequence[Record], threshold: float, num_classes: int) -> NDArray[np.float64]:
    """float64 [records]: how often an epoch shows an image, max(1, sqrt(threshold / f)) of its rarest class.

    f is the share of images that hold the class; images without objects, unlabelled ones, and all
    of them when threshold is 0, have 1. Crowds count, as in detectron2. Label maps are read where only they
    say what an image holds. Raises DataError as `read_regions`.
    """
    if not threshold:
        return np.ones(len(records))
    labels = [_labels(record) for record in records]
    counts = np.bincount([label for found in labels for label in found], minlength=num_classes)
    factors = np.maximum(1.0, np.sqrt(threshold * len(records) / np.maximum(counts, 1)))
    return np.array([max((factors[label] for label in found), default=1.0) for found in labels])


def _labels(record: Record) -> set[int]:
    if record.label_map is not None and record.label_map.codes is not None:
        return {segment.label for segment in read_regions(record, "panoptic").segments}
    return {a["label"] for a in record.annotations or ()}


def epoch_order(factors: NDArray[np.float64], seed: int, stream: str, epoch: int) -> NDArray[np.int64]:
    """int64 [sum of the rounded factors]: record indices in the order of one epoch."""
    rng = rng_for(seed, stream, "epoch", epoch)
    whole = factors.astype(np.int64)
    times = whole + (rng.random(len(factors)) < factors - whole)
    return rng.permutation(np.repeat(np.arange(len(factors)), times))


def positions(factors: NDArray[np.float64], seed: int, stream: str, start: int) -> Iterator[tuple[int, int]]:
    """(position, record index) for position = start, start + 1, .. without end."""
    epoch, skip = 0, start
    if (factors == factors.astype(np.int64)).all():  # every epoch has the same length
        epoch, skip = divmod(start, int(factors.sum()))
    position = start
    while True:
        order = epoch_order(factors, seed, stream, epoch)
        for index in order[skip:]:
            yield position, int(index)
            position += 1
        skip, epoch = max(0, skip - len(order)), epoch + 1
