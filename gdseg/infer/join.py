"""Instances found in overlapping tiles -> instances of the image: neither double nor split.

Two predictions of one class in two tiles are views of one object when they agree on the pixels that both
tiles see. Others compare whole masks: SAHI (arXiv 2202.06934, MIT) by intersection over the smaller, which
also joins what merely overlaps a large one. As empanada (BSD-3) does with slices of a volume, the best
partner by IoU comes first, and pieces that have none join what covers them. The rest is ours:

- the surest prediction goes first and takes its partners tile by tile, so a doubtful mask that spreads over
  several sure ones finds them taken; what agrees but is much less sure is dropped and changes no mask;
- a fragment that another tile sees all of, and beyond the border that cuts it, is that tile's to tell;
- a view that its tile's border does not cut stands for the object, whatever fragments other tiles show of it;
  only where all views are cut is the object their union.

Called by image.py and maps.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pycocotools import mask as coco_mask

from gdseg.infer.tiles import Rle, Size, Tile, in_image, window_of
from gdseg.structures import Predictions

_SAME = 0.5  # IoU, and share of a piece that is covered, above which two masks agree
_SURE = 1 / 3  # what agrees but has less than this share of the best score is dropped, it changes no mask
CELL = 4  # pixels a side of what a network's masks are made of, where a tile keeps its size


@dataclass(frozen=True)
class View:
    """A prediction in a tile. box (as predicted) and span (of the mask): x0, y0, x1, y1 in the image."""

    tile: Tile
    label: int
    score: float
    rle: Rle
    box: tuple[float, ...]
    span: tuple[float, ...]
    cell: int

    def cut_inside(self, other: Tile) -> bool:
        """Whether the mask ends, to a cell, at a border of its tile that lies inside another one."""
        tile, cell, (x0, y0, x1, y1) = self.tile, self.cell, self.span
        return (
            (other.left < tile.left and x0 < tile.left + cell)
            or (other.top < tile.top and y0 < tile.top + cell)
            or (tile.right < other.right and x1 > tile.right - cell)
            or (tile.bottom < other.bottom and y1 > tile.bottom - cell)
        )

    def told_better_by(self, other: Tile) -> bool:
        """Whether another tile sees all of what this tile shows, and beyond the border that cuts it here."""
        height, width = other.image
        rows = _inside(self.span[1::2], other.top, other.bottom, height, self.cell)
        columns = _inside(self.span[0::2], other.left, other.right, width, self.cell)
        return rows and columns and self.cut_inside(other)


def _inside(span: Sequence[float], first: int, end: int, limit: int, margin: int) -> bool:
    """Whether a span lies within first .. end and does not come near an end that is not the image's own."""
    return span[0] >= first + margin * (first > 0) and span[1] <= end - margin * (end < limit)


@dataclass(frozen=True)
class Edge:
    """What two tiles say of the strip they share: IoU, and whether one view covers the other, a cut piece."""

    other: int
    iou: float
    covers: bool


Edges = dict[int, dict[Tile, list[Edge]]]  # of a view: tile -> its views that agree


def join_instances(
    tiles: Sequence[Tile], found: Sequence[Predictions], image: Size, cell: int = CELL
) -> Predictions:
    """What tiles hold as one `Predictions` of the image, best first. found[i] is of tiles[i], at its size.

    cell: how exact masks are, in pixels. The order of the tiles does not matter.
    """
    order = sorted(range(len(tiles)), key=lambda i: tiles[i])
    views = [view for i in order for view in _views(tiles[i], found[i], cell)]
    views = [view for view in views if not any(view.told_better_by(tile) for tile in tiles)]
    edges = _edges([tiles[i] for i in order], views)
    clusters = [[views[i] for i in cluster] for cluster in _clusters(views, edges)]
    clusters.sort(key=lambda cluster: -cluster[0].score)
    objects = [_object(cluster, image) for cluster in clusters]
    return replace(
        found[0],
        size=image,
        labels=torch.tensor([cluster[0].label for cluster in clusters], dtype=torch.int64),
        scores=torch.tensor([cluster[0].score for cluster in clusters], dtype=torch.float32),
        boxes_xyxy_px=torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4),
        rles=[rle for _, rle in objects],
    )


def _views(tile: Tile, found: Predictions, cell: int) -> list[View]:
    views, moved = [], np.array([tile.left, tile.top] * 2)
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.rles, found.boxes_xyxy_px, strict=True)
    for label, score, rle, box in rows:
        x, y, w, h = coco_mask.toBbox(rle).tolist()
        span = np.array([x, y, x + w, y + h]) + moved
        views.append(View(tile, label, score, rle, tuple(box.numpy() + moved), tuple(span.tolist()), cell))
    return views


