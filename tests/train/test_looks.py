"""Other looks: mirrored and resized, brought back exactly, queries paired by their masks, scores by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gdseg.errors import RecipeError
from gdseg.recipe import Distill, Recipe
from gdseg.recipe_yaml import apply_overrides
from gdseg.structures import Batch, LayerOutput, Outputs
from gdseg.train.looks import Mean, all_looks, brought_back, mirrored, resized


def batch(width: int = 32, full: int = 32) -> Batch:
    images = torch.rand(1, 3, 32, full)
    images[:, :, :, width:] = 0
    return Batch(["a"], images, [(32, width)], [(32, width)], [None])


@pytest.mark.parametrize("width", [32, 27])
def test_mirroring_twice_is_nothing_and_keeps_the_padding(width: int) -> None:
    made = batch(width)
    once = mirrored(made)
    assert torch.equal(once.images[..., :width], made.images[..., :width].flip(-1))
    assert not once.images[..., width:].any()
    assert torch.equal(mirrored(once).images, made.images)


@pytest.mark.parametrize("width", [32, 24, 26])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.75, 1.25, 2.5])
def test_masks_come_back_to_where_their_pixels_are(width: int, flip: bool, scale: float) -> None:
    """f(x, y) = 3 x - 5 y - 7 at cells' centres; a look shows it at scaled places, of which x is mirrored."""
    seen = resized(batch(width), scale)
    (high, far), (tall, wide) = seen.images.shape[-2:], seen.sizes[0]
    y, x = (torch.arange(n // 4) * 4 + 2.0 for n in (high, far))
    factors = 32 / tall, width / wide
    ramp = 3 * factors[1] * ((wide - x) if flip else x) - 5 * factors[0] * y[:, None] - 7
    shares = (1.0, width / 32), (tall / high, wide / far)
    back = brought_back(ramp[None], torch.Size((8, 8)), *shares, flip)[0]
    own = torch.arange(8) * 4 + 2.0
    rows = slice(2, -2)  # cells with neighbours on all sides
    columns = [j for j in range(8) if 6 <= own[j] < width - 6]
    expected = (3 * own - 5 * own[:, None] - 7)[rows][:, columns]
    torch.testing.assert_close(back[rows][:, columns], expected, atol=1e-3, rtol=0)


def test_stripes_do_not_alias() -> None:
    """Stripes a pixel wide have at half the size the mean of both, not one of them."""
    made = batch()
    made.images[:] = torch.arange(32) % 2 * 200.0
    inner = resized(made, 0.5).images[..., :16, 2:14]
    assert (inner - 100).abs().max() < 30


@pytest.mark.parametrize(("scale", "size"), [(0.5, 48), (0.75, 72), (1.1, 106), (1.5, 144), (2.0, 192)])
def test_a_resized_image_has_this_size_and_shows_the_same(scale: float, size: int) -> None:
    """A ramp of the real-valued place stays this ramp, away from the edges; the padding stays zero."""
    places = torch.arange(96) + 0.5
    images = torch.zeros(1, 1, 96, 128)
    images[:, :, :, :96] = places[:, None] + 2 * places
    made = Batch(["a"], images, [(96, 96)], [(96, 96)], [None])
    seen = resized(made, scale)
    assert seen.sizes == [(size, size)]
    assert seen.images.shape[-2:] == (-(-size // 32) * 32,) * 2
    assert not seen.images[..., size:, :].any()
    assert not seen.images[..., size:].any()
    centres = (torch.arange(size) + 0.5) * 96 / size
    inner = slice(4, size - 4)
    expected = (centres[:, None] + 2 * centres)[inner, inner]
    torch.testing.assert_close(seen.images[0, 0, inner, inner], expected, atol=0.05, rtol=0)


def column(*columns: int) -> torch.Tensor:
    mask = torch.full((8, 8), -5.0)
    mask[:, list(columns)] = 5.0
    return mask


def output(
    masks: list[torch.Tensor], probabilities: list[list[float]], softmax: bool, centres: list[float]
) -> LayerOutput:
    values = torch.tensor(probabilities)
    logits = values.log() if softmax else values.logit()
    boxes = torch.tensor([[x, 0.5, 0.25, 1.0] for x in centres])
    return LayerOutput("final", logits[None], torch.stack(masks)[None], boxes[None])


def mean(first: LayerOutput, *mirror: LayerOutput, width: int = 32, softmax: bool = False) -> LayerOutput:
    """Of a look and of others, all mirrored."""
    made = batch(width)
    sums = Mean(first, made, softmax)
    for look in mirror:
        sums.add(look, made, True)
    return sums.output()


def test_pairs_are_averaged_and_what_is_alone_scores_half() -> None:
    first = output([column(0, 1), column(5, 6)], [[0.8, 0.1], [0.2, 0.6]], False, [0.125, 0.75])
    # mirrored, in another order: columns 0 and 1 lie at 7 and 6; the other object is not seen again
    second = output([column(2), column(6, 7)], [[0.3, 0.3], [0.4, 0.3]], False, [0.3, 0.9])
    found = mean(first, second)
    torch.testing.assert_close(found.logits[0].sigmoid(), torch.tensor([[0.6, 0.2], [0.1, 0.3]]))
    assert torch.equal(found.masks, first.masks)
    assert found.boxes_cxcywh is not None
    torch.testing.assert_close(found.boxes_cxcywh[0, :, 0], torch.tensor([(0.125 + 0.1) / 2, 0.75]))


def test_softmax_gives_the_lost_part_to_no_object() -> None:
    first = output([column(0, 1), column(5, 6)], [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], True, [0.1, 0.7])
    second = output([column(2), column(6, 7)], [[0.3, 0.3, 0.4], [0.4, 0.4, 0.2]], True, [0.3, 0.9])
    found = mean(first, second, softmax=True).logits[0].softmax(-1)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.25, 0.15], [0.1, 0.3, 0.6]]))
    third = mean(first, second, second, softmax=True).logits[0].softmax(-1)
    torch.testing.assert_close(third, torch.tensor([[1.6, 0.9, 0.5], [0.2, 0.6, 2.2]]) / 3)


