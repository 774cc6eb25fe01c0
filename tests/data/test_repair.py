"""Repaired copies: every fault is gone, what had none is as it was, the original is untouched."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import Dataset, open_dataset
from gdseg.data.inspect import inspect_labels
from gdseg.data.inspect_files import inspect_files
from gdseg.data.part import Fault
from gdseg.data.repair import repair_dataset
from gdseg.data.repair_polygons import cut_polygon
from gdseg.data.rle import polygons_mask, to_rle
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.errors import DataError, UsageError
from gdseg.recipe import Data

Content = dict[str, Any]


def inspected(root: Path, task: str = "instance") -> tuple[Dataset, list[Fault]]:
    dataset = open_dataset(Data(root=str(root)), task=task, strict=False)
    return dataset, inspect_labels(dataset).faults + inspect_files(dataset)


def repaired(root: Path, target: Path, task: str = "instance") -> list[Fault]:
    """The repairs; the copy has no fault, and the original is as it was."""
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    dataset, faults = inspected(root, task)
    done = repair_dataset(dataset, Data(root=str(root)), faults, target)
    assert {path: path.read_bytes() for path in before} == before
    _, left = inspected(target, task)
    assert left == []
    open_dataset(Data(root=str(target)), task=task)
    return done


def read(root: Path, part: str = "train", name: str = "instances") -> Content:
    content: Content = json.loads((root / "annotations" / f"{name}_{part}.json").read_text())
    return content


def test_annotations_are_repaired_or_left_out(make_coco: Any, content: Content, tmp_path: Path) -> None:
    good = {**content["annotations"][0], "area": 192.5, "mine": {"kept": [1.25, None]}}
    content |= {"info": {"year": 2001}, "licenses": [{"id": 1}]}
    square = good["segmentation"][0]
    cat = {**good, "category_id": 4, "bbox": None}
    content["annotations"] = [
        good,
        {**good, "id": 2, "category_id": 5},
        {**good, "id": 3, "segmentation": [[1, 1, 2, 2, 3, 3]]},
        {**good, "id": 4},
        {**cat, "id": 5, "segmentation": [square, [1, 2, 3, 4]], "category_id": 4},
        {**good, "id": 6, "segmentation": [[40, 4, 60, 4, 60, 20, 40, 20]], "bbox": [40, 4, 20, 16]},
        {**good, "id": 7, "segmentation": [[140, 4, 160, 4, 160, 20]]},
        {**good, "id": 8, "image_id": 3, "iscrowd": 1},
        {**good, "id": 8, "image_id": 3},
        {**good, "id": 1},
        {**good, "id": 9, "image_id": 3, "category_id": 4, "bbox": [0, 0, 500, 5]},
        {**good, "id": 10, "image_id": 8},
        {**good, "id": 11, "segmentation": {"size": [3, 3], "counts": "abc"}},
        {**good, "id": 12, "iscrowd": "no"},
        {**good, "id": 13, "segmentation": [[*square[:-2], float("nan"), 5]]},
        17,
    ]
    root = make_coco(content)
    done = repaired(root, tmp_path / "copy")
    copy = read(tmp_path / "copy")
    assert {k: v for k, v in copy.items() if k != "annotations"} == {
        k: v for k, v in content.items() if k != "annotations"
    }
    by_id = {a["id"]: a for a in copy["annotations"]}
    assert list(by_id) == [1, 5, 6, 8, 14, 9]
    assert by_id[1] == good
    assert by_id[5] == {**content["annotations"][4], "segmentation": [square], "area": 192}
    assert by_id[6]["segmentation"] == [[40, 4, 48, 4, 48, 20, 40, 20]]
    assert (by_id[6]["bbox"], by_id[6]["area"]) == ([40, 4, 8, 16], 128)
    assert by_id[8]["segmentation"]["size"] == [32, 48]
    assert by_id[14] == {**good, "id": 14, "image_id": 3}
    assert by_id[9] == {**content["annotations"][10], "bbox": [4, 4, 16, 12]}
    said = {(f.annotation_id, f.kind): f.text for f in done if f.part == "train"}
    assert said[7, "outside its image"] == "left out: a polygon outside of the image is left out"
    assert said[8, "duplicate annotation id"] == "its id is now 14"
    assert (
        said[1, "duplicate annotation id"] == "its id is now 15"
    )  # which is then left out as the first one's twin
    assert {key[0] for key in said} >= {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15}


def test_a_wrong_size_in_the_json_is_one_fault_and_costs_no_object(
    make_coco: Any, content: Content, tmp_path: Path
) -> None:
    """File and masks agree; where they do not, the file is another one and nothing is known of its masks."""
    good = content["annotations"][0]
    mask = np.zeros((32, 48), np.uint8)
    mask[4:16, 4:20] = 1
    content["annotations"] += [
        {**good, "id": n, "segmentation": to_rle(np.roll(mask, n, 1)), "bbox": None} for n in range(2, 9)
    ]
    true = json.loads(json.dumps(content))
    content["images"][0]["width"] = 999
    root = make_coco(true)
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    _, faults = inspected(root)
    assert [(f.kind, f.image_id, f.harmless) for f in faults] == [("size differs", 7, False)]
    assert "999 x 32, file and masks are 48 x 32" in faults[0].text
    with pytest.raises(DataError, match="1 x size differs"):
        open_dataset(Data(root=str(root)))
    done = repaired(root, tmp_path / "copy")
    assert [(f.kind, f.image_id) for f in done] == [("size differs", 7)]
    assert read(tmp_path / "copy") == true
    Image.fromarray(np.ones((40, 48, 3), np.uint8)).save(root / "train" / "a.png")
    _, faults = inspected(root)
    assert {f.kind for f in faults} == {"bad RLE", "wrong image size"}


def test_a_faultless_part_stays_byte_for_byte_and_images_are_links(
    make_coco: Any, content: Content, tmp_path: Path
) -> None:
    root = make_coco(content)
    content["annotations"][0]["category_id"] = 5
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content, indent=3))
    (root / "notes").mkdir()
    (root / "notes" / "mine.txt").write_text("of my own")
    (root / "notes" / "round").symlink_to(root)
    repaired(root, tmp_path / "copy")
    val = Path("annotations") / "instances_val.json"
    assert (tmp_path / "copy" / val).read_bytes() == (root / val).read_bytes()
    assert (tmp_path / "copy" / "train" / "a.png").samefile(root / "train" / "a.png")
    assert (tmp_path / "copy" / "notes" / "mine.txt").read_text() == "of my own"
    assert not (tmp_path / "copy" / val).samefile(root / val)


def test_images_are_repaired_or_left_out(make_coco: Any, content: Content, tmp_path: Path) -> None:
    """Seven images: whole, without a size, twice the same id, gone, broken, of another size, in val too."""
    good = content["annotations"][0]
    names = {20: "c.png", 21: "d.png", 22: "e.png", 23: "f.png"}
    content["images"] += [
        {"id": i, "file_name": name, "height": 32, "width": 48} for i, name in names.items()
    ]
    content["images"] += [dict(content["images"][0]), {"id": "x"}]
    content["annotations"] = [
        {**good, "id": n, "image_id": i["id"]} for n, i in enumerate(content["images"][:6], 1)
    ]
    del content["images"][1]["height"]
    root = make_coco(content)
    (root / "annotations" / "instances_val.json").write_text(
        json.dumps(
            {
                **content,
                "images": [{"id": 7, "file_name": "a.png", "height": 32, "width": 48}],
                "annotations": [good],
            }
        )
    )
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8)).save(root / "val" / "a.png")
    (root / "train" / "d.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "train" / "e.png")
    shutil.copy(root / "val" / "a.png", root / "train" / "f.png")
    done = repaired(root, tmp_path / "copy")
    copy = read(tmp_path / "copy")
    assert [image["id"] for image in copy["images"]] == [7, 3]
    assert copy["images"][1] == {"id": 3, "file_name": "b.png", "height": 32, "width": 48}
    assert [a["image_id"] for a in copy["annotations"]] == [7, 3]
    said = {f.image_id: f.text for f in done if f.annotation_id is None and f.part == "train"}
    assert said[3] == "its height and width are now those of its file"
    assert all("left out" in said[i] for i in (20, 21, 22, 23))
    assert sorted(p.name for p in (tmp_path / "copy" / "train").iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_label_maps(tmp_path: Path, task: str) -> None:
    """One map of another size and one with an unknown value: the first image goes, of panoptic maps the value."""
    root = tmp_path / "D"
    make_scenes(root, ShapesOptions(4, 2, 48), task)
    dataset, _ = inspected(root, task)
    first, second = (record.label_map.path for record in dataset.train[:2] if record.label_map)
    Image.fromarray(np.zeros((9, 9, 3) if task == "panoptic" else (9, 9), np.uint8)).save(first)
    with Image.open(second) as file:
        values = np.asarray(file).copy()
    values[:5, :5] = 77
    Image.fromarray(values).save(second)
    if task == "panoptic":
        path = root / "annotations" / "panoptic_train.json"
        content = json.loads(path.read_text())
        content["annotations"][2]["segments_info"][0]["category_id"] = 999
        content["annotations"][3]["segments_info"].append(
            {"id": 12345, "category_id": content["categories"][0]["id"], "iscrowd": 0}
        )
        path.write_text(json.dumps(content))
    repaired(root, tmp_path / "copy", task)
    copy, _ = inspected(tmp_path / "copy", task)
    ids = [record.image_id for record in dataset.train]
    assert [record.image_id for record in copy.train] == (ids[1:] if task == "panoptic" else ids[2:])
    if task == "panoptic":
        map_of_second = copy.train[0].label_map
        assert map_of_second is not None
        with Image.open(map_of_second.path) as file:
            again = np.asarray(file)
        assert not again[:5, :5].any()
        assert (again[5:] == values[5:]).all()
        before, after = (
            json.loads((d / "annotations" / "panoptic_train.json").read_text())
            for d in (root, tmp_path / "copy")
        )
        assert after["annotations"][1]["segments_info"] == before["annotations"][2]["segments_info"][1:]
        assert after["annotations"][2]["segments_info"] == before["annotations"][3]["segments_info"][:-1]


def test_where_a_copy_cannot_be(make_coco: Any, content: Content, tmp_path: Path) -> None:
    content["annotations"][0]["category_id"] = 5
    root = make_coco(content)
    dataset, faults = inspected(root)
    with pytest.raises(UsageError, match="there is something"):
        repair_dataset(dataset, Data(root=str(root)), faults, root)
    outside = tmp_path / "labels.json"
    shutil.copy(root / "annotations" / "instances_train.json", outside)
    keys = Data(root=str(root), train=str(outside), train_images="train")
    with pytest.raises(UsageError, match="do not lie in"):
        repair_dataset(open_dataset(keys, strict=False), keys, faults, tmp_path / "copy")
    for image in (root / "train").iterdir():
        image.write_bytes(b"no")
    dataset, faults = inspected(root)
    with pytest.raises(DataError, match="no image of train"):
        repair_dataset(dataset, Data(root=str(root)), faults, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("seed", range(6))
def test_a_polygon_cut_at_the_edge_has_the_pixels_it_had_inside(seed: int) -> None:
    """Against the mask of the whole polygon in a larger image; a few pixels of the rim may differ."""
    rng, size = np.random.default_rng(seed), 40
    points = rng.integers(-30, size + 30, (7, 2))
    angles = np.arctan2(*(points - points.mean(0)).T)
    polygon = points[np.argsort(angles)].ravel().astype(float).tolist()
    large = polygons_mask([[number + 64 for number in polygon]], 168, 168)[64 : 64 + size, 64 : 64 + size]
    cut = cut_polygon(polygon, size, size)
    mask = polygons_mask([cut], size, size) if len(cut) >= 6 else np.zeros_like(large)
    assert (mask != large).mean() < 0.01
    assert all(0 <= number <= size for number in cut)
