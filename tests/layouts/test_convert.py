"""gdseg data convert: what is read back is what was there, to the pixel; what a layout cannot hold is counted."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gdseg.cli import data_convert
from gdseg.cli.data import data_app
from gdseg.data.dataset import Dataset, has_part, open_dataset
from gdseg.data.label_maps import read_regions, with_masks
from gdseg.data.rle import annotation_mask, to_rle
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.errors import DataError, MachineError, UsageError
from gdseg.layouts import job as job_module
from gdseg.layouts.convert import LAYOUTS, convert
from gdseg.recipe import Data
from gdseg.structures import Federated, Record

SIZE = (37, 53)


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def masks() -> dict[str, np.ndarray]:
    """Objects that do not touch: one with a hole, one of two parts, single pixels, one at the rim, an odd one."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return {
        "ring": (np.hypot(y - 9, x - 9) < 9) & (np.hypot(y - 9, x - 9) > 3),
        "parts": box(20, 1, 26, 5) | box(30, 1, 33, 3),
        "dots": box(40, 2, 41, 3) | box(41, 3, 42, 4) | box(44, 2, 45, 3),
        "rim": box(0, 20, 12, 37),
        "noise": (np.random.default_rng(3).random(SIZE) > 0.35) & box(20, 10, 50, 30),
    }


POLYGONS = [[20.1, 31.3, 30.7, 31.9, 29.2, 35.6], [26.0, 30.5, 34.4, 31.1, 33.3, 35.7]]  # which overlap


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """COCO with gaps between ids, folders, two images of one stem, a crowd, and an image without objects."""
    root = tmp_path / "source"
    for part in ("train", "val"):
        names = ["a/x.png", "a/x.jpg", "b/x.png", "empty image.png"]
        for i, name in enumerate(names):
            (root / part / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE[::-1], (50 * i, 0, 0)).save(root / part / name)
        images = [
            {"id": i * 10, "file_name": n, "height": SIZE[0], "width": SIZE[1]}
            for i, n in enumerate(names, 1)
        ]
        found: list[dict[str, Any]] = [
            {
                "image_id": 10,
                "category_id": (3, 7)[i % 2],
                "segmentation": to_rle(m),
                "iscrowd": 0,
                "score": 0.5,
            }
            for i, m in enumerate(masks().values())
        ]
        found.append({"image_id": 20, "category_id": 7, "segmentation": POLYGONS, "iscrowd": 0, "area": 77.5})
        found.append(
            {"image_id": 20, "category_id": 3, "segmentation": [[1.5, 2, 9.25, 3, 4, 8.1]], "iscrowd": 0}
        )
        found.append(
            {"image_id": 30, "category_id": 7, "segmentation": to_rle(box(3, 3, 30, 30)), "iscrowd": 1}
        )
        document = {"images": images, "annotations": [{"id": i, **a} for i, a in enumerate(found, 5)]}
        document["categories"] = [
            {"id": 7, "name": "big dog", "color": [1, 2, 3]},
            {"id": 3, "name": "Katze: süß"},
        ]
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(document))
    return root


def opened(root: Path, task: str = "instance", **keys: Any) -> Dataset:
    data = Data(root=str(root), **keys)
    return open_dataset(data, [part for part in ("train", "val") if has_part(data, part, task)], task=task)


def in_order(dataset: Dataset) -> list[Record]:
    """The training images by their colour, whatever they are called now."""
    return sorted(dataset.train, key=lambda record: Image.open(record.path).getpixel((0, 0)))


def objects(dataset: Dataset, crowds: bool = True) -> list[Counter[Any]]:
    """What each training image holds: (class, crowd, mask)."""
    found = []
    for record in in_order(dataset):
        all_ = with_masks(record, "instance").annotations or ()
        kept = [a for a in all_ if crowds or not a["iscrowd"]]
        found.append(
            Counter(
                (dataset.classes[a["label"]], a["iscrowd"], annotation_mask(a, *SIZE).tobytes()) for a in kept
            )
        )
    return found


def named(root: Path) -> Path:
    """The source with class names that VOC can write too."""
    for path in (root / "annotations").glob("*.json"):
        path.write_text(path.read_text().replace("Katze: s\\u00fc\\u00df", "cat"))
    return root