def test_padding_is_the_first_views_alone() -> None:
    """Image of six columns of cells of eight: an object at its right edge is not smeared, and is found again."""
    seen = column(5)
    seen[:, 6:] = -3.0  # what a network says of padding
    first = output([seen], [[0.8, 0.1]], False, [0.7])
    second = output([column(0)], [[0.4, 0.3]], False, [0.05])
    found = mean(first, second, width=24)
    torch.testing.assert_close(found.logits[0].sigmoid(), torch.tensor([[0.6, 0.2]]))
    assert found.masks is not None
    assert torch.equal(found.masks[0, 0], seen)


def test_three_looks_are_averaged_and_one_that_misses_counts_as_nothing() -> None:
    """By hand: seen thrice (0.9 + 0.6 + 0.3) / 3, seen twice (0.6 + 0.3 + 0) / 3; masks of those that saw it."""
    first = output([column(0, 1), column(5, 6)], [[0.9, 0.1], [0.6, 0.1]], False, [0.125, 0.75])
    both = output([column(1, 2), column(6, 7)], [[0.3, 0.1], [0.6, 0.1]], False, [0.22, 0.86])
    one = output([column(3), 2 * column(6, 7)], [[0.5, 0.1], [0.3, 0.1]], False, [0.4, 0.84])
    found = mean(first, both, one)
    torch.testing.assert_close(found.logits[0, :, 0].sigmoid(), torch.tensor([0.6, 0.3]))
    assert found.masks is not None
    assert found.boxes_cxcywh is not None
    torch.testing.assert_close(found.masks[0, 0], 4 / 3 * column(0, 1))
    torch.testing.assert_close(found.masks[0, 1], column(5, 6))
    torch.testing.assert_close(found.boxes_cxcywh[0, :, 0], torch.tensor([0.425 / 3, 0.765]))