def _object(views: Sequence[View], image: Size) -> tuple[list[float], Rle]:
    """Box and mask of an object from its views."""
    rles = [in_image(view.rle, view.tile) for view in views]
    union: Rle = coco_mask.merge(rles)
    everything = Tile(0, 0, *image, image)
    whole = [i for i, view in enumerate(views) if not view.cut_inside(everything)]
    # the surest is the first; one that holds little of the union is itself a fragment, drawn too short
    for i in [i for i in whole if 2 * coco_mask.area(rles[i]) >= coco_mask.area(union)][:1]:
        return list(views[i].box), rles[i]
    box = np.array([view.box for view in views])
    return [*box[:, :2].min(0).tolist(), *box[:, 2:].max(0).tolist()], union


def _edges(tiles: Sequence[Tile], views: Sequence[View]) -> Edges:
    members: dict[Tile, list[int]] = {tile: [] for tile in tiles}
    for i, view in enumerate(views):
        members[view.tile].append(i)
    edges: Edges = defaultdict(lambda: defaultdict(list))
    for s, first in enumerate(tiles):
        for second in tiles[s + 1 :]:
            strip = first.shared(second)
            if strip is not None:
                a, b = (_in_strip(members[tile], views, strip) for tile in (first, second))
                for label in a.keys() & b.keys():
                    _compare(a[label], b[label], views, edges)
    return edges


def _in_strip(members: Iterable[int], views: Sequence[View], strip: Tile) -> dict[int, dict[int, Rle]]:
    """Label -> view -> its mask in the strip, of those that have a pixel there."""
    parts: dict[int, dict[int, Rle]] = defaultdict(dict)
    for i in members:
        x0, y0, x1, y1 = views[i].span
        if x0 < strip.right and x1 > strip.left and y0 < strip.bottom and y1 > strip.top:
            part = window_of(views[i].rle, views[i].tile, strip)
            if coco_mask.area(part):
                parts[views[i].label][i] = part
    return parts


def _compare(a: dict[int, Rle], b: dict[int, Rle], views: Sequence[View], edges: Edges) -> None:
    """Add the edges between views of two tiles whose masks agree in the strip."""
    left, right, ids = list(a.values()), list(b.values()), (list(a), list(b))
    iou = coco_mask.iou(left, right, [0] * len(right))
    share_a = coco_mask.iou(left, right, [1] * len(right))
    share_b = coco_mask.iou(right, left, [1] * len(left)).T
    for i, j in np.argwhere((iou > _SAME) | (share_a > _SAME) | (share_b > _SAME)).tolist():
        p, q = ids[0][i], ids[1][j]
        covers = (share_a[i, j] > _SAME and views[p].cut_inside(views[q].tile)) or (
            share_b[i, j] > _SAME and views[q].cut_inside(views[p].tile)
        )
        if iou[i, j] > _SAME or covers:
            edges[p][views[q].tile].append(Edge(q, float(iou[i, j]), bool(covers)))
            edges[q][views[p].tile].append(Edge(p, float(iou[i, j]), bool(covers)))


def _clusters(views: Sequence[View], edges: Edges) -> list[list[int]]:
    """Views of one object each, the surest first; a view is in one of them or dropped."""
    taken, clusters = set[int](), []
    for seed in sorted(range(len(views)), key=lambda i: (-views[i].score, views[i].label, i)):
        if seed in taken:
            continue
        taken.add(seed)
        cluster = [seed]
        for view in cluster:  # grows while it is read
            for _, there in sorted(edges[view].items()) if view in edges else ():
                partners = _partners(cluster, there, views, taken)
                taken.update(partner.other for partner in partners)
                least = _SURE * views[seed].score
                cluster += [p.other for p in partners if views[p.other].score >= least]
        clusters.append(cluster)
    return clusters


def _partners(
    cluster: Sequence[int], edges: Sequence[Edge], views: Sequence[View], taken: set[int]
) -> list[Edge]:
    """Which of a view's edges to one tile are followed: the best of those that agree, or else all pieces.

    Not those that repeat what the cluster already has of that tile: double detections stay double.
    """
    own = [edge for edge in edges if edge.other in cluster]
    if any(edge.iou > _SAME for edge in own):
        return []
    free = [edge for edge in edges if edge.other not in taken]
    same = [edge for edge in free if edge.iou > _SAME]
    if same and not own:
        return [max(same, key=lambda edge: (edge.iou, -edge.other))]
    chosen: list[Edge] = []
    for edge in sorted((e for e in free if e.covers), key=lambda e: (-views[e.other].score, e.other)):
        rivals = [views[e.other].rle for e in (*own, *chosen)]
        repeats = rivals and coco_mask.iou([views[edge.other].rle], rivals, [1] * len(rivals)).max() > _SAME
        if not repeats:
            chosen.append(edge)
    return chosen
