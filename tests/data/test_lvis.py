"""LVIS: where its json and images lie, what an image was searched for, and what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gdseg.data.dataset import open_dataset, richest_task
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import Federated

SQUARE = [[4.0, 4.0, 20.0, 4.0, 20.0, 16.0, 4.0, 16.0]]
CATEGORIES = [
    {"id": 2, "name": "yak", "synset": "yak.n.01", "frequency": "r", "image_count": 1},
    {"id": 9, "name": "aerosol_can", "frequency": "c"},
    {"id": 5, "name": "cup", "frequency": "f"},
]


def image(number: int, folder: str, absent: Any = (), partial: Any = ()) -> dict[str, Any]:
    url = f"http://images.cocodataset.org/{folder}/{number:012d}.jpg"
    size = {"id": number, "height": 32, "width": 48, "coco_url": url}
    return {**size, "neg_category_ids": absent, "not_exhaustive_category_ids": partial}


def write(root: Path, images: list[dict[str, Any]], name: str = "annotations/lvis_v1_{}.json") -> Path:
    """As LVIS is laid out: both parts' json, images of train2017/ and val2017/."""
    for folder in ("train2017", "val2017", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(1, 4):
        for folder in ("train2017", "val2017"):
            Image.new("RGB", (48, 32)).save(root / folder / f"{number:012d}.jpg")
    annotation = {"id": 1, "image_id": 1, "category_id": 9, "segmentation": SQUARE, "bbox": [4, 4, 16, 12]}
    content = {"images": images, "annotations": [{**annotation, "area": 192}], "categories": CATEGORIES}
    for part in ("train", "val"):
        (root / name.format(part)).parent.mkdir(parents=True, exist_ok=True)
        (root / name.format(part)).write_text(json.dumps(content))
    return root


IMAGES = [image(1, "train2017", [2, 5], [9]), image(2, "val2017"), image(3, "train2017", [5])]


@pytest.mark.parametrize("name", ["annotations/lvis_v1_{}.json", "lvis_v1_{}.json"])
def test_images_are_found_by_their_url_and_say_what_they_were_searched_for(tmp_path: Path, name: str) -> None:
    data = Data(root=str(write(tmp_path, IMAGES, name)))
    assert richest_task(data, "val") == "instance"
    dataset = open_dataset(data)
    assert dataset.classes == ["yak", "cup", "aerosol_can"]  # in the order of their ids
    assert [c.frequency for c in dataset.table] == ["r", "f", "c"]
    first, second, third = dataset.val
    assert first.path == tmp_path / "train2017" / "000000000001.jpg"
    assert second.path == tmp_path / "val2017" / "000000000002.jpg"
    assert first.federated == Federated(absent=frozenset({0, 1}), partial=frozenset({2}))
    assert second.federated == Federated()
    assert third.federated == Federated(absent=frozenset({1}))
    assert [a["label"] for a in first.annotations or ()] == [2]


def test_images_of_a_coco_folder_beside_and_names_of_version_05(tmp_path: Path) -> None:
    old = [{**i, "file_name": f"COCO_train2014_{i['id']:012d}.jpg"} for i in IMAGES]
    lvis = write(tmp_path / "coco", old) and write(tmp_path / "lvis", old)
    for folder in ("train2017", "val2017"):
        for path in (lvis / folder).iterdir():
            path.unlink()
    dataset = open_dataset(Data(root=str(lvis)))
    assert dataset.train[1].path.resolve() == tmp_path / "coco/train2017/000000000002.jpg"
    assert dataset.val[1].path.resolve() == tmp_path / "coco/val2017/000000000002.jpg"


def test_a_coco_folder_stays_coco_unless_lvis_is_named(tmp_path: Path) -> None:
    write(tmp_path, IMAGES)
    plain = [{"id": i, "height": 32, "width": 48, "file_name": f"{i:012d}.jpg"} for i in (1, 2)]
    write(tmp_path, plain, "annotations/instances_{}2017.json")
    assert len(open_dataset(Data(root=str(tmp_path))).val) == 2
    assert open_dataset(Data(root=str(tmp_path))).val[0].federated is None
    named = Data(root=str(tmp_path), val="annotations/lvis_v1_val.json")
    assert len(open_dataset(named, ("val",)).val) == 3
    assert len(open_dataset(Data(root=str(tmp_path), format="lvis")).train) == 3


def test_a_coco_json_that_says_it_is_federated_is(tmp_path: Path) -> None:
    images = [{**i, "file_name": f"{i['id']:012d}.jpg"} for i in IMAGES]
    write(tmp_path, images, "annotations/instances_{}2017.json")
    for part in ("train", "val"):
        (tmp_path / f"annotations/lvis_v1_{part}.json").unlink(missing_ok=True)
    assert open_dataset(Data(root=str(tmp_path))).val[2].federated == Federated(absent=frozenset({1}))


@pytest.mark.parametrize("ids", [[3], "25", [[2]], 7, [None], [{}], [2.5], {"2": 1}])
def test_ids_that_are_no_categories_are_a_fault(tmp_path: Path, ids: Any) -> None:
    data = Data(root=str(write(tmp_path, [image(1, "train2017", ids), *IMAGES[1:]])))
    with pytest.raises(DataError, match=r"1 x undeclared category id; first: .*image 1: neg_category_ids"):
        open_dataset(data)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, IMAGES)
    (root / "train2017" / "000000000003.jpg").unlink()
    with pytest.raises(DataError, match="1 x missing image file"):
        open_dataset(Data(root=str(root)), ("val",))
    for path in [*root.glob("*2017/*.jpg")]:
        path.unlink()
    with pytest.raises(
        DataError, match=r"(?s)images of lvis_v1_val.json were not found.*data.val_images=FOLDER"
    ):
        open_dataset(Data(root=str(root)), ("val",))
    write(root, [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 2}])
    with pytest.raises(DataError, match="no neg_category_ids"):
        open_dataset(Data(root=str(root)), ("val",))
    for hostile in (3, None, {"id": 1, "coco_url": ["x"], "neg_category_ids": []}, {"coco_url": "x" * 9999}):
        write(root, [hostile, *IMAGES])  # type: ignore[list-item]
        with pytest.raises(DataError, match="bad image"):
            open_dataset(Data(root=str(root)), ("val",))
