"""Precision and recall of pseudo-labels, by hand; which image has which truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.data.label_maps import rgb_of
from gdseg.data.rle import boxes_of, to_rle
from gdseg.errors import DataError
from gdseg.eval.label_truth import LabelTruth, read_truth
from gdseg.structures import ClassInfo, Predictions

TABLE = [ClassInfo(5, "cat"), ClassInfo(9, "dog")]
SIZE = (10, 20)


def columns(first: int, end: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, first:end] = True
    return to_rle(mask)


def truth_file(folder: Path, names: list[str], objects: list[tuple[int, int, int, int]], **more: Any) -> Path:
    """objects: (image, category id, first and last column)."""
    document: dict[str, Any] = {
        "images": [{"id": i, "file_name": n, "height": 10, "width": 20} for i, n in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "iscrowd": 0, "segmentation": columns(a, b)}
            for k, (i, c, a, b) in enumerate(objects, 1)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],  # other ids, another order
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "truth.json").write_text(json.dumps(document))
    return folder / "truth.json"


def found(*objects: tuple[int, int, int]) -> Predictions:
    rles = [columns(a, b) for _, a, b in objects]
    labels = torch.tensor([label for label, _, _ in objects], dtype=torch.int64)
    scores = torch.linspace(0.9, 0.5, len(objects))
    return Predictions(0, SIZE, labels, scores, boxes_of(rles), rles, ["cat", "dog"])


def read(path: Path, names: list[str], task: str = "instance") -> LabelTruth:
    return read_truth(path, task, [Path("/data/photos") / name for name in names], TABLE, 255)


def test_precision_and_recall_by_hand(tmp_path: Path) -> None:
    """Two cats and a dog are there; of three cats found two are right, the dog is not found."""
    path = truth_file(tmp_path, ["a.png"], [(0, 2, 0, 6), (0, 2, 8, 14), (0, 1, 16, 20)])
    truth = read(path, ["a.png", "b.png"])
    truth.add_objects(0, found((0, 0, 5), (0, 7, 14), (0, 0, 6)))  # the third a duplicate of the first
    truth.add_objects(1, found((0, 0, 5)))  # nobody knows
    assert truth.judged == 1
    summary = truth.summary(["cat", "dog"])
    assert (summary["precision"], summary["recall"]) == pytest.approx((2 / 3, 2 / 3))
    cat, dog = summary["classes"].values()
    assert (cat["right"], cat["wrong"], cat["missed"]) == (2, 1, 0)
    assert (dog["right"], dog["wrong"], dog["missed"]) == (0, 0, 1)
    assert np.isnan(dog["precision"])
    assert dog["recall"] == 0


def test_iou_below_a_half_and_another_class_are_wrong(tmp_path: Path) -> None:
    truth = read(truth_file(tmp_path, ["a.png"], [(0, 2, 0, 10)]), ["a.png"])
    truth.add_objects(0, found((0, 0, 4), (1, 0, 10)))
    assert (truth.tally.right.sum(), truth.tally.wrong.tolist(), truth.tally.missed.tolist()) == (
        0,
        [1, 1],
        [1, 0],
    )
    assert np.isnan(truth.summary(["cat", "dog"])["mask_iou"])  # there is no mask to compare
    assert np.isnan(truth.summary(["cat", "dog"])["area_ratio"])


def test_classes_nobody_looked_for_are_those_of_the_truths_own_order(tmp_path: Path) -> None:
    """LVIS: dogs were looked for and there is none, so a dog is wrong; nobody looked for cats."""
    path = truth_file(tmp_path, ["a.png"], [])
    document = json.loads(path.read_text())
    document["images"][0] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    path.write_text(json.dumps(document))
    truth = read(path, ["a.png"])  # the network's order is another: cat, dog
    truth.add_objects(0, found((0, 0, 5), (1, 8, 12)))
    assert truth.tally.wrong.tolist() == [0, 1]


def test_how_masks_fit_by_hand(tmp_path: Path) -> None:
    """Found in another order than the truth's, which holds a crowd first and polygons; a wrong one counts not."""
    path = truth_file(tmp_path, ["a.png"], [(0, 2, 16, 20), (0, 2, 0, 5), (0, 2, 6, 10), (0, 2, 11, 15)])
    document = json.loads(path.read_text())
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][1]["segmentation"] = [[0, 0, 5, 0, 5, SIZE[0], 0, SIZE[0]]]
    path.write_text(json.dumps(document))
    truth = read(path, ["a.png"])
    truth.add_objects(0, found((0, 11, 16), (0, 6, 9), (0, 0, 4), (0, 17, 19), (1, 0, 5)))
    summary = truth.summary(["cat", "dog"])
    assert (summary["classes"]["cat"]["right"], summary["classes"]["dog"]["wrong"]) == (3, 1)
    fit = truth.counted.fits[0]
    assert fit.area_ratios == pytest.approx([5 / 4, 3 / 4, 4 / 5])
    assert summary["area_ratio"] == pytest.approx(4 / 5)  # not the mean, 14 / 15
    assert fit.ious == pytest.approx([4 / 5, 3 / 4, 4 / 5])
    assert summary["mask_iou"] == pytest.approx((4 / 5 + 3 / 4 + 4 / 5) / 3)


