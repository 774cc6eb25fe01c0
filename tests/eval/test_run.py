"""eval/run.py with a network that knows the answer: order, ids, modes and random state."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gdseg.data.rle import to_rle
from gdseg.errors import DataError
from gdseg.eval import run
from gdseg.infer import run as infer_run
from gdseg.recipe import Recipe
from gdseg.structures import Batch, LayerOutput, Outputs, Predictions, Record

CPU = torch.device("cpu")


class Knowing(nn.Module):
    """A stand-in network; `decode` below reads the bright square from the image it passes on."""

    def forward(self, images: Tensor, sizes: list[tuple[int, int]]) -> Outputs:
        assert not self.training
        assert not torch.is_grad_enabled()
        return Outputs([LayerOutput("final", images)])


def decode(
    outputs: Outputs, batch: Batch, recipe: Recipe, num_classes: int, things: list[bool]
) -> list[Predictions]:
    torch.rand(3)  # a decoder that draws must not disturb training
    found = []
    for image_id, image, size in zip(
        batch.image_ids, outputs.final.logits, batch.original_sizes, strict=True
    ):
        mask = image[0, : size[0], : size[1]] > 128
        ys, xs = mask.nonzero().T
        box = torch.tensor([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]).float()
        found.append(Predictions(image_id, size, torch.tensor([1]), torch.tensor([0.9]), box, [to_rle(mask)]))
    return found


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Five images of different sizes with one bright square each."""
    monkeypatch.setattr(infer_run, "decode", decode)
    records = []
    for i in range(5):
        pixels = np.zeros((40 + 3 * i, 50), dtype=np.uint8)
        pixels[4 : 20 + i, 5:25] = 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        annotation = {"label": 1, "segmentation": to_rle(pixels > 0), "iscrowd": 0}
        records.append(Record(f"id{i}", tmp_path / f"{i}.png", *pixels.shape, (annotation,)))
    facts: dict[str, Any] = {
        "classes": ["a", "b"],
        "category_ids": [3, 70],
        "things": [True, True],
        "table": [],
    }
    return SimpleNamespace(val=records, **facts)


@pytest.fixture
def recipe() -> Recipe:
    recipe = Recipe()
    recipe.data.workers = 0
    recipe.augment.test_shortest = 0
    return recipe


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_knows_all(dataset: SimpleNamespace, recipe: Recipe, batch_size: int | None) -> None:
    seen: list[tuple[int, int]] = []
    results = run.find(
        cast(Any, Knowing()), cast(Any, dataset), recipe, CPU, batch_size, lambda *n: seen.append(n)
    )
    metrics = run.evaluate(cast(Any, Knowing()), cast(Any, dataset), recipe, CPU, batch_size).metrics
    assert metrics["mask_ap"] == metrics["box_ap"] == pytest.approx(1)
    assert [r["image_id"] for r in results] == [f"id{i}" for i in range(5)]
    assert {r["category_id"] for r in results} == {70}
    assert results[2]["bbox"] == [5, 4, 20, 18]
    assert seen == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("training", [True, False])
def test_leaves_no_trace(dataset: SimpleNamespace, recipe: Recipe, training: bool) -> None:
    model = Knowing().train(training)
    before = torch.get_rng_state()
    run.evaluate(cast(Any, model), cast(Any, dataset), recipe, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training is training
    assert torch.is_grad_enabled()


def test_an_error_restores_the_mode_too(dataset: SimpleNamespace, recipe: Recipe) -> None:
    dataset.val[3].path.write_bytes(b"no image")
    model = Knowing().train()
    with pytest.raises(DataError):
        run.evaluate(cast(Any, model), cast(Any, dataset), recipe, CPU)
    assert model.training


def test_memory_is_one_batch(
    dataset: SimpleNamespace, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = []

    def counted(records: list[Record], recipe: Recipe, batch_size: int) -> Iterator[Batch]:
        for batch in run_eval_batches(records, recipe, batch_size):
            pulled.append(batch)
            yield batch

    run_eval_batches = run.eval_batches
    monkeypatch.setattr(run, "eval_batches", counted)
    predictions = run.infer_records(cast(Any, Knowing()), dataset.val, recipe, 2, CPU, 2, [True, True])
    next(predictions)
    assert len(pulled) == 1


def test_batch_size_follows_the_image_size(recipe: Recipe) -> None:
    sizes = {}
    for shortest in (0, 128, 512, 800, 2000):
        recipe.augment.test_shortest = shortest
        sizes[shortest] = run.default_batch_size(recipe)
    assert sizes == {0: 1, 128: 16, 512: 4, 800: 1, 2000: 1}
