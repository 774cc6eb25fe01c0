"""Reading COCO: every feature against pycocotools, every fault with its message, and fuzz."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from gdseg.data.coco import load_coco, read_coco
from gdseg.data.rle import annotation_mask, to_rle
from gdseg.errors import DataError

Content = dict[str, Any]


def load(root: Path) -> Any:
    return load_coco(root / "annotations" / "instances_train.json", root / "train")


def all_kinds(content: Content) -> Content:
    """Polygons with disjoint parts, both kinds of RLE, a hole, a crowd, an image without annotations."""
    mask = np.zeros((32, 48), bool)
    mask[5:25, 5:25] = True
    mask[10:15, 10:15] = False
    flat = mask.T.ravel().astype(int)
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
    parts = [[1, 1, 9.5, 1, 9, 7.5, 1, 7.5], [20, 3, 40, 3, 25, 19.5]]
    segmentations = [parts, to_rle(mask), {"size": [32, 48], "counts": runs}]
    content["annotations"] += [
        {"id": 2 + i, "image_id": 7, "category_id": 4, "iscrowd": int(i == 2), "segmentation": s}
        for i, s in enumerate(segmentations)
    ]
    return content


def test_every_kind_of_mask_equals_pycocotools(make_coco: Any, content: Content, capsys: Any) -> None:
    root = make_coco(all_kinds(content))
    coco = COCO(str(root / "annotations" / "instances_train.json"))
    file = load(root)
    assert file.classes == ["cat", "dog"]
    assert file.category_ids == [4, 90]
    first, second = file.records
    assert (first.image_id, first.height, first.width) == (7, 32, 48)
    assert second.annotations == ()  # labelled, with nothing in it
    assert first.annotations is not None
    assert [a["label"] for a in first.annotations] == [1, 0, 0, 0]
    assert [a["iscrowd"] for a in first.annotations] == [0, 0, 0, 1]
    for annotation in first.annotations:
        np.testing.assert_array_equal(
            annotation_mask(annotation, 32, 48), coco.annToMask(coco.anns[annotation["id"]])
        )


def test_real_coco_and_nuclei_load_cleanly(shared_dir: Path) -> None:
    for path, images, count, objects in (
        ("coco/annotations/instances_val2017.json", "coco/val2017", 57, 517),
        ("nuclei/annotations/instances_val.json", "nuclei/val", 100, 3678),
    ):
        file = load_coco(shared_dir / "data" / path, shared_dir / "data" / images)
        assert file.faults == []
        assert len(file.records) == count
        assert sum(len(r.annotations or ()) for r in file.records) == objects


def test_an_object_without_pixels_is_left_out_and_noted(make_coco: Any, content: Content) -> None:
    content["annotations"][0]["segmentation"] = [[1, 1, 5, 5, 9, 9]]
    file = load(make_coco(content))
    assert file.records[0].annotations == ()
    assert [str(f) for f in file.faults] == ["empty object: image 7, annotation 1: its polygons have no area"]


def change(content: Content, where: str, value: Any) -> None:
    kind, _, key = where.partition(".")
    content[kind][0][key] = value


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("annotations.segmentation", [[4, 4, 60, 4, 60, 20]], "outside its image: image 7, annotation 1: a"),
        ("annotations.bbox", [40, 4, 16, 12], "outside its image: image 7, annotation 1: bbox is"),
        ("annotations.bbox", [4, 4, float("nan"), 12], "outside its image"),
        ("annotations.bbox", [4, 4, "x"], "bad annotation: image 7, annotation 1: bbox is"),
        ("annotations.segmentation", {"size": [32, 48], "counts": [5, 6]}, "counts add up to 11, its"),
        ("annotations.segmentation", {"size": [48, 32], "counts": [1000, 536]}, "bad RLE"),
        ("annotations.segmentation", {"size": [32, 48], "counts": "abcPPP"}, "bad RLE"),
        ("annotations.segmentation", [[1, 2, 3, 4, 5]], "bad polygon"),
        ("annotations.segmentation", None, "bad annotation: image 7, annotation 1: segmentation is None"),
        ("annotations.segmentation", "abc", "bad annotation"),
        ("annotations.category_id", 91, "undeclared category id: image 7, annotation 1: category_id is 91"),
        ("annotations.category_id", [90], "undeclared category id"),
        ("annotations.category_id", True, "undeclared category id"),
        ("annotations.image_id", 8, "undeclared image id: image 8, annotation 1: image_id is 8"),
        ("annotations.image_id", {}, "undeclared image id"),
        ("annotations.iscrowd", "no", "bad annotation: image 7, annotation 1: iscrowd is 'no'"),
        ("annotations.id", [1], "bad annotation"),
        ("images.file_name", "none.png", "missing image file: image 7:"),
        ("images.file_name", "x" * 5000 + ".png", "missing image file: image 7:"),
        ("images.file_name", 5, "bad image: image 7: file_name is 5"),
        ("images.file_name", "a\0.png", "bad image"),
        ("images.height", "32", "bad image: image 7: height and width are"),
        ("images.width", 10**12, "bad image"),
        ("images.id", 3, "duplicate image id"),
        ("images.id", None, "bad image"),
        ("categories.id", 4, "duplicate category id: 4"),
        ("categories.name", None, "bad category"),
    ],
)  # fmt: skip
def test_each_fault_has_its_message(
    make_coco: Any, content: Content, where: str, value: Any, message: str
) -> None:
    change(content, where, value)
    root = make_coco(content)
    with pytest.raises(DataError) as caught:
        load(root)
    assert message in str(caught.value)
    assert "instances_train.json" in str(caught.value)
    assert "gdseg data inspect" in str(caught.value)
    assert caught.value.exit_code == 3


def test_one_error_counts_all_faults(make_coco: Any, content: Content) -> None:
    good = content["annotations"][0]
    content["annotations"] += [{**good, "id": 5, "category_id": 1}, {**good, "id": 6, "category_id": 2}]
    content["annotations"] += [{**good, "id": 1}, 17]
    with pytest.raises(DataError) as caught:
        load(make_coco(content))
    assert caught.value.what.startswith(
        "2 x undeclared category id, 1 x duplicate annotation id, 1 x bad annotation; first: "
        "undeclared category id: image 7, annotation 5"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a json file"),
        ("[1, 2]", "it is not an object"),
        ("{", "not a json file"),
        ("[" * 100000, "not a json file"),
        ("1" * 5000, "not a json file"),
        ('{"images": []}', "no list 'annotations'"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list 'images'"),
        ('{"images": [], "annotations": [], "categories": [1]}', "lists no image"),
        ('{"images": [1], "annotations": [], "categories": []}', "declares no category"),
    ],
)
def test_what_is_not_coco(make_coco: Any, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(make_coco(text))


def test_json_that_is_not_text(make_coco: Any, content: Content) -> None:
    root = make_coco(content)
    (root / "annotations" / "instances_train.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(DataError, match="not a json file"):
        load(root)
    with pytest.raises(DataError, match="cannot read the json"):
        load_coco(root, root)


JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x" * 99,
    [],
    [[]],
    {},
    {"counts": "!"},
    [{}],
    "\ud800",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a json value."""
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def test_mutated_json_never_raises_anything_else(make_coco: Any, content: Content) -> None:
    """Each place of the json holds each kind of junk once; what loads must also rasterise."""
    content = all_kinds(content)
    root = make_coco(content)
    path = root / "annotations" / "instances_train.json"
    sites = [p for p in places(content) if p]
    rng = np.random.default_rng(0)
    for site in sites:
        for junk in [JUNK[i] for i in rng.choice(len(JUNK), 6, replace=False)]:
            mutated = copy.deepcopy(content)
            parent: Any = mutated
            for key in site[:-1]:
                parent = parent[key]
            parent[site[-1]] = junk
            path.write_text(json.dumps(mutated))
            try:
                file = read_coco(path, root / "train")
            except DataError as error:
                str(error)
                continue
            for record in file.records:
                assert record.height is not None
                assert record.width is not None
                for annotation in record.annotations or ():
                    annotation_mask(annotation, record.height, record.width)
            [str(fault) for fault in file.faults]


def test_random_bytes_never_raise_anything_else(make_coco: Any, content: Content) -> None:
    root = make_coco(all_kinds(content))
    path = root / "annotations" / "instances_train.json"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, len(data), rng.integers(1, 4))] = rng.integers(0, 128)
        path.write_bytes(data.tobytes())
        try:
            read_coco(path, root / "train")
        except DataError:
            continue
