"""The mirrored view: flipped and brought back exactly, queries paired by their masks, scores by hand."""

import pytest
import torch

from gdseg.structures import Batch, LayerOutput
from gdseg.train.two_views import agreed, mirrored, unflip


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
    found = agreed(first, second, batch(), softmax=False)
    torch.testing.assert_close(found.logits[0].sigmoid(), torch.tensor([[0.6, 0.2], [0.1, 0.3]]))
    assert torch.equal(found.masks, first.masks)
    assert found.boxes_cxcywh is not None
    torch.testing.assert_close(found.boxes_cxcywh[0, :, 0], torch.tensor([(0.125 + 0.1) / 2, 0.75]))


def test_softmax_gives_the_lost_half_to_no_object():
    first = output([column(0, 1), column(5, 6)], [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], True, [0.1, 0.7])
    second = output([column(2), column(6, 7)], [[0.3, 0.3, 0.4], [0.4, 0.4, 0.2]], True, [0.3, 0.9])
    found = agreed(first, second, batch(), softmax=True).logits[0].softmax(-1)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.25, 0.15], [0.1, 0.3, 0.6]]))


def test_padding_is_the_first_views_alone():
    """Image of six columns of cells of eight: an object at its right edge is not smeared, and is found again."""
    seen = column(5)
    seen[:, 6:] = -3.0  # what a network says of padding
    first = output([seen], [[0.8, 0.1]], False, [0.7])
    second = output([column(0)], [[0.4, 0.3]], False, [0.05])
    found = agreed(first, second, batch(24), softmax=False)
    torch.testing.assert_close(found.logits[0].sigmoid(), torch.tensor([[0.6, 0.2]]))
    assert torch.equal(found.masks[0, 0], seen)
