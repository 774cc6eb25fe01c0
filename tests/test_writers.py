"""COCO documents, polygons and the other formats: what is written is what was found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from gdseg.coco_json import coco_document, result_predictions, truth_predictions
from gdseg.data.coco import load_coco
from gdseg.data.rle import to_rle
from gdseg.files import write_json
from gdseg.polygons import mask_polygons, one_ring, ring_area
from gdseg.structures import Predictions, Record
from gdseg.writers import unique_name, write_labelme, write_overlay, write_png, write_yolo

SIZE = (60, 80)


def ring_mask() -> Any:
    """A disc with a hole, and a square apart from it."""
    y, x = np.mgrid[:60, :80]
    radius = np.hypot(y - 30, x - 25)
    mask = (radius < 20) & (radius > 8)
    mask[40:52, 60:75] = True
    return mask


def square_mask() -> Any:
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:25, 50:79] = True
    return mask


@pytest.fixture
def found(tmp_path: Path) -> Predictions:
    masks = [ring_mask(), square_mask()]
    rles = [to_rle(mask) for mask in masks]
    boxes = torch.tensor(np.array([coco_mask.toBbox(rle) for rle in rles])).float()
    boxes[:, 2:] += boxes[:, :2]
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    scores = torch.tensor([0.9, 0.75])
    return Predictions(
        1, SIZE, torch.tensor([1, 0]), scores, boxes, rles, ["cat", "dog"], tmp_path / "photo.png"
    )


def filled(points: Any, size: tuple[int, int] = SIZE) -> Any:
    """Rasterise a polygon by pixel centres, with an independent even-odd test."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros(size, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 <= y) != (y1 <= y)
            inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


def test_document_loads_back_as_labels(found: Predictions, tmp_path: Path) -> None:
    empty = found.select(torch.zeros(2, dtype=torch.bool))
    empty.path = tmp_path / "other.png"
    Image.new("RGB", (80, 60)).save(empty.path)
    document = coco_document([found, empty], ["cat", "dog"], [4, 17], {"description": "x"}, tmp_path)
    write_json(tmp_path / "labels.json", document)
    content = load_coco(tmp_path / "labels.json", tmp_path)
    assert (content.classes, content.category_ids, content.faults) == (["cat", "dog"], [4, 17], [])
    again = truth_predictions(content.records[0], content.classes)
    assert again.rles == found.rles
    assert again.labels.tolist() == [1, 0]
    assert again.scores.tolist() == found.scores.tolist()
    assert torch.equal(again.boxes_xyxy_px, found.boxes_xyxy_px)
    assert content.records[1].annotations == ()
    assert [i["file_name"] for i in document["images"]] == ["photo.png", "other.png"]
    assert document["annotations"][1]["area"] == 20 * 29
    assert document["annotations"][1]["bbox"] == [50, 5, 29, 20]


def test_document_leaves_empty_masks_out_and_names_files_elsewhere(found: Predictions) -> None:
    found.rles[0] = to_rle(np.zeros(SIZE, dtype=bool))
    document = coco_document([found], ["cat", "dog"], [1, 2], {}, Path("/somewhere/else"))
    assert [a["category_id"] for a in document["annotations"]] == [1]
    assert document["images"][0]["file_name"] == str(found.path)


def test_results_become_predictions() -> None:
    record = Record(7, Path("a.png"), *SIZE)
    results = [
        {"image_id": 7, "category_id": 9, "score": 0.2, "segmentation": to_rle(ring_mask())},
        {"image_id": 7, "category_id": 3, "score": 0.8, "bbox": [10.0, 20.0, 5.0, 6.0]},
    ]
    predictions = result_predictions(record, results, ["a", "b"], [3, 9])
    assert predictions.labels.tolist() == [0, 1]
    assert predictions.boxes_xyxy_px[0].tolist() == [10, 20, 15, 26]
    assert int(predictions.mask(0).sum()) == 30


def test_crowds_are_apart() -> None:
    things = [
        {"label": 0, "iscrowd": c, "segmentation": [[0, 0, 10, 0, 10, 10]], "score": "?"} for c in (0, 1, 1)
    ]
    record = Record(1, Path("a.png"), *SIZE, tuple(things))
    assert len(truth_predictions(record, ["a"])) == 1
    assert len(truth_predictions(record, ["a"], crowds=True)) == 2
    assert truth_predictions(record, ["a"]).scores.isnan().all()


