"""Results from a file: what is right passes, what is wrong is named and never reaches the C code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gdseg.data.rle import to_rle
from gdseg.errors import DataError
from gdseg.eval.coco import score
from gdseg.eval.predictions_file import open_predictions
from gdseg.eval.results import check_results, read_all_results, read_results
from gdseg.structures import Record

MASK = np.zeros((20, 30), dtype=np.uint8)
MASK[2:12, 3:18] = 1
RLE = to_rle(MASK)
RECORDS = [
    Record(i, Path(f"some/{i}.jpg"), 20, 30, ({"label": 0, "segmentation": RLE, "iscrowd": 0, "area": "?"},))
    for i in (1, "b")
]
GOOD = {"image_id": 1, "category_id": 5, "score": 0.5, "segmentation": RLE}


def check(*entries: Any) -> list[dict[str, Any]]:
    return check_results(entries, RECORDS, [5, 6], "results.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 2}, "unknown image id: 2"),
        ({"image_id": [1]}, "unknown image id"),
        ({"image_id": True}, "unknown image id"),
        ({"category_id": 7}, "unknown category id: 7"),
        ({"category_id": "5"}, "unknown category id"),
        ({"score": None}, "bad score"),
        ({"score": float("nan")}, "bad score"),
        ({"score": 10**400}, "bad score"),
        ({"score": "high"}, "bad score"),
        ({"segmentation": "abc"}, "bad result"),
        ({"segmentation": {"size": [20, 30], "counts": "0"}}, "bad RLE"),
        ({"segmentation": {"size": [20, 30], "counts": "oooooooooooooooo"}}, "bad RLE"),
        ({"segmentation": {"size": [20, 30], "counts": "\xff"}}, "bad RLE"),
        ({"segmentation": {"size": [20, 30], "counts": [5, -3, 598]}}, "bad RLE"),
        ({"segmentation": {"size": [30, 20], "counts": RLE["counts"]}}, "bad RLE"),
        ({"segmentation": {"size": [20, 30]}}, "bad RLE"),
        ({"segmentation": []}, "empty object"),
        ({"segmentation": [[0, 0, 900, 0, 900, 900]]}, "outside its image"),
        ({"segmentation": None}, "neither"),
        ({"bbox": [1, 2, 3]}, "bad box"),
        ({"bbox": [1, 2, -3, 4]}, "bad box"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bad box"),
    ],
)
def test_wrong_entries_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match="result 1 of 2") as caught:
        check(GOOD, {**GOOD, **change})
    assert words in caught.value.what


def test_no_object_and_mixed_kinds() -> None:
    with pytest.raises(DataError, match="result 0"):
        check(3)
    box = {"image_id": 1, "category_id": 5, "score": 1, "bbox": [0, 0, 3, 3]}
    with pytest.raises(DataError, match="1 of 2 results have a mask"):
        check(GOOD, box)


def test_every_kind_of_mask_is_understood() -> None:
    plain = {"size": [20, 30], "counts": [62, 10] + [10, 10] * 14 + [20 * 30 - 62 - 10 - 14 * 20]}
    polygon = [[3, 2, 18, 2, 18, 12, 3, 12]]
    results = check(GOOD, {**GOOD, "segmentation": plain, "image_id": "b"})
    assert score(RECORDS, ["x", "y"], [5, 6], results).metrics["mask_ap"] == pytest.approx(1)
    results = check(GOOD, {**GOOD, "segmentation": polygon, "image_id": "b"})
    assert score(RECORDS, ["x", "y"], [5, 6], results).metrics["mask_ap"] == pytest.approx(1)


def test_an_empty_mask_is_a_false_positive() -> None:
    empty = {"size": [20, 30], "counts": [600]}
    results = check({**GOOD, "segmentation": empty, "score": 0.9}, GOOD)
    # of two objects one is found, second in the list: precision 1/2 up to recall 1/2
    assert score(RECORDS, ["x", "y"], [5, 6], results).metrics["mask_ap"] == pytest.approx(51 / 101 / 2)


def test_boxes_alone_give_box_ap_alone(tmp_path: Path) -> None:
    boxes = [{"image_id": i, "category_id": 5, "score": 0.5, "bbox": [3, 2, 15, 10]} for i in (1, "b")]
    (tmp_path / "r.json").write_text(json.dumps(boxes))
    metrics = score(
        RECORDS, ["x", "y"], [5, 6], read_results(open_predictions(tmp_path / "r.json"), RECORDS, [5, 6])
    ).metrics
    assert metrics["box_ap"] == pytest.approx(1)
    assert not any(name.startswith("mask") for name in metrics)


def test_a_document_finds_its_images_by_file_name(tmp_path: Path) -> None:
    images = [{"id": 10, "file_name": "x/b.jpg"}, {"id": 20, "file_name": "1.jpg"}]
    document = {"images": images, "annotations": [{**GOOD, "image_id": 10}, {**GOOD, "image_id": 20}]}
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert [r["image_id"] for r in read_results(open_predictions(tmp_path / "r.json"), RECORDS, [5, 6])] == [
        "b",
        1,
    ]
    for broken in ({"images": 3}, {"images": [3]}, {"annotations": [3]}, {"annotations": {}}):
        (tmp_path / "r.json").write_text(json.dumps({**document, **broken}))
        with pytest.raises(DataError):
            read_results(open_predictions(tmp_path / "r.json"), RECORDS, [5, 6])


@pytest.mark.parametrize("text", ["", "{", "3", '"a"', "[" * 100_000, "{}"])
def test_files_that_hold_no_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError):
        read_results(open_predictions(tmp_path / "r.json"), RECORDS, [5, 6])
    with pytest.raises(DataError, match="cannot read"):
        read_results(open_predictions(tmp_path / "gone.json"), RECORDS, [5, 6])


def test_several_files_are_one_and_no_image_is_in_two(tmp_path: Path) -> None:
    paths = [tmp_path / "0.json", tmp_path / "1.json", tmp_path / "2.json"]
    for path, entries in zip(paths, ([GOOD, GOOD], [{**GOOD, "image_id": "b"}], []), strict=True):
        path.write_text(json.dumps(entries))
    results = read_all_results([open_predictions(p) for p in paths], RECORDS, [5, 6])
    assert [result["image_id"] for result in results] == [1, 1, "b"]
    with pytest.raises(DataError, match=r"image 1 has results in .*0.json too"):
        read_all_results([open_predictions(p) for p in (*paths, paths[0])], RECORDS, [5, 6])