class Seeing:
    """A perfect network: each channel holds one object, whatever its size; queries come in another order."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.asked = scores, []

    def __call__(self, images: torch.Tensor, sizes: list[tuple[int, int]]) -> Outputs:
        score = self.scores[len(self.asked)]
        self.asked.append((tuple(images.shape[-2:]), sizes))
        order = [0, 1, 2] if len(self.asked) % 2 else [2, 0, 1]
        pixels = images.float()[:, order] / 200
        masks = (F.avg_pool2d(pixels, 4) - 0.5) * 20
        boxes = torch.stack([torch.stack([self._box(one) for one in image]) for image in pixels])
        logits = torch.full((len(images), 3, 2), score).logit()
        return Outputs([LayerOutput("final", logits, masks, boxes)])

    @staticmethod
    def _box(pixels: torch.Tensor) -> torch.Tensor:
        """Of the centre and the spread, which need no edge."""
        h, w = pixels.shape
        total = pixels.sum()
        y = (pixels.sum(1) * (torch.arange(h) + 0.5)).sum() / total
        x = (pixels.sum(0) * (torch.arange(w) + 0.5)).sum() / total
        wide = (pixels.sum(0) * (torch.arange(w) + 0.5 - x) ** 2).sum() / total
        tall = (pixels.sum(1) * (torch.arange(h) + 0.5 - y) ** 2).sum() / total
        return torch.stack([x / w, y / h, 2 * wide.sqrt() / w, 2 * tall.sqrt() / h])


def discs(size: tuple[int, int], seed: int) -> torch.Tensor:
    """uint8 [3, h, w]: in each channel one disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    made = []
    for _ in range(3):
        radius = rng.uniform(14, 20)
        cy, cx = (rng.uniform(radius, n - radius) for n in size)
        made.append((np.hypot(y - cy, x - cx) < radius) * 200)
    return torch.tensor(np.stack(made), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("rule", "looks"),
    [
        (Distill(teacher_flip=True), [(1.0, False), (1.0, True)]),
        (Distill(teacher_scales=[1.5]), [(1.0, False), (1.5, False)]),
        (Distill(teacher_scales=[0.75, 2.0], teacher_flip=True),
         [(1.0, False), (1.0, True), (0.75, False), (0.75, True), (2.0, False), (2.0, True)]),
    ],
)  # fmt: skip
def test_a_perfect_network_finds_everything_again(rule: Distill, looks: list[tuple[float, bool]]) -> None:
    """Padded images of two sizes: all looks agree, each is asked at its size, and the scores are their mean."""
    assert rule.looks == looks
    sizes = [(80, 112), (96, 67)]
    images = torch.zeros(2, 3, 96, 128, dtype=torch.uint8)
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = discs((h, w), i)
    made = Batch(["a", "b"], images, sizes, sizes, [None, None])
    scores = [0.9, 0.8, 0.7, 0.5, 0.4, 0.6][: len(looks)]
    network = Seeing(scores)
    first = network(made.images, sizes).final
    found = all_looks(first, network, made, Recipe(distill=rule), False)  # type: ignore[arg-type]
    for (scale, _), (canvas, asked) in zip(looks, network.asked, strict=True):
        assert asked == [(round(h * scale), round(w * scale)) for h, w in sizes]
        assert canvas == tuple(-(-max(side) // 32) * 32 for side in zip(*asked, strict=True))
    torch.testing.assert_close(found.logits.sigmoid(), torch.full((2, 3, 2), sum(scores) / len(scores)))
    assert first.masks is not None
    assert found.masks is not None
    both, either = ((first.masks > 0) & (found.masks > 0)), ((first.masks > 0) | (found.masks > 0))
    assert (both.sum((-1, -2)) / either.sum((-1, -2))).min() > 0.85  # half a cell of rims of 3 to 5 cells
    assert first.boxes_cxcywh is not None
    assert found.boxes_cxcywh is not None
    torch.testing.assert_close(found.boxes_cxcywh, first.boxes_cxcywh, atol=0.005, rtol=0)


def test_boxes_that_are_shares_of_the_image_are_mirrored_in_it() -> None:
    first = output([column(0, 1)], [[0.8, 0.1]], False, [0.2])
    second = output([column(4, 5)], [[0.8, 0.1]], False, [0.7])
    sums = Mean(first, batch(24), False, image_boxes=True)
    sums.add(second, batch(24), True)
    boxes = sums.output().boxes_cxcywh
    assert boxes is not None
    assert boxes[0, 0, 0] == pytest.approx((0.2 + 0.3) / 2)


def test_one_look_is_what_was_seen() -> None:
    first = output([column(0)], [[0.5, 0.5]], False, [0.5])
    assert all_looks(first, Seeing([]), batch(), replace(Recipe(), distill=Distill()), False) is first  # type: ignore[arg-type]


@pytest.mark.parametrize("scales", ["[1.0]", "[1.5, 1.5]"])
def test_a_look_is_not_taken_twice(scales: str) -> None:
    with pytest.raises(RecipeError, match="teacher_scales must not repeat"):
        apply_overrides(Recipe(), [f"distill.teacher_scales={scales}"])
