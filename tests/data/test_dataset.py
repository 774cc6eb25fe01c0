"""Finding data sets by looking and choosing labelled and unlabelled images."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import (
    has_part,
    labelled_records,
    open_dataset,
    richest_task,
    unlabelled_pool,
    unlabelled_records,
)
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.data.split import Split, split_by_ratio
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import Record

Content = dict[str, Any]


def test_the_coco_layout(make_coco: Any, content: Content) -> None:
    dataset = open_dataset(Data(root=str(make_coco(content))))
    assert [r.image_id for r in dataset.train] == [7, 3]
    assert [r.path.parent.name for r in dataset.val] == ["val", "val"]
    assert dataset.classes == ["cat", "dog"]
    assert dataset.category_ids == [4, 90]
    assert dataset.val_json is not None
    assert dataset.val_json.name == "instances_val.json"


def test_years_in_names_roboflow_and_plain_layouts(make_coco: Any, content: Content, tmp_path: Path) -> None:
    made = make_coco(content)
    for part, other in (("train", "train"), ("val", "valid")):
        json_file = made / "annotations" / f"instances_{part}.json"
        year = tmp_path / "year"
        shutil.copytree(made / part, year / f"{part}2017")
        (year / "annotations").mkdir(exist_ok=True)
        shutil.copy(json_file, year / "annotations" / f"instances_{part}2017.json")
        shutil.copytree(made / part, tmp_path / "roboflow" / other)
        shutil.copy(json_file, tmp_path / "roboflow" / other / "_annotations.coco.json")
        shutil.copytree(made / part, tmp_path / "plain" / "images" / part)
        shutil.copy(json_file, tmp_path / "plain" / f"{part}.json")
    for layout in ("year", "roboflow", "plain"):
        dataset = open_dataset(Data(root=str(tmp_path / layout)))
        assert len(dataset.train) == len(dataset.val) == 2
        assert all(record.path.is_file() for record in dataset.train + dataset.val)


def test_explicit_keys_win(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    shutil.move(root / "train", root / "elsewhere")
    shutil.move(root / "annotations" / "instances_train.json", root / "labels.json")
    with pytest.raises(DataError, match=r"(?s)no training images with annotations.*data.train=FILE"):
        open_dataset(Data(root=str(root)))
    with pytest.raises(DataError, match=r"(?s)were not found.*data.train_images=FOLDER"):
        open_dataset(Data(root=str(root), train="labels.json"), parts=("train",))
    dataset = open_dataset(Data(root=str(root), train="labels.json", train_images="elsewhere"))
    assert dataset.train[0].path == root / "elsewhere" / "a.png"


def test_what_was_looked_for_is_said_in_real_words(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    (root / "annotations" / "instances_val.json").unlink()
    with pytest.raises(DataError, match="no validation images with annotations: looked for\n") as caught:
        open_dataset(Data(root=str(root)))
    assert "images/validation and annotations/validation" in caught.value.what
    assert not re.search(r"valing|[{}]", caught.value.what)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train": "none.json"}, "data.train"),
        ({"val": "none.json"}, "data.val"),
        ({"train_images": "none"}, "data.train_images"),
        ({"val_images": "none"}, "data.val_images"),
        ({"root": "/none"}, "--data"),
    ],
)
def test_what_is_missing_is_named(
    make_coco: Any, content: Content, keys: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match="no such") as caught:
        open_dataset(Data(**{"root": str(make_coco(content)), **keys}))
    assert message in str(caught.value)


def test_two_fitting_files_are_not_guessed_between(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    shutil.copy(
        root / "annotations" / "instances_train.json", root / "annotations" / "instances_train2017.json"
    )
    with pytest.raises(
        DataError, match=r"several annotation files fit: instances_train.json, instances_train2017"
    ):
        open_dataset(Data(root=str(root)))


def test_both_parts_must_declare_the_same_categories(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    content["categories"][1]["name"] = "cow"
    make_coco(content, parts=("val",))
    with pytest.raises(DataError, match="declare different categories"):
        open_dataset(Data(root=str(root)))
    assert open_dataset(Data(root=str(root)), parts=("val",)).classes == ["cow", "dog"]


def test_labelled_and_unlabelled_images(make_coco: Any, content: Content, tmp_path: Path) -> None:
    root = make_coco(content)
    data = Data(root=str(root), unlabelled_has_labelled=False)
    train = open_dataset(data).train
    split = split_by_ratio(train, 0.5, 0)
    labelled = labelled_records(train, split)
    assert [r.image_id for r in labelled] == list(split.ids)
    pool, copies = unlabelled_pool(train, split, data)
    assert not copies
    assert {r.image_id for r in pool} == {7, 3} - set(split.ids)
    assert all(r.annotations is None for r in pool)
    extra = tmp_path / "extra"
    (extra / "deep").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(extra / "deep" / "x.bmp")
    data.unlabelled, data.unlabelled_has_labelled = [str(extra)], True
    pool, _ = unlabelled_pool(train, split, data)
    assert [r.image_id for r in pool] == [7, 3, str(extra / "deep" / "x.bmp")]
    with pytest.raises(DataError, match="no unlabelled image"):
        unlabelled_pool(train, split_by_ratio(train, 1.0, 0), Data(unlabelled_has_labelled=False))
    with pytest.raises(DataError, match="holds no image"):
        unlabelled_records([root / "annotations"])


def test_files_that_equal_validation_images_are_no_unlabelled_ones(tmp_path: Path) -> None:
    """By content, whatever their names; another image of as many bytes stays."""
    (tmp_path / "val").mkdir()
    (tmp_path / "more").mkdir()
    for name, value in (("val/a.bmp", 1), ("more/copy.bmp", 1), ("more/other.bmp", 2)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / name)
    assert (tmp_path / "more/copy.bmp").stat().st_size == (tmp_path / "more/other.bmp").stat().st_size
    large = np.zeros((128, 128), np.uint8)
    Image.fromarray(large).save(tmp_path / "val/large.bmp")
    large[-1, 0] = 1  # a BMP begins with the last row: the last 8 KiB of both files are the same
    Image.fromarray(large).save(tmp_path / "more/large.bmp")
    val = [Record(name, tmp_path / f"val/{name}.bmp", 4, 4, ()) for name in ("a", "large")]
    val += [Record("lost", tmp_path / "val/lost.bmp", 4, 4, ())]
    data = Data(unlabelled=[str(tmp_path / "more"), str(tmp_path / "val")])
    pool, copies = unlabelled_pool([], Split((), "", "count"), data, val)
    assert [r.path.name for r in pool] == ["large.bmp", "other.bmp"]
    assert copies == 3
    (tmp_path / "more/empty.png").touch()
    (tmp_path / "more/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError) as refused:  # both at once
        unlabelled_pool([], Split((), "", "count"), data, val)
    assert str(refused.value.where).endswith("empty.png")
    assert "1 other unlabelled file cannot be read either: " in refused.value.what
    assert refused.value.what.endswith("gone.png")
    for name in ("other.bmp", "large.bmp", "empty.png", "gone.png"):
        (tmp_path / "more" / name).unlink()
    with pytest.raises(DataError, match="no unlabelled image but 3 files that equal validation images"):
        unlabelled_pool([], Split((), "", "count"), data, val)


def test_whichever_part_is_there_is_opened_where_that_is_enough(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    (root / "annotations" / "instances_train.json").unlink()
    data = Data(root=str(root))
    with pytest.raises(DataError, match="no training images"):
        open_dataset(data)
    for keys in (data, Data(root=str(root), train="none")):
        assert richest_task(keys, "train", "val") == "instance"
        dataset = open_dataset(keys, complete=False)
        assert (len(dataset.train), len(dataset.val), dataset.train_json) == (0, 2, None)
    assert not has_part(Data(root=str(root), train="none"), "train", "instance")
    with pytest.raises(DataError, match="there are no training images"):
        open_dataset(Data(root=str(root), train="none"), ("train",))
    (root / "annotations" / "instances_val.json").unlink()
    with pytest.raises(DataError, match="no training images with annotations"):
        open_dataset(data, complete=False)
    with pytest.raises(DataError, match="no such annotation file"):  # one that is named is not merely missing
        open_dataset(Data(root=str(root), val="gone.json"), ("val",), complete=False)


def test_images_without_labels_are_told_from_another_layout(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    with pytest.raises(DataError, match="images but no labels") as caught:
        open_dataset(Data(root=str(root / "train")), complete=False)
    assert f"--unlabelled {root / 'train'}" in str(caught.value.hint)
    (root / "train").rename(root / "val" / "images")
    (root / "val" / "annotations").mkdir()
    with pytest.raises(DataError, match="no training images") as caught:
        open_dataset(Data(root=str(root / "val")))
    assert "data.train=annotations data.train_images=images" in str(caught.value.hint)


def test_a_json_of_segments_that_is_named_is_panoptic(tmp_path: Path) -> None:
    make_scenes(tmp_path / "S", ShapesOptions(train=1, val=1, size=64), "panoptic")
    data = Data(root=str(tmp_path / "S"), train="annotations/panoptic_train.json")
    assert richest_task(data, "train") == "panoptic"
    assert open_dataset(data, ("train",), strict=False).faults == []
