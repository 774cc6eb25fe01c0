"""What the criterion promises, shown on cases done by hand: weights, ignore regions, empty batches, NaN."""

import math

import pytest
import torch

from gdseg.errors import DivergedError
from gdseg.losses.criterion import Criterion, check_finite
from gdseg.recipe import Recipe
from gdseg.structures import Denoising, LayerOutput, Outputs, Targets

CLASSES, Q = 3, 4


def recipe(kind="maskdino", **loss):
    made = Recipe()
    made.decoder.kind = kind
    made.loss.points = 64
    for name, value in loss.items():
        setattr(made.loss, name, value)
    return made


def outputs(made, images=1, names=("0", "final")):
    logits = CLASSES + made.softmax_classes
    boxes = made.decoder.kind == "maskdino"
    return Outputs(
        [
            LayerOutput(
                name,
                torch.randn(images, Q, logits, requires_grad=True),
                torch.randn(images, Q, 8, 8).requires_grad_(),
                torch.rand(images, Q, 4).requires_grad_() if boxes else None,
            )
            for name in names
        ]
    )


def one_target(ignore=None, weight=1.0):
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[:, :8, :8] = True
    return Targets(
        torch.tensor([1]), masks, torch.tensor([[0.25, 0.25, 0.5, 0.5]]), torch.tensor([weight]), ignore
    )


def run(made, found, targets, seed=0, things=None, count=None):
    torch.manual_seed(seed)
    return Criterion(made, CLASSES, things)(found, targets, count=count)


def region(rows, columns):
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_names_are_the_terms_of_each_layer(kind):
    made = recipe(kind)
    terms = ["class", "mask", "dice"] + (["box", "giou"] if kind == "maskdino" else [])
    found = outputs(made)
    assert set(run(made, found, [one_target()])) == {f"{t}{s}" for t in terms for s in ("", "_0")}
    made.loss.deep_supervision = False
    assert set(run(made, found, [one_target()])) == set(terms)


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_an_empty_image_is_a_true_negative(kind):
    """Every class of every query is pushed down, no-object up; an unknown image would teach nothing."""
    found = outputs(recipe(kind))
    run(recipe(kind), found, [Targets.empty(16, 16)])["class"].backward()
    grad = found.final.logits.grad
    assert (grad[..., :CLASSES] > 0).all()
    assert (grad[..., CLASSES:] < 0).all()


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_a_batch_without_targets_has_zero_mask_losses_in_the_graph(kind):
    made = recipe(kind)
    found = outputs(made, images=2)
    losses = run(made, found, [Targets.empty(16, 16), Targets.empty(16, 16)])
    assert all(value.item() == 0 for name, value in losses.items() if not name.startswith("class"))
    assert losses["class"] > 0
    sum(losses.values()).backward()
    for layer in found.layers:
        assert layer.masks.grad.eq(0).all()
        assert layer.logits.grad.abs().sum() > 0


def sure_outputs(made, masks):
    """Query 0 is the target; the others look at `masks` [Q - 1, 8, 8] (logits) and say class 2."""
    found = outputs(made, names=("final",))
    layer = found.layers[0]
    with torch.no_grad():
        layer.logits.fill_(-3)
        layer.logits[0, 0, 1] = layer.logits[0, 1:, 2] = 3
        layer.masks.fill_(-9)
        layer.masks[0, 0, :4, :4] = 9
        layer.masks[0, 1:] = masks
        if layer.boxes_cxcywh is not None:
            layer.boxes_cxcywh[0] = torch.tensor([0.8, 0.8, 0.1, 0.1])
            layer.boxes_cxcywh[0, 0] = torch.tensor([0.25, 0.25, 0.5, 0.5])
    return found


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_queries_inside_an_ignore_region_are_not_pushed_to_no_object(kind):
    made = recipe(kind)
    masks = torch.full((Q - 1, 8, 8), -9.0)
    masks[0, 4:, 4:] = 9  # wholly inside the region
    masks[1, 4:, 2:] = 9  # two thirds inside
    masks[2, 4:, :] = 9  # just half inside: not more than half
    found = sure_outputs(made, masks)
    losses = run(made, found, [one_target(region(slice(8, 16), slice(8, 16)))])
    losses["class"].backward()
    moved = found.final.logits.grad[0].abs().sum(-1) > 0
    assert moved.tolist() == [True, False, False, True]


