"""Inspection: counts by hand, every fault with its ids, copies of images by bytes and by pixels."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import Dataset, open_dataset
from gdseg.data.inspect import inspect_labels
from gdseg.data.inspect_files import inspect_files
from gdseg.data.part import Fault
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.eval.coco import score
from gdseg.recipe import Data

Content = dict[str, Any]


def opened(root: Path, task: str = "instance") -> Dataset:
    return open_dataset(Data(root=str(root)), task=task, strict=False)


def facts(faults: list[Fault]) -> set[tuple[Any, ...]]:
    return {(f.kind, f.part, f.image_id, f.annotation_id, f.harmless) for f in faults}


def test_a_file_name_too_long_is_a_fault(make_coco: Any, content: Content) -> None:
    content["images"][0]["file_name"] = "x" * 5000 + ".png"
    report = inspect_labels(opened(make_coco(content)))
    assert [fault.kind for fault in report.serious] == ["missing image file"] * 2


def test_counts_by_hand(make_coco: Any, content: Content) -> None:
    """A dog of 16 x 12 pixels and its crowd, a cat of the same mask: 192 pixels each of 32 x 48."""
    good = content["annotations"][0]
    content["annotations"] += [
        {**good, "id": 2, "category_id": 4, "iscrowd": 1},
        {**good, "id": 3, "category_id": 4},
    ]
    report = inspect_labels(opened(make_coco(content)))
    train = report.parts["train"]
    assert (train.images, train.empty_images, train.objects, train.crowds) == (2, 1, 2, 1)
    assert {name: vars(count) for name, count in train.classes.items()} == {
        name: {"objects": 1, "images": 1, "pixels": 192} for name in ("cat", "dog")
    }
    assert train.objects_an_image == [0, 0.5, 1, 1.5, 2]
    assert train.areas == {"small": 0, "medium": 0, "large": 2}  # thirds of equal ones begin at them
    assert (train.area_edges, train.area_counts) == ([1, 4, 16, 64], [0, 0, 0, 2])
    assert train.area_shares == [192 / (32 * 48)] * 5
    assert facts(report.faults) == {("crowd as polygon", part, 7, 2, True) for part in ("train", "val")}
    json.dumps(report.to_dict(), default=str)


@pytest.mark.parametrize("sides", [(3, 5, 8, 9, 12, 20), (10, 40, 100, 110, 120, 130)])
def test_sizes_are_those_of_the_evaluation(make_coco: Any, content: Content, sides: tuple[int, ...]) -> None:
    """Declared areas, that are not those of the masks; thirds of the first, COCO's limits of the second."""
    good = content["annotations"][0]
    content["annotations"] = [{**good, "id": i + 1, "area": side**2} for i, side in enumerate(sides)]
    dataset = opened(make_coco(content))
    report = inspect_labels(dataset)
    assert report.area_limits == score(dataset.val, dataset.classes, dataset.category_ids, []).areas
    first, second = report.area_limits
    assert (report.area_limits == (1024, 9216)) == (max(sides) > 100)
    count = [sum(low <= side**2 < high for side in sides) for low, high in pairwise([0, first, second, 1e9])]
    assert list(report.parts["train"].areas.values()) == count
    assert min(count) > 0


def test_every_fault_of_annotations_has_its_ids(make_coco: Any, content: Content) -> None:
    good = content["annotations"][0]
    square = good["segmentation"][0]
    changes: list[Content] = [
        {"category_id": 5},
        {"segmentation": [[1, 1, 2, 2, 3, 3]]},
        {"segmentation": [square, [1, 2, 3, 4], [1, 1, 2, 2, 3, 3]], "category_id": 4},
        {"bbox": None},
        {"segmentation": [[40, 4, 60, 4, 60, 20]]},
        {"image_id": 8},
    ]
    content["annotations"] += [{**good, "id": i, **change} for i, change in enumerate(changes, 2)]
    content["annotations"].append(good)
    report = inspect_labels(opened(make_coco(content, parts=("train", "val"))))
    assert facts([f for f in report.faults if f.part == "train"]) == {
        ("undeclared category id", "train", 7, 2, False),
        ("empty object", "train", 7, 3, True),
        ("degenerate polygon", "train", 7, 4, True),
        ("identical annotations", "train", 7, 5, True),
        ("outside its image", "train", 7, 6, False),
        ("undeclared image id", "train", 8, 7, False),
        ("duplicate annotation id", "train", 7, 1, False),
    }


