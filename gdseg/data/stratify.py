"""An order of images in which every beginning holds the classes in about the shares of the whole.

After iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011), which hands out images for
the rarest class first, made into one order: a smaller split is part of a larger one, as with plain splits.
Called by `gdseg data split --stratify`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from gdseg.data.label_maps import read_regions
from gdseg.data.split import random_order
from gdseg.structures import Record

_LOOKED_AT = 16  # images that could be next
Labels = dict[int | str, Counter[int]]  # objects of each label, by image id


def count_labels(
    records: Sequence[Record], task: str, tell: Callable[[int, int], None] = lambda done, total: None
) -> Labels:
    """Objects (segments) of each label in each image, crowds aside. Raises DataError as `read_regions`."""
    counts = {}
    for done, record in enumerate(records, 1):
        if record.annotations or record.label_map is None:
            labels = [a["label"] for a in record.annotations or () if not a["iscrowd"]]
        else:
            labels = [s.label for s in read_regions(record, task).segments if not s.is_crowd]
        counts[record.image_id] = Counter(labels)
        tell(done, len(records))
    return counts


def stratified_order(records: Sequence[Record], labels: Labels, seed: int) -> list[int | str]:
    """The ids of all images: first so that every class is there, then so that all keep to their shares.

    First comes an image of the rarest class that is missing, of its images the one with most missing classes;
    later one of the class furthest behind its share, of the next few the one that brings all classes nearest
    to theirs. Images without objects are a class, too.
    """
    ids = random_order(records, seed)
    empty = max((label for found in labels.values() for label in found), default=-1) + 1
    of_image = [sorted(labels[i]) or [empty] for i in ids]
    of_class: dict[int, list[int]] = {}
    for place, found in enumerate(of_image):
        for label in found:
            of_class.setdefault(label, []).append(place)
    order = _one_of_each({c: places for c, places in of_class.items() if c != empty}, of_image)
    order += _by_shares(of_class, of_image, order)
    return [ids[place] for place in order]


def _one_of_each(of_class: dict[int, list[int]], of_image: Sequence[Sequence[int]]) -> list[int]:
    """Places of images that hold every class at least once."""
    order, missing = list[int](), set(of_class)
    for label in sorted(of_class, key=lambda label: (len(of_class[label]), label)):
        if label in missing:
            best = max(of_class[label], key=lambda place: len(missing.intersection(of_image[place])))
            order.append(best)
            missing -= set(of_image[best])
    return order


def _by_shares(
    of_class: dict[int, list[int]], of_image: Sequence[Sequence[int]], before: Sequence[int]
) -> list[int]:
    """The other places, each for the class that is then furthest behind."""
    labels = sorted(of_class)
    row = {label: i for i, label in enumerate(labels)}
    wanted = np.array([len(of_class[label]) / len(of_image) for label in labels])  # an image
    have, waiting = np.zeros(len(labels)), {label: deque(of_class[label]) for label in labels}
    used, order = set(before), list[int]()
    for place in before:
        have[[row[label] for label in of_image[place]]] += 1
    for number in range(len(before) + 1, len(of_image) + 1):
        lack = wanted * number - have
        while not (next_ones := _unused(waiting[labels[int(np.argmax(lack))]], used)):
            lack[np.argmax(lack)] = -np.inf  # all of its images are taken
        # adding an image changes the sum of squared differences by 1 - 2 lack for each of its classes
        gain = [sum(2 * lack[row[label]] - 1 for label in of_image[place]) for place in next_ones]
        place = next_ones[int(np.argmax(gain))]
        used.add(place)
        order.append(place)
        have[[row[label] for label in of_image[place]]] += 1
    return order


def _unused(waiting: deque[int], used: set[int]) -> list[int]:
    """The next few places that are not used yet."""
    while waiting and waiting[0] in used:
        waiting.popleft()
    return list(islice((place for place in waiting if place not in used), _LOOKED_AT))
