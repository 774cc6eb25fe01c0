"""Every layout that `gdseg data convert` writes is inspected, drawn, trained on and evaluated like any other."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions

Gdseg = Callable[..., Result]


@pytest.mark.parametrize("to", ["coco", "lvis", "yolo", "labelme", "voc"])
def test_instances(gdseg: Gdseg, small_data: Path, tiny_settings: list[str], tmp_path: Path, to: str) -> None:
    made = gdseg("data", "convert", small_data, "--to", to, "--out", "made", "--quiet")
    assert made.exit_code == 0, made.exception
    assert made.output == ""
    report = gdseg("data", "inspect", "made", "--json")
    assert report.exit_code == 0, report.output
    found = json.loads(report.stdout)["parts"]["val"]["classes"]
    assert {name: counts["objects"] for name, counts in found.items()} == {"cat": 2, "dog": 1}
    assert gdseg("visualize", "made", "--part", "val", "--out", "made.png").exit_code == 0
    keys = [*tiny_settings, "data.ratio=1", "train.steps=1"]
    trained = gdseg("pretrain", "-r", "shapes_maskdino", "--data", "made", *keys, "--out", "run")
    assert trained.exit_code == 0, trained.exception
    scores = gdseg("eval", "run", "--json")
    assert scores.exit_code == 0, scores.exception
    assert json.loads(scores.stdout)["teacher"]["per_class"]["cat"]["objects"] == 2


@pytest.mark.parametrize(("to", "task"), [("coco_panoptic", "panoptic"), ("semantic", "semantic")])
def test_maps(gdseg: Gdseg, tiny_settings: list[str], to: str, task: str) -> None:
    make_scenes(Path("scenes"), ShapesOptions(4, 2, 64, 0), "panoptic")
    made = gdseg("data", "convert", "scenes", "data.format=coco_panoptic", "--to", to, "--out", "made")
    assert made.exit_code == 0, made.exception
    assert gdseg("data", "inspect", "made").exit_code == 0
    keys = [*tiny_settings, "data.ratio=1", "train.steps=1", "data.format=auto"]
    trained = gdseg("pretrain", "-r", f"shapes_{task}", "--data", "made", *keys, "--out", "run")
    assert trained.exit_code == 0, trained.exception
