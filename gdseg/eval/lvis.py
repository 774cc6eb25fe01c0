"""LVIS's rules for AP (arXiv 1908.03195 §2.2 and its API, BSD-2, lvis/eval.py), said in COCO annotations.

Images of a federated data set were searched for a few classes only. Rewritten so, COCO's own matching gives
the figures of the `lvis` package, which the tests hold it to. Called by eval/coco.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gdseg.data.rle import to_rle
from gdseg.structures import Record

MAX_DETECTIONS = 300  # an image, all classes together
GROUPS = {"rare": "r", "common": "c", "frequent": "f"}
_NOWHERE = -1.0  # an area outside of all ranges: such an object need not be found, and finding it is no fault
_EVERYWHERE = [-1e7, -1e7, 3e7, 3e7]  # a box around every box

Entry = dict[str, Any]


def federated_truth(
    truth: Sequence[Entry], records: Sequence[Record], category_ids: Sequence[int]
) -> list[Entry]:
    """The truth (image_id n: record n - 1) with a crowd on all of the image for each partly marked class.

    A detection there that matches no object lies on the crowd: it is neither right nor wrong. Objects that
    say "ignore" count as neither, too.
    """
    entries = [{**entry, "area": _NOWHERE} if entry.get("ignore") else entry for entry in truth]
    for number, record in enumerate(records, 1):
        for label in sorted(record.federated.partial) if record.federated else ():
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": number,
                    "category_id": category_ids[label],
                    "iscrowd": 1,
                    "segmentation": to_rle(np.ones((record.height or 1, record.width or 1), dtype=np.uint8)),
                    "bbox": _EVERYWHERE,
                    "area": 0.0,
                }
            )
    return entries


def federated_found(
    found: Sequence[Entry],
    truth: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    category_ids: Sequence[int],
    limit: int,
) -> list[Entry]:
    """The detections that are judged: an image's `limit` best, of classes it was searched for, not empty."""
    searched = {(entry["image_id"], entry["category_id"]) for entry in truth}
    for number, record in enumerate(records, 1):
        labels = range(len(category_ids)) if record.federated is None else record.federated.absent
        searched |= {(number, category_ids[label]) for label in labels}
    rank: Counter[int] = Counter()
    kept = set()
    for place in sorted(range(len(found)), key=lambda i: -found[i]["score"]):
        entry = found[place]
        rank[entry["image_id"]] += 1
        asked = (entry["image_id"], entry["category_id"]) in searched
        if asked and entry["area"] > 0 and rank[entry["image_id"]] <= limit:
            kept.add(place)
    return [entry for place, entry in enumerate(found) if place in kept]
