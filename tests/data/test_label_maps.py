"""Label maps of every kind: values, segments for each task, targets, what is wrong; and the real samples."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.data.augment import build_targets
from gdseg.data.dataset import open_dataset, richest_task, unlabelled_pool
from gdseg.data.geometry import Geometry
from gdseg.data.label_maps import read_ids, read_regions, rgb_of, with_masks
from gdseg.data.order import repeat_factors
from gdseg.data.split import load_split, split_by_ratio
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import Code, LabelMap, Record

CODES = {1: Code(0, True), 2: Code(0, True), 3: Code(0, True, True), 7: Code(1, False), 8: Code(1, False)}


def record_of(values: np.ndarray, tmp_path: Path, void: frozenset[int] | None = frozenset({0})) -> Record:
    path = tmp_path / "map.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    return Record("a", tmp_path / "a.png", *values.shape, (), LabelMap(path, CODES, void))


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Columns: void, two things, a crowd of things, two parts of one stuff."""
    return record_of(np.array([[0, 1, 1, 2, 3, 7, 8, 8]] * 4), tmp_path)


@pytest.mark.parametrize(
    ("task", "expected", "ignored"),
    [
        ("panoptic", {(0, 2), (0, 1), (1, 3)}, [0, 4]),
        ("instance", {(0, 2), (0, 1)}, [4]),
        ("semantic", {(0, 4), (1, 3)}, [0]),
    ],
)
def test_what_each_task_makes_of_a_map(record: Record, task: str, expected: set, ignored: list) -> None:
    same = Geometry((4, 8), (4, 8), (0, 0), (4, 8), (4, 8))
    targets = build_targets(record, same, task)
    assert targets is not None
    areas = targets.masks.flatten(1).sum(1) // 4
    assert set(zip(targets.labels.tolist(), areas.tolist(), strict=True)) == expected
    assert targets.ignore is not None
    assert targets.ignore.any(0).nonzero()[:, 0].tolist() == ignored
    resolved = with_masks(record, task)
    assert len(resolved.annotations or ()) == len(expected) + (task != "semantic")  # the crowd too
    assert resolved.label_map is None


def test_targets_follow_the_geometry_and_vanish_with_a_crop(record: Record) -> None:
    """Flipped, enlarged twice, the left half of it on a larger canvas: only stuff and the crowd are left."""
    geometry = Geometry((4, 8), (8, 16), (0, 0), (8, 8), (8, 12), flip=True)
    targets = build_targets(record, geometry, "panoptic")
    assert targets is not None
    assert targets.labels.tolist() == [1]
    assert targets.masks[0].any(0).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert targets.ignore is not None
    assert targets.ignore.any(0).nonzero()[:, 0].tolist() == [6, 7]  # the canvas itself is background
    assert torch.allclose(targets.boxes_cxcywh[0], torch.tensor([3 / 12, 0.5, 6 / 12, 1.0]))


def test_values_without_meaning_and_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mean nothing: \[9\]"):
        read_regions(record_of(np.full((2, 2), 9), tmp_path), "panoptic")
    assert read_regions(record_of(np.full((2, 2), 9), tmp_path, void=None), "panoptic").segments == []
    wrong = record_of(np.zeros((2, 2)), tmp_path)
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(tmp_path / "map.png")
    with pytest.raises(DataError, match="2 x 3 pixels"):
        read_regions(wrong, "panoptic")
    (tmp_path / "map.png").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot read the label map"):
        read_regions(wrong, "panoptic")


def test_ids_survive_as_colours_palettes_and_16_bits(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255], [256, 65535, 65536 * 200 + 7]])
    Image.fromarray(rgb_of(ids)).save(tmp_path / "rgb.png")
    assert (read_ids(tmp_path / "rgb.png") == ids).all()
    Image.fromarray(ids.astype(np.uint16)[:1]).save(tmp_path / "16.png")
    assert read_ids(tmp_path / "16.png").tolist() == [[0, 1, 255]]
    palette = Image.fromarray(ids[:1].astype(np.uint8))
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(tmp_path / "p.png")
    assert read_ids(tmp_path / "p.png").tolist() == [[0, 1, 255]]


def semantic_folder(root: Path, value: object, classes: str, name: str = "classes.txt") -> Path:
    for part in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / part).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / "images" / part / "a.jpg")
        Image.fromarray(np.asarray(value, dtype=np.uint8)).save(root / "labels" / part / "a.png")
    (root / name).write_text(classes)
    return root


