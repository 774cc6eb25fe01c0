"""The criterion against the papers' formulas in float64, one image, layer, query and target at a time."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from gdseg.draws import Draws
from gdseg.losses.criterion import Criterion
from gdseg.losses.matcher import matching_costs
from gdseg.losses.truth import Layers, Truth
from gdseg.recipe import Recipe
from gdseg.structures import Denoising, LayerOutput, Outputs, Targets


def bilinear(image, x, y):
    """Value of image [H, W] at (x, y) in 0..1, zero outside."""
    H, W = image.shape
    x, y = x * W - 0.5, y * H - 0.5
    x0, y0 = math.floor(x), math.floor(y)
    value = 0.0
    for row, row_share in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, share in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= row < H and 0 <= column < W:
                value = value + image[row, column] * (row_share * share)
    return value


def at(image, points):
    return torch.stack(
        [torch.as_tensor(bilinear(image, x, y), dtype=torch.float64) for x, y in points.tolist()]
    )


def certain(target, points):
    """Which points are outside the ignore region."""
    if target.ignore is None:
        return torch.ones(len(points), dtype=torch.bool)
    H, W = target.ignore.shape
    return torch.tensor(
        [not target.ignore[int(y * H), int(x * W)] for x, y in points.tolist()], dtype=torch.bool
    )


def entropy(x, t, keep):
    x, t = x[keep], t[keep]
    if len(x) == 0:
        return x.sum()
    return (-t * torch.nn.functional.logsigmoid(x) - (1 - t) * torch.nn.functional.logsigmoid(-x)).mean()


def dice(x, t, keep):
    p, t = x[keep].sigmoid(), t[keep]
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def giou(a, b):
    """GIoU of two cxcywh boxes, as a float64 tensor."""
    ax0, ay0, ax1, ay1 = a[0] - a[2] / 2, a[1] - a[3] / 2, a[0] + a[2] / 2, a[1] + a[3] / 2
    bx0, by0, bx1, by1 = b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2
    low, high = torch.minimum, torch.maximum
    inside = (low(ax1, bx1) - high(ax0, bx0)).clamp(min=0) * (low(ay1, by1) - high(ay0, by0)).clamp(min=0)
    union = a[2] * a[3] + b[2] * b[3] - inside
    hull = (high(ax1, bx1) - low(ax0, bx0)) * (high(ay1, by1) - low(ay0, by0))
    return inside / (union + 1e-6) - (hull - union) / (hull + 1e-6)


def focal(x, positive, alpha, gamma):
    p = x.sigmoid()
    if positive:
        return -alpha * (1 - p) ** gamma * p.log()
    return -(1 - alpha) * p**gamma * (1 - p).log()


def cost(recipe, layer, b, target, points):
    """Matching cost [Q, N] of one layer and image; points [P, 2]."""
    loss, keep = recipe.loss, certain(target, points)
    Q = layer.logits.shape[1]
    costs = torch.zeros(Q, len(target), dtype=torch.float64)
    masks = [at(mask.double(), points) for mask in target.masks]
    for q in range(Q):
        logits, x = layer.logits[b, q].double(), at(layer.masks[b, q].double(), points)
        for n, label in enumerate(target.labels.tolist()):
            if recipe.decoder.kind == "mask2former":
                costs[q, n] = -loss.class_cost * logits.softmax(-1)[label]
            else:
                p, box = logits[label].sigmoid(), layer.boxes_cxcywh[b, q].double()
                positive = -loss.focal_alpha * (1 - p) ** loss.focal_gamma * (p + 1e-8).log()
                negative = -(1 - loss.focal_alpha) * p**loss.focal_gamma * (1 - p + 1e-8).log()
                truth = target.boxes_cxcywh[n].double()
                costs[q, n] = loss.class_cost * (positive - negative)
                costs[q, n] += loss.box_cost * (box - truth).abs().sum() - loss.giou_cost * giou(box, truth)
            costs[q, n] += loss.mask_cost * entropy(x, masks[n], keep) + loss.dice_cost * dice(
                x, masks[n], keep
            )
    return costs


def solve(costs):
    rows, columns = linear_sum_assignment(costs.detach().numpy())
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def choose(mask, over, random, keep):
    """PointRend's points of one mask: the `keep` of `over` with logits nearest 0, and the random ones."""
    order = at(mask, over).abs().argsort()[:keep]
    return torch.cat([over[order], random])