def test_polygons_have_parts_and_holes() -> None:
    parts = mask_polygons(ring_mask())
    assert [len(part) for part in parts] == [2, 1]
    assert ring_area(parts[1][0]) == pytest.approx(12 * 15, abs=1)  # corners are cut by half a pixel
    assert np.abs(np.array([parts[1][0].min(0), parts[1][0].max(0)]) - [[60, 40], [75, 52]]).max() < 1e-9
    assert mask_polygons(np.zeros(SIZE, dtype=bool)) == []


@pytest.mark.parametrize("seed", range(5))
def test_polygons_fill_the_mask_again(seed: int) -> None:
    noise = np.random.default_rng(seed).random((12, 16)).repeat(5, 0).repeat(5, 1)
    mask = noise > (0.2, 0.4, 0.5, 0.6, 0.8)[seed]
    rings = [ring for part in mask_polygons(mask) for ring in part]
    together = np.logical_xor.reduce([filled(ring) for ring in rings])
    assert np.array_equal(together, mask)
    assert np.array_equal(filled(one_ring(rings)), mask)


def test_a_single_pixel_and_a_full_image() -> None:
    mask = np.zeros((3, 3), dtype=bool)
    mask[1, 1] = True
    assert np.array_equal(filled(mask_polygons(mask)[0][0], (3, 3)), mask)
    whole = mask_polygons(np.ones(SIZE, dtype=bool))
    assert filled(whole[0][0]).all()


def test_labelme(found: Predictions, tmp_path: Path) -> None:
    write_labelme(np.zeros((*SIZE, 3), np.uint8), found, tmp_path / "out", "photo")
    document = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert [s["label"] for s in document["shapes"]] == ["dog", "dog", "cat"]
    assert [s["group_id"] for s in document["shapes"]] == [1, 1, None]
    assert (tmp_path / "out" / document["imagePath"]).resolve() == found.path
    assert (document["imageHeight"], document["imageWidth"]) == SIZE
    drawn = Image.new("1", (80, 60))
    for shape in document["shapes"][:2]:
        ImageDraw.Draw(drawn).polygon([tuple(p) for p in shape["points"]], fill=1)
    overlap, union = np.asarray(drawn) & ring_mask(), np.asarray(drawn) | ring_mask()
    assert overlap.sum() / union.sum() > 0.85  # Pillow fills a little beyond the outline


def test_yolo(found: Predictions, tmp_path: Path) -> None:
    write_yolo(np.zeros((*SIZE, 3), np.uint8), found, tmp_path, "photo")
    lines = (tmp_path / "photo.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0"]
    for line, mask in zip(lines, (ring_mask(), square_mask()), strict=True):
        points = np.array(line.split()[1:], dtype=float).reshape(-1, 2)
        assert (points.min(), points.max()) >= (0, 0)
        assert points.max() <= 1
        assert np.array_equal(filled(points * (80, 60)), mask)


def test_png(found: Predictions, tmp_path: Path) -> None:
    found.rles[1] = to_rle(np.ones(SIZE, dtype=bool))
    write_png(np.zeros((*SIZE, 3), np.uint8), found, tmp_path, "photo")
    ids = np.asarray(Image.open(tmp_path / "photo.png"))
    assert np.array_equal(ids == 1, ring_mask())  # the better one lies on top
    assert np.array_equal(ids == 2, ~ring_mask())
    entries = json.loads((tmp_path / "photo.json").read_text())
    assert [(e["id"], e["class"]) for e in entries] == [(1, "dog"), (2, "cat")]


def test_overlay(found: Predictions, tmp_path: Path) -> None:
    write_overlay(np.full((*SIZE, 3), 90, np.uint8), found, tmp_path, "photo")
    with Image.open(tmp_path / "photo.jpg") as picture:
        assert picture.size == (640, 480)


def test_unique_names() -> None:
    taken: set[str] = set()
    names = [unique_name(Path(p), taken) for p in ("a/x.png", "b/x.jpg", "c/X.png", "d/x-2.png")]
    assert names == ["x", "x-2", "X-3", "x-2-2"]
