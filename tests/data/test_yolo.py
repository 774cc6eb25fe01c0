"""YOLO-seg: where images and labels lie, what rows mean, what is missing, what hostile files do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import open_dataset, richest_task
from gdseg.data.rle import annotation_mask
from gdseg.errors import DataError
from gdseg.recipe import Data

NAMES = "names:\n  0: cat\n  1: dog\n"
SQUARE = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"  # of 40 x 20 pixels: columns 10..29, rows 5..14


def yolo(root: Path, text: str = SQUARE, images: str = "images/{}", config: str = NAMES) -> Path:
    """In each part an image with `text`, an empty one, and one without a file."""
    for part in ("train", "val"):
        folder = root / images.format(part)
        labels = root / images.format(part).replace("images", "labels")
        for each in (folder, labels):
            each.mkdir(parents=True, exist_ok=True)
        for name in "abc":
            Image.new("RGB", (40, 20)).save(folder / f"{name}.jpg")
        (labels / "a.txt").write_text(text)
        (labels / "b.txt").write_text("")
    if config:
        (root / "data.yaml").write_text(config)
    return root


def data_of(root: Path, **keys: str) -> Data:
    return Data(root=str(root), **keys)


@pytest.mark.parametrize("images", ["images/{}", "{}/images"])
@pytest.mark.parametrize("names", [NAMES, "names: [cat, dog]\nnc: 2\n", "names: {1: dog, 0: cat}\n"])
def test_rows_are_polygons_in_shares_of_the_image(tmp_path: Path, images: str, names: str) -> None:
    data = data_of(yolo(tmp_path, images=images, config=names))
    assert richest_task(data, "train") == "instance"
    dataset = open_dataset(data)
    assert (dataset.classes, dataset.category_ids) == (["cat", "dog"], [0, 1])
    first, empty, without = dataset.train
    assert [r.image_id.rpartition("/")[2] for r in dataset.train] == ["a", "b", "c"]
    assert (first.height, first.width) == (20, 40)
    assert empty.annotations == without.annotations == ()
    [annotation] = first.annotations or ()
    expected = np.zeros((20, 40), dtype=bool)
    expected[5:15, 10:30] = True
    assert annotation["label"] == 1
    assert np.array_equal(annotation_mask(annotation, 20, 40), expected)


def test_images_without_a_file_are_told(tmp_path: Path) -> None:
    dataset = open_dataset(data_of(yolo(tmp_path)))
    [note, _] = dataset.faults
    assert note.harmless
    assert "1 count as images without objects, as in ultralytics; first: " in str(note)
    for path in tmp_path.glob("labels/train/*.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"no image of .* has a label file"):
        open_dataset(data_of(tmp_path, format="yolo"), ("train",))


def test_joined_parts_and_holes_are_one_object(tmp_path: Path) -> None:
    """A frame, its hole reached by a bridge, and a square apart, reached by another."""
    frame = [(0, 0), (16, 0), (16, 16), (0, 16), (0, 0), (4, 4), (4, 12), (12, 12), (12, 4), (4, 4), (0, 0)]
    ring = [*frame, (20, 4), (24, 4), (24, 8), (20, 8), (20, 4), (0, 0)]
    row = "0 " + " ".join(f"{x / 40} {y / 20}" for x, y in ring)
    [annotation] = open_dataset(data_of(yolo(tmp_path, row))).train[0].annotations or ()
    expected = np.zeros((20, 40), dtype=bool)
    expected[:16, :16] = True
    expected[4:12, 4:12] = False
    expected[4:8, 20:24] = True
    assert np.array_equal(annotation_mask(annotation, 20, 40), expected)


@pytest.mark.parametrize(
    "config",
    [
        "path: {0}\ntrain: pictures/one\nval: [pictures/two, pictures/three]\n",
        "path: /nowhere\ntrain: ../pictures/one\nval: [../pictures/two, ../pictures/three]\n",
        "train: one.txt\nval: two.txt\n",
    ],
)
def test_folders_and_lists_of_data_yaml(tmp_path: Path, config: str) -> None:
    for folder in ("one", "two", "three"):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        Image.new("RGB", (40, 20)).save(tmp_path / "pictures" / folder / "a.png")
        (tmp_path / "pictures" / folder / "a.txt").write_text(SQUARE)  # beside it: there is no folder images/
    (tmp_path / "one.txt").write_text("./pictures/one/a.png\n")
    (tmp_path / "two.txt").write_text(f"pictures/two/a.png\n{tmp_path}/pictures/three/a.png\n\n")
    (tmp_path / "data.yaml").write_text(config.format(tmp_path) + NAMES)
    dataset = open_dataset(data_of(tmp_path))
    assert [len(dataset.train), len(dataset.val)] == [1, 2]
    assert all(len(record.annotations or ()) == 1 for record in dataset.train + dataset.val)


def test_keys_name_what_looking_does_not_find(tmp_path: Path) -> None:
    root = yolo(tmp_path, images="x/images/{}", config="")
    (root / "x" / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="no training images with annotations"):
        open_dataset(data_of(root), ("train",))
    for train in ("x/labels/train", "x/images/train"):
        found = open_dataset(data_of(root, train=train, classes="x/classes.txt"), ("train",))
        assert (len(found.train), found.classes) == (3, ["cat", "dog"])
    (root / "x" / "labels").rename(root / "texts")
    keys = {"train": "texts/train", "train_images": "x/images/train", "classes": "x/classes.txt"}
    assert open_dataset(data_of(root, **keys), ("train",)).train[0].annotations
    with pytest.raises(DataError, match=r"(?s)no data.yaml.*write data.yaml with names"):
        open_dataset(data_of(root, train="texts/train", train_images="x/images/train"), ("train",))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("0 0.5 0.5 0.2 0.2", "box without mask: .*row 1 of a.txt: it holds a box"),
        ("0 0.5 0.5 0.1 0.2 0.3 0.4 0.9", "7 numbers follow the class"),
        ("0 0.5 0.5 0.1 0.2 nan 0.4", "bad polygon"),
        ("0 0.5 0.5 0.1 0.2 1e999 0.4", "outside its image"),
        ("0 10 10 20 10 20 20", "outside its image"),
        ("0 -0.5 0 1 0 1 1", "outside its image"),
        ("2 0 0 1 0 1 1", "undeclared category id"),
        ("0.5 0 0 1 0 1 1", "undeclared category id"),
        ("nan 0 0 1 0 1 1", "undeclared category id"),
        (f"{'9' * 5000} 0 0 1 0 1 1", "undeclared category id"),
        ("cat 0 0 1 0 1 1", "bad row"),
        ("0 0 0 0x10 0 1 1", "bad row"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        open_dataset(data_of(yolo(tmp_path, SQUARE + "\n" + row if "row 1" not in fault else row)))


@pytest.mark.parametrize("row", ["0 0 0 1 1 0.5 0.5", "0 0.5 0.5"])
def test_a_polygon_without_area_is_left_out(tmp_path: Path, row: str) -> None:
    dataset = open_dataset(data_of(yolo(tmp_path, f"{row}\n{SQUARE}")))
    assert len(dataset.train[0].annotations or ()) == 1
    assert [f.kind for f in dataset.faults if "row" in f.text] == ["empty object"] * 2


BOMB = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "config",
    [
        "names: 3",
        "names: []",
        "names: {a: b}",
        "names: {-1: b}",
        f"names: {{{'9' * 5000}: b}}",
        "names: [[a]]",
        "names: [a, '']",
        "names: [a]\nnc: 2",
        BOMB + "names: *i\n",
        "names: [" * 2000,
        "\0",
        "names: {[a]: b}",
    ],
)
def test_hostile_configs_are_errors(tmp_path: Path, config: str) -> None:
    with pytest.raises(DataError, match=r"names|there is no data.yaml"):
        open_dataset(data_of(yolo(tmp_path, config=config)))


def test_a_config_runs_no_code(tmp_path: Path) -> None:
    config = "names: !!python/object/apply:os.system [echo, two]\n"
    assert open_dataset(data_of(yolo(tmp_path, config=config))).classes == ["echo", "two"]


@pytest.mark.parametrize("entry", ["\0", "x" * 9999, "[[a]]", "{a: b}", "../../..", "nothing"])
def test_hostile_folders_are_passed_over(tmp_path: Path, entry: str) -> None:
    root = yolo(tmp_path, config=f'path: "{"y" * 9999}"\ntrain: {entry!r}\n{NAMES}')
    if entry != "../../..":
        assert len(open_dataset(data_of(root), ("train",)).train) == 3


def test_broken_files_are_faults(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe0")
    (root / "images/train/b.jpg").write_bytes(b"no")
    faults = open_dataset(data_of(root), ("train",), strict=False).faults
    assert sorted(f.kind for f in faults if not f.harmless) == ["unreadable image", "unreadable labels"]
    for content in (b"\xff\xfe", b"\0\n"):
        (root / "list.txt").write_bytes(content)
        with pytest.raises(DataError, match=r"list of images|has a label file"):
            open_dataset(data_of(root, train="list.txt"), ("train",))
    (root / "list.txt").write_text(f"images/train/a.jpg\nimages/train/gone.jpg\n{'x' * 9999}\n")
    with pytest.raises(DataError, match="missing image file"):
        open_dataset(data_of(root, train="list.txt"), ("train",))
