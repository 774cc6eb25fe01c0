"""How many objects the labelled images hold, and the recipe's `auto` numbers that follow from it.

DETR takes 100 queries, far more than images usually have objects (arXiv 2005.12872 §3.1), as Mask2Former
does; Mask DINO 300, and 100 for denoising; detectron2 (Apache-2.0) keeps 100 detections, as COCO judges. Here
100 is the least, and data with more objects gets more. Called by pretrain.py, distill.py and plan.py when a
run starts, and by `gdseg recipe check` and `gdseg bench`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from gdseg.data.label_maps import read_regions
from gdseg.recipe import Recipe
from gdseg.structures import Record
from gdseg.words import counted

_LOG = logging.getLogger(__name__)
_LEAST, _ROOM, _SHARE = 100, 1.5, 99
_COUNTED_MAPS = 100
_KEYS = (("decoder", "queries"), ("decoder", "denoising_queries"), ("postprocess", "max_detections"))


def object_counts(records: Sequence[Record], task: str) -> list[int]:
    """Labelled objects (panoptic: segments, semantic: classes) of each image, crowds aside.

    Of images with label maps, which must be read for it, about 100 are looked at.
    """
    return [len(labels) for labels in _labels(records, task)]


def labels_per_image(records: Sequence[Record], task: str) -> dict[int, float]:
    """Mean count of each label's objects in the images of `object_counts`; a label without any is missing."""
    found = _labels(records, task)
    return {label: count / len(found) for label, count in Counter(chain.from_iterable(found)).items()}


def _labels(records: Sequence[Record], task: str) -> list[list[int]]:
    """The label of each object of each image that is looked at."""
    if any(record.label_map for record in records):
        records = records[:: max(1, len(records) // _COUNTED_MAPS)]
    return [
        [segment.label for segment in read_regions(record, task).segments if not segment.is_crowd]
        if record.label_map
        else [a["label"] for a in record.annotations or () if not a.get("iscrowd")]
        for record in records
    ]


def with_room(counts: Sequence[int]) -> int:
    """1.5 times the objects that 99 % of the images hold at most, rounded up to tens, at least 100."""
    most = float(np.percentile(counts, _SHARE, method="higher")) if len(counts) else 0.0
    return max(_LEAST, int(-(-most * _ROOM // 10) * 10))


def settle(recipe: Recipe, counts: Sequence[int] = (), like: Recipe | None = None) -> Recipe:
    """The recipe with a number in place of each auto of `_KEYS`: by `counts`, or as in `like`.

    counts: `object_counts` of the labelled images. What was chosen is logged; too few queries or detections
    for the fullest image is a warning.
    """
    chosen = {}
    for section, name in _KEYS:
        if getattr(getattr(recipe, section), name) == "auto":
            chosen[section, name] = getattr(getattr(like, section), name) if like else with_room(counts)
    if chosen:
        kind = "classes" if recipe.task == "semantic" else "objects"
        images = counted(len(counts), "labelled image")
        source = f"{images} with up to {max(counts)} {kind}" if counts else "no data yet"
        source = "the teacher's" if like else source
        numbers = ", ".join(f"{section}.{name} {value}" for (section, name), value in chosen.items())
        _LOG.info("auto: %s (%s)", numbers, source)
    recipe = _with(recipe, chosen)
    _warn(recipe, max(counts, default=0))
    return recipe


def _with(recipe: Recipe, values: Mapping[tuple[str, str], int]) -> Recipe:
    changed: dict[str, Any] = {}
    for (section, name), value in values.items():
        changed[section] = replace(changed.get(section, getattr(recipe, section)), **{name: value})
    return replace(recipe, **changed)


def _warn(recipe: Recipe, most: int) -> None:
    limits: dict[str, int | str] = {}
    if recipe.augment.mode != "rescale":  # else it trains on parts of an image
        limits["decoder.queries"] = recipe.decoder.queries
    if recipe.task == "instance" and not recipe.inference.tile:  # else what tiles hold is joined
        limits["postprocess.max_detections"] = recipe.postprocess.max_detections
    for key, value in limits.items():
        if value != "auto" and int(value) < most:
            text = (
                "%s (%d) is less than the %d objects of the fullest labelled image: it cannot find them all"
            )
            _LOG.warning("warning: " + text, key, value, most)