def test_names_are_matched_with_their_folders(tmp_path: Path) -> None:
    path = truth_file(tmp_path, ["x/a.png", "a.png", "b.png"], [])
    assert {n: r.path.name for n, r in read(path, ["x/a.png", "y/b.png", "c.png"]).records.items()} == {
        0: "a.png",
        1: "b.png",
    }
    assert read(path, ["x/a.png"]).records[0].path.parent.name == "x"
    with pytest.raises(DataError, match="of the truth fits two images"):
        read(path, ["x/b.png", "y/b.png"])
    with pytest.raises(DataError, match="names none of the images"):
        read(path, ["c.png"])


def test_an_image_of_another_size_is_not_judged(tmp_path: Path) -> None:
    path = truth_file(tmp_path, ["a.png"], [])
    truth = read(path, ["a.png"])
    truth.records[0] = truth.records[0].__class__(**{**vars(truth.records[0]), "height": 11})
    truth.add_objects(0, found((0, 0, 5)))
    assert (truth.judged, truth.other_size) == (0, [0])


def test_what_is_no_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.json", ["a.png"])
    other = truth_file(
        tmp_path, ["a.png"], [], categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "cow"}]
    )
    with pytest.raises(DataError, match="other classes"):
        read(other, ["a.png"])
    with pytest.raises(DataError, match="1 faults"):
        read(truth_file(tmp_path, ["a.png"], [(0, 7, 0, 5)]), ["a.png"])
    with pytest.raises(DataError, match="folder of label maps"):
        read(other, ["a.png"], "semantic")
    with pytest.raises(DataError, match="not a json of COCO panoptic"):
        read(truth_file(tmp_path, ["a.png"], [(0, 1, 0, 5)]), ["a.png"], "panoptic")


def test_semantic_maps_count_pixels(tmp_path: Path) -> None:
    """Of 10 pixels of cats 6 are found, 2 are taken for dogs, 2 left open; 4 more are of no class."""
    (tmp_path / "maps" / "x").mkdir(parents=True)
    values = np.array([[5] * 10 + [9] * 6 + [255] * 4], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "maps" / "x" / "a.png")
    truth = read(tmp_path / "maps", ["x/a.jpg", "x/b.jpg"], "semantic")
    made = np.array([[0] * 6 + [1] * 2 + [255] * 2 + [1] * 6 + [0] * 4])
    truth.add_map(0, made, {0: 0, 1: 1})
    assert truth.tally.right.tolist() == [6, 6]
    assert truth.tally.wrong.tolist() == [0, 2]
    assert truth.tally.missed.tolist() == [4, 0]


def test_panoptic_segments_match_above_half(tmp_path: Path) -> None:
    ids = np.zeros(SIZE, dtype=np.int64)
    ids[:, :6], ids[:, 6:16] = 1, 2
    Image.fromarray(rgb_of(ids)).save(tmp_path / "a.png")
    segments = [{"id": 1, "category_id": 2, "iscrowd": 0}, {"id": 2, "category_id": 1, "iscrowd": 0}]
    path = truth_file(
        tmp_path,
        ["a.png"],
        [],
        annotations=[{"image_id": 0, "file_name": "a.png", "segments_info": segments}],
    )
    truth = read(path, ["a.png"], "panoptic")
    made = np.zeros(SIZE, dtype=np.int64)
    made[:, :5], made[:, 6:11], made[:, 11:16] = 3, 4, 5
    truth.add_map(0, made, {3: 0, 4: 1, 5: 1})
    assert truth.tally.right.tolist() == [1, 0]
    assert truth.tally.wrong.tolist() == [0, 2]  # half of the dog each: not above 0.5
    assert truth.tally.missed.tolist() == [0, 1]
