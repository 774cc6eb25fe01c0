"""Panoptic and semantic maps of tiles -> one map of the image, in bounded memory.

Panoptic: things are joined as instances are (join.py), then painted, the surer first and things before stuff;
what keeps too little of itself is left out (Kirillov et al., arXiv 1801.00868 §7). A pixel of stuff is what
the tile says in which it lies deepest. Semantic: the class scores of tiles are averaged, weighted by how deep
a pixel lies in each, so that no seam shows. Called by image.py. H W pixels of the image, h w of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdseg.data.rle import to_rle
from gdseg.infer.join import CELL, join_instances
from gdseg.infer.tiles import Size, Tile, band_of
from gdseg.models.decode_maps import BestClass, ClassScores
from gdseg.structures import Predictions


class PanopticMap:
    """Told the panoptic prediction of each tile, in any order, it makes the image's."""

    def __init__(self, image: Size, cell: int = CELL) -> None:
        self.image, self.cell = image, cell  # cell: see `join_instances`
        self.stuff = torch.full(image, -1, dtype=torch.int32)
        self.depth = torch.zeros(image, dtype=torch.float64)
        self.scores: dict[int, float] = {}
        self.tiles: list[Tile] = []
        self.things: list[Predictions] = []

    def add(self, tile: Tile, found: Predictions) -> None:
        """Take the map of a tile and its segments; only their masks, as RLE, are kept."""
        assert found.panoptic is not None
        segments, ids = found.segments or [], found.panoptic
        label_of = torch.full((max([0, *(s["id"] for s in segments)]) + 1,), -1, dtype=torch.int32)
        for segment in segments:
            if not segment["isthing"]:
                label, score = segment["label"], segment["score"]
                label_of[segment["id"]] = label
                self.scores[label] = max(score, self.scores.get(label, 0.0))
        labels = label_of[ids.long()]
        rows, columns = tile.depth()
        depth = torch.minimum(rows[:, None], columns).double()
        depth += 0.5 * (1 - (tile.top * tile.image[1] + tile.left) / (tile.image[0] * tile.image[1]))
        deeper = (labels >= 0) & (depth > tile.cut(self.depth))
        tile.cut(self.depth)[deeper] = depth[deeper]
        tile.cut(self.stuff)[deeper] = labels[deeper]
        self.tiles.append(tile)
        self.things.append(_things(found, [s for s in segments if s["isthing"]]))

    def finish(self, overlap_threshold: float) -> Predictions:
        """The image's prediction: a map without overlaps and its segments, things first."""
        things = join_instances(self.tiles, self.things, self.image, self.cell)
        ids = np.zeros(self.image, dtype=np.int32)
        segments: list[dict[str, Any]] = []
        for label, score, rle in zip(
            things.labels.tolist(), things.scores.tolist(), things.rles, strict=True
        ):
            first, band = band_of(rle)
            place = ids[:, first : first + len(band)]
            free = (band.T > 0) & (place == 0)
            if free.any() and free.sum() >= overlap_threshold * band.sum(dtype=np.int64):
                segments.append({"id": len(segments) + 1, "label": label, "isthing": True, "score": score})
                place[free] = len(segments)
        stuff = torch.where(torch.from_numpy(ids) == 0, self.stuff, -1)
        for label in torch.unique(stuff[stuff >= 0]).tolist():
            score = self.scores[label]
            segments.append({"id": len(segments) + 1, "label": label, "isthing": False, "score": score})
            ids[(stuff == label).numpy()] = len(segments)
        none = things.select(torch.zeros(0, dtype=torch.int64))
        return replace(none, panoptic=torch.from_numpy(ids), segments=segments)


def _things(found: Predictions, segments: Sequence[dict[str, Any]]) -> Predictions:
    """Segments of a tile's map as instances."""
    assert found.panoptic is not None
    masks = [found.panoptic == segment["id"] for segment in segments]
    there = [i for i, mask in enumerate(masks) if mask.any()]
    return replace(
        found,
        labels=torch.tensor([segments[i]["label"] for i in there], dtype=torch.int64),
        scores=torch.tensor([segments[i]["score"] for i in there], dtype=torch.float32),
        boxes_xyxy_px=torch.stack([_box(masks[i]) for i in there]) if there else torch.zeros(0, 4),
        rles=[to_rle(masks[i]) for i in there],
        panoptic=None,
        segments=None,
    )


def _box(mask: Tensor) -> Tensor:
    ys, xs = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return torch.stack([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]).float()


def blended_labels(
    rows: Iterable[Sequence[Tile]], look: Callable[[Tile], Sequence[ClassScores]], image: Size
) -> Tensor:
    """Label of each pixel, int64 [H, W] on the CPU, from rows of tiles as `tiles.layout` makes them.

    look(tile): its class scores, of each view of it. Those of two rows of tiles are held at a time.
    """
    labels = torch.zeros(image, dtype=torch.int64)
    held: dict[Tile, Sequence[ClassScores]] = {}
    rows = [*rows]
    for row, below in zip(rows, [*rows[1:], None], strict=True):
        end = below[0].top if below else image[0]
        held = {tile: scores for tile, scores in held.items() if tile.bottom > row[0].top}
        held |= {tile: look(tile) for tile in row}
        for tile, following in zip(row, [*row[1:], None], strict=True):
            cell = Tile(tile.top, tile.left, end, following.left if following else image[1], image)
            cell.cut(labels).copy_(_cell(cell, held))
    return labels


def _cell(cell: Tile, held: dict[Tile, Sequence[ClassScores]]) -> Tensor:
    """Labels of the pixels of a cell, from all tiles that show some of it."""
    seen = [(tile, part, views) for tile, views in held.items() if (part := tile.shared(cell))]
    sources = [scores for _, _, views in seen for scores in views]
    count, device = sources[0].weights.shape[1], sources[0].masks.device
    step = max(1, min(scores.at_once for scores in sources) // max(1, len(sources) // 4))
    few = max(1, min(scores.canvas.chunk for scores in sources))
    best = BestClass(cell.size, device)
    for first in range(0, count, step):
        sums = [scores.sums(slice(first, first + step)) for scores in sources]
        for i in range(0, len(sums[0]), few):
            total = torch.zeros(len(sums[0][i : i + few]), *cell.size, device=device)
            parts = iter(sums)
            for tile, part, views in seen:
                weight = _weight(tile, part).to(device)
                for scores in views:
                    whole = scores.finish(next(parts)[i : i + few])
                    _within(cell, part).cut(total).add_(_within(tile, part).cut(whole) * weight)
            best.add(total)
    return best.labels.cpu()


def _within(outer: Tile, part: Tile) -> Tile:
    """The place of a part in the coordinates of what holds it."""
    top, left = part.top - outer.top, part.left - outer.left
    return Tile(top, left, top + part.size[0], left + part.size[1], outer.size)


def _weight(tile: Tile, part: Tile) -> Tensor:
    """A linear ramp from the tile's borders to its middle: float32 [h, w] of the part."""
    rows, columns = tile.depth()
    where = _within(tile, part)
    return rows[where.top : where.bottom, None] * columns[where.left : where.right]
