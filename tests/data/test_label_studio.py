"""Label Studio: its export by hand, masks against its own code's bytes, what counts, what hostile files do."""

import itertools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import Dataset, open_dataset
from gdseg.data.label_studio_regions import said_of
from gdseg.data.label_studio_rle import decode_brush, encode_brush
from gdseg.data.rle import SegmentationError, annotation_mask
from gdseg.errors import DataError
from gdseg.recipe import Data

H, W = 20, 40
IDS = itertools.count()
# label_studio_converter.brush.mask2rle (0.0.59) of the 3 x 5 mask below
MASK = np.array([[0, 255, 255, 0, 0], [0, 255, 0, 0, 255], [255, 255, 255, 255, 255]], dtype=np.uint8)
OF_CONVERTER = [0, 0, 0, 60, 57, 27, 252, 96, 19, 255, 219, 0, 143, 254, 112, 12, 47, 254]


def result(kind: str, value: dict[str, Any], label: str = "cat", **more: Any) -> dict[str, Any]:
    return {
        "id": f"r{next(IDS)}",
        "type": f"{kind}labels",
        "from_name": kind,
        "to_name": "image",
        "original_width": W,
        "original_height": H,
        "image_rotation": 0,
        "origin": "prediction-changed",
        "value": {**value, f"{kind}labels": [label]},
        **more,
    }


def polygon(left: float = 25.0, label: str = "cat", **more: Any) -> dict[str, Any]:
    """Ten pixels wide, ten high, from pixel (row 5, column `left` percent)."""
    points = [[left, 25.0], [left + 25, 25.0], [left + 25, 75.0], [left, 75.0]]
    return result("polygon", {"points": points, "closed": True}, label, **more)


def brush(mask: np.ndarray, **more: Any) -> dict[str, Any]:
    return result("brush", {"format": "rle", "rle": encode_brush(mask)}, **more)


def task(*results: Any, image: str = "/data/upload/3/0a1b2c3d-a.png", **more: Any) -> dict[str, Any]:
    made = {"id": 5, "result": list(results), "was_cancelled": False, "ground_truth": False}
    made |= {"updated_at": "2026-01-02T00:00:00Z"}
    return {"id": 1, "annotations": [made], "predictions": [], "data": {"image": image}, "project": 3, **more}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b c.png"):
        Image.new("RGB", (W, H)).save(tmp_path / "images" / name)
    return tmp_path


def opened(root: Path, *tasks: Any, **keys: Any) -> Dataset:
    name = "project-3-at-2026-01-02-03-04-0a1b2c3d.json"  # as it is downloaded
    (root / name).write_text(json.dumps(list(tasks)))
    return open_dataset(Data(root=str(root), val="none", **keys), ("train",))


def masks(dataset: Dataset, image: int = 0) -> list[np.ndarray]:
    return [annotation_mask(a, H, W) > 0 for a in dataset.train[image].annotations or ()]


def test_the_code_of_masks_is_that_of_label_studio() -> None:
    assert encode_brush(MASK) == OF_CONVERTER
    assert np.array_equal(decode_brush(OF_CONVERTER, 3, 5), MASK > 0)
    for size in ((1, 1), (7, 300), (300, 301)):
        for mask in (np.random.default_rng(0).random(size) > 0.5, np.ones(size) > 0, np.zeros(size) > 0):
            assert np.array_equal(decode_brush(encode_brush(mask.astype(np.uint8)), *size), mask)


def test_words_as_they_are_and_half_transparent_pixels() -> None:
    """A run of 8 plain words, lengths of other sizes: two pixels, of which alpha 128 is in and 127 is not."""
    bits = f"{8:032b}{7:05b}" + "0000" * 3 + f"{4 - 1:04b}" + "0" + "11" + f"{7:04b}"
    bits += "".join(f"{value:08b}" for value in (9, 8, 7, 127, 1, 2, 3, 128))
    code = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    assert decode_brush(list(code), 1, 2).tolist() == [[False, True]]


