"""data.label_weights: what an annotation counts, from the file to the batch; nothing unless it is asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.data.augment import build_targets
from gdseg.data.dataset import open_dataset
from gdseg.data.geometry import Geometry
from gdseg.data.loader import train_batches
from gdseg.errors import DataError, RecipeError
from gdseg.layouts.convert import convert
from gdseg.losses.criterion import Criterion
from gdseg.recipe import Data
from gdseg.recipe_yaml import load_recipe
from gdseg.structures import LayerOutput, Outputs
from gdseg.train.copy_paste import paste_labelled

WHOLE = Geometry((32, 48), (32, 48), (0, 0), (32, 48), (32, 48))
LEFT_HALF_FLIPPED = Geometry((32, 48), (32, 48), (0, 24), (32, 24), (32, 24), flip=True)


def square(x: float, y: float) -> list[list[float]]:
    return [[x, y, x + 6, y, x + 6, y + 6, x, y + 6]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of three squares each, the left one of weight 0.25, the middle one of 0.5, the right of none."""
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    images, annotations = [], list[dict[str, Any]]()
    for i in range(1, 5):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 32, "width": 48})
        for x, said in ((2, {"weight": 0.25, "score": 1}), (14, {"attributes": {"weight": "0.5"}}), (36, {})):
            where = {"image_id": i, "category_id": 1, "segmentation": square(x, 8), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **where, **said})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "instances_train.json").write_text(json.dumps(content))
    return root


def opened(root: Path, **keys: str) -> list[Any]:
    return open_dataset(Data(root=str(root), val="none", **keys), ("train",)).train


def change(root: Path, **said: Any) -> None:
    path = root / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][1] |= said
    path.write_text(json.dumps(content))


def weights(record: Any, geometry: Geometry) -> list[float]:
    found = build_targets(record, geometry)
    assert found is not None
    return [round(w, 4) for w in found.weights.tolist()]


def test_weights_follow_their_objects_through_crops_and_flips(root: Path) -> None:
    record = opened(root, label_weights="weight")[0]
    assert weights(record, WHOLE) == [0.25, 0.5, 1.0]
    assert weights(record, LEFT_HALF_FLIPPED) == [0.25, 0.5]  # columns 24.. of the mirrored image
    found = build_targets(record, LEFT_HALF_FLIPPED)
    assert found is not None
    assert found.masks[0].nonzero().tolist()[0] == [8, 48 - 8 - 24]
    assert weights(opened(root, label_weights="score")[0], WHOLE) == [1.0, 1.0, 1.0]


def test_nothing_is_taken_or_checked_unless_asked_for(root: Path) -> None:
    change(root, weight="heavy", score=0.1)
    for record in opened(root):
        assert weights(record, WHOLE) == [1.0, 1.0, 1.0]
    assert weights(opened(root, label_weights="score")[0], WHOLE) == [1.0, 0.1, 1.0]
    with pytest.raises(RecipeError, match="label_weights needs task: instance"):
        load_recipe("shapes_semantic", ["data.label_weights=weight"])


@pytest.mark.parametrize(
    "wrong",
    [float("nan"), float("inf"), -0.1, 1.5, "0.5", True, [1], 10**400, {"attributes": {"weight": "x"}}],
)
def test_what_is_no_weight_is_refused_by_file_and_annotation(root: Path, wrong: Any) -> None:
    change(root, **(wrong if isinstance(wrong, dict) else {"weight": wrong}))
    with pytest.raises(
        DataError, match=r"1 x bad weight; first: .*image 1, annotation 2: its weight is"
    ) as error:
        opened(root, label_weights="weight")
    assert str(error.value.where).endswith("instances_train.json")


