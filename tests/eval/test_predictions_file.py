"""What a file of predictions says of itself is believed where it can be."""

import json
from pathlib import Path
from typing import Any

import pytest

from gdseg.coco_json import PREDICTED
from gdseg.eval.predictions_file import PredictionsFile, open_predictions


def written(path: Path, info: Any) -> PredictionsFile:
    path.write_text(json.dumps({"info": info, "annotations": []}))
    return open_predictions(path)


@pytest.mark.parametrize(
    ("description", "conf", "lowest"),
    [
        (PREDICTED, 0.3, 0.3),
        (PREDICTED, 1, 1),
        (PREDICTED, True, 0),
        (PREDICTED, "0.3", 0),
        (PREDICTED, 7, 0),
        (PREDICTED, None, 0),
        ("labels of somebody", 0.3, 0),
    ],
)
def test_the_lowest_score_is_what_predict_says(
    tmp_path: Path, description: str, conf: object, lowest: float
) -> None:
    file = written(tmp_path / "p.json", {"description": description, "conf": conf})
    assert file.lowest_score == lowest


@pytest.mark.parametrize("named", ["x" * 5000, "a\0b", 3, None, "no/such/folder"])
def test_a_folder_of_images_that_can_be_none_is_the_files_own(tmp_path: Path, named: object) -> None:
    assert written(tmp_path / "p.json", {"images": named}).images == tmp_path
    (tmp_path / "there").mkdir()
    assert written(tmp_path / "p.json", {"images": str(tmp_path / "there")}).images == tmp_path / "there"


@pytest.mark.parametrize("content", [[], None, 3, {"info": [1]}, {"annotations": 3}, [{"score": 1}]])
def test_any_json_says_nothing(tmp_path: Path, content: object) -> None:
    (tmp_path / "p.json").write_text(json.dumps(content))
    file = open_predictions(tmp_path / "p.json")
    assert (file.task, file.info, file.lowest_score, file.images) == ("instance", {}, 0, tmp_path)
