"""Pascal VOC and what is laid out like it: both tasks, the rim, colours, lists, what is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.data.augment import build_targets
from gdseg.data.dataset import open_dataset, richest_task
from gdseg.data.geometry import Geometry
from gdseg.data.label_maps import read_regions, with_masks
from gdseg.data.rle import annotation_mask
from gdseg.data.voc import NAMES, palette_colour
from gdseg.errors import DataError
from gdseg.recipe import Data

# two cows (10) with a rim, a cat (8), and a piece of a dog (12) that is of no object
CLASS = np.array([[10, 255, 10, 0, 8, 12], [10, 255, 10, 0, 8, 12]])
OBJECT = np.array([[1, 255, 2, 0, 3, 0], [1, 255, 2, 0, 3, 0]])
SAME = Geometry((2, 6), (2, 6), (0, 0), (2, 6), (2, 6))


def palette(values: np.ndarray) -> Image.Image:
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette([channel for i in range(256) for channel in palette_colour(i)])
    return picture


def colours(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array([palette_colour(i) for i in range(256)], dtype=np.uint8)[values])


def voc(root: Path, draw=palette, classes: np.ndarray = CLASS, objects: np.ndarray = OBJECT) -> Path:
    """Two images of which each part has one, and a third without labels."""
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("2007_000032", "2007_000039", "2008_000001"):
        Image.new("RGB", (6, 2)).save(root / "JPEGImages" / f"{name}.jpg")
    for part, name in (("train", "2007_000032"), ("val", "2007_000039")):
        draw(classes).save(root / "SegmentationClass" / f"{name}.png")
        draw(objects).save(root / "SegmentationObject" / f"{name}.png")
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(f"{name}\n\n")
    return root


def areas(data: Data, task: str, part: str = "val") -> list[tuple[str, int, bool]]:
    dataset = open_dataset(data, (part,), task=task)
    [record] = dataset.val or dataset.train
    regions = read_regions(record, task)
    pixels = [int((regions.place == i).sum()) for i in range(len(regions.segments))]
    found = zip(regions.segments, pixels, strict=True)
    return sorted((dataset.classes[s.label], n, s.is_crowd) for s, n in found)


def test_the_palette_is_vocs() -> None:
    assert [palette_colour(i) for i in (0, 1, 2, 15, 20)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (192, 128, 128),
        (0, 64, 128),
    ]
    assert palette_colour(255) == (224, 224, 192)


@pytest.mark.parametrize("draw", [palette, colours])
@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_objects_groups_and_classes(tmp_path: Path, place: str, draw) -> None:
    voc(tmp_path / place, draw)
    data = Data(root=str(tmp_path))
    assert richest_task(data, "val") == "instance"
    assert open_dataset(data).classes == NAMES[1:]
    assert areas(data, "instance") == [
        ("cat", 2, False),
        ("cow", 2, False),
        ("cow", 2, False),
        ("dog", 2, True),
    ]
    dataset = open_dataset(data, task="semantic")
    assert (dataset.classes, dataset.category_ids) == (NAMES, list(range(21)))
    pixels = [("background", 2, False), ("cat", 2, False), ("cow", 4, False), ("dog", 2, False)]
    assert areas(data, "semantic") == pixels


def test_the_rim_and_groups_are_ignored_and_background_is_not(tmp_path: Path) -> None:
    dataset = open_dataset(Data(root=str(voc(tmp_path))))
    targets = build_targets(dataset.train[0], SAME)
    assert targets is not None
    assert targets.ignore is not None
    assert targets.ignore[0].tolist() == [False, True, False, False, False, True]
    assert sorted(targets.labels.tolist()) == [7, 9, 9]
    assert torch.equal(targets.masks.any(0)[0], torch.tensor([True, False, True, False, True, False]))
    semantic = build_targets(
        open_dataset(Data(root=str(tmp_path)), task="semantic").train[0], SAME, "semantic"
    )
    assert semantic is not None
    assert semantic.ignore is not None
    assert semantic.ignore[0].tolist() == [False, True, False, False, False, False]
    masks = {
        a["iscrowd"]: annotation_mask(a, 2, 6)
        for a in with_masks(dataset.train[0], "instance").annotations or ()
    }
    assert masks[1].tolist() == [[0, 0, 0, 0, 0, 1]] * 2


def test_an_object_of_no_class_is_ignored(tmp_path: Path) -> None:
    data = Data(root=str(voc(tmp_path, classes=np.where(CLASS == 8, 0, CLASS))))
    targets = build_targets(open_dataset(data).train[0], SAME)
    assert targets is not None
    assert targets.ignore is not None
    assert targets.ignore[0].tolist() == [False, True, False, False, True, True]


@pytest.mark.parametrize("draw", [palette, colours])
def test_classes_and_colours_of_cvat(tmp_path: Path, draw) -> None:
    colour = [",".join(map(str, palette_colour(i))) for i in (12, 0, 10, 8)]
    lines = ["# label:color_rgb:parts:actions", f"hound:{colour[0]}::", f"background:{colour[1]}::"]
    (tmp_path / "labelmap.txt").write_text(
        "\n".join([*lines, f"ox:{colour[2]}::", f"puss:{colour[3]}::", ""])
    )
    data = Data(root=str(voc(tmp_path, draw)))
    assert open_dataset(data).classes == ["hound", "ox", "puss"]
    assert areas(data, "instance") == [
        ("hound", 2, True),
        ("ox", 2, False),
        ("ox", 2, False),
        ("puss", 2, False),
    ]
    assert areas(data, "semantic")[0] == ("background", 2, False)


def test_maps_without_lists_are_for_training_and_names_are_declared(tmp_path: Path) -> None:
    root = voc(tmp_path, classes=np.minimum(CLASS, 2) * (CLASS != 255) + 255 * (CLASS == 255))
    shutil.rmtree(root / "ImageSets")
    (root / "class_names.txt").write_text("_background_\nperson\nbeast\n")
    dataset = open_dataset(Data(root=str(root), val="none"))
    assert [record.image_id for record in dataset.train] == ["2007_000032", "2007_000039"]
    assert dataset.classes == ["person", "beast"]
    with pytest.raises(DataError, match=r"(?s)no validation images with annotations.*data.val=none"):
        open_dataset(Data(root=str(root)), ("val",))


def test_a_list_by_name_and_what_is_missing(tmp_path: Path) -> None:
    root = voc(tmp_path)
    data = Data(root=str(root), train="ImageSets/Segmentation/val.txt")
    assert open_dataset(data, ("train",)).train[0].image_id == "2007_000039"
    (root / "all.txt").write_text("2007_000032\n2008_000001 1\n../../etc/passwd\n2007_000039\n")
    data.train = "all.txt"
    faults = open_dataset(data, ("train",), strict=False).faults
    assert sorted((f.kind, f.image_id) for f in faults) == [
        ("missing image file", "../../etc/passwd"),
        ("missing label map", "2008_000001"),
    ]
    for content in (b"", b"\xff\xfe\x00"):
        (root / "all.txt").write_bytes(content)
        with pytest.raises(DataError, match="list"):
            open_dataset(data, ("train",))
    (root / "JPEGImages").rename(root / "photos")
    with pytest.raises(DataError, match=r"(?s)no folder JPEGImages.*data.train_images"):
        open_dataset(Data(root=str(root)))
    assert len(open_dataset(Data(root=str(root), train_images="photos"), ("train",)).train) == 1
    shutil.rmtree(root / "SegmentationObject")
    with pytest.raises(DataError, match=r"only semantic \(voc\)"):
        open_dataset(Data(root=str(root), train_images="photos"), ("train",))


def test_values_of_no_class_and_bad_files_are_faults(tmp_path: Path) -> None:
    root = voc(tmp_path, classes=np.where(CLASS == 8, 77, CLASS))
    for task in ("instance", "semantic"):
        with pytest.raises(DataError, match=r"1 values of the label map mean nothing: \[77\]"):
            read_regions(open_dataset(Data(root=str(root)), task=task).train[0], task)
    (root / "SegmentationObject" / "2007_000032.png").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot read the label map"):
        read_regions(open_dataset(Data(root=str(root))).train[0], "instance")
    for text in (
        "cat",
        "cat:1,2:",
        "cat:a,b,c::",
        "\0",
        "cat:1,2,3,4::",
        f"cat:{'9' * 5000},0,0::",
        "# nothing",
    ):
        (root / "labelmap.txt").write_text(text)
        with pytest.raises(DataError, match="class"):
            open_dataset(Data(root=str(root)))
    voc(tmp_path / "two" / "VOC2007")
    voc(tmp_path / "two" / "VOC2012")
    with pytest.raises(DataError, match=r"(?s)VOC2007, VOC2012.*choose one"):
        open_dataset(Data(root=str(tmp_path / "two")))