def test_a_batch_and_copy_paste_keep_them(root: Path) -> None:
    changes = [
        f"data.root={root}",
        "data.label_weights=weight",
        "augment.canvas=[64,64]",
        "train.batch_size=4",
    ]
    recipe = load_recipe("shapes_maskdino", [*changes, "augment.copy_paste=1", "augment.scale=[1,1]"])
    recipe.data.val, pasted = "none", 0
    records = open_dataset(recipe.data, ("train",)).train
    at = {3: 0.25, 19: 0.5, 48: 1.0, 53: 0.25, 37: 0.5, 8: 1.0}  # by left column, as it is and mirrored
    how = {"batch_size": 4, "seed": 0, "start_step": 0, "steps": 4, "strong": False, "num_classes": 1}
    for step, batch in enumerate(train_batches(records, recipe, **how)):
        for before, after in zip(batch.targets, paste_labelled(batch, recipe, step).targets, strict=True):
            assert before is not None
            assert after is not None
            pasted += len(after) - len(before)
            for mask, weight in zip(after.masks, after.weights.tolist(), strict=True):
                left = int(mask.any(0).nonzero()[0])
                assert weight == at[min(at, key=lambda x: abs(x - left))]
    assert pasted > 0


def test_a_weight_of_half_halves_the_losses_of_a_matched_object(root: Path) -> None:
    """The meaning is that of a pseudo-label's weight: mask, dice and box terms are in proportion to it."""
    recipe = load_recipe("shapes_maskdino", ["loss.points=64", "decoder.denoising=none"])
    losses = {}
    for weight in (1.0, 0.5, 0.0):
        path = root / "instances_train.json"
        content = json.loads(path.read_text())
        content["annotations"] = [{**content["annotations"][0], "weight": weight}]
        path.write_text(json.dumps(content))
        targets = build_targets(opened(root, label_weights="weight")[0], WHOLE)
        assert targets is not None
        rng = torch.Generator().manual_seed(0)
        boxes = torch.rand(1, 3, 4, generator=rng).clamp(0.2, 0.8)
        logits, masks = torch.randn(1, 3, 1, generator=rng), torch.randn(1, 3, 8, 12, generator=rng)
        found = Outputs([LayerOutput("final", logits, masks, boxes)])
        torch.manual_seed(0)
        losses[weight] = Criterion(recipe, 1)(found, [targets])
    for term in ("mask", "dice", "box", "giou"):
        assert losses[1.0][term] > 0
        torch.testing.assert_close(losses[0.5][term], losses[1.0][term] / 2)
        assert losses[0.0][term] == 0
    assert losses[0.0]["class"] < losses[0.5]["class"] < losses[1.0]["class"]


@pytest.mark.parametrize("to", ["coco", "labelme", "cvat", "label_studio"])
def test_formats_that_can_carry_weights_do(root: Path, tmp_path: Path, to: str) -> None:
    for keys, expected in (
        ({}, {"weight": [0.25, 0.5, 1.0], "score": [1.0, 1.0, 1.0]}),
        ({"label_weights": "score"}, {"weight": [1.0, 1.0, 1.0]}),
    ):
        convert(Data(root=str(root), val="none", **keys), tmp_path / "out", to, overwrite=True)
        for key, values in expected.items():
            assert weights(opened(tmp_path / "out", label_weights=key)[0], WHOLE) == values


def test_a_crowd_region_is_neither_object_nor_background(root: Path) -> None:
    """Its pixels are the ignore mask; a query that claims them is not pushed to no-object, elsewhere it is."""
    change(root, iscrowd=1)
    targets = build_targets(opened(root)[0], WHOLE)
    assert targets is not None
    assert len(targets) == 2
    assert targets.ignore is not None
    assert torch.equal(targets.ignore.nonzero().amin(0), torch.tensor([8, 14]))
    assert targets.ignore.sum() == 36
    masks = torch.full((1, 4, 32, 48), -9.0)
    for query, x in enumerate((2, 36, 14, 26)):  # both objects, the crowd, and nothing
        masks[0, query, 8:14, x : x + 6] = 9
    logits = torch.zeros(1, 4, 1, requires_grad=True)
    recipe = load_recipe("shapes_maskdino", ["loss.points=64"])
    boxes = torch.tensor([[x / 48, 11 / 32, 6 / 48, 6 / 32] for x in (5, 39, 17, 29)])[None]
    Criterion(recipe, 1)(Outputs([LayerOutput("final", logits, masks, boxes)]), [targets])["class"].backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, 0] != 0).tolist() == [True, True, False, True]
