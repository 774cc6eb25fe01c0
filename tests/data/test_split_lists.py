"""Splits that others wrote: COCO json of the labelled part, json lists, COCO_supervision.txt."""

import json
from pathlib import Path
from typing import Any

import pytest

from gdseg.data.split import load_split
from gdseg.errors import DataError
from gdseg.structures import Record

OBJECT: dict[str, Any] = {"label": 0, "iscrowd": 0}
# ids in no order; the images 30, 60, 90 have no object that is no crowd
RECORDS = [
    Record(i, Path(f"train2017/{i:012d}.jpg"), 8, 8, ({**OBJECT, "iscrowd": int(i % 30 == 0)},))
    for i in [*range(50, 101), *range(1, 50)]
]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_coco_json_of_the_labelled_part_goes_by_file_names(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{i:012d}.jpg"} for n, i in enumerate((17, 80), 1)]
    path = write(tmp_path / "s.json", {"info": {}, "images": images, "annotations": [], "categories": []})
    assert load_split(path, RECORDS).ids == (17, 80)
    write(path, {"images": [{"id": 1}]})
    with pytest.raises(DataError, match="has no file_name"):
        load_split(path, RECORDS)
    write(path, {"images": [{"id": 17, "file_name": "x.jpg"}]})
    with pytest.raises(DataError, match="not in the training set"):
        load_split(path, RECORDS)


def test_a_json_list(tmp_path: Path) -> None:
    path = write(tmp_path / "s.json", [5, "000000000017.jpg", "train2017/000000000080.jpg"])
    assert load_split(path, RECORDS).ids == (5, 17, 80)
    with pytest.raises(DataError, match="no list of ids"):
        load_split(write(path, [[5]]), RECORDS)


def test_numbers_of_coco_supervision_count_images_with_objects_in_the_order_of_ids(tmp_path: Path) -> None:
    """As Unbiased Teacher's: detectron2's list is sorted by id and leaves out images without objects."""
    filled = [i for i in range(1, 101) if i % 30]
    path = write(
        tmp_path / "s.txt",
        {"5.0": {"1": [0, 28, 29, 96]}, "10.0": {"1": list(range(9)), "2": list(range(10))}},
    )
    split = load_split(path, RECORDS, "5.0/1")
    assert split.ids == tuple(filled[n] for n in (0, 28, 29, 96)) == (1, 29, 31, 100)
    assert load_split(path, RECORDS, "10.0/2").ids == tuple(range(1, 11))  # 10 are 10 % of all 100
    for entry, words in ((None, r"several splits: \['5.0/1'"), ("1.0/1", "no split '1.0/1'")):
        with pytest.raises(DataError, match=words) as caught:
            load_split(path, RECORDS, entry)
        assert "--entry" in str(caught.value.hint)
    with pytest.raises(DataError, match="97 images with objects, nor of 100"):
        load_split(write(path, {"5.0": {"1": [0, 1]}}), RECORDS, "5.0/1")
    with pytest.raises(DataError, match="no list of numbers"):
        load_split(write(path, {"5.0": {"1": ["a"]}}), RECORDS, "5.0/1")
    with pytest.raises(DataError, match=r"no 5\.0 % of"):
        load_split(write(path, {"5.0": {"1": [0, 1, 2, 97]}}), RECORDS, "5.0/1")
    with pytest.raises(DataError, match="no entries"):
        load_split(write(path, [5]), RECORDS, "5.0/1")
