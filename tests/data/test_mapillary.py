"""Mapillary Vistas: both versions, the three tasks, what is missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import open_dataset, richest_task
from gdseg.data.label_maps import read_regions, rgb_of
from gdseg.errors import DataError
from gdseg.recipe import Data

LABELS = [
    {"readable": "Bird", "name": "animal--bird", "color": [165, 42, 42], "instances": True, "evaluate": True},
    {"readable": "Curb", "name": "construction--curb", "color": [196, 196, 196], "instances": False},
    {"readable": "Unlabeled", "name": "void", "color": [0, 0, 0], "instances": True, "evaluate": False},
    {"readable": "Car", "name": "object--car", "color": [0, 0, 142], "instances": True, "evaluate": True},
]
CLASS = np.array([[0, 0, 3, 3, 3], [1, 1, 1, 2, 2]])
OBJECT = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 5, 0]])  # a thing's first object has the number 0


def vistas(root: Path, version: str = "") -> Path:
    for part in ("training", "validation"):
        for folder in (Path("images"), Path(version) / "labels", Path(version) / "instances"):
            (root / part / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 2)).save(root / part / "images" / "x.jpg")
        top = root / part / version
        labels = Image.fromarray(CLASS.astype(np.uint8))
        labels.putpalette([channel for label in LABELS for channel in label["color"]])
        labels.save(top / "labels" / "x.png")
        Image.fromarray((CLASS * 256 + OBJECT).astype(np.uint16)).save(top / "instances" / "x.png")
    name = f"config_{version}.json" if version else "config.json"
    (root / name).write_text(json.dumps({"labels": LABELS}))
    return root


def areas(data: Data, task: str) -> tuple[list[tuple[str, int]], int]:
    """(class, pixels) of each segment, and the pixels of no class."""
    dataset = open_dataset(data, ("val",), task=task)
    regions = read_regions(dataset.val[0], task)
    found = [
        (dataset.classes[s.label], int((regions.place == i).sum())) for i, s in enumerate(regions.segments)
    ]
    return sorted(found), int((regions.place < 0).sum())


@pytest.mark.parametrize("version", ["", "v1.2", "v2.0"])
def test_the_three_tasks_of_each_layout(tmp_path: Path, version: str) -> None:
    data = Data(root=str(vistas(tmp_path, version)))
    assert richest_task(data, "val") == "panoptic"
    things = [("Bird", 2), ("Car", 1), ("Car", 2)]
    assert areas(data, "instance") == (things, 5)
    assert areas(data, "panoptic") == (sorted([*things, ("Curb", 3)]), 2)
    assert areas(data, "semantic") == ([("Bird", 2), ("Car", 3), ("Curb", 3)], 2)
    dataset = open_dataset(data, task="semantic")
    assert dataset.category_ids == [0, 1, 3]
    assert dataset.table[2].colour == (0, 0, 142)


def test_the_panoptic_json_is_the_truth_where_it_is_there(tmp_path: Path) -> None:
    folder = vistas(tmp_path) / "validation" / "panoptic"
    folder.mkdir()
    Image.fromarray(rgb_of(np.where(CLASS == 3, 70000, 0))).save(folder / "x.png")
    content = {
        "images": [{"id": "x", "file_name": "x.jpg", "height": 2, "width": 5}],
        "categories": [{"id": 56, "name": "Car", "isthing": 1, "color": [0, 0, 142]}],
        "annotations": [
            {
                "image_id": "x",
                "file_name": "x.png",
                "segments_info": [{"id": 70000, "category_id": 56, "iscrowd": 1}],
            }
        ],
    }
    (folder / "panoptic_2018.json").write_text(json.dumps(content))
    data = Data(root=str(tmp_path))
    assert areas(data, "panoptic") == ([("Car", 3)], 7)
    [segment] = read_regions(open_dataset(data, ("val",), task="panoptic").val[0], "panoptic").segments
    assert segment.is_crowd


def test_of_two_versions_one_must_be_named(tmp_path: Path) -> None:
    vistas(tmp_path, "v2.0")
    (tmp_path / "config_v2.0.json").write_text(
        json.dumps({"labels": [*LABELS, LABELS[0] | {"readable": "Bus"}]})
    )
    vistas(tmp_path, "v1.2")
    with pytest.raises(DataError, match=r"(?s)two versions.*data.val=validation/v1.2"):
        open_dataset(Data(root=str(tmp_path)), ("val",), task="instance")
    data = Data(root=str(tmp_path), train="training/v2.0", val="validation/v2.0")
    assert open_dataset(data, task="instance").classes == ["Bird", "Car", "Bus"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = vistas(tmp_path)
    shutil.rmtree(root / "validation" / "instances")
    with pytest.raises(DataError, match="task: instance needs the folder instances"):
        open_dataset(Data(root=str(root)), ("val",), task="instance")
    for text in ("{", "[]", '{"labels": [{}]}', '{"labels": 3}', "[" * 100000):
        (root / "config.json").write_text(text)
        with pytest.raises(DataError, match="not a config of Mapillary"):
            open_dataset(Data(root=str(root)), ("train",), task="semantic")
    (root / "config.json").unlink()
    with pytest.raises(DataError, match=r"(?s)there is no config.json.*data.classes=FILE"):
        open_dataset(Data(root=str(root), format="mapillary"), ("train",), task="semantic")
    (root / "config.json").write_text(json.dumps({"labels": LABELS[:1]}))
    faulty = open_dataset(Data(root=str(root)), ("train",), task="semantic").train[0]
    with pytest.raises(DataError, match=r"mean nothing: \[1, 2, 3\]"):
        read_regions(faulty, "semantic")
