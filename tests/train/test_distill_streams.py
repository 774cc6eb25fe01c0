"""The two streams of distill: which images come how often."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from gdseg.data.dataset import open_dataset
from gdseg.train.distill import _streams


def seen(recipe, records) -> tuple[Counter, Counter]:
    """How often each image comes as labelled and as unlabelled in the first 60 steps."""
    unlabelled = [replace(r, annotations=None) for r in records]
    labelled_ids, unlabelled_ids = Counter(), Counter()
    for labelled, weak in islice(_streams(recipe, records, unlabelled, 2, 0), 60):
        labelled_ids.update(labelled.image_ids)
        unlabelled_ids.update(weak.image_ids)
    return labelled_ids, unlabelled_ids


@pytest.mark.parametrize(
    ("data", "distill", "times"), [(0.0, 4.0, 3**0.5), (4.0, None, 3**0.5), (4.0, 0.0, 1), (0.0, None, 1)]
)
def test_rare_classes_come_oftener_where_the_stage_says_so(tiny_recipe, data, distill, times):
    """One of 4 images holds the rare class: repeats are sqrt(threshold / share), so sqrt(3) times the others'."""
    recipe = tiny_recipe("mask2former", f"data.repeat_threshold={data}", "distill.steps=60")
    recipe.distill.repeat_threshold = distill
    records = open_dataset(recipe.data, ("train",)).train[:4]
    common = replace_label(records, [1, 0, 0, 0])
    labelled, unlabelled = seen(recipe, common)
    rare, *others = (labelled[r.image_id] for r in common)
    assert rare == pytest.approx(times * sum(others) / 3, rel=0.1)
    assert all(unlabelled[r.image_id] == 30 for r in common)


def replace_label(records, rare):
    """The records with their first object only, of class 1 where `rare`; class 0 is in the other three."""
    return [
        replace(record, annotations=({**record.annotations[0], "label": label},))
        for record, label in zip(records, rare, strict=True)
    ]