def test_index_maps_with_names_and_an_ignored_value(tmp_path: Path) -> None:
    values = [[0, 0, 1, 1]] * 3 + [[9, 9, 9, 9]]
    root = semantic_folder(tmp_path / "s", values, "sky\ntree\n")
    dataset = open_dataset(Data(root=str(root), ignore_label=9), task="semantic")
    assert dataset.classes == ["sky", "tree"]
    assert (dataset.train[0].image_id, dataset.train[0].height) == ("a", 4)
    assert {s.label for s in read_regions(dataset.train[0], "semantic").segments} == {0, 1}
    pool, _ = unlabelled_pool(dataset.train, split_by_ratio(dataset.train, 1.0, 0), Data())
    assert pool[0].label_map is None
    assert richest_task(Data(root=str(root)), "train") == "semantic"


def test_rare_classes_of_maps_are_repeated(tmp_path: Path) -> None:
    root = semantic_folder(tmp_path / "s", np.zeros((4, 4)), "sky\ntree\n")
    [common] = open_dataset(Data(root=str(root)), ("train",), task="semantic").train
    [rare] = open_dataset(Data(root=str(root)), ("val",), task="semantic").val
    assert rare.label_map is not None
    Image.fromarray(np.ones((4, 4), np.uint8)).save(rare.label_map.path)
    factors = repeat_factors([common] * 9 + [rare], 0.4, 2)
    assert factors.tolist() == [1.0] * 9 + [2.0]  # sqrt(0.4 / 0.1)


def test_two_files_of_one_name_are_named(tmp_path: Path) -> None:
    root = semantic_folder(tmp_path / "s", np.zeros((4, 4)), "sky\n")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / "images" / "train" / "a.png")
    with pytest.raises(
        DataError, match=r"two files of one name: image 'a': a.jpg and a.png in .*images/train"
    ):
        open_dataset(Data(root=str(root)), task="semantic")
    (root / "images" / "train" / "a.png").rename(root / "labels" / "train" / "a.tif")
    dataset = open_dataset(Data(root=str(root)), task="semantic", strict=False)
    assert [fault.kind for fault in dataset.faults] == ["two files of one name"]
    assert dataset.train[0].label_map is not None
    assert dataset.train[0].label_map.path.name == "a.png"
    (root / "labels" / "train" / "a.tif").unlink()
    (root / "labels" / "train" / "._a.png").touch()  # as macOS leaves behind
    for folder in ("images", "labels"):  # the same name in another folder is another image
        (root / folder / "train" / "deep").mkdir()
    shutil.copy(root / "images" / "train" / "a.jpg", root / "images" / "train" / "deep")
    shutil.copy(root / "labels" / "train" / "a.png", root / "labels" / "train" / "deep")
    assert [r.image_id for r in open_dataset(Data(root=str(root)), task="semantic").train] == ["a", "deep/a"]


def test_a_class_at_the_ignored_value_is_refused(tmp_path: Path) -> None:
    root = semantic_folder(tmp_path / "s", np.zeros((4, 4)), "background\nsky\n")
    with pytest.raises(
        DataError, match=r"(?s)'background' has the value 0, which data.ignore_label.*an empty line"
    ):
        open_dataset(Data(root=str(root), ignore_label=0), task="semantic")
    (root / "classes.txt").write_text("\nsky\n")
    dataset = open_dataset(Data(root=str(root), ignore_label=0), task="semantic")
    assert (dataset.classes, dataset.category_ids) == (["sky"], [1])
    assert (read_regions(dataset.train[0], "semantic").place == -1).all()


def test_colours_are_each_of_one_class_and_black_can_be_one(tmp_path: Path) -> None:
    values = np.zeros((4, 4, 3))
    values[:, 2:] = 9
    sky, night = {"id": 3, "name": "sky", "color": [9, 9, 9]}, {"id": 4, "name": "night", "color": [0, 0, 0]}
    root = semantic_folder(tmp_path / "c", values, json.dumps([sky, night]), "classes.json")
    regions = read_regions(open_dataset(Data(root=str(root)), task="semantic").train[0], "semantic")
    assert sorted(s.label for s in regions.segments) == [0, 1]
    assert (regions.place >= 0).all()
    (root / "classes.json").write_text(json.dumps([sky, night | {"color": [9, 9, 9]}]))
    with pytest.raises(DataError, match=r"'sky' and 'night' have the same colour \(9, 9, 9\)"):
        open_dataset(Data(root=str(root)), task="semantic")


