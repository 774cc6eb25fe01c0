"""Batches: padding samples together, and the streams that training and evaluation read.

Batch k of a stream depends on the seed, the stream's name and k only, never on the number of
workers or on where a run was resumed. Called by train/ (one stream of labelled images, one of
unlabelled ones), eval/ and predict.
"""

from __future__ import annotations

import atexit
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gdseg.data.augment import eval_sample, train_sample
from gdseg.data.images import warn_of_units
from gdseg.data.order import positions, repeat_factors, rng_for
from gdseg.errors import DataError, GdsegError
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Record, Sample, Targets

Key = tuple[int, int]  # position in the stream, index of the record
_DIVISOR = 32  # pixels: the coarsest stride of a backbone
_SPARE_IMAGES = 9  # nobody has looked at each unlabelled image: the next stands in for a broken one


def train_batches(
    records: Sequence[Record],
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    strong: bool,
    num_classes: int,
) -> Iterator[Batch]:
    """The batches of steps start_step .. steps - 1, shuffled anew each epoch without replacement.

    An epoch's images follow `data.repeat_threshold`; a batch may span two epochs. Labelled and
    unlabelled records have streams of their own, so that the two draw different numbers. Raises
    DataError, naming the image, when a labelled one is unreadable; in place of an unlabelled one comes
    the next (up to nine of them), with a warning.
    """
    if not records:
        raise DataError("there is no image to train on", "--data", "check the data set and the ratio")
    stream = "unlabelled" if records[0].annotations is None else "labelled"
    factors = repeat_factors(records, recipe.data.repeat_threshold, num_classes)
    order = positions(factors, seed, stream, start_step * batch_size)
    keys = ([next(order) for _ in range(batch_size)] for _ in range(start_step, steps))
    return _load(_Batches(records, recipe, seed, stream, strong, train=True), keys, recipe.data.workers)


def eval_batches(records: Sequence[Record], recipe: Recipe, batch_size: int) -> Iterator[Batch]:
    """Each record once at test-time size; targets None. Raises DataError as `train_batches`.

    Only images of one size share a batch, the others' order is that of their sizes: padding reaches a
    network's features, so a result would depend on its neighbours.
    """
    sizes = [(record.height or -index, record.width or -1) for index, record in enumerate(records)]
    groups = groupby(sorted(range(len(records)), key=sizes.__getitem__), key=sizes.__getitem__)
    keys = ([(i, i) for i in part] for _, group in groups for part in _chunks(group, batch_size))
    return _load(_Batches(records, recipe, 0, "eval", False, train=False), keys, recipe.data.workers)


def _chunks(items: Iterable[int], size: int) -> Iterator[list[int]]:
    remaining = iter(items)
    return iter(lambda: list(islice(remaining, size)), [])


@dataclass
class _Batches(Dataset[Batch | GdsegError]):
    """What a worker does: one item is one batch, or the error that a batch met."""

    records: Sequence[Record]
    recipe: Recipe
    seed: int
    stream: str
    strong: bool
    train: bool

    def __getitem__(self, keys: list[Key]) -> Batch | GdsegError:
        try:
            relative = self.recipe.loss.boxes_relative_to
            return collate([self._sample(*key) for key in keys], boxes_relative_to=relative)
        except GdsegError as error:  # raised in a worker it would lose its fields: it travels as a value
            return error

    def _sample(self, position: int, index: int) -> Sample:
        if not self.train:
            return eval_sample(self.records[index], self.recipe)
        rng = rng_for(self.seed, self.stream, "sample", position)
        spares = _SPARE_IMAGES if self.stream == "unlabelled" else 0
        for place in range(index, index + spares + 1):
            record = self.records[place % len(self.records)]
            try:
                return train_sample(record, self.recipe, rng, strong=self.strong)
            except DataError as error:  # of reading, before anything was drawn from `rng`
                if place == index + spares:
                    raise
                warnings.warn(f"unlabelled image left out: {error.where}: {error.what}", stacklevel=2)
        raise AssertionError


def _load(batches: _Batches, keys: Iterable[list[Key]], workers: int) -> Iterator[Batch]:
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=_Keys(keys),
        num_workers=workers,
        worker_init_fn=_quiet_worker if workers else None,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
    )
    with _running(loader) as iterator:
        for batch in iterator:
            if isinstance(batch, GdsegError):
                raise batch
            warn_of_units(batch.images, batches.recipe.backbone.mean)
            yield batch


