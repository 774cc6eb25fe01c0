"""One folder of labels becomes training and validation parts that open by looking."""

import json
from pathlib import Path
from typing import Any

import pytest

from gdseg.data.dataset import Dataset, open_dataset
from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.data.split import split_by_ratio
from gdseg.data.val_part import make_val_part
from gdseg.errors import UsageError
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Code, LabelMap, Record

Content = dict[str, Any]


def divided(dataset: Dataset, share: float, target: Path) -> Dataset:
    """The new data set; its parts are the images of the old, each once."""
    split = split_by_ratio(dataset.train, share, 0)
    make_val_part(dataset, split.ids, target)
    new = open_dataset(Data(root=str(target)), task=dataset.task)
    assert [r.image_id for r in new.val] == [r.image_id for r in dataset.train if r.image_id in split.ids]
    assert sorted(map(str, (r.image_id for r in new.train + new.val))) == sorted(
        str(r.image_id) for r in dataset.train
    )
    assert (new.classes, new.category_ids) == (dataset.classes, dataset.category_ids)
    return new


def test_coco(make_coco: Any, content: Content, tmp_path: Path) -> None:
    content["info"] = {"mine": [1.5]}
    content["images"][1]["file_name"] = "../train/b.png"
    dataset = open_dataset(Data(root=str(make_coco(content)), val="none"))
    new = divided(dataset, 0.5, tmp_path / "new")
    old = {r.image_id: r for r in dataset.train}
    for record in new.train + new.val:
        assert record.annotations == old[record.image_id].annotations
        assert record.path.samefile(old[record.image_id].path)
        assert record.path.is_relative_to(tmp_path / "new")
    written = json.loads((tmp_path / "new" / "annotations" / "instances_val.json").read_text())
    assert written["info"] == {"mine": [1.5]}
    with pytest.raises(UsageError, match="there is something"):
        make_val_part(dataset, [7], tmp_path / "new")


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_label_maps(tmp_path: Path, task: str) -> None:
    make_scenes(tmp_path / "D", ShapesOptions(6, 1, 48), task)
    dataset = open_dataset(Data(root=str(tmp_path / "D")), ("train",), task=task)
    new = divided(dataset, 0.34, tmp_path / "new")
    old = {r.image_id: r for r in dataset.train}
    for record in new.train + new.val:
        before, after = old[record.image_id].label_map, record.label_map
        assert before is not None
        assert after is not None
        assert after.path.samefile(before.path)
        assert (after.codes, after.void) == (before.codes, before.void)
    assert [c.colour for c in new.table] == [c.colour for c in dataset.table]


def test_other_formats_are_converted_first(tmp_path: Path) -> None:
    record = Record("a", tmp_path / "a.png", 4, 4, (), LabelMap(tmp_path / "b.png", {1: Code(0, True)}))
    dataset = Dataset(tmp_path, [record], [], ["cell"], [1], tmp_path, table=[ClassInfo(1, "cell")])
    with pytest.raises(UsageError, match="only COCO json") as caught:
        make_val_part(dataset, ["a"], tmp_path / "new")
    assert "data convert" in str(caught.value.hint)


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "above"])
def test_a_png_named_elsewhere_stays_there_and_is_put_inside(tmp_path: Path, absolute: bool) -> None:
    make_scenes(tmp_path / "D", ShapesOptions(6, 1, 48), "panoptic")
    path = tmp_path / "D" / "annotations" / "panoptic_train.json"
    content = json.loads(path.read_text())
    folder = path.with_suffix("")
    for item in content["annotations"]:
        png = folder / item["file_name"]
        item["file_name"] = str(png) if absolute else f"../../mine/{png.name}"
        if not absolute:
            (tmp_path / "D" / "mine").mkdir(exist_ok=True)
            png.rename(tmp_path / "D" / "mine" / png.name)
    path.write_text(json.dumps(content))
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}
    dataset = open_dataset(Data(root=str(tmp_path / "D")), ("train",), task="panoptic")
    new = divided(dataset, 0.34, tmp_path / "new")
    old = {r.image_id: r for r in dataset.train}
    for record in new.train + new.val:
        png, origin = record.label_map, old[record.image_id].label_map
        assert png.path.samefile(origin.path)
        assert png.path.is_relative_to(tmp_path / "new")
        assert ".." not in png.path.parts
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(tmp_path / "new")]
    assert {p: (p.stat().st_ino, p.read_bytes()) for p in outside} == before