def test_the_matched_query_learns_even_inside_an_ignore_region():
    made = recipe("mask2former")
    found = sure_outputs(made, torch.full((Q - 1, 8, 8), -9.0))
    everywhere = run(made, found, [one_target(region(slice(None), slice(None)))])
    everywhere["class"].backward()
    assert found.final.logits.grad[0, 0].abs().sum() > 0
    assert math.isfinite(everywhere["class"].item())


def test_a_mask_wholly_ignored_has_no_loss_and_no_nan():
    made = recipe()
    found = outputs(made)
    losses = run(made, found, [one_target(region(slice(None), slice(None)))])
    assert losses["mask"].item() == losses["dice"].item() == 0
    assert losses["box"] > 0
    sum(losses.values()).backward()
    assert found.final.masks.grad.eq(0).all()


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_an_image_wholly_ignored_has_no_loss_and_finite_gradients(kind):
    """A teacher that is sure of nothing: no target, every query in the ignore region; weights add up to 8."""
    made = recipe(kind, class_weight=4.0)
    made.decoder.class_loss = "softmax"
    found = outputs(made)
    nothing = Targets.empty(16, 16)
    nothing.ignore = torch.ones(16, 16, dtype=torch.bool)
    losses = run(made, found, [nothing])
    (2.0 * sum(losses.values())).backward()
    assert losses["class"].item() == 0.0
    for layer in found.layers:
        assert layer.logits.grad.isfinite().all()
        assert not layer.logits.grad.any()


def test_ignored_pixels_get_no_gradient():
    made = recipe(importance=0.0)
    found = outputs(made)
    losses = run(made, found, [one_target(region(slice(None), slice(8, 16)))])
    (losses["mask"] + losses["dice"]).backward()
    grad = found.final.masks.grad.abs().sum((0, 1))
    assert grad[:, :4].sum() > 0
    assert grad[:, 5:].sum() == 0  # column 4 is a neighbour of points in column 3


def test_an_empty_ignore_region_changes_nothing():
    made = recipe()
    found = outputs(made, images=2)
    without = run(made, found, [one_target(), one_target()])
    withal = run(made, found, [one_target(region(slice(0), slice(0))), one_target()])
    for name, value in without.items():
        assert withal[name].item() == pytest.approx(value.item(), rel=1e-6)


def test_a_weight_multiplies_the_losses_of_its_instance():
    made = recipe()
    found = outputs(made)
    whole, half = (run(made, found, [one_target(weight=w)]) for w in (1.0, 0.5))
    for term in ("mask", "dice", "box", "giou"):
        assert half[term].item() == pytest.approx(whole[term].item() / 2, rel=1e-6)
    nothing = run(made, found, [one_target(weight=0.0)])
    sum(nothing.values()).backward()
    assert found.final.masks.grad.eq(0).all()
    assert (found.final.logits.grad[0].abs().sum(-1) == 0).sum() == 1  # the matched query rests


@pytest.mark.parametrize("kind", ["maskdino", "mask2former"])
def test_what_has_no_target_may_weigh_less(kind):
    """The class loss is that of the matched query plus `background` times that of the others."""
    made = recipe(kind)
    gradients = []
    for background in (1.0, 0.25, 0.0):
        found = sure_outputs(made, torch.full((Q - 1, 8, 8), -9.0))
        torch.manual_seed(0)
        losses = Criterion(made, CLASSES)(found, [one_target()], background=background)
        losses["class"].backward()
        gradients.append(found.final.logits.grad[0])
        others = {k: v.item() for k, v in losses.items() if k != "class"}
        assert others == pytest.approx(
            {k: v.item() for k, v in run(made, found, [one_target()]).items() if k in others}
        )
    torch.testing.assert_close(gradients[1][0], gradients[0][0])
    torch.testing.assert_close(gradients[1][1:], 0.25 * gradients[0][1:])
    assert gradients[0][1:].abs().sum() > 0
    assert gradients[2][1:].eq(0).all()