def ignored(target, mask, overlap):
    """Whether more than `overlap` of a predicted mask (logits [h, w]) lies in the ignore region."""
    if target.ignore is None:
        return False
    h, w = mask.shape
    H, W = target.ignore.shape
    inside = (mask > 0).double()
    share = target.ignore.double().reshape(h, H // h, w, W // w).mean(dim=(1, 3))
    return bool((inside * share).sum() > overlap * inside.sum())


def losses(recipe, num_classes, layer, targets, pairs, points, number, drop=True):
    """Weighted terms of one layer; pairs: [(query, target)] an image; points: [P, 2] a pair, in order."""
    loss = recipe.loss
    zero = layer.logits.sum() * 0.0
    out = dict.fromkeys(["class", "mask", "dice", "box", "giou"], zero.double())
    share, place = 0.0, 0
    for b, target in enumerate(targets):
        matched = dict(pairs[b])
        for q in range(layer.logits.shape[1]):
            logits, n = layer.logits[b, q].double(), matched.get(q)
            if n is None and drop and ignored(target, layer.masks[b, q].detach(), loss.ignore_overlap):
                continue
            weight = 1.0 if n is None else target.weights[n].item()
            if recipe.softmax_classes:
                label = num_classes if n is None else int(target.labels[n])
                of_class = loss.no_object if n is None else 1.0
                out["class"] = out["class"] - weight * of_class * logits.log_softmax(-1)[label]
                share += of_class
            else:
                for c in range(num_classes):
                    positive = n is not None and c == int(target.labels[n])
                    value = focal(logits[c], positive, loss.focal_alpha, loss.focal_gamma)
                    out["class"] = out["class"] + weight * value / number
        for q, n in pairs[b]:
            weight, where = target.weights[n].item() / number, points[place]
            place += 1
            x, t, keep = (
                at(layer.masks[b, q].double(), where),
                at(target.masks[n].double(), where),
                certain(target, where),
            )
            out["mask"] = out["mask"] + weight * entropy(x, t, keep)
            out["dice"] = out["dice"] + weight * dice(x, t, keep)
            if layer.boxes_cxcywh is not None:
                box, truth = layer.boxes_cxcywh[b, q].double(), target.boxes_cxcywh[n].double()
                out["box"] = out["box"] + weight * (box - truth).abs().sum()
                out["giou"] = out["giou"] + weight * (1 - giou(box, truth))
    if recipe.softmax_classes:
        out["class"] = out["class"] / share
    weights = {k: getattr(loss, f"{k}_weight") for k in out}
    terms = (
        out if layer.boxes_cxcywh is not None else {k: v for k, v in out.items() if k not in ("box", "giou")}
    )
    return {k: weights[k] * v for k, v in terms.items()}


CLASSES, P, SIZE, CANVAS = 3, 12, (6, 8), (12, 16)


class Kept(Draws):
    """Random draws that are remembered by tag and layer."""

    def __init__(self):
        self.seen = {}

    def rand(self, tag, layers, shape, device):
        drawn = super().rand(tag, layers, shape, device)
        self.seen |= {(tag, layer): drawn[i] for i, layer in enumerate(layers)}
        return drawn

    def points(self, masks, layer, keep):
        """The points of each row of masks [R, h, w]."""
        drawn = zip(masks, self.seen["over", layer], self.seen["rand", layer], strict=True)
        return [choose(mask.detach().double(), over, random, keep) for mask, over, random in drawn]


def make_target(count, weights=False, ignore=False):
    masks = torch.rand(count, *CANVAS) < 0.4
    share = torch.rand(count) if weights else torch.ones(count)
    region = None
    if ignore:
        region = torch.zeros(CANVAS, dtype=torch.bool)
        region[:, : CANVAS[1] // 2] = True
    return Targets(torch.randint(CLASSES, (count,)), masks, torch.rand(count, 4) * 0.4 + 0.2, share, region)


def make_layer(name, kind, queries, softmax):
    masks = torch.randn(3, queries, *SIZE)
    masks[:, ::2, :, SIZE[1] // 2 :] -= 4  # every other query looks at the left half, which may be uncertain
    boxes = (torch.rand(3, queries, 4) * 0.4 + 0.2).requires_grad_() if kind == "maskdino" else None
    return LayerOutput(
        name, torch.randn(3, queries, CLASSES + softmax, requires_grad=True), masks.requires_grad_(), boxes
    )


def make_recipe(kind, class_loss):
    recipe = Recipe()
    recipe.decoder.kind, recipe.decoder.class_loss = kind, class_loss
    recipe.loss.points = P
    recipe.loss.class_weight, recipe.loss.mask_weight, recipe.loss.dice_weight = 3.0, 0.7, 1.3
    recipe.loss.box_weight, recipe.loss.giou_weight = 0.4, 2.5
    recipe.loss.class_cost, recipe.loss.mask_cost, recipe.loss.dice_cost = 1.5, 2.0, 0.5
    return recipe


COUNTS = {"plain": (2, 3, 1), "an empty image": (3, 0, 2), "more targets than queries": (7, 1, 2)}
KINDS = [("mask2former", "focal"), ("maskdino", "focal"), ("maskdino", "softmax")]


@pytest.mark.parametrize(("weights", "ignore"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize(("kind", "class_loss"), KINDS)
def test_all_layers_equal_the_naive_loops(kind, class_loss, counts, weights, ignore):
    torch.manual_seed(sum(counts) + 10 * weights)
    recipe = make_recipe(kind, class_loss)
    layers = [make_layer(name, kind, 5, recipe.softmax_classes) for name in ("0", "final", "interm")]
    targets = [make_target(n, weights, ignore and b != 1) for b, n in enumerate(counts)]
    draws, number = Kept(), sum(counts)
    losses_found = Criterion(recipe, CLASSES)(Outputs(layers[:2], layers[2]), targets, draws=draws)
    total = 0.0
    for layer in layers:
        match_points = draws.seen["match", layer.name]
        pairs = [solve(cost(recipe, layer, b, t, match_points[b])) for b, t in enumerate(targets)]
        rows = torch.stack([layer.masks[b, q] for b, of in enumerate(pairs) for q, _ in of])
        points = draws.points(rows, layer.name, int(0.75 * P))
        for term, value in losses(recipe, CLASSES, layer, targets, pairs, points, number).items():
            found = losses_found.pop(term if layer.name == "final" else f"{term}_{layer.name}")
            assert found.item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), (layer.name, term)
            total = total + value - found
    assert not losses_found
    total.backward()  # the gradients of both are equal, so those of the difference vanish
    for layer in layers:
        for tensor in (layer.logits, layer.masks, layer.boxes_cxcywh):
            assert tensor is None or tensor.grad.abs().max() < 1e-5


@pytest.mark.parametrize(("kind", "class_loss"), KINDS)
def test_costs_equal_the_naive_loops(kind, class_loss):
    torch.manual_seed(0)
    recipe = make_recipe(kind, class_loss)
    layers = [make_layer(name, kind, 4, recipe.softmax_classes) for name in ("0", "final")]
    targets = [make_target(2, ignore=True), make_target(0), make_target(6)]
    draws = Kept()
    costs = matching_costs(Layers.of(layers), Truth.of(targets), recipe, draws)
    for i, layer in enumerate(layers):
        for b, target in enumerate(targets):
            expected = cost(recipe, layer, b, target, draws.seen["match", layer.name][b])
            torch.testing.assert_close(costs[i, b, :, : len(target)].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", [None, [[0, 1], [2, 0], []]])
@pytest.mark.parametrize("denoising", ["mask", "box"])
@pytest.mark.parametrize("class_loss", ["focal", "softmax"])
def test_denoising_equals_the_naive_loops(class_loss, denoising, kept):
    torch.manual_seed(3)
    recipe = make_recipe("maskdino", class_loss)
    recipe.decoder.denoising = denoising
    groups, slots = 2, 3 if kept is None else 2
    targets = [make_target(2, True, True), make_target(3, True), make_target(0)]
    layers = [make_layer(name, "maskdino", 5, recipe.softmax_classes) for name in ("0", "final")]
    noised = [make_layer(name, "maskdino", groups * slots, recipe.softmax_classes) for name in ("0", "final")]
    draws = Kept()
    indices = None if kept is None else [torch.tensor(k, dtype=torch.int64) for k in kept]
    outputs = Outputs(layers, None, Denoising(noised, groups, slots, indices))
    found = Criterion(recipe, CLASSES)(outputs, targets, draws=draws)
    chosen = kept or [range(len(t)) for t in targets]
    pairs = [[(g * slots + i, n) for g in range(groups) for i, n in enumerate(k)] for k in chosen]
    rows = [(b, q) for b, of in enumerate(pairs) for q, _ in of]
    for layer in noised:
        suffix = "_dn" if layer.name == "final" else f"_{layer.name}_dn"
        points = [torch.rand(P, 2)] * len(rows)
        if denoising == "mask":
            masks = torch.stack([layer.masks[b, q] for b, q in rows])
            points = draws.points(masks, suffix[1:] if layer.name != "final" else "final_dn", int(0.75 * P))
        expected = losses(recipe, CLASSES, layer, targets, pairs, points, 5 * groups, drop=False)
        for term, value in expected.items():
            if denoising == "box" and term in ("mask", "dice"):
                assert term + suffix not in found
            else:
                assert found[term + suffix].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), term
