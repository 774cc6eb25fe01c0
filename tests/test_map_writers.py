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
