"""Pseudo-labels of single images at full size, by the rule of training (`pseudo.choose`).

Thresholds are those that training had where it moved them (`moved_thresholds`), else the recipe's. What
else of the recipe is left out: see `not_applied`.

Training keeps masks at stride 4; labels that people look at and edit need the image's own size.
Called by `gdseg pseudo-label` and the run report.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.data.rle import boxes_of
from gdseg.infer.image import in_tiles, tiles_of
from gdseg.models.decode_maps import Canvas
from gdseg.predict import Predictor
from gdseg.recipe import Distill, Inference
from gdseg.structures import Batch, LayerOutput, Predictions
from gdseg.train.looks import all_looks
from gdseg.train.pseudo import choose, class_scores
from gdseg.view.plots import is_number, read_lines


def moved_thresholds(run: Path, rule: Distill, num_classes: int, step: int) -> Tensor | None:
    """float32 [C]: the class thresholds that a run had last written at `step` (to four digits).

    rule: that of the run. None where it moves none, or where none were written till then.
    """
    if rule.thresholds == "fixed" and rule.fallback != "raise":
        return None
    found = None
    for row in read_lines(run / "pseudo.jsonl"):
        values = row.get("thresholds")
        whole = isinstance(values, list) and len(values) == num_classes and all(map(is_number, values))
        if whole and is_number(row["step"]) and row["step"] <= step:
            found = values
    return None if found is None else torch.tensor(found, dtype=torch.float32)


def not_applied(
    rule: Distill,
    inference: Inference | None = None,
    thresholds: Tensor | None = None,
    *,
    tiled: bool = False,
) -> list[str]:
    """The keys, with their values, that are set and that labels of single images do not follow.

    The views of `inference`, that of the network that labels, are not repeated here, nor its tiles unless
    `tiled`; what moves thresholds is not, unless they are known.
    """
    names = ["thresholds"] * (rule.thresholds != "fixed" and thresholds is None)
    names += ["fallback"] * (rule.fallback == "raise" and thresholds is None)
    keys = [f"distill.{name}={_text(getattr(rule, name))}" for name in names]
    if inference is not None:
        left_out = ("scales", "flip") if tiled else ("tile", "scales", "flip")
        changed = [n for n in left_out if getattr(inference, n) != getattr(Inference(), n)]
        keys += [f"inference.{name}={_text(getattr(inference, name))}" for name in changed]
    return keys


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def looked(predictor: Predictor, image: Tensor, rule: Distill, side: int = 0) -> tuple[Batch, LayerOutput]:
    """What the teacher sees in an image [C, H, W], or a tile of `side`: the batch of one, the final layer."""
    batch, outputs = predictor.outputs(image, side)
    network = predictor.network
    recipe = replace(network.recipe, distill=rule)
    return batch, all_looks(outputs.final, network.model, batch, recipe, recipe.softmax_classes)


def label_image(
    predictor: Predictor, image: Tensor, rule: Distill, thresholds: Tensor | None = None
) -> tuple[Predictions, Predictions, float]:
    """The pseudo-labels of an image [C, H, W], what the rule would take at a lower class score, the best one.

    thresholds: float32 [C], in place of `rule.class_threshold`.
    A class score, of any object and class, is the best whether the rule takes its object or not.
    The lower score is `rule.ignore_threshold`, or half of `rule.class_threshold` where that is 0.
    Scores are class score times mean mask probability. Where the recipe looks in tiles, the rule is applied
    to each and what it takes is joined.
    """
    recipe, size = predictor.network.recipe, (image.shape[-2], image.shape[-1])
    rows, side = tiles_of(size, recipe)
    found = {
        tile: _label_tile(predictor, tile.cut(image), side, rule, thresholds) for row in rows for tile in row
    }
    kept = in_tiles(rows, lambda tile: found[tile][0], size, recipe)
    below = in_tiles(rows, lambda tile: found[tile][1], size, recipe)
    return kept, below, max(best for _, _, best in found.values())


def _label_tile(
    predictor: Predictor, image: Tensor, side: int, rule: Distill, thresholds: Tensor | None
) -> tuple[Predictions, Predictions, float]:
    batch, final = looked(predictor, image, rule, side)
    canvas = Canvas.of(batch)
    lower = replace(rule, ignore_threshold=rule.ignore_threshold or rule.class_threshold / 2)
    logits, masks = final.logits[0], final.masks
    assert masks is not None
    own = None if thresholds is None else thresholds.to(logits.device)
    softmax = predictor.network.recipe.softmax_classes
    choice = choose(logits, masks[0], lower, softmax, own)
    kept, uncertain = (
        _full_size(
            masks[0, index], choice.labels[index], choice.quality[index], canvas, rule, predictor.classes
        )
        for index in (choice.kept, choice.uncertain)
    )
    return kept, uncertain, float(class_scores(logits, softmax)[0].max())


def _full_size(
    masks: Tensor, labels: Tensor, scores: Tensor, canvas: Canvas, rule: Distill, names: list[str]
) -> Predictions:
    """Predictions of mask logits [N, h, w], best first, without those that have no pixel at full size."""
    order = scores.argsort(descending=True, stable=True)
    rles = full_size_rles(masks[order], canvas, rule.pixel_threshold)
    found = Predictions(
        "image", canvas.original, labels[order].cpu(), scores[order].cpu(), boxes_of(rles), rles, names
    )
    return found.select(torch.tensor([coco_mask.area(rle) > 0 for rle in rles], dtype=torch.bool))


def full_size_rles(masks: Tensor, canvas: Canvas, pixel_threshold: float) -> list[dict[str, Any]]:
    """RLEs, at the image's size on disk, of mask logits [N, h, w]; some may be empty."""
    rles = []
    for part in torch.split(masks, canvas.chunk) if len(masks) else ():
        inside = (canvas.restore(part).sigmoid() > pixel_threshold).cpu().numpy()
        rles += [coco_mask.encode(mask.astype("uint8", order="F")) for mask in inside]
    return rles
