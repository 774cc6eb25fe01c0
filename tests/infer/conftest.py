"""The scene and the recipe that tests of inference share."""

import sys
from pathlib import Path

import numpy as np
import pytest

from gdseg.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))
from known_scene import Scene, ring


@pytest.fixture
def scene() -> Scene:
    """200 x 170; with tiles of 64: larger than a tile, with a hole, over two and four tiles, touching, a U."""
    ids = np.zeros((200, 170), dtype=np.uint8)
    ring(ids, 1, 110, 85, 70, 45)  # holds others in its hole
    ring(ids, 2, 110, 80, 12, 4)
    ids[2:8, 40:80] = 3  # touching, over a border
    ids[8:14, 40:80] = 4
    ids[14:30, 50:60] = 5
    ids[2:30, 100:108] = ids[2:30, 140:148] = ids[24:30, 100:148] = 6  # a U
    ids[0:5, 0:5] = 7
    ids[195:200, 30:170] = 8
    ids[100:130, 60:66] = 9  # touches number 2 or is covered by it
    return Scene(ids, [0, 1, 2, 2, 2, 0, 1, 0, 1])


@pytest.fixture
def recipe() -> Recipe:
    """Images and tiles keep their size: masks can be compared to the pixel."""
    recipe = Recipe()
    recipe.augment.test_shortest = 0
    recipe.augment.test_longest = 10_000
    recipe.postprocess.temperature = 0.0
    return recipe