@contextmanager
def _running(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """The loader's iterator, whose workers end with the block, or with the program if that comes first.

    Left to the garbage collector they may outlive their queues, and an exit then waits for each of
    them for seconds. Torch has no public call for it.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; the workers touch no lock of theirs
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        iterator = iter(loader)
    end = getattr(iterator, "_shutdown_workers", lambda: None)
    atexit.register(end)
    try:
        yield iterator
    finally:
        atexit.unregister(end)
        end()


class _Keys:
    """A sampler that hands out ready-made keys, once."""

    def __init__(self, keys: Iterable[list[Key]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet_worker(_: int) -> None:
    """Ctrl-C and SIGTERM may reach the whole process group; the parent decides what they mean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _forgive_once)


def _forgive_once(number: int, frame: FrameType | None) -> None:
    """The second signal ends the worker: multiprocessing itself has no other way."""
    signal.signal(number, signal.SIG_DFL)


def collate(samples: Sequence[Sample], divisor: int = _DIVISOR, boxes_relative_to: str = "padded") -> Batch:
    """Samples padded bottom and right to the largest, rounded up to a multiple of `divisor` pixels.

    Images and masks are padded with zeros, the ignore region with False; boxes become relative to
    the padded canvas, or stay shares of the image (`loss.boxes_relative_to`).
    """
    sizes = [(s.image.shape[-2], s.image.shape[-1]) for s in samples]
    height, width = _canvas(sizes, divisor)
    strong = [s.strong for s in samples if s.strong is not None]
    return Batch(
        [s.image_id for s in samples],
        _stack([s.image for s in samples], height, width),
        sizes,
        [s.original_size for s in samples],
        _pad_targets([s.targets for s in samples], sizes, (height, width), boxes_relative_to == "image"),
        _stack(strong, height, width) if strong else None,
    )


def stack(images: Sequence[Tensor], divisor: int = _DIVISOR) -> Tensor:
    """Images [C, h, w] in one tensor, as `collate` pads them."""
    return _stack(images, *_canvas([(image.shape[-2], image.shape[-1]) for image in images], divisor))


def _canvas(sizes: Sequence[tuple[int, int]], divisor: int) -> tuple[int, int]:
    height, width = (-(-max(size[axis] for size in sizes) // divisor) * divisor for axis in (0, 1))
    return height, width


def _stack(images: Sequence[Tensor], height: int, width: int) -> Tensor:
    dtype = torch.float32 if any(image.is_floating_point() for image in images) else images[0].dtype
    stacked = images[0].new_zeros((len(images), images[0].shape[0], height, width), dtype=dtype)
    for place, image in zip(stacked, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return stacked


def _pad_targets(
    targets: Sequence[Targets | None],
    sizes: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    keep_boxes: bool,
) -> list[Targets | None]:
    """Targets on the padded canvas, all of them views of a few tensors: workers then send few of them."""
    height, width = canvas
    counts = [0 if t is None else len(t) for t in targets]
    masks = torch.split(torch.zeros(sum(counts), height, width, dtype=torch.bool), counts)
    boxes = torch.split(torch.zeros(sum(counts), 4), counts)
    labels = torch.split(torch.zeros(sum(counts), dtype=torch.int64), counts)
    weights = torch.split(torch.zeros(sum(counts)), counts)
    padded: list[Targets | None] = []
    for i, (target, (h, w)) in enumerate(zip(targets, sizes, strict=True)):
        if target is None:
            padded.append(None)
            continue
        masks[i][:, :h, :w] = target.masks
        share = [1.0] * 4 if keep_boxes else [w / width, h / height] * 2
        boxes[i].copy_(target.boxes_cxcywh * torch.tensor(share))
        labels[i].copy_(target.labels)
        weights[i].copy_(target.weights)
        ignore = None
        if target.ignore is not None:
            ignore = torch.zeros(height, width, dtype=torch.bool)
            ignore[:h, :w] = target.ignore
        padded.append(Targets(labels[i], masks[i], boxes[i], weights[i], ignore, known=target.known))
    return padded
