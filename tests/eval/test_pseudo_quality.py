"""Sweeps of pseudo-labels: objects, segments and pixels counted by hand."""

import numpy as np

from gdseg.eval.panoptic import Truth
from gdseg.eval.pseudo_quality import Sweep


def counts(sweep: Sweep, number: int = 0) -> tuple[list[int], list[int], list[int]]:
    tally = sweep.tallies[number]
    return tally.right.tolist(), tally.wrong.tolist(), tally.missed.tolist()


def test_pixels() -> None:
    sweep = Sweep([0.5, 0.9], 3)
    truth = np.array([[0, 0, 1, 1], [2, 2, -1, -1]])
    found = np.array([[0, 1, 1, -1], [-1, 2, 0, -1]])
    sweep.add_pixels(1, truth, found)
    # unknown truth counts for nothing; an unlabelled pixel is missed, a wrong one is wrong and missed
    assert counts(sweep, 1) == ([1, 1, 1], [0, 1, 0], [1, 1, 1])
    assert counts(sweep, 0) == ([0, 0, 0], [0, 0, 0], [0, 0, 0])
    assert sweep.tallies[1].precision() == 3 / 4
    assert sweep.tallies[1].recall() == 3 / 6


def test_segments() -> None:
    sweep = Sweep([0.5], 2)
    truth = np.zeros((10, 10), dtype=np.int64)
    truth[:, 5:] = 1
    found = np.full((10, 10), -1)
    found[:, :4] = 0  # 40 of 50 pixels of the first segment
    found[:, 7:] = 1  # 30 of 50 pixels, of the wrong class
    sweep.add_segments(0, truth, [Truth(0), Truth(1)], found, {0: 0, 1: 0})
    assert counts(sweep) == ([1, 0], [1, 0], [0, 1])


def test_how_many() -> None:
    sweep = Sweep([0.5, 0.9], 3)
    sweep.count(0, [0, 0, 2])
    sweep.count(0, [2])
    sweep.count(1, [])
    assert sweep.found.tolist() == [[2, 0, 2], [0, 0, 0]]