@pytest.mark.parametrize("to", ["coco", "lvis", "yolo", "labelme", "cvat", "label_studio"])
def test_instances_there_and_back(source: Path, tmp_path: Path, to: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    summary = convert(Data(root=str(source)), tmp_path / "there", to)
    assert summary.parts == {key: {"images": 4, "objects": 7, "crowds": 1} for key in ("train", "val")}
    truth, found = opened(source), opened(tmp_path / "there")
    assert sorted(found.classes) == sorted(truth.classes)
    keeps_crowds = to in ("coco", "labelme", "cvat", "label_studio")
    assert objects(found, keeps_crowds) == objects(truth, keeps_crowds)
    assert in_order(found)[3].annotations == ()
    assert not any("other mask" in note for note in summary.notes)
    assert any("crowd" in note and count == 2 for note, count in summary.notes.items()) != keeps_crowds
    convert(Data(root=str(tmp_path / "there")), tmp_path / "back", "coco")
    assert objects(opened(tmp_path / "back"), keeps_crowds) == objects(truth, keeps_crowds)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "source", "there"]


def test_coco_keeps_all_that_coco_says(source: Path, tmp_path: Path) -> None:
    convert(Data(root=str(source)), tmp_path / "out", "coco")
    paths = (root / "annotations" / "instances_val.json" for root in (source, tmp_path / "out"))
    truth, found = (json.loads(path.read_text()) for path in paths)
    truth["images"][1]["file_name"] = "a/x-2.jpg"  # other layouts tell images apart by the stem
    assert found["images"] == truth["images"]
    for ours, theirs in zip(found["annotations"], truth["annotations"], strict=True):
        assert ours == {**ours, **theirs}
    assert found["annotations"][5]["area"] == 77.5
    assert found["annotations"][1]["bbox"] == [20, 1, 13, 4]
    assert {c["id"]: c.get("color") for c in found["categories"]} == {3: None, 7: [1, 2, 3]}


def test_voc_gives_a_pixel_to_one_object(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"distinct plain names.*Katze: süß"):
        convert(Data(root=str(source)), tmp_path / "out", "voc")
    summary = convert(Data(root=str(named(source))), tmp_path / "out", "voc")
    truth, found = opened(source), opened(tmp_path / "out")
    assert found.classes == truth.classes == ["cat", "big dog"]
    ours, theirs = objects(found), objects(truth)
    assert sorted(record.path.stem for record in found.train) == ["a_x", "a_x-2", "b_x", "empty image"]
    assert sorted(record.path.stem for record in found.val) == ["a_x-3", "a_x-4", "b_x-2", "empty image-2"]
    assert (ours[0], ours[1], ours[3]) == (theirs[0], theirs[1], theirs[3])
    assert ours[2] == Counter()  # a crowd: its pixels are of no class
    ignored = read_regions(in_order(found)[2], "instance").place == -1
    assert np.array_equal(ignored, box(3, 3, 30, 30))
    assert summary.notes == {"crowd regions become pixels of no class, to be ignored": 2}
    semantic = opened(tmp_path / "out", "semantic")
    assert semantic.classes == ["background", "cat", "big dog"]


def test_of_overlapping_objects_voc_shows_the_smaller_and_counts(tmp_path: Path, source: Path) -> None:
    path = named(source) / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    big, small, under = box(0, 0, 30, 30), box(10, 10, 20, 20), box(11, 11, 19, 19)
    content["annotations"] = [
        {"id": i, "image_id": 10, "category_id": 3, "segmentation": to_rle(m)}
        for i, m in enumerate([small, small, big, under])
    ]
    path.write_text(json.dumps(content))
    notes = convert(Data(root=str(source), val="none"), tmp_path / "out", "voc").notes
    assert notes == {
        "objects that others cover are left out": 1,
        "objects lose the pixels in which they overlap a smaller one": 2,
    }
    [first, *_] = objects(opened(tmp_path / "out"))
    shown = [big & ~small, small & ~under, under]
    assert first == Counter(("cat", 0, mask.astype(np.uint8).tobytes()) for mask in shown)


def test_voc_holds_more_objects_than_a_palette(tmp_path: Path, source: Path) -> None:
    path = named(source) / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        {"id": i, "image_id": 10, "category_id": 3, "segmentation": to_rle(box(x, y, x + 1, y + 1))}
        for i, (x, y) in enumerate((x, y) for x in range(0, 50, 2) for y in range(0, 36, 2))
    ]
    path.write_text(json.dumps(content))
    convert(Data(root=str(source), val="none"), tmp_path / "out", "voc")
    assert objects(opened(tmp_path / "out")) == objects(opened(source, val="none"))
    assert sum(objects(opened(tmp_path / "out"))[0].values()) == 450


