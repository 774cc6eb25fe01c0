"""A network over validation images: run, decode, score. Called by training and by `gdseg eval`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gdseg.data.dataset import Dataset
from gdseg.data.label_maps import with_masks
from gdseg.data.loader import eval_batches
from gdseg.eval import cityscapes
from gdseg.eval.coco import score
from gdseg.eval.maps import found_map, score_maps
from gdseg.eval.scores import Scores
from gdseg.infer.image import as_on_disk, infer_image, needs_whole_image
from gdseg.infer.run import infer_batch
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Recipe, settled
from gdseg.structures import Batch, Predictions, Record

_BATCH_PIXELS, _BATCH_LIMIT = 1024 * 1024, 16

Progress = Callable[[int, int], None]  # images done, images in all
Areas = tuple[float, float] | str  # see `eval.coco.score`


def evaluate(
    model: SegmentationModel,
    dataset: Dataset,
    recipe: Recipe,
    device: torch.device,
    batch_size: int | None = None,
    progress: Progress | None = None,
    *,
    boundary: bool = False,
    areas: Areas = "auto",
) -> Scores:
    """Scores of `model` on `dataset.val` for the recipe's task: AP, panoptic quality, or mIoU and the like.

    boundary: boundary metrics too. The model's training mode and all random states are left as they were.
    Raises DataError for an unreadable image or label map.
    """
    if recipe.task == "instance":
        results = find(model, dataset, recipe, device, batch_size, progress)
        limit = settled(recipe.postprocess.max_detections)
        return score_instances(dataset, results, limit, boundary=boundary, areas=areas)
    predictions = _infer(model, dataset, recipe, device, batch_size, progress)
    maps = (found_map(prediction) for prediction in predictions)
    return score_maps(maps, dataset, recipe.task, boundary=boundary)


def score_instances(
    dataset: Dataset,
    results: Sequence[Mapping[str, Any]],
    max_detections: int,
    *,
    boundary: bool = False,
    areas: Areas = "auto",
) -> Scores:
    """AP of checked COCO results on `dataset.val` (see `eval.coco.score`), on Cityscapes its own AP too."""
    scores = score(
        [with_masks(record, "instance") for record in dataset.val],
        dataset.classes,
        dataset.category_ids,
        results,
        max_detections,
        boundary=boundary,
        areas=areas,
        frequencies=[info.frequency for info in dataset.table],
    )
    maps = cityscapes.instance_maps(dataset.val)
    if maps and all("segmentation" in result for result in results):
        scores.add(cityscapes.score_instances(maps, dataset.classes, dataset.category_ids, results))
    return scores


def find(
    model: SegmentationModel,
    dataset: Dataset,
    recipe: Recipe,
    device: torch.device,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """COCO results, with the user's image and category ids, of `model` on `dataset.val`."""
    predictions = _infer(model, dataset, recipe, device, batch_size, progress)
    return [result for p in predictions for result in p.to_coco(p.image_id, dataset.category_ids)]


def _infer(
    model: SegmentationModel,
    dataset: Dataset,
    recipe: Recipe,
    device: torch.device,
    batch_size: int | None,
    progress: Progress | None,
) -> Iterator[Predictions]:
    """Predictions for the validation images, saying how many are done."""
    records, classes = dataset.val, len(dataset.classes)
    found = infer_records(model, records, recipe, classes, device, batch_size, dataset.things)
    for done, prediction in enumerate(found, 1):
        if progress:
            progress(done, len(records))
        yield prediction


def infer_records(
    model: SegmentationModel,
    records: Sequence[Record],
    recipe: Recipe,
    num_classes: int,
    device: torch.device,
    batch_size: int | None = None,
    things: Sequence[bool] | None = None,
) -> Iterator[Predictions]:
    """Predictions for the records, those of one size together, one batch in memory at a time.

    batch_size None: `default_batch_size`; one where the recipe asks for tiles or several views. Raises
    DataError for an unreadable image.
    """
    was_training, size = model.training, batch_size or default_batch_size(recipe)
    whole = needs_whole_image(recipe)
    shown, size = (as_on_disk(recipe), 1) if whole else (recipe, size)
    # a DataLoader draws its base seed from the global generator
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            for batch in eval_batches(records, shown, size):
                if whole:
                    yield _infer_whole(model, batch, recipe, num_classes, device, things)
                else:
                    yield from infer_batch(model, batch, recipe, num_classes, device, things)
        finally:
            model.train(was_training)


def _infer_whole(
    model: SegmentationModel,
    batch: Batch,
    recipe: Recipe,
    num_classes: int,
    device: torch.device,
    things: Sequence[bool] | None,
) -> Predictions:
    """Predictions for a batch of one image as it is on disk."""
    height, width = batch.sizes[0]
    image = batch.images[0, :, :height, :width]
    found = infer_image(model, image, recipe, num_classes, device, things)
    return replace(found, image_id=batch.image_ids[0])


def default_batch_size(recipe: Recipe) -> int:
    """As many test-time images as fill a megapixel, at least 1, at most 16."""
    shortest = recipe.augment.test_shortest
    return max(1, min(_BATCH_LIMIT, _BATCH_PIXELS // shortest**2)) if shortest else 1
