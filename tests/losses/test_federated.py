"""Federated images (LVIS): which classes of which query count, against the formulas written out; and on the way there."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gdseg.data.augment import build_targets
from gdseg.data.geometry import Geometry
from gdseg.data.loader import collate
from gdseg.data.rle import to_rle
from gdseg.losses.criterion import Criterion
from gdseg.recipe import Recipe
from gdseg.structures import Denoising, Federated, LayerOutput, Outputs, Record, Sample, Targets
from gdseg.train.copy_paste import paste_labelled

CLASSES, Q = 5, 3
ABSENT, THERE, PARTIAL, UNKNOWN, OTHER = range(CLASSES)  # OTHER: there too, completely marked


def recipe(kind: str, federated: bool = True) -> Recipe:
    made = Recipe()
    made.decoder.kind = kind
    made.loss.points = 32
    made.loss.class_weight = 1.0
    made.loss.federated = federated
    return made


def square() -> torch.Tensor:
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, :8, :8] = True
    return mask


def targets(label: int, known: list[int] | None) -> Targets:
    box = torch.tensor([[0.25, 0.25, 0.5, 0.5]])
    names = None if known is None else torch.tensor(known, dtype=torch.int64)
    return Targets(torch.tensor([label]), square(), box, torch.ones(1), known=names)


def outputs(made: Recipe, images: int = 1) -> Outputs:
    """Query 0 draws the target exactly; the others draw nothing."""
    torch.manual_seed(0)
    masks = torch.full((images, Q, 16, 16), -9.0)
    masks[:, 0, :8, :8] = 9.0
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.8, 0.8, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1]])
    logits = torch.randn(images, Q, CLASSES + made.softmax_classes, requires_grad=True)
    boxed = boxes.repeat(images, 1, 1) if made.decoder.kind == "maskdino" else None
    return Outputs([LayerOutput("final", logits, masks, boxed)])


def counted(label: int, known: list[int]) -> np.ndarray:
    """Which classes of which query count: [Q, C]."""
    there = np.zeros((Q, CLASSES), dtype=bool)
    there[:, known] = True
    there[0, label] = True
    return there


CASES = [(THERE, [ABSENT, THERE, OTHER]), (PARTIAL, [ABSENT, THERE, OTHER]), (THERE, [])]


@pytest.mark.parametrize(("label", "known"), CASES)
def test_focal_leaves_out_what_nobody_looked_for(label: int, known: list[int]) -> None:
    made = recipe("maskdino")
    found = outputs(made)
    loss = Criterion(made, CLASSES)(found, [targets(label, known)])["class"]
    logits = found.final.logits[0].detach().double().numpy()
    p, positive = 1 / (1 + np.exp(-logits)), np.zeros((Q, CLASSES), dtype=bool)
    positive[0, label] = True
    terms = np.where(positive, 0.25 * (1 - p) ** 2 * -np.log(p), 0.75 * p**2 * -np.log(1 - p))
    assert loss.item() == pytest.approx(terms[counted(label, known)].sum(), rel=1e-5)
    loss.backward()
    assert np.array_equal(found.final.logits.grad[0].numpy() != 0, counted(label, known))


@pytest.mark.parametrize(("label", "known"), CASES)
def test_softmax_leaves_them_out_of_the_sum(label: int, known: list[int]) -> None:
    made = recipe("mask2former")
    found = outputs(made)
    loss = Criterion(made, CLASSES)(found, [targets(label, known)])["class"]
    logits = found.final.logits[0].detach().double().numpy()
    there = np.concatenate([counted(label, known), np.ones((Q, 1), dtype=bool)], axis=1)
    total = np.log((np.exp(logits) * there).sum(1))
    wanted, weights = np.array([label, CLASSES, CLASSES]), np.array([1, 0.1, 0.1])
    expected = ((total - logits[np.arange(Q), wanted]) * weights).sum() / weights.sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    there &= there.sum(1, keepdims=True) > 1  # no-object alone is certain
    assert np.array_equal(found.final.logits.grad[0].numpy() != 0, there)
    assert found.final.logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_images_that_were_searched_for_everything_are_as_before(kind: str) -> None:
    def loss(truth: list[Targets], federated: bool = True) -> float:
        made = recipe(kind, federated)
        return float(Criterion(made, CLASSES)(outputs(made, len(truth)), truth)["class"].detach())

    everything = list(range(CLASSES))
    plain = loss([targets(THERE, None), targets(OTHER, None)])
    assert loss([targets(THERE, everything), targets(OTHER, None)]) == pytest.approx(plain, rel=1e-6)
    assert loss([targets(THERE, [ABSENT]), targets(OTHER, None)]) < plain
    assert loss([targets(THERE, [ABSENT]), targets(OTHER, None)], federated=False) == plain


def test_denoising_queries_follow_the_same_rule() -> None:
    made = recipe("maskdino")
    found = outputs(made)
    logits = torch.randn(1, 2, CLASSES, requires_grad=True)
    noised = LayerOutput("final", logits, torch.zeros(1, 2, 16, 16), torch.full((1, 2, 4), 0.5))
    found.denoising = Denoising([noised], groups=2, slots=1)
    Criterion(made, CLASSES)(found, [targets(THERE, [ABSENT])])["class_dn"].backward()
    assert (logits.grad[0] != 0).nonzero()[:, 1].tolist() == [ABSENT, THERE] * 2


def record(annotations: tuple) -> Record:
    federated = Federated(absent=frozenset({ABSENT}), partial=frozenset({PARTIAL}))
    return Record(1, Path("x"), 16, 16, annotations, federated=federated)


def annotation(label: int, shift: int = 0) -> dict:
    mask = square()[0].roll(shift, 0)
    return {"label": label, "iscrowd": 0, "segmentation": to_rle(mask)}


def test_what_is_known_survives_crop_collate_pinning_and_paste() -> None:
    whole = Geometry((16, 16), (16, 16), (0, 0), (16, 16), (16, 16))
    right = dataclasses.replace(whole, offset=(0, 8), crop=(16, 8), canvas=(16, 8))
    image = record((annotation(THERE), annotation(PARTIAL), annotation(OTHER)))
    known = [ABSENT, THERE, OTHER]
    cut, empty = build_targets(image, right), build_targets(record(()), whole)
    assert cut is not None
    assert empty is not None
    assert (len(cut), cut.known.tolist()) == (0, known)  # the objects are gone, what is known is not
    assert empty.known.tolist() == [ABSENT]
    full = build_targets(image, whole)
    assert full is not None
    plain = build_targets(dataclasses.replace(record((annotation(PARTIAL, 8),)), federated=None), whole)
    samples = [Sample(1, torch.zeros(3, 16, 16), (16, 16), t) for t in (full, plain)]
    batch = collate(samples)
    assert batch.targets[0].select(torch.tensor([1])).known.tolist() == known
    assert batch.to("cpu").targets[0].known.tolist() == known
    assert batch.targets[1].known is None
    made = recipe("maskdino")
    made.augment.copy_paste = 1.0
    pasted = [paste_labelled(batch, made, step).targets for step in range(8)]
    assert all(first.known.tolist() == known and second.known is None for first, second in pasted)
    assert any(len(first) > 3 for first, _ in pasted)
