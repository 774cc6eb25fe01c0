"""labelme: shapes, groups, what is ignored, where files lie, what hostile ones do."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import open_dataset, richest_task
from gdseg.data.rle import annotation_mask
from gdseg.errors import DataError
from gdseg.recipe import Data

SIZE = (30, 40)


def shape(label: Any, points: Any, kind: Any = "polygon", group: Any = None, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, **more}


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def square(x: int, y: int, side: int) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def write(folder: Path, shapes: list[Any], name: str = "a", **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(folder / f"{name}.jpg")
    document = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.jpg",
        "imageData": "AAAA",
    }
    document |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1], **more}
    (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def masks(root: Path, **keys: str) -> list[tuple[str, int, np.ndarray]]:
    """(class, crowd, mask) of each object of the first training image."""
    dataset = open_dataset(Data(root=str(root), val="none", **keys))
    record = dataset.train[0]
    assert (record.height, record.width) == SIZE
    return [
        (dataset.classes[a["label"]], a["iscrowd"], annotation_mask(a, *SIZE))
        for a in record.annotations or ()
    ]


def drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Rectangles (left, top, right, bottom)."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = 1
    return mask


def test_each_kind_of_shape_is_an_area(tmp_path: Path) -> None:
    hole = np.ones((6, 5), dtype=bool)
    hole[2:4, 1:3] = False
    write(
        tmp_path,
        [
            shape("a", square(2, 3, 5)),
            shape("b", [[30, 20], [10, 10]], "rectangle"),
            shape("c", [[20, 15], [20, 5]], "circle"),
            shape("d", [[7, 8], [11, 13]], "mask", mask=png(hole)),
            shape("e", square(1, 1, 4), "rectangle"),
            {"label": "f", "points": square(5, 5, 3)},  # of an old version
        ],
    )
    assert richest_task(Data(root=str(tmp_path)), "train") == "instance"
    found = {name: mask for name, _, mask in masks(tmp_path)}
    assert np.array_equal(found["a"], drawn((2, 3, 7, 8)))
    assert np.array_equal(found["b"], drawn((10, 10, 30, 20)))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    round_ = np.hypot(x - 20, y - 15) <= 10
    assert np.abs(found["c"].astype(int) - round_).sum() <= 0.02 * round_.sum()
    expected = drawn((7, 8, 12, 14)) - drawn((8, 10, 10, 12))
    assert np.array_equal(found["d"], expected)
    assert np.array_equal(found["e"], drawn((1, 1, 5, 5)))
    assert np.array_equal(found["f"], drawn((5, 5, 8, 8)))


def test_a_group_is_one_object_of_a_class(tmp_path: Path) -> None:
    parts = [shape("a", square(1, 1, 4), group=7), shape("b", square(9, 9, 4), group=7)]
    more = [shape("a", square(20, 1, 4), group=7), shape("a", square(30, 1, 4)), shape("a", square(30, 9, 4))]
    patch = shape("b", [[0, 0], [1, 2]], "mask", 7, mask=png(np.ones((3, 2), dtype=np.uint8)))
    write(tmp_path, [*parts, *more, patch])
    found = masks(tmp_path)
    assert [name for name, _, _ in found] == ["a", "b", "a", "a"]
    assert np.array_equal(found[0][2], drawn((1, 1, 5, 5), (20, 1, 24, 5)))
    assert np.array_equal(found[1][2], drawn((9, 9, 13, 13), (0, 0, 2, 3)))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_no_mask(tmp_path: Path, channels: int) -> None:
    """A mask written with an opaque alpha channel is what its grey or colours say."""
    own = np.array([[0, 1, 0], [1, 1, 0]], dtype=np.uint8)
    opaque = np.stack([own * 255] * (channels - 1) + [np.full_like(own, 255)], axis=-1)
    write(tmp_path, [shape("a", [[4, 2], [6, 3]], "mask", mask=png(opaque))])
    [(_, _, mask)] = masks(tmp_path)
    assert np.array_equal(mask[2:4, 4:7], own)
    assert mask.sum() == own.sum()


def test_circles_are_cut_at_the_rim(tmp_path: Path) -> None:
    write(tmp_path, [shape("a", [[0, 15], [0, 5]], "circle")])
    [(_, _, mask)] = masks(tmp_path)
    assert mask.sum() == pytest.approx(np.pi * 50, rel=0.03)


def test_what_is_ignored_is_a_crowd_of_each_class(tmp_path: Path) -> None:
    crowd = shape("b", square(20, 1, 4), flags={"iscrowd": True})
    write(tmp_path, [shape("a", square(1, 1, 4)), crowd, shape("__ignore__", square(9, 9, 4))])
    found = masks(tmp_path)
    assert [(name, is_crowd) for name, is_crowd, _ in found] == [("a", 0), ("b", 1), ("a", 1), ("b", 1)]
    assert np.array_equal(found[2][2], drawn((9, 9, 13, 13)))


@pytest.mark.parametrize("folder", ["{}", "annotations/{}", "{}/labels"])
def test_parts_are_folders_that_share_their_classes(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder.format("train"), [shape("dog", square(1, 1, 4))])
    write(tmp_path / folder.format("val"), [shape("cat", square(1, 1, 4))], "b")
    write(tmp_path / folder.format("val"), [], "c")
    dataset = open_dataset(Data(root=str(tmp_path)))
    assert dataset.classes == ["cat", "dog"]
    assert [len(dataset.train), len(dataset.val)] == [1, 2]
    assert dataset.val[1].annotations == ()
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\nbird\n")
    assert open_dataset(Data(root=str(tmp_path))).classes == ["dog", "cat", "bird"]


def test_without_parts_all_is_for_training(tmp_path: Path) -> None:
    write(tmp_path, [shape("dog", square(1, 1, 4))])
    (tmp_path / "other.json").write_text('{"version": 1}')
    assert len(open_dataset(Data(root=str(tmp_path), val="none")).train) == 1
    with pytest.raises(DataError, match=r"(?s)no validation images with annotations.*data.val=none"):
        open_dataset(Data(root=str(tmp_path)))
    assert len(open_dataset(Data(root=str(tmp_path), val=".")).val) == 1


@pytest.mark.parametrize(
    "path", ["..\\photos\\p.jpg", "../photos/p.jpg", "C:\\my\\p.jpg", "/my/p.jpg", 7, "\0", "x" * 9999]
)
def test_images_by_path_or_by_name(tmp_path: Path, path: Any) -> None:
    write(tmp_path / "json", [], imagePath=path)
    (tmp_path / "photos").mkdir()
    there = "photos" in str(path)
    target = tmp_path / ("photos/p.jpg" if there else "json/p.jpg" if "my" in str(path) else "json/a.jpg")
    (tmp_path / "json" / "a.jpg").rename(target)
    assert open_dataset(Data(root=str(tmp_path), val="none")).train[0].path.resolve() == target
    target.unlink()
    with pytest.raises(DataError, match=r"1 x missing image file.* of a.json is not there"):
        open_dataset(Data(root=str(tmp_path), val="none"))


def test_sizes_come_from_the_image_where_the_json_has_none(tmp_path: Path) -> None:
    write(tmp_path, [shape("a", square(1, 1, 4))], imageHeight=None, imageWidth=None)
    assert len(masks(tmp_path)) == 1
    for height in (0, -3, 2.5, "30", 10**400, True, None):
        write(tmp_path, [], imageHeight=height)
        with pytest.raises(DataError, match="1 x bad image"):
            open_dataset(Data(root=str(tmp_path), val="none"))


TINY = np.ones((2, 2), dtype=np.uint8)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (shape("a", [[1, 1], [5, 5]], "line"), "shape 2: shape_type 'line' has no area"),
        (shape("a", [[1, 1]], "point"), "has no area"),
        (shape("a", [[1, 1]], ["x"]), "has no area"),
        (shape("a", [[1, 1], [5, 5], [5, 1]], "circle"), "a circle has two points"),
        (shape("a", [[1, 1], [float("nan"), 5]], "circle"), "not finite"),
        (shape("a", [[1e308, 1], [-1e308, 5]], "circle"), "not finite"),
        (shape("a", [[1, 1], [float("inf"), 5]], "rectangle"), "outside its image"),
        (shape("a", [[1, 1], [10**400, 5], [1, 9]]), "bad shape"),
        (shape("a", [[1, 1], [99, 5], [1, 9]]), "outside its image"),
        (shape("a", [[1, 1], [float("nan"), 5], [1, 9]]), "bad polygon"),
        (shape("a", "many"), "bad shape"),
        (shape("a", [[1, 1], [5], [5, 1]]), "bad shape"),
        (shape("a", [[1, 1], ["5", 2], [5, 1]]), "bad shape"),
        (shape("a", [1, 2, 3]), "bad shape"),
        (shape(None, square(1, 1, 4)), "expected a label"),
        (shape(["a"], square(1, 1, 4)), "expected a label"),
        (shape("a", square(1, 1, 4), group=[1]), "expected a label and a group_id"),
        (7, "expected a label"),
        (shape("a", [[1, 1], [2, 2]], "mask"), "not a PNG in base64"),
        (shape("a", [[1, 1], [2, 2]], "mask", mask="?"), "not a PNG in base64"),
        (shape("a", [[1, 1], [2, 2]], "mask", mask="AAAA"), "not a PNG in base64"),
        (shape("a", [[1, 1], [2, 2]], "mask", mask=["AAAA"]), "not a PNG in base64"),
        (shape("a", [[1, 1], [2, 2]], "mask", mask=png(TINY)[:60]), "not a PNG in base64"),
        (
            shape("a", [[1, 1], [3, 2]], "mask", mask=png(TINY)),
            r"picture is \(2, 2\), its points say \(3, 2\)",
        ),
        (shape("a", [[39, 1], [40, 2]], "mask", mask=png(TINY)), "outside its image"),
        (shape("a", [[-1, 1], [0, 2]], "mask", mask=png(TINY)), "outside its image"),
        (shape("a", [[2, 2], [1, 1]], "mask", mask=png(TINY)), "outside its image"),
        (shape("a", [[1e300, 1], [2, 2]], "mask", mask=png(TINY)), "a mask has two points"),
        (shape("a", [[float("nan"), 1], [2, 2]], "mask", mask=png(TINY)), "a mask has two points"),
    ],
)
def test_bad_shapes_are_named(tmp_path: Path, bad: Any, fault: str) -> None:
    write(tmp_path, [shape("a", square(1, 1, 4)), bad])
    with pytest.raises(
        DataError, match=rf"image 'a', annotation 2: .*{fault}|{fault}.*image 'a', annotation 2"
    ):
        open_dataset(Data(root=str(tmp_path), val="none"))


@pytest.mark.parametrize("channels", [2, 4], ids=["LA", "RGBA"])
def test_the_alpha_of_a_mask_is_not_its_mask(tmp_path: Path, channels: int) -> None:
    picture = np.zeros((3, 4, channels), dtype=np.uint8)
    picture[..., -1] = 255
    picture[1, 2, 0] = 255
    write(tmp_path, [shape("a", [[5, 7], [8, 9]], "mask", mask=png(picture))])
    [(_, _, mask)] = masks(tmp_path)
    assert np.argwhere(mask).tolist() == [[8, 7]]


def test_a_mask_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    """20,000 x 8,000 pixels in 20 kB, which would take 160 MB."""
    bomb = png(np.zeros((8000, 20000), dtype=bool))
    write(tmp_path, [shape("a", [[1, 1], [2, 2]], "mask", mask=bomb)])
    with pytest.raises(DataError, match="1 x bad mask"):
        open_dataset(Data(root=str(tmp_path), val="none"))


def test_empty_objects_are_left_out(tmp_path: Path) -> None:
    nothing = shape("a", [[1, 1], [2, 2]], "mask", mask=png(0 * TINY))
    write(tmp_path, [shape("a", [[1, 1], [1, 1], [1, 1]]), nothing, shape("_background_", square(1, 1, 3))])
    dataset = open_dataset(Data(root=str(tmp_path), val="none"))
    assert dataset.train[0].annotations == ()
    assert [f.kind for f in dataset.faults] == ["empty object"] * 2


def test_broken_files_and_undeclared_labels_are_faults(tmp_path: Path) -> None:
    write(tmp_path, [shape("a", square(1, 1, 4)), shape("z", square(1, 1, 4))])
    (tmp_path / "labels.txt").write_text("a\n")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[" * 100000)
    faults = open_dataset(Data(root=str(tmp_path), val="none"), strict=False).faults
    assert sorted(f.kind for f in faults) == ["undeclared category", "unreadable labels", "unreadable labels"]
    (tmp_path / "a.json").unlink()
    with pytest.raises(DataError, match="no training images with annotations"):
        open_dataset(Data(root=str(tmp_path), val="none"))
