"""ADE20K: the challenges' downloads against the official preparation by hand, the full release, a real sample."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdseg.data.ade20k_classes import NAMES, STUFF, classes
from gdseg.data.dataset import open_dataset, richest_task
from gdseg.data.label_maps import read_ids, read_regions
from gdseg.errors import DataError
from gdseg.recipe import Data

# SceneParse150: 1 wall, 13 person (thing 4), 16 table (thing 6), 4 floor; 0 of no class
SEMANTIC = np.array([[1, 1, 13, 13, 13, 0], [1, 1, 13, 13, 16, 0], [4, 4, 4, 4, 16, 16]], dtype=np.uint8)
# two persons, one of them over the wall, a table that leaves one of its pixels out
CLASS = np.array([[0, 4, 4, 4, 4, 0], [0, 0, 4, 4, 6, 0], [0, 0, 0, 0, 6, 4]], dtype=np.uint8)
OBJECT = np.array([[0, 1, 1, 2, 2, 0], [0, 0, 1, 2, 3, 0], [0, 0, 0, 0, 3, 0]], dtype=np.uint8)


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    for part in ("training", "validation"):
        for folder in ("images", "annotations", "annotations_instance"):
            (tmp_path / folder / part).mkdir(parents=True)
        Image.new("RGB", (6, 3)).save(tmp_path / "images" / part / "ADE_x_1.jpg")
        Image.fromarray(SEMANTIC).save(tmp_path / "annotations" / part / "ADE_x_1.png")
        blue = np.full_like(OBJECT, 7)  # means nothing
        both = np.dstack([CLASS, OBJECT, blue])
        Image.fromarray(both).save(tmp_path / "annotations_instance" / part / "ADE_x_1.png")
    return tmp_path


def masks(root: Path, task: str) -> dict[tuple[int, bytes], int]:
    """(category id, mask) of each segment of the validation image, with how many there are of it."""
    dataset = open_dataset(Data(root=str(root)), ("val",), task=task)
    regions = read_regions(dataset.val[0], task)
    found = [(dataset.category_ids[s.label], (regions.place == i)) for i, s in enumerate(regions.segments)]
    return {(category, mask.tobytes()): int(mask.sum()) for category, mask in found}


def official_panoptic() -> dict[tuple[int, bytes], int]:
    """Its definition, pixel by pixel: stuff first, ids from 0, then the objects over it."""
    category, number = np.full(SEMANTIC.shape, -1), np.zeros(SEMANTIC.shape, int)
    semantic_of = {4: 13, 6: 16}
    for y, x in np.ndindex(*SEMANTIC.shape):
        value = int(SEMANTIC[y, x])
        if value and value in STUFF:
            category[y, x] = value - 1
        if OBJECT[y, x]:
            category[y, x], number[y, x] = semantic_of[int(CLASS[y, x])] - 1, OBJECT[y, x]
    pairs = {
        (c, n) for c, n in zip(category.ravel().tolist(), number.ravel().tolist(), strict=True) if c >= 0
    }
    chosen = {(c, n): (category == c) & (number == n) for c, n in pairs}
    return {(c, mask.tobytes()): int(mask.sum()) for (c, _), mask in chosen.items()}


def test_panoptic_is_what_the_official_preparation_makes(challenge: Path) -> None:
    assert masks(challenge, "panoptic") == official_panoptic()
    dataset = open_dataset(Data(root=str(challenge)), task="panoptic")
    assert (len(dataset.classes), sum(dataset.things)) == (150, 100)
    assert (dataset.classes[12], dataset.category_ids[12], dataset.things[12]) == ("person", 12, True)
    assert richest_task(Data(root=str(challenge)), "train") == "panoptic"


def test_instances_are_the_hundred_classes_of_things(challenge: Path) -> None:
    found = masks(challenge, "instance")
    wanted = {(category, (n == OBJECT).tobytes()) for category, n in ((12, 1), (12, 2), (15, 3))}
    assert set(found) == wanted
    dataset = open_dataset(Data(root=str(challenge)), task="instance")
    assert (len(dataset.classes), dataset.classes[3], dataset.category_ids[-1]) == (100, "person", 149)


def test_semantic_needs_no_instances_and_says_what_is_missing(challenge: Path) -> None:
    for path in sorted((challenge / "annotations_instance").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert set(masks(challenge, "semantic").values()) == {4, 5, 3}  # wall; floor and person; table
    assert richest_task(Data(root=str(challenge)), "train") == "semantic"
    message = r"(?s)no training images with panoptic labels, only semantic \(ade20k\)"
    message += ".*annotations_instance/training"
    with pytest.raises(DataError, match=message):
        open_dataset(Data(root=str(challenge)), task="panoptic")


def test_maps_of_two_sizes_are_refused(challenge: Path) -> None:
    Image.new("L", (5, 3)).save(challenge / "annotations" / "validation" / "ADE_x_1.png")
    with pytest.raises(DataError, match="differ in size"):
        masks(challenge, "panoptic")
    (challenge / "annotations" / "validation" / "ADE_x_1.png").unlink()
    with pytest.raises(DataError, match=r"missing label map.*annotations/validation"):
        masks(challenge, "panoptic")


def test_the_table_of_classes() -> None:
    table = classes(NAMES)
    assert len({c.name for c in table}) == len({c.colour for c in table}) == 150
    assert sum(c.is_thing for c in table) == 100
    assert (table[0].colour, table[149].colour) == ((120, 120, 120), (92, 0, 255))


def full_release(root: Path, part: str, values: np.ndarray, objects: list[tuple[int, str, int]]) -> None:
    """An image of the full release: values [H, W, 2] are (class, object)."""
    folder = root / "images" / "ADE" / part / "urban" / "street"
    (folder / f"ADE_{part}_00000001").mkdir(parents=True)
    number = values[..., 0]
    seg = np.dstack([number // 256 * 10, number % 256, values[..., 1]]).astype(np.uint8)
    Image.fromarray(seg).save(folder / f"ADE_{part}_00000001_seg.png")
    Image.fromarray(seg).save(folder / f"ADE_{part}_00000001_parts_1.png")
    Image.new("L", seg.shape[1::-1]).save(folder / f"ADE_{part}_00000001" / "instance_000_ADE_x.png")
    Image.new("RGB", seg.shape[1::-1]).save(folder / f"ADE_{part}_00000001.jpg")
    listed = [{"name_ndx": i, "name": name, "parts": {"part_level": level}} for i, name, level in objects]
    (folder / f"ADE_{part}_00000001.json").write_text(json.dumps({"annotation": {"object": listed}}))


def test_the_full_release(tmp_path: Path) -> None:
    """Class and object of each pixel; classes of only one part, parts of objects and the pickle play no role."""
    values = np.array([[[2978, 0], [2978, 90], [401, 90]], [[312, 10], [312, 10], [0, 0]]])
    shared = [(2978, "wall", 0), (401, "car, auto", 0), (9, "wheel", 1)]
    full_release(tmp_path, "training", values, [*shared, (312, "building", 0)])
    full_release(tmp_path, "validation", values, [*shared, (5, "tent", 0)])
    (tmp_path / "index_ade20k.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    data = Data(root=str(tmp_path))
    assert richest_task(data, "train") == "semantic"
    semantic = open_dataset(data, task="semantic")
    assert list(zip(semantic.category_ids, semantic.classes, strict=True)) == [
        (401, "car, auto"),
        (2978, "wall"),
    ]
    assert [r.image_id for r in semantic.train] == ["ADE_training_00000001"]
    regions = read_regions(semantic.train[0], "semantic")
    labels = np.array([*(s.label for s in regions.segments), -1])[regions.place]
    assert labels.tolist() == [[1, 1, 0], [-1, -1, -1]]
    objects = read_regions(open_dataset(data, task="instance").val[0], "instance")
    assert sorted((objects.place == i).sum() for i in range(3)) == [1, 1, 1]
    only = tmp_path / "classes.json"
    only.write_text(json.dumps([{"id": 312, "name": "building"}]))
    assert open_dataset(Data(root=str(tmp_path), classes="classes.json"), task="semantic").classes == [
        "building"
    ]


def test_what_is_wrong_with_the_full_release_is_named(tmp_path: Path) -> None:
    values = np.array([[[2978, 1]]])
    for part in ("training", "validation"):
        full_release(tmp_path, part, values, [])
    data = Data(root=str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)classes have no names.*data.classes=FILE"):
        open_dataset(data, task="semantic")
    [path] = (tmp_path / "images" / "ADE" / "training").rglob("*.json")
    for text in ("{", '{"annotation": 3}', "[" * 100000):
        path.write_text(text)
        with pytest.raises(DataError, match="not a json file of ADE20K"):
            open_dataset(data, task="semantic")
    path.write_text(json.dumps({"annotation": {"object": {"name_ndx": 2978, "name": "wall"}}}))
    path.with_suffix(".jpg").unlink()
    with pytest.raises(DataError, match="unreadable image"):
        open_dataset(data, ("train",), task="semantic")


def test_the_real_sample_of_both_releases(shared_dir: Path, tmp_path: Path) -> None:
    """A full annotation becomes its own challenge annotation by the official table of classes."""
    source = shared_dir / "data" / "ade20k_sceneparsing_sample"
    rows = [line.split() for line in (source / "mapFromADE.txt").read_text().splitlines()]
    challenge_of = {int(full): int(number) for number, *fulls in rows for full in fulls}
    table = [{"id": full, "name": str(number)} for full, number in challenge_of.items()]
    (tmp_path / "classes.json").write_text(json.dumps(table))
    seg = tmp_path / "images" / "ADE" / "training" / "x" / "ADE_train_00000970_seg.png"
    seg.parent.mkdir(parents=True)
    seg.write_bytes((source / "ADE_train_00000970_raw.png").read_bytes())
    truth = read_ids(source / "ADE_train_00000970_challenge.png")
    height, width = read_ids(seg).shape
    Image.new("RGB", (width, height)).save(seg.with_name("ADE_train_00000970.jpg"))
    dataset = open_dataset(Data(root=str(tmp_path), classes="classes.json"), ("train",), task="semantic")
    regions = read_regions(dataset.train[0], "semantic")
    numbers = np.array([*(int(dataset.classes[s.label]) for s in regions.segments), 0])[regions.place]
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * m / n).astype(int)
        for n, m in zip(truth.shape, numbers.shape, strict=True)
    )
    assert (numbers[rows][:, columns] == truth).mean() > 0.99  # the challenge's images are smaller
