"""Panoptic and semantic, end to end by the command line: data, pretrain, distill, eval, predict, and back again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from gdseg.data.dataset import open_dataset
from gdseg.data.label_maps import read_ids, read_regions
from gdseg.errors import DataError, UsageError
from gdseg.recipe import Data

Gdseg = Callable[..., Result]
MAIN = {"panoptic": "pq", "semantic": "miou"}


def ok(result: Result) -> Result:
    assert result.exit_code == 0, result.exception
    return result


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_from_data_to_pictures(gdseg: Gdseg, task: str, tiny_settings: list[str]) -> None:
    ok(gdseg("data", "shapes", "--out", "D", "--task", task, "--train", 8, "--val", 3, "--size", 64))
    report = json.loads(ok(gdseg("data", "inspect", "D", "--json")).stdout)
    assert report["parts"]["train"]["classes"].keys() >= {"star", "sky", "paving"}
    assert report["faults"] == []

    settings = [
        *tiny_settings,
        "data.root=D",
        "data.ratio=0.5",
        "distill.region_threshold=0.05",
        "train.best=auto",
    ]
    ok(gdseg("pretrain", "-r", f"shapes_{task}", "--out", "runs/T", "-q", *settings, "train.steps=2"))
    ok(
        gdseg(
            "distill", "--teacher", "runs/T", "--out", "runs/S", "-q", "--steps", 3, "distill.burn_in_steps=1"
        )
    )
    losses = [json.loads(line) for line in Path("runs/S/metrics.jsonl").read_text().splitlines()]
    assert all("pseudo_ignored" in entry for entry in losses)
    about = json.loads(Path("runs/S/run.json").read_text())
    assert len(about["data_sha256"]) == 64

    scores = json.loads(ok(gdseg("eval", "runs/S", "--json", "--role", "student")).stdout)["student"]
    assert 0 <= scores["metrics"][MAIN[task]] <= 1
    assert "sky" in ok(gdseg("eval", "runs/S", "--per-class")).stdout
    images = "D/val" if task == "panoptic" else "D/images/val"
    student = "runs/S/checkpoints/best-student.safetensors"
    ok(gdseg("predict", student, images, "--out", "P", "-q", "--format", task, "--format", "overlay"))
    written = "P/panoptic.json" if task == "panoptic" else "P/semantic"
    again = json.loads(ok(gdseg("eval", "--pred", written, "--data", "D", "--json")).stdout)["results"]
    assert again["metrics"] == pytest.approx(scores["metrics"], nan_ok=True)

    ok(gdseg("visualize", "D", "--part", "val", "--out", "truth.png"))
    ok(gdseg("visualize", written, "--data", "D", "--out", "pairs.png"))
    ok(gdseg("visualize", "runs/S", "--out", "curves.png"))
    if task == "panoptic":
        ok(gdseg("visualize", written, "--out", "found.png"))


def test_the_truth_as_a_prediction_scores_one(gdseg: Gdseg) -> None:
    """The data set's own files are predictions too, as long as they are all there."""
    ok(gdseg("data", "shapes", "--out", "D", "--task", "panoptic", "--train", 1, "--val", 4, "--size", 64))
    content = json.loads(Path("D/annotations/panoptic_val.json").read_text())
    shutil.copytree("D/annotations/panoptic_val", "R/panoptic")
    words = ("eval", "--pred", "R/results.json", "--data", "D", "--json")
    Path("R/results.json").write_text(json.dumps(content))
    found = json.loads(ok(gdseg(*words)).stdout)["results"]["metrics"]
    assert found["pq"] == found["pq_things"] == found["pq_stuff"] == 1
    del content["annotations"][2:]
    Path("R/results.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="2 of 4 images have no map; first: image 3"):
        raise gdseg(*words).exception


def test_predicted_maps_hold_ids_and_colours(gdseg: Gdseg, tiny_settings: list[str]) -> None:
    ok(gdseg("data", "shapes", "--out", "D", "--task", "semantic", "--train", 2, "--val", 1, "--size", 64))
    settings = [*tiny_settings, "data.root=D", "data.ratio=1.0", "train.steps=1"]
    ok(gdseg("pretrain", "-r", "shapes_semantic", "--out", "runs/T", "-q", *settings))
    with pytest.raises(UsageError, match="needs a panoptic network"):
        raise gdseg("predict", "runs/T", "D/images/val", "--format", "panoptic").exception
    ok(gdseg("predict", "runs/T", "D/images/val", "-q", "--format", "semantic"))
    with Image.open("predictions/semantic/000001.png") as picture:
        assert picture.mode == "P"
        palette, values = np.array(picture.getpalette()).reshape(-1, 3), np.array(picture)
    assert values.max() < 12
    assert palette[7].tolist() == [70, 130, 180]  # the sky's colour in classes.json


def test_what_is_wrong_with_maps_is_named(gdseg: Gdseg) -> None:
    ok(gdseg("data", "shapes", "--out", "D", "--task", "semantic", "--train", 3, "--val", 1, "--size", 64))
    first = Path("D/annotations/train/000001.png")
    values = np.array(Image.open(first))
    values[0, 0] = 77
    Image.fromarray(values).save(first)
    Image.fromarray(values[1:]).save("D/annotations/train/000002.png")
    Path("D/annotations/train/000003.png").unlink()
    result = gdseg("data", "inspect", "D", "--json")
    assert result.exit_code == 3
    faults = {fault["image_id"]: fault for fault in json.loads(result.stdout)["faults"]}
    assert "77" in faults["000001"]["text"]
    assert "its image" in faults["000002"]["text"]
    assert faults["000003"]["kind"] == "missing label map"
    with pytest.raises(DataError, match="missing label map"):
        open_dataset(Data(root="D"), task="semantic")
    record = open_dataset(Data(root="D"), ("train",), task="semantic", strict=False).train[0]
    with pytest.raises(DataError, match=r"data\.ignore_label"):
        read_regions(record, "semantic")
    Path("D/classes.json").unlink()
    with pytest.raises(DataError, match=r"(?s)classes have no names.*classes.txt"):
        open_dataset(Data(root="D"), task="semantic")
    with pytest.raises(DataError, match="no validation images with panoptic labels"):
        open_dataset(Data(root="D"), ("val",), task="panoptic")
    assert read_ids(first).shape == values.shape
