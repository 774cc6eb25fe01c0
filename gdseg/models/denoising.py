"""Denoising queries: noised targets that the decoder must restore.

DN-DETR §4 (arXiv 2203.01305), Mask DINO §3.4 (arXiv 2206.02777). Called by `maskdino.py` in training. Each
group holds every target of an image once; groups see the matching queries but not each other, and the
matching queries see no group. Letters: B batch, N targets of the batch
times groups, Q queries, D channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from gdseg.draws import Draws
from gdseg.models.layers import inverse_sigmoid
from gdseg.recipe import Decoder as Options
from gdseg.recipe import settled
from gdseg.structures import Targets


@dataclass
class NoisedQueries:
    """content [B, groups * slots, D]; anchors [B, groups * slots, 4] logits; see `Denoising` for the rest."""

    content: Tensor
    anchors: Tensor
    groups: int
    slots: int
    kept: list[Tensor] | None


def noised_queries(
    targets: Sequence[Targets], labels: nn.Embedding, options: Options, draws: Draws
) -> NoisedQueries | None:
    """Noised copies of all targets, or None where no image of the batch has one.

    As many groups as `denoising_queries` holds. An image with more targets than that keeps a random choice
    of them, and the user is told once; or, with `denoising_overfull: skip`, the batch has none.
    """
    most = settled(options.denoising_queries)
    if options.denoising_overfull == "skip" and max(map(len, targets), default=0) > most:
        return None
    kept = _subsample(targets, most, draws)
    if kept is not None:
        targets = [target.select(index) for target, index in zip(targets, kept, strict=True)]
    slots = max(map(len, targets), default=0)
    if slots == 0:
        return None
    groups = most // slots
    device = labels.weight.device
    images, places = _slots([len(t) for t in targets], slots, groups, device)
    noised_labels = _flip(torch.cat([t.labels for t in targets]).repeat(groups), labels, options, draws)
    boxes = torch.cat([t.boxes_cxcywh for t in targets]).repeat(groups, 1)
    anchors_N4 = inverse_sigmoid(_shake(boxes.float(), options.box_noise, draws))
    embedded = labels(noised_labels)
    shape = (len(targets), groups * slots)
    content = embedded.new_zeros(*shape, embedded.shape[-1]).index_put((images, places), embedded)
    anchors = anchors_N4.new_zeros(*shape, 4).index_put((images, places), anchors_N4)
    return NoisedQueries(content, anchors, groups, slots, kept)


@cache  # Python's own memory of warnings is wiped by every library that catches some
def _say_once(most: int) -> None:
    warnings.warn(
        f"an image has more objects than decoder.denoising_queries ({most}): of such images "
        f"{most} objects, drawn anew each time, are denoised (this is said once)",
        stacklevel=3,
    )


def _subsample(targets: Sequence[Targets], most: int, draws: Draws) -> list[Tensor] | None:
    """Each image's targets that get a slot; None when all do."""
    if max(map(len, targets), default=0) <= most:
        return None
    _say_once(most)
    kept = []
    for target in targets:
        order = draws.rand("dn", ("keep",), (len(target),), target.labels.device)[0].argsort()
        kept.append(order[:most].sort().values)
    return kept


def _slots(counts: list[int], slots: int, groups: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Image and place of each noised target: groups one after the other, inside them the batch's targets."""
    images = torch.tensor([b for b, n in enumerate(counts) for _ in range(n)], device=device)
    places = torch.tensor([i for n in counts for i in range(n)], device=device)
    first = torch.arange(groups, device=device)[:, None] * slots
    return images.repeat(groups), (first + places).flatten()


def _flip(labels_N: Tensor, embedding: nn.Embedding, options: Options, draws: Draws) -> Tensor:
    """With probability `label_flip` another class, uniform over all of them (the true one included)."""
    device = labels_N.device
    flipped = draws.rand("dn", ("p",), labels_N.shape, device)[0] < options.label_flip
    drawn = draws.randint("dn/label", embedding.num_embeddings, labels_N.shape, device)
    # the i-th flipped label takes the i-th draw: as if only those had been drawn, without asking how many
    return torch.where(flipped, drawn[(flipped.cumsum(0) - 1).clamp(min=0)], labels_N)


def _shake(boxes_N4: Tensor, noise: float, draws: Draws) -> Tensor:
    """Centres moved by up to noise * half a side, sides changed by up to noise of themselves, within 0..1."""
    uniform = draws.rand("dn", ("box",), boxes_N4.shape, boxes_N4.device)[0]
    sides = boxes_N4[:, 2:]
    moved = boxes_N4 + (uniform * 2 - 1) * torch.cat((sides / 2, sides), -1) * noise
    return moved.clamp(0, 1)


def blocked_attention(groups: int, slots: int, queries: int, device: torch.device) -> Tensor:
    """bool [Q, Q], Q = groups * slots + queries, True where a query (row) must not look (column)."""
    part = torch.arange(groups * slots + queries, device=device) // slots
    part = part.clamp(max=groups)  # the matching queries are one part, the last
    return (part[:, None] != part[None]) & (part[None] != groups)
