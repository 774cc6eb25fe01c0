"""Maps that are written are read again: one kind of PNG for a table of classes, whatever an image holds."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from gdseg.data.label_maps import read_ids
from gdseg.errors import DataError
from gdseg.map_writers import write_semantic
from gdseg.structures import ClassInfo, Predictions


def semantic(labels: list[list[int]]) -> Predictions:
    none = torch.zeros(0)
    return Predictions(
        "a", (1, 3), none.long(), none, torch.zeros(0, 4), [], semantic=torch.tensor(labels).long()
    )


@pytest.mark.parametrize(
    ("largest", "mode"),
    [(255, "P"), (256, "I;16"), (65535, "I;16"), (65536, "RGB"), (2**24 - 1, "RGB")],
)
def test_ids_survive_in_one_kind_of_png(tmp_path: Path, largest: int, mode: str) -> None:
    table = [ClassInfo(3, "sky", False, (70, 130, 180)), ClassInfo(largest, "far")]
    for name, labels in {"small": [0, 0, 0], "both": [0, 1, 1]}.items():
        write_semantic(semantic([labels]), table, tmp_path, name)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.mode == mode
        assert read_ids(tmp_path / f"{name}.png").tolist() == [[table[label].id for label in labels]]


@pytest.mark.parametrize("wrong", [-1, 2**24])
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(DataError, match="do not fit into an index PNG"):
        write_semantic(semantic([[0, 0, 0]]), [ClassInfo(0, "sky"), ClassInfo(wrong, "far")], tmp_path, "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("void", "mode"), [(255, "P"), (256, "I;16"), (65535, "I;16"), (65536, "RGB")])
def test_pixels_of_no_class_keep_their_value(tmp_path: Path, void: int, mode: str) -> None:
    table = [ClassInfo(0, "sky"), ClassInfo(1, "road")]
    for name, labels, values in (("a", [-1, 1, 0], [void, 1, 0]), ("b", [0, 0, 1], [0, 0, 1])):
        write_semantic(semantic([labels]), table, tmp_path, name, void)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.mode == mode  # one kind for all images
        assert read_ids(tmp_path / f"{name}.png").tolist() == [values]


def test_a_value_of_no_class_that_is_a_class_is_refused(tmp_path: Path) -> None:
    table = [ClassInfo(0, "sky"), ClassInfo(255, "road")]
    with pytest.raises(DataError, match="which is a class's id"):
        write_semantic(semantic([[-1, 1, 0]]), table, tmp_path, "a")
    write_semantic(semantic([[1, 1, 0]]), table, tmp_path, "a")
    assert read_ids(tmp_path / "a.png").tolist() == [[255, 255, 0]]
    with pytest.raises(DataError, match="does not fit"):
        write_semantic(semantic([[-1, 1, 0]]), table, tmp_path, "a", 2**24)