def test_faults_of_image_files(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    (root / "val" / "a.png").write_bytes(b"no")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "val" / "b.png")
    (root / "train" / "a.png").unlink()
    dataset = opened(root)
    assert facts(dataset.faults) == {("missing image file", "train", 7, None, False)}
    found = inspect_files(dataset)
    assert facts(found) == {
        ("unreadable image", "val", 7, None, False),
        ("wrong image size", "val", 3, None, False),
    }
    assert "b.png is 9 x 9, the labels say 48 x 32" in str(found)


def test_images_in_both_parts_and_twice_in_one(make_coco: Any, content: Content) -> None:
    """Of four images three are copies of the first: a file, another PNG of its pixels, a bitmap of them."""
    for number, name in ((1, "c.png"), (2, "d.bmp")):
        content["images"].append({"id": number, "file_name": name, "height": 32, "width": 48})
    root = make_coco(content)
    for part in ("train", "val"):
        for name in ("c.png", "d.bmp"):
            pixels = np.random.default_rng(list(f"{part}{name}".encode())).integers(
                0, 256, (32, 48, 3), np.uint8
            )
            Image.fromarray(pixels).save(root / part / name)
    shutil.copy(root / "train" / "a.png", root / "val" / "b.png")
    with Image.open(root / "train" / "a.png") as first:
        first.save(root / "train" / "c.png", compress_level=1)
        first.save(root / "train" / "d.bmp")
    assert (root / "train" / "c.png").read_bytes() != (root / "train" / "a.png").read_bytes()
    dataset, told = opened(root), list[tuple[int, int]]()
    leaks = {("training image in val", "train", i, None, False) for i in (7, 1, 2)}
    assert facts(inspect_files(dataset, tell=lambda *done: told.append(done))) == leaks
    assert told[0] == (8, 8)
    assert facts(inspect_files(dataset, pixels=False)) == {("training image in val", "train", 7, None, False)}
    (root / "val" / "b.png").unlink()
    copies = {("identical image", "train", i, None, True) for i in (1, 2)}
    assert facts(inspect_files(opened(root))) == copies


def test_a_file_that_is_cut_off_is_found_by_decoding(make_coco: Any, content: Content) -> None:
    content["images"][0]["file_name"] = "a.jpg"
    root = make_coco(content)
    for part in ("train", "val"):
        with Image.open(root / part / ("a.png" if part == "train" else "b.png")) as image:
            image.save(root / part / "a.jpg")
    whole = (root / "train" / "a.jpg").read_bytes()
    (root / "train" / "a.jpg").write_bytes(whole[:-300])
    assert facts(inspect_files(opened(root))) == {("unreadable image", "train", 7, None, False)}
    assert inspect_files(opened(root), pixels=False) == []


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_label_maps(tmp_path: Path, task: str) -> None:
    """A whole set has no fault; a map of another size and one with an unknown value are named with their files."""
    make_scenes(tmp_path / "D", ShapesOptions(4, 2, 48), task)
    dataset = opened(tmp_path / "D", task)
    report = inspect_labels(dataset)
    assert report.faults == inspect_files(dataset) == []
    pixels = sum(count.pixels for count in report.parts["train"].classes.values())
    void = 4 * 48 * 48 - pixels
    assert 0 <= void < 48 * 48
    first, second = (record.label_map.path for record in dataset.train[:2] if record.label_map)
    Image.fromarray(np.zeros((9, 9, 3) if task == "panoptic" else (9, 9), np.uint8)).save(first)
    values = np.asarray(Image.open(second)).copy()
    values[:5, :5] = 77
    Image.fromarray(values).save(second)
    faults = inspect_labels(dataset).serious
    assert [(f.kind, f.part, f.image_id) for f in faults] == [
        ("bad label map", "train", record.image_id) for record in dataset.train[:2]
    ]
    assert [f.files for f in faults] == [(dataset.train[0].path, first), (dataset.train[1].path, second)]


def test_inspecting_real_data(shared_dir: Path) -> None:
    dataset = opened(shared_dir / "data" / "coco")
    report = inspect_labels(dataset)
    assert report.faults == inspect_files(dataset) == []
    assert report.parts["val"].objects + report.parts["val"].crowds == 517