def test_only_things_have_box_losses_where_asked():
    made = recipe(box_things_only=True)
    found = outputs(made)
    stuff = run(made, found, [one_target()], things=[True, False, True])
    thing = run(made, found, [one_target()], things=[False, True, False])
    assert stuff["box"].item() == stuff["giou"].item() == 0
    assert thing["box"] > 0
    assert thing["mask"].item() == stuff["mask"].item()


def test_targets_of_a_larger_batch_divide_the_losses():
    made = recipe()
    found = outputs(made)
    alone = run(made, found, [one_target()])
    shared = run(made, found, [one_target()], count=4)
    for name, value in alone.items():
        assert shared[name].item() == pytest.approx(value.item() / 4, rel=1e-5), name


def test_masks_of_an_image_may_have_another_size():
    made = recipe()
    found = outputs(made, images=2)
    small = Targets.empty(4, 4)
    target = one_target()
    big = Targets(
        target.labels,
        target.masks.repeat_interleave(2, 1).repeat_interleave(2, 2),
        target.boxes_cxcywh,
        target.weights,
    )
    same = run(made, found, [target, small])["mask"].item()
    assert run(made, found, [big, small])["mask"].item() == pytest.approx(same, rel=0.1)


def test_half_precision_outputs_under_autocast_give_float32_losses():
    made = recipe()
    found = outputs(made)
    exact = run(made, found, [one_target()])
    for layer in found.layers:
        layer.masks, layer.logits = layer.masks.bfloat16(), layer.logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        rough = run(made, found, [one_target()])
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.01), name


@pytest.mark.parametrize(
    ("what", "value"),
    [("logits", math.nan), ("masks", math.nan), ("masks", math.inf), ("boxes_cxcywh", math.inf)],
)
def test_nan_in_a_cost_names_image_and_layer(what, value):
    made = recipe()
    found = outputs(made, images=2, names=("0", "1", "final"))
    with torch.no_grad():
        getattr(found.layers[1], what)[1].fill_(value)
    with pytest.raises(DivergedError) as caught:
        Criterion(made, CLASSES)(found, [one_target(), one_target()], image_ids=["a.jpg", "b.jpg"])
    assert "layer 1" in caught.value.what
    assert caught.value.where == "image b.jpg"


def test_infinite_logits_that_cost_nothing_are_found_in_the_loss():
    made = recipe()
    found = outputs(made)
    with torch.no_grad():
        found.layers[0].logits[0, 0] = math.inf
    losses = run(made, found, [one_target()])
    with pytest.raises(DivergedError, match="class_0"):
        check_finite(losses, ["a.jpg"])


def test_nan_in_a_loss_names_its_term_and_the_images():
    losses = {"class": torch.tensor(1.0), "dice_0_dn": torch.tensor(math.nan), "box": torch.tensor(2.0)}
    with pytest.raises(DivergedError, match="dice_0_dn") as caught:
        check_finite(losses, [7, "b.jpg"])
    assert "class" not in caught.value.what
    assert caught.value.where == "images 7, b.jpg"
    check_finite({"class": torch.tensor(1.0)}, [7])
    with pytest.raises(DivergedError, match="the sum"):
        check_finite({"a": torch.tensor(3e38), "b": torch.tensor(3e38)}, [])


def test_denoising_normalises_by_its_groups_and_has_its_names():
    made = recipe()
    found = outputs(made)
    copies = [
        LayerOutput(x.name, *(t.detach()[:, :1].repeat(1, 2, 1, 1)[..., : t.shape[-1]] if t.ndim == 4 else
                              t.detach()[:, :1].repeat(1, 2, 1) for t in (x.logits, x.masks, x.boxes_cxcywh)))
        for x in found.layers
    ]  # fmt: skip
    found.denoising = Denoising(copies, groups=2, slots=1)
    losses = run(made, found, [one_target()])
    layer = copies[-1]
    distance = (layer.boxes_cxcywh[0, 0] - one_target().boxes_cxcywh[0]).abs().sum()
    assert losses["box_dn"].item() == pytest.approx(5 * distance.item(), rel=1e-5)
    assert {"class_0_dn", "giou_dn", "mask_0_dn"} <= set(losses)


def test_the_same_seed_gives_the_same_losses():
    made = recipe()
    found = outputs(made)
    first, second = (run(made, found, [one_target()], seed=5) for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