def test_regions_are_objects(root: Path) -> None:
    drawn = np.zeros((H, W), dtype=np.uint8)
    drawn[2:7, 3:9], drawn[4, 5] = 1, 0  # with a hole
    box = result("rectangle", {"x": 50.0, "y": 10.0, "width": 25.0, "height": 40.0, "rotation": 0}, "dog")
    turned = result("rectangle", {"x": 50.0, "y": 50.0, "width": 10.0, "height": 40.0, "rotation": 90}, "dog")
    oval = result("ellipse", {"x": 50.0, "y": 50.0, "radiusX": 20.0, "radiusY": 20.0, "rotation": 0}, "ant")
    note = {
        "type": "choices",
        "value": {"choices": ["blurred"]},
        "from_name": "c",
        "to_name": "image",
        "id": "q",
    }
    link = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    dataset = opened(root, task(brush(drawn), polygon(), box, turned, oval, note, link))
    assert dataset.classes == ["ant", "cat", "dog"]
    assert dataset.train[0].path == root / "images" / "a.png"
    assert [a["label"] for a in dataset.train[0].annotations or ()] == [1, 1, 2, 2, 0]
    found = masks(dataset)
    assert np.array_equal(found[0], drawn > 0)
    for mask, (top, left, bottom, right) in zip(
        found[1:4], [(5, 10, 15, 20), (2, 20, 10, 30), (10, 12, 14, 20)], strict=True
    ):
        expected = np.zeros((H, W), dtype=bool)
        expected[top:bottom, left:right] = True  # the third turned by 90 degrees about its top left corner
        assert np.array_equal(mask, expected)
    assert found[4].sum() == pytest.approx(np.pi * 8 * 4, rel=0.1)


def test_labels_apart_from_brushes_and_scores_and_notes(root: Path) -> None:
    """<Brush> with <Labels>: two results of one id. Notes are text of people, among which weights are."""
    drawn = np.ones((H, W), dtype=np.uint8)
    value = {"format": "rle", "rle": encode_brush(drawn)}
    plain = {**result("brush", value), "type": "brush", "id": "r", "value": value}
    label = {**plain, "type": "labels", "value": {**value, "labels": ["dog"]}}
    sure = polygon(score=0.75, meta={"text": ["weight=0.5, looked at twice"]})
    crowd = polygon(50.0, meta={"text": "iscrowd"})
    dataset = opened(root, task(plain, label, sure, crowd), label_weights="weight")
    first, second, third = dataset.train[0].annotations or ()
    assert (dataset.classes[first["label"]], first["loss_weight"]) == ("dog", 1.0)
    assert (second["score"], second["loss_weight"], second["iscrowd"]) == (0.75, 0.5, 0)
    assert third["iscrowd"] == 1
    with pytest.raises(DataError, match=r"bad weight.*annotation 1: its weight is 'weight=x'"):
        opened(root, task(polygon(meta={"text": ["weight=x"]})), label_weights="weight")


@pytest.mark.parametrize(
    ("note", "weight", "crowd"),
    [
        ("weight= 0.5", 0.5, 0),
        ("not iscrowd, weight=0.5;", 0.5, 0),
        ("iscrowd, weight = .25.", 0.25, 1),
        ("weight=1e-05", 1e-05, 0),
        ("iscrowd=0 weight=1", 1.0, 0),
        ("overweight=0.5", None, 0),
        ("weight=0,5", "weight=0,5", 0),
        ("weight=-1", "weight=-1", 0),
        ("the weight is low", "the weight is low", 0),
    ],
)
def test_notes_are_peoples_text(note: str, weight: float | str | None, crowd: int) -> None:
    said = said_of({"meta": {"text": [note]}})
    assert (said.get("weight"), said["iscrowd"]) == (weight, crowd)


def test_which_annotation_counts(root: Path) -> None:
    def made(left: float, day: int, **more: Any) -> dict[str, Any]:
        return {"result": [polygon(left)], "updated_at": f"2026-01-0{day}", **more}

    def left(*annotations: Any, predictions: Any = ()) -> list[int]:
        dataset = opened(root, {**task(), "annotations": list(annotations), "predictions": list(predictions)})
        return [int(mask.any(0).argmax()) for mask in masks(dataset)]

    assert left(made(25, 3), made(50, 2), made(75, 4, was_cancelled=True)) == [10]
    assert left(made(25, 3), made(50, 2, ground_truth=True)) == [20]
    assert left(predictions=[made(0, 1), made(50, 1)]) == [20]
    assert left(made(25, 1), predictions=[made(50, 2)]) == [10]
    skipped = {**task(), "annotations": [made(25, 1, was_cancelled=True)], "predictions": [made(50, 1)]}
    with pytest.raises(DataError, match="no task is annotated"):
        opened(root, skipped)
    dataset = opened(root, skipped, task(image="s3://bucket/x/sub/b%20c.png"))
    assert [record.annotations for record in dataset.train] == [()]
    assert "task without annotation" in str(dataset.faults[0])


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=home/me/images/sub/b%20c.png",
        "https://host/x/sub/b%20c.png?token=1",
        "sub/b c.png",
        "/data/upload/1/01234567-b%20c.png",
    ],
)
def test_images_are_found_by_their_addresses(root: Path, address: str) -> None:
    Image.new("RGB", (W, H)).save(root / "images" / "b c.png")
    dataset = opened(root, {**task(polygon()), "data": {"text": "a.txt", "photo": address}})
    assert dataset.train[0].path.name == "b c.png"
    assert dataset.train[0].path.parent.name == ("images" if "upload" in address else "sub")