def test_yolo_is_what_ultralytics_reads(source: Path, tmp_path: Path) -> None:
    notes = convert(Data(root=str(source)), tmp_path / "out", "yolo").notes
    assert notes == {"crowd regions are left out": 2, "classes are numbered anew, from 0 on": 2}
    text = (tmp_path / "out" / "data.yaml").read_text()
    assert text.startswith("path: .\ntrain: images/train\nval: images/val\nnames:\n  0:")
    assert "süß" in text
    rows = (tmp_path / "out" / "labels" / "train" / "a" / "x-2.txt").read_text().splitlines()
    assert (tmp_path / "out" / "images" / "train" / "a" / "x-2.jpg").is_file()
    assert rows[1].split()[0] == "0"
    polygon = np.array(rows[1].split()[1:], dtype=float).reshape(-1, 2) * SIZE[::-1]
    assert polygon == pytest.approx(np.array([[1.5, 2], [9.25, 3], [4, 8.1]]), abs=1e-3)  # as it was drawn
    assert (tmp_path / "out" / "labels" / "train" / "empty image.txt").read_text() == ""


def test_labelme_uses_polygons_where_they_can_say_it(source: Path, tmp_path: Path) -> None:
    convert(Data(root=str(source)), tmp_path / "out", "labelme")
    document = json.loads((tmp_path / "out" / "train" / "a_x.json").read_text())
    kinds = Counter((shape["label"], shape["shape_type"]) for shape in document["shapes"])
    assert kinds["Katze: süß", "mask"] == 2  # the ring and the noise
    assert kinds["big dog", "polygon"] == 3
    assert (tmp_path / "out" / "train" / document["imagePath"]).is_file()
    other = json.loads((tmp_path / "out" / "train" / "a_x-2.json").read_text())
    assert [shape["group_id"] for shape in other["shapes"]] == [1, 1, None]
    assert np.array(other["shapes"][0]["points"]).ravel().tolist() == POLYGONS[0]
    path = source / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace("big dog", "Katze: s\\u00fc\\u00df"))
    with pytest.raises(DataError, match="by name only"):
        convert(Data(root=str(source), val="none"), tmp_path / "two", "labelme")
    assert not (tmp_path / "two").exists()


def test_cvat_knows_images_by_their_place_among_names(source: Path, tmp_path: Path) -> None:
    """A task's frames are its files in the order of their names, and the ids of the xml are frames."""
    convert(Data(root=str(source)), tmp_path / "out", "cvat")
    top = ElementTree.parse(tmp_path / "out" / "annotations_train.xml").getroot()
    listed = [(image.get("id"), image.get("name")) for image in top.iter("image")]
    files = sorted(path.name for path in (tmp_path / "out" / "train").iterdir())
    assert listed == [(str(i), name) for i, name in enumerate(files)]
    assert files == ["a_x-2.jpg", "a_x.png", "b_x.png", "empty image.png"]
    labels = json.loads((tmp_path / "out" / "labels_train.json").read_text())
    assert [(label["name"], label.get("color")) for label in labels] == [
        ("Katze: süß", None),
        ("big dog", "#010203"),
    ]
    assert {a["name"] for label in labels for a in label["attributes"]} == {"score", "is_crowd"}


def test_lvis_says_what_images_were_searched_for(source: Path, tmp_path: Path) -> None:
    convert(Data(root=str(source)), tmp_path / "out", "lvis")
    train = opened(tmp_path / "out").train
    both = frozenset({0, 1})
    assert [r.federated for r in train] == [
        Federated(),
        Federated(),
        Federated(frozenset({0}), frozenset({1})),
        Federated(both),
    ]
    for to in ("coco", "lvis"):
        convert(Data(root=str(tmp_path / "out")), tmp_path / to, to)
        assert [r.federated for r in opened(tmp_path / to).train] == [r.federated for r in train]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "panoptic"
    make_scenes(folder, ShapesOptions(3, 2, 64, 0), "panoptic")
    return folder


def regions(dataset: Dataset, task: str) -> list[Counter[Any]]:
    found = []
    for record in dataset.train + dataset.val:
        each = read_regions(record, task)
        names = [(dataset.classes[s.label], s.is_thing, s.is_crowd) for s in each.segments]
        found.append(Counter((name, (each.place == i).tobytes()) for i, name in enumerate(names)))
    return found


