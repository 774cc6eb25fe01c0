"""Other looks: flipped and resized, brought back exactly, queries paired by their masks, scores by hand."""

import pytest
import torch

from gdseg.structures import Batch, LayerOutput
from gdseg.train.looks import agreed, brought_back, mirrored, resized, unflip


def batch(width: int = 32, full: int = 32) -> Batch:
    images = torch.rand(1, 3, 32, full)
    images[:, :, :, width:] = 0
    return Batch(["a"], images, [(32, width)], [(32, width)], [None])


@pytest.mark.parametrize("width", [32, 27])
def test_mirroring_twice_is_nothing_and_keeps_the_padding(width):
    made = batch(width)
    once = mirrored(made)
    assert torch.equal(once.images[..., :width], made.images[..., :width].flip(-1))
    assert not once.images[..., width:].any()
    assert torch.equal(mirrored(once).images, made.images)


@pytest.mark.parametrize("width", [32, 24, 26])
def test_masks_come_back_to_where_their_pixels_are(width):
    """A ramp over the columns: the value at a cell's centre x is f(x), of the mirrored image f(width - x)."""
    centres = 4 * torch.arange(8) + 2.0
    ramp = 3 * centres - 7
    flipped = (3 * (width - centres) - 7).expand(1, 8, 8)
    inside = centres < width - 2  # cells with neighbours on both sides
    inside[0] = width % 4 == 0
    torch.testing.assert_close(unflip(flipped, width / 32)[0, 0][inside], ramp[inside])


def column(*columns: int) -> torch.Tensor:
    mask = torch.full((8, 8), -5.0)
    mask[:, list(columns)] = 5.0
    return mask


def output(masks: list[torch.Tensor], probabilities: list[list[float]], softmax: bool, centres: list[float]):
    values = torch.tensor(probabilities)
    logits = values.log() if softmax else values.logit()
    boxes = torch.tensor([[x, 0.5, 0.25, 1.0] for x in centres])
    return LayerOutput("final", logits[None], torch.stack(masks)[None], boxes[None])


def test_pairs_are_averaged_and_what_is_alone_scores_half():
    first = output([column(0, 1), column(5, 6)], [[0.8, 0.1], [0.2, 0.6]], False, [0.125, 0.75])
    # mirrored, in another order: columns 0 and 1 lie at 7 and 6; the other object is not seen again
    second = output([column(2), column(6, 7)], [[0.3, 0.3], [0.4, 0.3]], False, [0.3, 0.9])
    found = agreed(first, [brought_back(second, first, batch(), True)], batch(), softmax=False)
    torch.testing.assert_close(found.logits[0].sigmoid(), torch.tensor([[0.6, 0.2], [0.1, 0.3]]))
    assert torch.equal(found.masks, first.masks)
    assert found.boxes_cxcywh is not None
    torch.testing.assert_close(found.boxes_cxcywh[0, :, 0], torch.tensor([(0.125 + 0.1) / 2, 0.75]))


def test_softmax_gives_the_lost_half_to_no_object():
    first = output([column(0, 1), column(5, 6)], [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], True, [0.1, 0.7])
    second = output([column(2), column(6, 7)], [[0.3, 0.3, 0.4], [0.4, 0.4, 0.2]], True, [0.3, 0.9])
    found = (
        agreed(first, [brought_back(second, first, batch(), True)], batch(), softmax=True)
        .logits[0]
        .softmax(-1)
    )
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.25, 0.15], [0.1, 0.3, 0.6]]))


def test_padding_is_the_first_views_alone():
    """Image of six columns of cells of eight: an object at its right edge is not smeared, and is found again."""
    seen = column(5)
    seen[:, 6:] = -3.0  # what a network says of padding
    first = output([seen], [[0.8, 0.1]], False, [0.7])
    second = output([column(0)], [[0.4, 0.3]], False, [0.05])
    found = agreed(first, [brought_back(second, first, batch(24), True)], batch(24), softmax=False)
    torch.testing.assert_close(found.logits[0].sigmoid(), torch.tensor([[0.6, 0.2]]))
    assert torch.equal(found.masks[0, 0], seen)


def test_three_looks_are_averaged_and_one_that_misses_counts_as_nothing():
    """By hand: seen thrice (0.9 + 0.6 + 0.3) / 3, seen twice (0.6 + 0.3 + 0) / 3; masks of the looks that saw it."""
    first = output([column(0, 1), column(5, 6)], [[0.9, 0.1], [0.6, 0.1]], False, [0.125, 0.75])
    both = output([column(5, 6), column(0, 1)], [[0.3, 0.1], [0.6, 0.1]], False, [0.78, 0.14])
    one = output([column(3), 2 * column(0, 1)], [[0.5, 0.1], [0.3, 0.1]], False, [0.4, 0.16])
    found = agreed(first, [both, one], batch(), softmax=False)
    torch.testing.assert_close(found.logits[0, :, 0].sigmoid(), torch.tensor([0.6, 0.3]))
    assert found.masks is not None
    assert found.boxes_cxcywh is not None
    torch.testing.assert_close(found.masks[0, 0], 4 / 3 * column(0, 1))
    torch.testing.assert_close(found.masks[0, 1], column(5, 6))
    torch.testing.assert_close(found.boxes_cxcywh[0, :, 0], torch.tensor([0.425 / 3, 0.765]))


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_a_resized_image_fills_the_same_share_and_shows_the_same(scale: float):
    """A ramp of the real-valued place stays this ramp, away from the edges; the padding stays zero."""
    ramp = (torch.arange(96) + 0.5)[:, None] + 2 * (torch.arange(96) + 0.5)
    images = torch.zeros(1, 1, 128, 128)
    images[:, :, :96, :96] = ramp
    made = Batch(["a"], images, [(96, 96)], [(96, 96)], [None])
    seen = resized(made, scale)
    side = round(128 * scale)
    assert seen.images.shape[-2:] == (side, side)
    assert seen.sizes == [(96 * side // 128, 96 * side // 128)]
    length = seen.sizes[0][0]
    assert not seen.images[..., length:, :].any()
    assert not seen.images[..., length:].any()
    expected = ((torch.arange(length) + 0.5)[:, None] + 2 * (torch.arange(length) + 0.5)) / scale
    inner = slice(2, length - 2)
    torch.testing.assert_close(seen.images[0, 0, inner, inner], expected[inner, inner])


def test_masks_of_another_size_come_back_to_the_first_looks():
    """A ramp over the columns, seen at twice the size and mirrored: 15 - 2 x at the first look's centres."""
    first = output([column(0)], [[0.5, 0.5]], False, [0.5])
    centres = 2 * torch.arange(16) + 1.0
    second = LayerOutput("final", first.logits, (2 * centres - 49).expand(1, 1, 16, 16), None)
    back = brought_back(second, first, batch(), True).masks
    assert back is not None
    own = 4 * torch.arange(8) + 2.0
    torch.testing.assert_close(back[0, 0, :, 1:-1], (15 - 2 * own).expand(8, 8)[:, 1:-1])