def test_a_file_is_never_two_images(root: Path) -> None:
    with pytest.raises(DataError, match=r"1 x duplicate image.*task 2 has the image of another"):
        opened(root, task(image="s3://bucket/x/a.png"), task(image="s3://bucket/y/a.png"))
    with pytest.raises(DataError, match=r"1 x duplicate image.*task 2 has the image of another"):
        opened(root, task(image="a.png"), task(image="images/a.png"))


@pytest.mark.parametrize(
    ("region", "fault"),
    [
        ("text", "bad region: image 'a.png': result 1 is 'text'"),
        (polygon(original_width=W + 1), "size differs.*original_width is 41, its image has 40"),
        (polygon(image_rotation=90), "bad region.*turned"),
        (result("polygon", {"points": [[1, 2], [3, "x"], [4, 5]]}), "bad polygon"),
        (result("polygon", {"points": [[0, 0], [300, 0], [0, 90]]}), "outside its image"),
        (result("polygon", {"points": [[0, 0], [10**400, 0], [0, 90]]}), "bad polygon"),
        (result("keypoint", {"x": 1, "y": 2, "width": 1}), "a 'keypointlabels' has no area"),
        (result("rectangle", {"x": None, "y": 2, "width": 1, "height": 1}), "bad region.*expected numbers"),
        (result("brush", {"format": "rle", "rle": "x"}), "bad RLE"),
        (result("brush", {"format": "rle", "rle": [256]}), "bad RLE"),
        (result("brush", {"format": "rle", "rle": OF_CONVERTER}), "bad RLE.*of 60 words of 8 bits"),
        (result("brush", {"format": "rle", "rle": [0]}), "bad RLE.*cut off"),
        ({**polygon(), "value": {"points": []}}, "undeclared category.*None"),
    ],
)
def test_a_bad_region_is_named(root: Path, region: Any, fault: str) -> None:
    with pytest.raises(DataError, match="1 x .*" + fault):
        opened(root, task(region))


def test_two_regions_of_one_id_are_doubtful(root: Path) -> None:
    with pytest.raises(DataError, match=r"bad region.*two regions have the id 'r'"):
        opened(root, task({**polygon(), "id": "r"}, {**polygon(50.0), "id": "r"}))
    assert (
        len(opened(root, task({**polygon(), "id": "r"}, {**polygon(), "id": "r"})).train[0].annotations or ())
        == 1
    )


def test_regions_of_several_images_are_never_put_on_one(root: Path) -> None:
    """Which image a tag shows is written in the labelling interface only, so that neither case is guessed."""
    pair = {"image": "a.png", "other": "sub/b c.png", "text": "a cat"}
    with pytest.raises(DataError, match=r"1 x several images.*task 1 has the images 'a.png', 'sub/b c.png'"):
        opened(root, {**task(polygon()), "data": pair})
    regions = polygon(), polygon(50.0, to_name="second")
    with pytest.raises(DataError, match=r"1 x several images.*task 2 has regions of 'image', 'second'"):
        opened(root, task(image="sub/b c.png"), task(*regions))
    remark = {"type": "choices", "value": {"choices": ["x"]}, "to_name": "text"}
    assert len(masks(opened(root, {**task(polygon(), remark), "data": {**pair, "other": "a.png"}}))) == 1


def test_damaged_runs_are_refused_or_read() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        code = np.array(OF_CONVERTER)
        code[rng.integers(4, len(code))] = rng.integers(256)
        with suppress(SegmentationError):  # and nothing else
            assert decode_brush(code.tolist()[: rng.integers(5, 19)], 3, 5).shape == (3, 5)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('[{"annotations": [', "not a json file"),
        ('[{"annotation_id": 1, "image": "a.png", "label": []}]', "JSON-MIN"),
        ('["annotations", 1]', "lists no tasks"),
        ('[{"annotations": 3, "predictions": "x", "data": {"image": "a.png"}}]', "no task is annotated"),
        ('[{"annotations": [{"result": []}], "data": {"image": "no.png"}}]', "missing image file.*task 1"),
        ('[{"annotations": [{"result": []}], "data": {"image": 3}}]', "missing image file"),
        (
            '[{"annotations": [{"result": []}], "data": {"image": "http://[x/no.png"}}]',
            "missing image file|no task",
        ),
    ],
)
def test_a_bad_file_is_one_error(root: Path, content: str, fault: str) -> None:
    (root / "label_studio_train.json").write_text(content)
    with pytest.raises(DataError, match=fault):
        open_dataset(Data(root=str(root), val="none"), ("train",))


def test_two_exports_are_doubtful(root: Path) -> None:
    (root / "project-1.json").write_text(json.dumps([task()]))
    with pytest.raises(DataError, match=r"several exports fit: project-1.json, project-3"):
        opened(root, task())
    assert len(opened(root, task(polygon()), train="project-1.json").train[0].annotations or ()) == 0