def test_panoptic_becomes_itself_and_the_poorer_tasks(scenes: Path, tmp_path: Path) -> None:
    data = Data(root=str(scenes), format="coco_panoptic")
    for to, task in (("coco_panoptic", "panoptic"), ("semantic", "semantic"), ("coco", "instance")):
        summary = convert(data, tmp_path / to, to)
        assert (summary.task, summary.notes) == (task, {})
    assert regions(opened(tmp_path / "coco_panoptic", "panoptic"), "panoptic") == regions(
        opened(scenes, "panoptic", format="coco_panoptic"), "panoptic"
    )
    truth, found = (
        opened(scenes, "semantic", format="coco_panoptic"),
        opened(tmp_path / "semantic", "semantic"),
    )
    assert (found.classes, found.category_ids) == (truth.classes, truth.category_ids)
    assert [c.is_thing for c in found.table] == [c.is_thing for c in truth.table]
    assert regions(found, "semantic") == regions(truth, "semantic")
    things = opened(scenes, "instance", format="coco_panoptic")
    found = opened(tmp_path / "coco")
    assert found.classes == things.classes
    for ours, theirs in zip(found.train, things.train, strict=True):
        drawn = [
            Counter(annotation_mask(a, 64, 64).tobytes() for a in with_masks(r, "instance").annotations or ())
            for r in (ours, theirs)
        ]
        assert drawn[0] == drawn[1]


def test_crowds_and_void_of_panoptic_maps_are_kept(scenes: Path, tmp_path: Path) -> None:
    convert(Data(root=str(scenes), format="coco_panoptic"), tmp_path / "one", "coco_panoptic")
    path = tmp_path / "one" / "annotations" / "panoptic_train.json"
    content = json.loads(path.read_text())
    crowd, gone, *_ = content["annotations"][0]["segments_info"]
    crowd["iscrowd"] = 1
    png = path.with_suffix("") / content["annotations"][0]["file_name"]
    pixels = np.array(Image.open(png))
    pixels[pixels[:, :, 0] == gone["id"]] = 0
    Image.fromarray(pixels).save(png)
    content["annotations"][0]["segments_info"].remove(gone)
    path.write_text(json.dumps(content))
    convert(Data(root=str(tmp_path / "one")), tmp_path / "two", "coco_panoptic")
    first, second = (regions(opened(tmp_path / name, "panoptic"), "panoptic") for name in ("one", "two"))
    assert first == second
    assert any(is_crowd for (_, _, is_crowd), _ in first[0])
    convert(Data(root=str(tmp_path / "one")), tmp_path / "three", "semantic")
    place = read_regions(opened(tmp_path / "three", "semantic").train[0], "semantic").place
    assert (place == -1).sum() == (pixels == 0).all(2).sum() > gone["area"]


