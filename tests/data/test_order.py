"""The order of images: pure, complete, resumable; repeat factors as the official sampler has them."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from gdseg.data.order import epoch_order, positions, repeat_factors, rng_for
from gdseg.structures import Record


def records_of(labels: list[list[int]]) -> list[Record]:
    return [
        Record(i, Path("x"), 4, 4, tuple({"label": label, "iscrowd": 0} for label in found))
        for i, found in enumerate(labels)
    ]


def test_repeat_factors_by_hand() -> None:
    """Four images, class 0 in three of them, class 1 in one: sqrt(t / f) with t = 1/2."""
    factors = repeat_factors(records_of([[0], [0, 0], [0, 1], []]), 0.5, 2)
    np.testing.assert_allclose(factors, [1, 1, np.sqrt(0.5 / 0.25), 1])
    assert repeat_factors(records_of([[0], [1]]), 0.0, 2).tolist() == [1, 1]
    assert repeat_factors([Record(0, Path("x"))], 10.0, 2).tolist() == [1]


def test_every_epoch_is_another_permutation() -> None:
    factors = np.ones(10)
    taken = [index for _, index in islice(positions(factors, 0, "s", 0), 30)]
    epochs = [taken[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [index for _, index in islice(positions(factors, 1, "s", 0), 10)]
    assert epochs[0] != [index for _, index in islice(positions(factors, 0, "t", 0), 10)]


@pytest.mark.parametrize("factors", [np.ones(7), np.array([1, 2.0, 1]), np.array([1.3, 1, 2.7, 1.5])])
@pytest.mark.parametrize("start", [0, 1, 7, 23, 100])
def test_starting_later_is_skipping(factors: np.ndarray, start: int) -> None:
    whole = list(islice(positions(factors, 5, "s", 0), start + 20))
    assert list(islice(positions(factors, 5, "s", start), 20)) == whole[start:]
    assert [position for position, _ in whole] == list(range(start + 20))


def test_fractions_are_rounded_at_random_to_the_right_mean() -> None:
    factors = np.array([1.25, 1.0, 3.5])
    counts = np.array([np.bincount(epoch_order(factors, 0, "s", e), minlength=3) for e in range(2000)])
    assert set(counts[:, 0]) == {1, 2}
    assert set(counts[:, 1]) == {1}
    assert set(counts[:, 2]) == {3, 4}
    np.testing.assert_allclose(counts.mean(0), factors, atol=0.05)


def test_generators_of_different_places_differ() -> None:
    draws = {rng_for(seed, name, i).random() for seed in (0, 1) for name in "ab" for i in range(5)}
    assert len(draws) == 20
    assert rng_for(0, "a", 1).random() == rng_for(0, "a", 1).random()
