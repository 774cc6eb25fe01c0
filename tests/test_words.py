"""Counts in what people read."""

import pytest

from gdseg.words import counted


@pytest.mark.parametrize(
    ("number", "word", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (2, "box", "2 boxes"),
        (3, "patch", "3 patches"),
        (0, "mesh", "0 meshes"),
        (2, "path", "2 paths"),
    ],
)
def test_one_is_singular(number: int, word: str, text: str) -> None:
    assert counted(number, word) == text
