"""Pseudo-labels edited by a tool go back in as labels with weights: the file, each tool's format, training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.ndimage import binary_dilation
from typer.testing import Result

from gdseg.data.augment import build_targets
from gdseg.data.coco import read_coco
from gdseg.data.dataset import open_dataset
from gdseg.data.geometry import Geometry
from gdseg.data.rle import annotation_mask, to_rle
from gdseg.losses.criterion import Criterion
from gdseg.recipe import Data

Gdseg = Callable[..., Result]
H, W = 48, 64
ALL_THREE = {"data.ratio": 1, "data.val": "none", "train.batch_size": 3, "augment.scale": "[1,1]", "augment.copy_paste": 0,
             "distill.student_init": "backbone", "distill.final_steps": 0, "train.steps": 1, "distill.steps": 2}  # fmt: skip


@pytest.fixture
def labels(gdseg: Gdseg, small_run: Path, small_data: Path) -> Path:
    """Pseudo-labels of three images: in each a whole object of a score of its own, and an uncertain one."""
    result = gdseg(
        "pseudo-label", small_data / "train", "distill.min_area=0", "--conf", "0.005", "--sample", 0
    )
    assert result.exit_code == 0, result.exception
    return Path("labels.json").absolute()


def found(dataset: Any) -> list[list[Any]]:
    """Class, score and mask of the objects of each image, by the image's name."""
    records = sorted(dataset.train, key=lambda r: r.path.name)
    return [
        [
            (dataset.classes[a["label"]], round(a["score"], 5), annotation_mask(a, H, W).tobytes())
            for a in record.annotations
        ]
        for record in records
    ]


@pytest.mark.parametrize("to", ["cvat", "label_studio", "labelme"])
def test_into_a_tool_and_back_to_the_pixel(gdseg: Gdseg, small_data: Path, labels: Path, to: str) -> None:
    """As the README says it, with the scores as weights."""
    keys = [f"data.train={labels}", f"data.train_images={small_data / 'train'}", "data.val=none"]
    out = labels.parent / "tool"
    result = gdseg("data", "convert", small_data, *keys, "--to", to, "--out", out)
    assert result.exit_code == 0, result.exception
    truth = open_dataset(Data(root=str(small_data), train=str(labels), train_images="train"), ("train",))
    edited = open_dataset(Data(root=str(out), val="none", label_weights="score"), ("train",))
    assert found(edited) == found(truth)
    assert sum(map(len, found(truth))) > 3
    assert gdseg("data", "convert", out, "data.val=none", "--to", "coco", "--out", "back").exit_code == 0
    assert found(open_dataset(Data(root="back", val="none"), ("train",))) == found(truth)
    geometry = Geometry((H, W), (H, W), (0, 0), (H, W), (H, W))
    for record in edited.train:
        targets = build_targets(record, geometry)
        assert targets is not None
        assert targets.weights.tolist() == pytest.approx(
            [a["score"] for a in record.annotations or ()], rel=1e-5
        )


@pytest.mark.parametrize("verb", ["pretrain", "distill"])
def test_a_refiners_masks_and_weights_train(
    gdseg: Gdseg,
    small_data: Path,
    small_run: Path,
    labels: Path,
    verb: str,
    tiny_settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Masks grown by a pixel and weighed by how little that changed them, the worst an ignored region."""
    document = json.loads(labels.read_text())
    for number, item in enumerate(document["annotations"]):
        before = annotation_mask(item, H, W) > 0
        after = binary_dilation(before)
        item |= {"segmentation": to_rle(after), "weight": round(float(before.sum() / after.sum()), 3)}
        item |= {"iscrowd": int(number == 0)}
        del item["bbox"]
    labels.write_text(json.dumps(document))
    content = read_coco(labels, small_data / "train")
    assert content.faults == []
    said = {a["weight"] for a in document["annotations"][1:]}
    seen: list[Any] = []
    whole = Criterion.__call__

    def watched(criterion: Any, outputs: Any, targets: Any, *rest: Any, **more: Any) -> Any:
        seen.extend(targets)
        return whole(criterion, outputs, targets, *rest, **more)

    monkeypatch.setattr(Criterion, "__call__", watched)
    keys = [f"data.train={labels}", f"data.train_images={small_data / 'train'}", "data.label_weights=weight"]
    teacher = ["--teacher", small_run / "checkpoints" / "best.safetensors"] if verb == "distill" else []
    settings = dict(setting.split("=", 1) for setting in tiny_settings) | ALL_THREE
    keys += [f"{key}={value}" for key, value in settings.items()]
    result = gdseg(verb, "-r", "shapes_maskdino", "--data", small_data, *teacher, *keys)
    assert result.exit_code == 0, result.exception
    by_hand = [target for target in seen if target.scores is None]
    weights = {round(weight, 3) for target in by_hand for weight in target.weights.tolist()}
    assert weights <= said
    assert len(weights) > 1
    assert any(target.ignore is not None for target in by_hand)
