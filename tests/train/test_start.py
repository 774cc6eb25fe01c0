"""The hash that stands for a data set's labels: other labels, another hash, whatever the format."""

import hashlib
import json
import shutil

import pytest
from PIL import Image

from gdseg.data.dataset import open_dataset
from gdseg.recipe import Data
from gdseg.structures import LabelMap, Record
from gdseg.train.start import labels_sha256

SHAPE = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon", "group_id": None}


def digest(root, task="instance", **keys):
    dataset = open_dataset(Data(root=str(root), val="none", **keys), task=task)
    assert dataset.train
    return labels_sha256(dataset.train_json, dataset.train)


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def labelme(root):
    image(root / "a.jpg")
    document = {"shapes": [SHAPE], "imagePath": "a.jpg", "imageHeight": 30, "imageWidth": 40}
    (root / "a.json").write_text(json.dumps(document))
    return root / "a.json", "[9, 9]", "[8, 9]"


def yolo(root):
    (root / "labels/train").mkdir(parents=True)
    image(root / "images/train/a.png")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames: [cat]\n")
    (root / "labels/train/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    return root / "labels/train/a.txt", "0.5 0.5", "0.5 0.6"


def yolo_list(root):
    found = yolo(root)
    (root / "train.txt").write_text("./images/train/a.png\n")
    (root / "data.yaml").write_text("path: .\ntrain: train.txt\nval: train.txt\nnames: [cat]\n")
    return found


@pytest.mark.parametrize("make", [labelme, yolo, yolo_list])
def test_edited_labels_have_another_hash_and_moved_ones_the_same(tmp_path, make):
    file, old, new = make(tmp_path / "data")
    before = digest(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    assert digest(tmp_path / "moved") == before
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert digest(tmp_path / "data") != before


def test_the_hash_of_a_json_is_that_of_its_bytes(tiny_data):
    path = tiny_data / "annotations/instances_train.json"
    assert digest(tiny_data) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["path", "below", "classes"])
def test_each_label_map_of_an_image_counts(tmp_path, name):
    maps = {key: tmp_path / f"{key}.png" for key in ("path", "below", "classes")}
    for path in maps.values():
        path.write_bytes(b"1234")
    record = Record("a", tmp_path / "a.jpg", 3, 4, None, LabelMap(**maps))
    before = labels_sha256(tmp_path, [record])
    maps[name].write_bytes(b"12345")
    assert labels_sha256(tmp_path, [record]) != before