def test_colour_maps_need_colours(tmp_path: Path) -> None:
    values = np.zeros((4, 4, 3))
    values[:, 2:] = (70, 130, 180)
    table = [{"id": 3, "name": "sky", "color": [70, 130, 180]}]
    root = semantic_folder(tmp_path / "c", values, json.dumps(table), "classes.json")
    dataset = open_dataset(Data(root=str(root)), task="semantic")
    regions = read_regions(dataset.val[0], "semantic")
    assert [s.label for s in regions.segments] == [0]
    assert (regions.place[:, :2] == -1).all()  # black is of no class
    (root / "classes.json").write_text(json.dumps([{"id": 3, "name": "sky"}]))
    with pytest.raises(DataError, match="have no colour"):
        open_dataset(Data(root=str(root)), task="semantic")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda a: a["segments_info"][0].update(category_id=99), "undeclared category id"),
        (lambda a: a["segments_info"].append(a["segments_info"][0]), "bad segment"),
        (lambda a: a["segments_info"][0].update(id="x"), "bad segment"),
        (lambda a: a.update(segments_info=3), "bad segment"),
        (lambda a: a.update(file_name="gone.png"), "missing label map"),
        (lambda a: a.update(image_id=5), "undeclared image id"),
    ],
)
def test_faults_of_a_panoptic_json_are_named(tmp_path: Path, change, kind: str) -> None:
    from gdseg.data.scenes import make_scenes
    from gdseg.data.shapes import ShapesOptions

    make_scenes(tmp_path / "D", ShapesOptions(2, 1, 48), "panoptic")
    path = tmp_path / "D" / "annotations" / "panoptic_train.json"
    content = json.loads(path.read_text())
    change(content["annotations"][1])
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=kind):
        open_dataset(Data(root=str(tmp_path / "D")), ("train",), task="panoptic")


def test_real_coco_panoptic(shared_dir: Path) -> None:
    """Areas of the json equal the pixels; instances of it are its things."""
    data = Data(root=str(shared_dir / "data" / "coco"), format="coco_panoptic")
    dataset = open_dataset(data, ("val",), task="panoptic")
    assert (len(dataset.val), len(dataset.classes), sum(dataset.things)) == (27, 133, 80)
    folder = shared_dir / "data" / "coco" / "annotations"
    content = json.loads((folder / "panoptic_val2017.json").read_text())
    declared = {
        a["image_id"]: {s["id"]: s["area"] for s in a["segments_info"]} for a in content["annotations"]
    }
    for record in dataset.val[:8]:
        regions = read_regions(record, "panoptic")
        found = {s.id: int((regions.place == i).sum()) for i, s in enumerate(regions.segments)}
        assert found == declared[record.image_id]
    things = open_dataset(data, ("val",), task="instance")
    assert things.classes == [c for c, thing in zip(dataset.classes, dataset.things, strict=True) if thing]


