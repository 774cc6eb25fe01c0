"""Batches: padding, purity (resuming, workers), weak and strong views, errors from workers."""

import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gdseg.data.augment import train_sample
from gdseg.data.dataset import open_dataset
from gdseg.data.geometry import shortest_edge
from gdseg.data.loader import collate, eval_batches, train_batches
from gdseg.data.order import rng_for
from gdseg.errors import DataError
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Record, Sample, Targets


@pytest.fixture
def recipe(tiny_data: Path) -> Recipe:
    recipe = Recipe()
    recipe.data.root, recipe.data.workers, recipe.data.repeat_threshold = str(tiny_data), 0, 0.6
    recipe.augment.canvas, recipe.augment.test_shortest = [64, 64], 48
    return recipe


@pytest.fixture
def records(recipe: Recipe) -> list[Record]:
    return open_dataset(recipe.data).train


def batches(
    records: list[Record], recipe: Recipe, start: int = 0, steps: int = 6, **changes: object
) -> Iterator[Batch]:
    fixed = {"batch_size": 3, "seed": 4, "strong": True, "num_classes": 7, **changes}
    return train_batches(records, recipe, start_step=start, steps=steps, **fixed)  # type: ignore[arg-type]


def tensors(batch: Batch) -> list[Tensor]:
    found = [batch.images, *([] if batch.strong is None else [batch.strong])]
    for targets in batch.targets:
        if targets is not None:
            found += [value for value in vars(targets).values() if value is not None]
    return found


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [b.image_ids for b in ours] == [b.image_ids for b in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.sizes == other.sizes
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_resuming_gives_the_same_batches(records: list[Record], recipe: Recipe) -> None:
    whole = list(batches(records, recipe))
    assert len(whole) == 6
    for start in (0, 2, 5, 6):
        assert_same(list(batches(records, recipe, start)), whole[start:])


def test_workers_do_not_change_the_batches(records: list[Record], recipe: Recipe) -> None:
    whole = list(batches(records, recipe))
    recipe.data.workers = 2
    assert_same(list(batches(records, recipe)), whole)


def test_seed_and_stream_change_the_batches(records: list[Record], recipe: Recipe) -> None:
    first = next(batches(records, recipe))
    assert not torch.equal(first.images, next(batches(records, recipe, seed=5)).images)
    unlabelled = next(batches([replace(r, annotations=None) for r in records], recipe))
    assert unlabelled.targets == [None] * 3
    assert not torch.equal(first.images, unlabelled.images)


@pytest.mark.parametrize("mode", ["lsj", "rescale", "shortest_edge", "fixed"])
def test_the_strong_view_shares_the_weak_views_geometry(
    records: list[Record], recipe: Recipe, mode: str
) -> None:
    recipe.augment.mode, recipe.augment.shortest, recipe.augment.weak_colour = mode, [40, 60], True
    recipe.augment.jitter_p = recipe.augment.grey_p = recipe.augment.blur_p = 0.0
    for record in records[:4]:
        both = train_sample(record, recipe, rng_for(0, "x"), strong=True)
        weak = train_sample(record, recipe, rng_for(0, "x"), strong=False)
        assert torch.equal(both.image, weak.image)
        assert weak.strong is None
        assert both.strong is not None
        assert torch.equal(both.strong, both.image)  # with every strong op off the pixels are the same
    recipe.augment.jitter_p, recipe.augment.jitter = 1.0, [0.9, 0.0, 0.0, 0.0]
    changed = train_sample(records[0], recipe, rng_for(0, "x"), strong=True)
    assert changed.strong is not None
    brightened = changed.strong.float().flatten()
    assert torch.corrcoef(torch.stack([brightened, changed.image.float().flatten()]))[0, 1] > 0.8
    assert not torch.equal(changed.strong, changed.image)


def test_an_image_smaller_than_the_crop_is_padded_to_it(records: list[Record], recipe: Recipe) -> None:
    """As official ADE20K training: the crop is 48 x 56, colours change before the padding."""
    augment = recipe.augment
    augment.mode, augment.shortest, augment.crop, augment.weak_colour = "shortest_edge", [30], [48, 56], True
    changed = 0
    for i in range(8):
        height, width = shortest_edge((records[i].height or 0, records[i].width or 0), 30, augment.longest)
        assert max(height, width) < 48
        sample = train_sample(records[i], recipe, rng_for(i, "x"), strong=False)
        assert sample.image.shape == (3, 48, 56)
        assert (sample.image[:, height:] == 128).all()
        assert (sample.image[:, :, width:] == 128).all()
        assert sample.targets is not None
        assert sample.targets.masks.shape[1:] == (48, 56)
        assert not sample.targets.masks[:, height:].any()
        augment.weak_colour = False
        plain = train_sample(records[i], recipe, rng_for(i, "x"), strong=False)
        changed += not torch.equal(plain.image, sample.image)
        augment.weak_colour = True
    assert changed > 4
    augment.shortest = [60]  # larger than the crop: cut, nothing is padded
    assert train_sample(records[0], recipe, rng_for(0, "x"), strong=False).image.shape == (3, 48, 56)


def test_collate_pads_and_keeps_boxes_tight() -> None:
    masks = torch.zeros(2, 20, 40, dtype=torch.bool)
    masks[0, 3:9, 10:30] = masks[1, 19, 39] = True
    boxes = torch.tensor([[0.5, 0.3, 0.5, 0.3], [39.5 / 40, 19.5 / 20, 1 / 40, 1 / 20]])
    ignore = torch.ones(20, 40, dtype=torch.bool)
    full = Targets(torch.tensor([2, 0]), masks, boxes, torch.tensor([1.0, 0.5]), ignore)
    samples = [
        Sample("a", torch.full((3, 20, 40), 9, dtype=torch.uint8), (200, 400), full),
        Sample("b", torch.full((3, 33, 8), 7, dtype=torch.uint8), (33, 8), Targets.empty(33, 8)),
        Sample("c", torch.full((3, 5, 5), 5, dtype=torch.uint8), (5, 5)),
    ]
    batch = collate(samples)
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes == [(20, 40), (33, 8), (5, 5)]
    assert batch.original_sizes == [(200, 400), (33, 8), (5, 5)]
    assert batch.strong is None
    assert batch.images[0].sum() == 9 * 3 * 20 * 40
    first, second, third = batch.targets
    assert third is None
    assert second is not None
    assert second.masks.shape == (0, 64, 64)
    assert first is not None
    assert first.ignore is not None
    assert first.ignore.sum() == 20 * 40
    assert first.ignore[:20, :40].all()
    assert first.masks.sum((1, 2)).tolist() == [6 * 20, 1]
    assert first.weights.tolist() == [1.0, 0.5]
    for mask, box in zip(first.masks, first.boxes_cxcywh * 64, strict=True):
        ys, xs = torch.where(mask)
        low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
        assert low.tolist() == pytest.approx([int(xs.min()), int(ys.min())], abs=1e-4)
        assert high.tolist() == pytest.approx([int(xs.max()) + 1, int(ys.max()) + 1], abs=1e-4)
    assert collate(samples[2:], divisor=5).images.shape == (1, 3, 5, 5)


def test_eight_and_sixteen_bit_images_share_a_batch() -> None:
    samples = [
        Sample(0, torch.full((1, 4, 4), 60000.0), (4, 4)),
        Sample(1, torch.ones(1, 4, 4, dtype=torch.uint8), (4, 4)),
    ]
    images = collate(samples).images
    assert images.dtype == torch.float32
    assert images.amax((1, 2, 3)).tolist() == [60000.0, 1.0]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_each_image_once_and_never_pads_it_to_a_neighbour(
    records: list[Record], recipe: Recipe, workers: int
) -> None:
    recipe.data.workers = workers
    mixed = [records[0], replace(records[1], height=None, width=None), *records[2:]]
    found = list(eval_batches(mixed, recipe, 5))
    ids = [i for b in found for i in b.image_ids]
    assert sorted(ids, key=str) == sorted((r.image_id for r in records), key=str)
    originals = {r.image_id: (r.height, r.width) for r in records}
    assert [s for b in found for s in b.original_sizes] == [originals[i] for i in ids]
    assert all(min(size) == 48 for b in found for size in b.sizes)
    for batch in found:
        assert len(batch) <= 5
        assert len(set(batch.sizes)) == 1
        alone = [next(eval_batches([r], recipe, 1)) for r in mixed if r.image_id in batch.image_ids]
        assert all(b.images.shape[1:] == batch.images.shape[1:] for b in alone)
    assert next(b for b in found if records[1].image_id in b.image_ids).image_ids == [records[1].image_id]
    assert found[0].targets == [None] * len(found[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(
    records: list[Record], recipe: Recipe, tmp_path: Path, workers: int
) -> None:
    recipe.data.workers = workers
    broken = tmp_path / "broken.png"
    broken.write_bytes(records[0].path.read_bytes()[:200])
    bad = [replace(record, path=broken) for record in records]
    with pytest.raises(DataError) as caught:
        list(batches(bad, recipe))
    assert caught.value.where == str(broken)
    assert caught.value.what.startswith("cannot read the image")
    assert "Traceback" not in str(caught.value)
    with pytest.raises(DataError, match="cannot read the image"):
        list(eval_batches(bad, recipe, 2))


@pytest.mark.filterwarnings("ignore:unlabelled image left out")
def test_a_broken_unlabelled_image_is_replaced_by_the_next(
    records: list[Record], recipe: Recipe, tmp_path: Path
) -> None:
    recipe.data.repeat_threshold = 0.0
    (tmp_path / "broken.png").write_bytes(records[0].path.read_bytes()[:200])
    pool = [replace(record, annotations=None) for record in records]
    order = [i for batch in batches(pool, recipe) for i in batch.image_ids]
    pool[2] = replace(pool[2], path=tmp_path / "broken.png")
    ids = [record.image_id for record in pool]
    expected = [ids[3] if i == ids[2] else i for i in order]
    assert ids[2] in order
    with pytest.warns(UserWarning, match="left out: .*broken.png"):
        found = list(batches(pool, recipe))
    assert [i for batch in found for i in batch.image_ids] == expected
    with pytest.raises(DataError, match="cannot read the image"):  # nothing but broken ones
        list(batches([pool[2]], recipe))


def test_an_image_of_another_size_is_named(records: list[Record], recipe: Recipe, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="the image is 8 x 9 pixels, its annotations say"):
        next(batches([replace(records[0], path=tmp_path / "x.png")], recipe))


def test_no_images_is_a_data_error(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="no image to train on"):
        batches([], recipe)


def test_closing_early_leaves_no_process(records: list[Record], recipe: Recipe) -> None:
    recipe.data.workers = 2
    stream = batches(records, recipe, steps=1000)
    list(islice(stream, 2))
    assert len(multiprocessing.active_children()) == 2
    stream.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_program_that_fails_ends_at_once_and_quietly(tiny_data: Path) -> None:
    """The stream is still held by the traceback when the interpreter exits.

    Left alone, each worker is waited for five seconds: the exit is held against that of the same program
    without workers, as busy machines are slow.
    """
    program = f"""
import sys, time
from gdseg.data.dataset import open_dataset
from gdseg.data.loader import train_batches
from gdseg.recipe import Recipe
recipe = Recipe()
recipe.data.root, recipe.augment.canvas = {str(tiny_data)!r}, [64, 64]
recipe.data.workers = int(sys.argv[1])
records = open_dataset(recipe.data).train
which = dict(batch_size=2, seed=0, start_step=0, steps=99, strong=True, num_classes=7)
stream = train_batches(records, recipe, **which)
next(stream)
print(time.time())
raise SystemExit("over")
"""

    def seconds(workers: int) -> float:
        command = [sys.executable, "-c", program, str(workers)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.stderr == "over\n"
        return time.time() - float(done.stdout)

    extra = [seconds(2) - seconds(0)]
    while min(extra) > 4.0 and len(extra) < 4:  # load is transient, the defect is not
        extra.append(seconds(2) - seconds(0))
    assert min(extra) < 4.0


def test_where_the_images_lie_does_not_matter(records: list[Record], recipe: Recipe, tmp_path: Path) -> None:
    """The same images elsewhere give the same batches: only ids and pixels matter."""
    moved = []
    for record in records:
        shutil.copy(record.path, tmp_path)
        moved.append(replace(record, path=tmp_path / record.path.name))
    assert_same(list(batches(moved, recipe, steps=2)), list(batches(records, recipe, steps=2)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_pinned_beside_a_gpu(records: list[Record], recipe: Recipe) -> None:
    recipe.data.workers = 2
    batch = next(batches(records, recipe))
    assert all(tensor.is_pinned() for tensor in tensors(batch))
    assert all(tensor.is_cuda for tensor in tensors(batch.to("cuda")))