def test_ids_that_do_not_fit_an_index_png_are_numbered(scenes: Path, tmp_path: Path) -> None:
    convert(Data(root=str(scenes), format="coco_panoptic"), tmp_path / "one", "coco_panoptic")
    for path in (tmp_path / "one" / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for item in [
            *content["categories"],
            *(s for a in content["annotations"] for s in a["segments_info"]),
        ]:
            key = "category_id" if "category_id" in item else "id"
            item[key] += 250
        path.write_text(json.dumps(content))
    notes = convert(Data(root=str(tmp_path / "one")), tmp_path / "two", "semantic").notes
    truth, found = opened(tmp_path / "one", "semantic"), opened(tmp_path / "two", "semantic")
    assert notes == {"classes are numbered anew, from 0 on": len(truth.classes)}
    assert found.category_ids == list(range(len(truth.classes)))
    assert regions(found, "semantic") == regions(truth, "semantic")


@pytest.mark.parametrize("how", ["link", "copy", "symlink"])
def test_images_are_linked_or_copied_never_moved(source: Path, tmp_path: Path, how: str) -> None:
    convert(Data(root=str(source)), tmp_path / "out", "coco", how)
    image, origin = (root / "train" / "a" / "x.png" for root in (tmp_path / "out", source))
    assert image.read_bytes() == origin.read_bytes()
    assert image.is_symlink() == (how == "symlink")
    assert image.samefile(origin) == (how != "copy")


def test_a_disk_without_links_gets_copies(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    convert(Data(root=str(source)), tmp_path / "out", "coco")
    assert not (tmp_path / "out" / "train" / "a" / "x.png").samefile(source / "train" / "a" / "x.png")


def test_what_fails_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(MachineError, match="No space left"):
        convert(Data(root=str(source)), tmp_path / "out", "coco", "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_names_never_leave_the_folder(source: Path, tmp_path: Path) -> None:
    path = source / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    (tmp_path / "x.png").write_bytes((source / "train" / "a" / "x.png").read_bytes())
    content["images"][0]["file_name"] = "../../x.png"
    content["images"][1]["file_name"] = str(source / "train" / "a" / "x.jpg")
    path.write_text(json.dumps(content))
    data = Data(root=str(source), train_images="train", val="none")
    convert(data, tmp_path / "deep" / "out", "yolo")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["out"]
    assert len(opened(tmp_path / "deep" / "out").train) == 4


def one(root: Path, name: str, classes: list[str]) -> Data:
    """COCO of one image with an object of the first of the classes."""
    root.mkdir()
    Image.new("RGB", SIZE[::-1]).save(root / "x.png")
    (root / "x.png").rename(root / name)
    image = {"id": 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
    found = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": POLYGONS, "iscrowd": 0}
    listed = [{"id": i, "name": text} for i, text in enumerate(classes, 1)]
    document = {"images": [image], "annotations": [found], "categories": listed}
    (root / "x.json").write_text(json.dumps(document))
    return Data(root=str(root), train="x.json", train_images=".", val="none")


@pytest.mark.skipif(os.name == "nt", reason="names of files are UTF-16 there")
@pytest.mark.parametrize("to", ["coco", "yolo", "labelme", "voc", "label_studio", "cvat"])
def test_a_name_of_other_bytes_than_utf8(tmp_path: Path, to: str) -> None:
    name = os.fsdecode(b"gr\xfcn.png")  # Latin-1
    data, out = one(tmp_path / "source", name, ["cat"]), tmp_path / "out"
    if to in ("cvat", "voc"):  # XML and lists of names are text
        with pytest.raises(DataError, match="its name ") as caught:
            convert(data, out, to)
        assert caught.value.where is not None
        assert ascii(name)[1:-1] in caught.value.where
        return
    convert(data, out, to)
    record = opened(out).train[0]
    assert record.path.name == name
    assert record.annotations or record.label_map


@pytest.mark.parametrize(
    ("to", "classes", "named"),
    [
        ("cvat", ["a", "B", "b"], r"\['B', 'b'\]"),
        ("cvat", ["a", "b\x01"], r"XML cannot"),
        ("label_studio", ["a", "b", "b"], r"\['b', 'b'\]"),
        ("label_studio", ["a", "\udcff"], r"\['\\udcff'\]"),
        ("labelme", ["a", "b\n"], r"\['b\\n'\]"),
        ("voc", ["a", "b:c"], r"\['b:c'\]"),
    ],
)
def test_bad_class_names_are_named_not_a_folder_that_is_gone(
    tmp_path: Path, to: str, classes: list[str], named: str
) -> None:
    with pytest.raises(DataError, match=named) as caught:
        convert(one(tmp_path / "source", "x.png", classes), tmp_path / "out", to)
    assert str(tmp_path) not in str(caught.value.where)


def test_a_folder_with_something_in_it_or_inside_the_data_is_refused(source: Path, tmp_path: Path) -> None:
    data = Data(root=str(source))
    for out, what in ((source, "not empty"), (source / "new", "lies in the data set")):
        with pytest.raises(UsageError, match=what):
            convert(data, out, "yolo")
        with pytest.raises(UsageError, match="lies in the data set"):
            convert(data, out, "yolo", overwrite=True)
    (tmp_path / "empty").mkdir()
    convert(data, tmp_path / "empty", "yolo")


def test_the_folder_one_is_in(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the same folder: a shell in it would not see another one of its name."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    convert(Data(root=str(source)), Path("."), "coco")
    assert here.samefile(".")
    assert sorted(p.name for p in Path(".").iterdir()) == ["annotations", "train", "val"]
    assert len(opened(here).train) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "source"]


def test_labels_that_are_not_there_are_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no training images with panoptic labels, only instance \(coco\)"):
        convert(Data(root=str(source)), tmp_path / "out", "coco_panoptic")
    (source / "annotations" / "instances_train.json").unlink()
    with pytest.raises(DataError, match=r"no validation images with semantic labels, only instance \(coco\)"):
        convert(Data(root=str(source)), tmp_path / "out", "semantic")
    assert list(convert(Data(root=str(source)), tmp_path / "out", "coco").parts) == ["val"]


def test_the_command(source: Path, tmp_path: Path) -> None:
    assert list(LAYOUTS) == list(data_convert.FORMATS)
    assert job_module.IMAGES == data_convert.IMAGES
    run = CliRunner().invoke
    done = run(data_app, ["convert", str(source), "--to", "yolo", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.exception
    summary = json.loads(done.stdout)
    assert summary["parts"]["val"] == {"images": 4, "objects": 7, "crowds": 1}
    assert summary["notes"] == {"crowd regions are left out": 2, "classes are numbered anew, from 0 on": 2}
    words = ["convert", str(source), "data.val=none", "--to", "coco", "--out", str(tmp_path / "two")]
    table = run(data_app, words)
    assert "instance labels of 2 classes as coco" in table.stdout
    assert not (tmp_path / "two" / "val").exists()
    for wrong in (["--to", "kitti"], ["--to", "coco", "--images", "move"]):
        result = run(data_app, ["convert", str(source), "--out", str(tmp_path / "three"), *wrong])
        assert isinstance(result.exception, UsageError)


def test_cityscapes_of_its_own_classes(scenes: Path, tmp_path: Path) -> None:
    """Void, a group, objects of one class, stuff: values by hand, and there and back."""
    with pytest.raises(DataError, match=r"class(es)? that Cityscapes lacks"):
        convert(Data(root=str(scenes), format="coco_panoptic"), tmp_path / "no", "cityscapes")
    ids = np.array([[0, 7, 26000, 26001, 26, 24007]] * 2, dtype=np.uint16)
    root = tmp_path / "one"
    for folder in ("leftImg8bit/train/a", "gtFine/train/a", "leftImg8bit/train/b", "gtFine/train/b"):
        (root / folder).mkdir(parents=True)
    for city in "ab":
        Image.new("RGB", (6, 2)).save(root / "leftImg8bit/train" / city / f"{city}_1_leftImg8bit.png")
        Image.fromarray(ids).save(root / "gtFine/train" / city / f"{city}_1_gtFine_instanceIds.png")
    convert(Data(root=str(root)), tmp_path / "coco", "coco_panoptic")
    convert(Data(root=str(tmp_path / "coco")), tmp_path / "two", "cityscapes")
    found = tmp_path / "two" / "gtFine" / "train" / "b" / "b_1_gtFine_instanceIds.png"
    assert np.array(Image.open(found)).tolist() == [[0, 7, 26000, 26001, 26, 24000]] * 2  # numbered from 0
    labels = np.array(Image.open(str(found).replace("instanceIds", "labelIds")))
    assert labels.tolist() == [[0, 7, 26, 26, 26, 24]] * 2
    for task in ("panoptic", "instance", "semantic"):
        assert regions(opened(tmp_path / "two", task), task) == regions(opened(root, task), task)


def test_the_real_samples(shared_dir: Path, tmp_path: Path) -> None:
    """COCO (one image), Cityscapes and ADE20K there and back; pictures of them were looked at."""
    data = shared_dir / "data"
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(
            data / "mmseg_pseudo_cityscapes" / kind, tmp_path / "city" / kind / "val" / "frankfurt"
        )
    for kind in ("images", "annotations"):
        shutil.copytree(data / "ade20k_sceneparsing_sample" / kind, tmp_path / "ade" / kind / "validation")
    for name, to, task in (
        ("city", "coco_panoptic", "panoptic"),
        ("city", "cityscapes", "panoptic"),
        ("city", "semantic", "semantic"),
        ("ade", "semantic", "semantic"),
    ):
        convert(Data(root=str(tmp_path / name)), tmp_path / f"{name}-{to}", to)
        truth = regions(opened(tmp_path / name, task), task)
        assert regions(opened(tmp_path / f"{name}-{to}", task), task) == truth
        assert sum(truth[0].values()) > 3
    for to in ("yolo", "labelme", "voc", "coco"):
        convert(Data(root=str(tmp_path / "city")), tmp_path / f"city-{to}", to)
        first, second = (opened(tmp_path / name).val[0] for name in ("city", f"city-{to}"))
        drawn = [
            sorted(
                annotation_mask(a, 128, 256).tobytes() for a in with_masks(r, "instance").annotations or ()
            )
            for r in (first, second)
        ]
        assert len(drawn[0]) == 7
        assert drawn[0] == drawn[1]


@pytest.mark.parametrize("to", ["coco_panoptic", "semantic"])
def test_maps_that_it_wrote_are_replaced(scenes: Path, tmp_path: Path, to: str) -> None:
    for _ in range(2):
        convert(Data(root=str(scenes)), tmp_path / "out", to, overwrite=True)
    assert opened(tmp_path / "out", LAYOUTS[to].task).train