def test_real_cityscapes(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "mmseg_pseudo_cityscapes"
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(source / kind, tmp_path / kind / "val" / "frankfurt")
    data, frame = Data(root=str(tmp_path)), "frankfurt_000000_000294"
    assert richest_task(data, "val") == "panoptic"
    panoptic = open_dataset(data, ("val",), task="panoptic")
    assert (len(panoptic.classes), sum(panoptic.things)) == (19, 8)
    things = [s for s in read_regions(panoptic.val[0], "panoptic").segments if s.is_thing]
    values = np.unique(read_ids(source / "gtFine" / f"{frame}_gtFine_instanceIds.png"))
    assert {s.id for s in things} == {v for v in values.tolist() if v >= 24000}
    semantic = open_dataset(data, ("val",), task="semantic")
    regions = read_regions(semantic.val[0], "semantic")
    train_ids = read_ids(source / "gtFine" / f"{frame}_gtFine_labelTrainIds.png")
    labels = np.array([*(s.label for s in regions.segments), 255])[regions.place]
    # the official 19 classes in the official order; the sample's maps were shrunk one by one
    assert (labels == train_ids).mean() > 0.997
    assert open_dataset(data, ("val",), task="instance").classes == panoptic.classes[11:]
    for path in (tmp_path / "gtFine").rglob("*instanceIds*"):
        path.unlink()
    message = r"no validation images with panoptic labels, only semantic \(cityscapes\)"
    with pytest.raises(DataError, match=message):
        open_dataset(data, ("val",), task="panoptic")
    assert richest_task(data, "val") == "semantic"
    for path in (tmp_path / "gtFine").rglob("*labelIds*"):
        path.unlink()
    with pytest.raises(DataError, match=r"no \*_gtFine_instanceIds.png"):
        open_dataset(data, ("val",), task="panoptic")


FRAME = "aachen_000000_000019"


def cityscapes(root: Path, kind: str = "gtFine", part: str = "train") -> Path:
    """One frame of two columns: the road, a car."""
    for folder in (root / "leftImg8bit" / part / "aachen", root / kind / part / "aachen"):
        folder.mkdir(parents=True)
    Image.new("RGB", (2, 1)).save(root / "leftImg8bit" / part / "aachen" / f"{FRAME}_leftImg8bit.png")
    for name, values in {
        "instanceIds": [[7, 26003]],
        "labelIds": [[7, 26]],
        "labelTrainIds": [[0, 13]],
    }.items():
        ids = Image.fromarray(np.array(values, dtype=np.uint16 if name == "instanceIds" else np.uint8))
        ids.save(root / kind / part / "aachen" / f"{FRAME}_{kind}_{name}.png")
    return root


@pytest.mark.parametrize(
    "line",
    [
        f"aachen/{FRAME}",
        FRAME,
        f"{FRAME}_leftImg8bit.png",
        f"aachen/{FRAME}_leftImg8bit.png",
        f"leftImg8bit/train/aachen/{FRAME}_leftImg8bit.png",
        f"leftImg8bit/train/aachen/{FRAME}_leftImg8bit.png\tgtFine/train/aachen/{FRAME}_gtFine_labelIds.png",
        f"leftImg8bit/train/aachen/{FRAME}_leftImg8bit.png gtFine/train/aachen/{FRAME}_gtFine_labelIds.png",
        f"leftImg8bit/train/aachen/{FRAME}_leftImg8bit.png,gtFine/train/aachen/{FRAME}_gtFine_labelIds.png",
        f"{FRAME}_gtFine_instanceIds.png",
        f"gtFine/train/aachen/{FRAME}_gtFine_instanceIds.png",
    ],
)
def test_lists_of_frames_as_others_write_them(tmp_path: Path, line: str) -> None:
    """Ids; images; the pairs of deeplab and PSPNet; the label maps that Guided Distillation's lists name."""
    data = Data(root=str(cityscapes(tmp_path)))
    (tmp_path / "split.txt").write_text(f"{line}\n")
    for task in ("instance", "semantic"):
        records = open_dataset(data, ("train",), task=task).train
        assert load_split(tmp_path / "split.txt", records).ids == (f"aachen/{FRAME}",)


def test_coarse_labels(tmp_path: Path) -> None:
    root = cityscapes(tmp_path, "gtCoarse", "train_extra")
    folders = {"train": "gtCoarse/train_extra", "train_images": "leftImg8bit/train_extra"}
    dataset = open_dataset(Data(root=str(root), **folders), ("train",), task="panoptic")
    names = [dataset.classes[s.label] for s in read_regions(dataset.train[0], "panoptic").segments]
    assert names == ["road", "car"]


def test_real_ade20k(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "ade20k_sceneparsing_sample"
    for kind in ("images", "annotations"):
        shutil.copytree(source / kind, tmp_path / kind / "validation")
    dataset = open_dataset(Data(root=str(tmp_path)), ("val",), task="semantic")
    assert (len(dataset.classes), dataset.classes[0], dataset.category_ids[-1]) == (150, "wall", 150)
    for record in dataset.val:
        regions = read_regions(record, "semantic")
        values = read_ids(source / "annotations" / f"{record.image_id}.png")
        assert (np.array([*(s.label for s in regions.segments), -1])[regions.place] == values - 1).all()
    shutil.copy(source / "objectInfo150.txt", tmp_path)
    assert open_dataset(Data(root=str(tmp_path)), ("val",), task="semantic").classes == dataset.classes
