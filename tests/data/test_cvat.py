"""CVAT: its XML in the form of its export, its COCO's false crowds, and what hostile files do.

datumaro 1.13 (which CVAT's formats go through) read what `gdseg data convert --to cvat` writes to the pixel, and
wrote the same data as CVAT XML and as COCO: the hand-made files here have the form of those.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import open_dataset
from gdseg.data.rle import annotation_mask, to_rle
from gdseg.errors import DataError
from gdseg.layouts.cvat import mask_facts
from gdseg.recipe import Data

H, W = 20, 30
MASK = '<mask label="cat" source="manual" occluded="0" rle="{}" left="4" top="2" width="3" height="2" z_order="0"{}>{}</mask>'
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><name>n</name><labels>
    <label><name>dog</name><color>#0a0B0c</color><type>any</type><attributes></attributes></label>
    <label><name>cat</name><attributes><attribute><name>weight</name></attribute></attributes></label>
    <label><name>blurred</name><type>tag</type></label>
  </labels></task><dumped>2026-01-01</dumped></meta>
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (W, H)).save(tmp_path / "images" / name)
    return tmp_path


def opened(root: Path, shapes: str, *, strict: bool = True, more: str = "") -> Any:
    image = f'<image id="0" name="sub/b.png" width="{W}" height="{H}">{shapes}</image>'
    (root / "annotations.xml").write_text(HEAD + image + more + "</annotations>")
    return open_dataset(Data(root=str(root), val="none"), ("train",), strict=strict)


def masks(dataset: Any) -> list[list[list[int]]]:
    """Pixels (row, column) of each object."""
    found = dataset.train[0].annotations
    return [np.argwhere(annotation_mask(a, H, W)).tolist() for a in found]


def test_a_mask_is_runs_of_its_box_row_by_row(root: Path) -> None:
    """Zeros first: one zero, four ones that go on in the second row, one zero."""
    said = '<attribute name="weight">0.25</attribute><attribute name="score">0.9</attribute>'
    dataset = opened(root, MASK.format("1, 4, 1", "", said) + MASK.format("0, 1, 5", ' group_id="0"', ""))
    assert dataset.classes == ["dog", "cat"]  # as the file declares them
    assert dataset.table[0].colour == (10, 11, 12)
    assert dataset.train[0].path == root / "images" / "sub" / "b.png"
    assert masks(dataset) == [[[2, 5], [2, 6], [3, 4], [3, 5]], [[2, 4]]]
    first, second = dataset.train[0].annotations
    assert (first["label"], first["weight"], first["score"], first["iscrowd"]) == (1, 0.25, 0.9, 0)
    assert "weight" not in second
    for mask in (np.eye(H, W) > 0, np.ones((H, W)) > 0, np.random.default_rng(0).random((H, W)) > 0.5):
        facts = " ".join(f'{key}="{value}"' for key, value in mask_facts(mask.astype(np.uint8)).items())
        assert masks(opened(root, f'<mask label="cat" {facts}/>')) == [np.argwhere(mask).tolist()]


def test_groups_are_objects_and_a_box_beside_a_mask_adds_nothing(root: Path) -> None:
    parts = '<polygon label="cat" points="1,1;4,1;4,4;1,4" group_id="3"/><polygon label="cat" points="10,1;12,1;12,3;10,3" group_id="3"/>'
    other = (
        '<polygon label="dog" points="1,1;4,1;4,4;1,4" group_id="3"/><tag label="blurred" source="manual"/>'
    )
    box = '<box label="cat" xtl="0" ytl="0" xbr="20" ybr="10" group_id="4"/>'
    dataset = opened(root, parts + other + MASK.format("0, 6", ' group_id="4"', "") + box)
    assert [len(m) for m in masks(dataset)] == [9 + 4, 9, 6]
    assert [a["label"] for a in dataset.train[0].annotations] == [1, 0, 1]


def test_boxes_ellipses_and_crowds(root: Path) -> None:
    crowd = '<attribute name="is_crowd">true</attribute>'
    box = '<box label="cat" occluded="0" xtl="10.0" ytl="2.0" xbr="14.0" ybr="10.0"{}>{}</box>'
    ellipse = '<ellipse label="dog" cx="15" cy="10" rx="8" ry="3" rotation="90"/>'
    dataset = opened(root, box.format("", crowd) + box.format(' rotation="90.0"', "") + ellipse)
    plain, turned, oval = (np.array(m) for m in masks(dataset))
    assert (plain.min(0).tolist(), plain.max(0).tolist()) == ([2, 10], [9, 13])
    assert (turned.min(0).tolist(), turned.max(0).tolist()) == ([4, 8], [7, 15])
    assert len(oval) == pytest.approx(np.pi * 8 * 3, rel=0.1)
    assert np.ptp(oval, axis=0).tolist() == [15, 5]
    assert [a["iscrowd"] for a in dataset.train[0].annotations] == [1, 0, 0]


def test_subsets_of_a_project_are_parts(root: Path) -> None:
    (root / "images" / "Train").mkdir()
    (root / "images" / "a.png").rename(root / "images" / "Train" / "a.png")
    shape = '<polygon label="cat" points="1,1;4,1;4,4;1,4"/>'
    text = "".join(
        f'<image id="{i}" name="{name}" subset="{subset}" width="{W}" height="{H}">{shape}</image>'
        for i, (name, subset) in enumerate((("a.png", "Train"), ("sub/b.png", "Validation")))
    )
    (root / "annotations.xml").write_text(HEAD + text + "</annotations>")
    dataset = open_dataset(Data(root=str(root)))
    assert [[r.image_id for r in part] for part in (dataset.train, dataset.val)] == [["a.png"], ["sub/b.png"]]


def test_a_file_is_never_two_images(root: Path) -> None:
    """images/ holds a.png and sub/b.png."""

    def image(name: str, more: str = "") -> str:
        return f'<image name="{name}" width="{W}" height="{H}" {more}/>'

    with pytest.raises(DataError, match=r"2 x missing image file.*'x/a.png' is not there, and its base name"):
        opened(root, "", more=image("x/a.png") + image("y/a.png"))
    with pytest.raises(DataError, match=r"1 x duplicate image.*'images/a.png'.*that of image 'a.png'"):
        opened(root, "", more=image("a.png") + image("images/a.png"))
    dataset = opened(root, "", more=image("elsewhere\\a.png"))  # an unambiguous base name
    assert dataset.train[1].path == root / "images" / "a.png"
    (root / "images" / "None").mkdir()
    (root / "images" / "None" / "a.png").write_bytes((root / "images" / "a.png").read_bytes())
    assert opened(root, "", more=image("a.png")).train[1].path == root / "images" / "a.png"


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        (MASK.format("1, 4", "", ""), "bad RLE.*add up to 5, its box has 6"),
        (MASK.format("1, -4, 9", "", ""), "bad RLE"),
        (MASK.format("1, x", "", ""), "bad RLE"),
        (MASK.format("9" * 5000, "", ""), "bad RLE"),
        (MASK.format("0, 6", "", "").replace('left="4"', 'left="28"'), "outside its image"),
        (MASK.format("0, 6", "", "").replace('top="2"', 'top="nan"'), "bad shape.*top of a mask"),
        ('<mask label="cat"/>', "bad shape.*left of a mask"),
        ('<polygon label="cat" points="1,1;4,one;4,4"/>', "bad polygon"),
        ('<polygon label="cat" points="1,1;4,1;400,4"/>', "outside its image"),
        ('<polygon label="cat" points="1,1;4,nan;4,4"/>', "bad polygon"),
        ('<ellipse label="cat" cx="1" cy="1" rx="inf" ry="1"/>', "bad shape"),
        ('<polyline label="cat" points="1,1;4,4"/>', "polyline has no area"),
        ('<polygon label="bird" points="1,1;4,1;4,4"/>', "undeclared category.*'bird'"),
    ],
)
def test_a_bad_shape_is_named(root: Path, shape: str, fault: str) -> None:
    with pytest.raises(DataError, match=f"1 x .*{fault}"):
        opened(root, '<polygon label="cat" points="1,1;4,1;4,4;1,4"/>' + shape)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('<!DOCTYPE a [<!ENTITY b "bbbb">]><annotations>&b;</annotations>', "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "DOCTYPE"),
        ("<annotations><image", "not a file of CVAT"),
        ("<annotations>" + "<a>" * 100_000, "not a file of CVAT"),
        ("<annotations></annotations>", "declares no label"),
        (HEAD + "</annotations>", "lists no image"),
        (HEAD + '<track id="0" label="cat"/></annotations>', "tracks of a video"),
        (HEAD + '<image id="0" name="no.png" width="3" height="3"/></annotations>', "missing image file"),
        (HEAD + '<image id="0" name="a.png" width="0" height="3"/></annotations>', "bad image"),
        (HEAD + '<image name="a.png"/><image name="a.png"/></annotations>', "duplicate image"),
        ('<?xml version="1.0" encoding="x"?><annotations/>', "not a file of CVAT"),
    ],
)
def test_a_bad_file_is_one_error(root: Path, content: str, fault: str) -> None:
    (root / "annotations.xml").write_text(content)
    with pytest.raises(DataError, match=fault):
        open_dataset(Data(root=str(root), val="none"), ("train",))


def test_masks_that_cvats_coco_calls_crowds_are_objects(root: Path) -> None:
    """Uncompressed runs, iscrowd 1 and the attribute occluded, as datumaro writes masks of CVAT."""
    mask = np.zeros((H, W), dtype=bool)
    mask[3:9, 4:8] = True
    runs = np.diff(np.flatnonzero(np.diff(np.pad(mask.T.ravel().astype(int), 1, constant_values=(0, -1)))))
    counts = [int(n) for n in (np.argmax(mask.T.ravel()), *runs)]
    masked = {"image_id": 1, "category_id": 1, "iscrowd": 1, "score": 0.9}
    masked |= {
        "segmentation": {"counts": counts, "size": [H, W]},
        "attributes": {"occluded": False, "weight": "0.5"},
    }
    true_crowd = {"image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": to_rle(mask)}
    content = {"images": [{"id": 1, "file_name": "a.png", "height": H, "width": W}]}
    content |= {
        "annotations": [{"id": 1, **masked}, {"id": 2, **true_crowd}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "instances_train.json").write_text(json.dumps(content))
    dataset = open_dataset(Data(root=str(root), val="none"), ("train",))
    assert [a["iscrowd"] for a in dataset.train[0].annotations or ()] == [0, 1]
    assert masks(dataset)[0] == np.argwhere(mask).tolist()
    assert [str(f) for f in dataset.faults if "1 mask taken as objects, real crowds too" in str(f)]
