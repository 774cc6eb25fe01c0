"""Copy-paste: pixels, masks, boxes and order of what was pasted, by hand; purity in (seed, step)."""

from dataclasses import replace

import torch

from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Targets
from gdseg.train.copy_paste import as_trained, paste_labelled, paste_unlabelled


def targets(squares: list[tuple[int, int, int, int]], size: int, **extra: torch.Tensor) -> Targets:
    """Rectangles y0, x0, y1, x1 on a canvas of size x size; labels 0, 1, 2 .."""
    masks = torch.zeros(len(squares), size, size, dtype=torch.bool)
    for mask, (y0, x0, y1, x1) in zip(masks, squares, strict=True):
        mask[y0:y1, x0:x1] = True
    labels = torch.arange(len(squares))
    return Targets(labels, masks, masks_to_boxes_cxcywh(masks), torch.ones(len(squares)), **extra)


def batch(found: list[Targets | None], value: float, size: int = 32) -> Batch:
    count = len(found)
    images = torch.full((count, 3, size, size), value)
    return Batch(list(range(count)), images, [(size, size)] * count, [(size, size)] * count, found)


def recipe(labelled: float = 0.0, unlabelled: float = 0.0) -> Recipe:
    recipe = Recipe()
    recipe.augment.copy_paste, recipe.distill.copy_paste = labelled, unlabelled
    return recipe


def step_that_pastes(source: Batch, below: Targets, options: Recipe) -> tuple[Batch, Targets, int]:
    for step in range(20):
        mixed, found = paste_unlabelled(batch([None], 7.0), [below], source, options, step)
        if len(found[0]) != len(below) or not torch.equal(found[0].masks, below.masks):
            return mixed, found[0], step
    raise AssertionError("nothing was pasted in 20 steps")


def test_an_object_comes_in_front_at_the_pseudo_labels_stride() -> None:
    source = batch([targets([(8, 8, 24, 24)], 32)], 200.0)
    below = targets([(0, 0, 4, 4), (3, 3, 5, 5), (2, 2, 6, 6)], 8)  # stride 4; the last two are covered
    below.scores = torch.tensor([0.5, 0.6, 0.7])
    below.ignore = torch.zeros(8, 8, dtype=torch.bool)
    below.ignore[5] = True
    mixed, found, _ = step_that_pastes(source, below, recipe(unlabelled=1.0))
    assert mixed.strong is not None
    assert (mixed.strong[0, :, 8:24, 8:24] == 200.0).all()
    assert mixed.strong.eq(200.0).sum() == 3 * 16 * 16
    assert mixed.strong.eq(7.0).sum() == 3 * (32 * 32 - 16 * 16)
    assert (mixed.images == 7.0).all()  # the teacher's view is as it was
    front, behind = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    front[2:6, 2:6] = True
    behind[0:4, 0:4] = True
    behind &= ~front
    assert torch.equal(found.masks, torch.stack([front, behind]))
    assert found.labels.tolist() == [0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(found.boxes_cxcywh[0], torch.tensor([0.5, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(found.boxes_cxcywh[1], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    expected = below.ignore & ~front
    assert torch.equal(found.ignore, expected)


def test_what_is_not_covered_keeps_its_box_and_nothing_is_shared_with_the_input() -> None:
    source = batch([targets([(16, 16, 32, 32)], 32)], 200.0)
    below = targets([(0, 0, 2, 2)], 8)
    below.boxes_cxcywh = torch.tensor([[0.1, 0.2, 0.3, 0.4]])  # of the box head
    before = below.masks.clone()
    _, found, step = step_that_pastes(source, below, recipe(unlabelled=1.0))
    torch.testing.assert_close(found.boxes_cxcywh[1], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert torch.equal(below.masks, before)
    again = paste_unlabelled(batch([None], 7.0), [below], source, recipe(unlabelled=1.0), step)[1][0]
    assert torch.equal(again.masks, found.masks)


def test_labelled_images_get_each_others_objects_never_their_own() -> None:
    images = [targets([(0, 0, 8, 8), (8, 8, 16, 16)], 32), targets([(20, 20, 32, 32)], 32)]
    source = batch(list(images), 0.0)
    source.images[1] = 50.0
    counts = set()
    for step in range(30):
        mixed = paste_labelled(source, recipe(labelled=1.0), step)
        one, other = mixed.targets
        assert one is not None
        assert other is not None
        counts.add((len(one), len(other)))
        assert len(one) in (2, 3)
        assert (mixed.images[0, 0, 20:, 20:] == (50.0 if len(one) == 3 else 0.0)).all()
        assert (mixed.images[1, 0] == 0).sum() == 64 * (len(other) - 1)
    assert {(3, 1), (2, 2), (3, 2)} <= counts


def test_little_of_a_covered_object_is_ignored() -> None:
    """One cell of 20 stays in sight: neither an object to learn nor background."""
    below = targets([(1, 2, 6, 6)], 8)
    below.masks[0, 1, 3:] = False
    _, found, _ = step_that_pastes(
        batch([targets([(8, 8, 24, 24)], 32)], 200.0), below, recipe(unlabelled=1.0)
    )
    assert len(found) == 1
    assert found.ignore is not None
    assert found.ignore.nonzero().tolist() == [[1, 2]]


def test_each_image_that_is_to_gets_objects() -> None:
    """Of two with one object each: half of the objects are taken, never from the image itself."""
    images = [targets([(0, 0, 8, 8)], 32), targets([(20, 20, 32, 32)], 32)]
    got = [
        len(found)
        for step in range(200)
        for found in paste_labelled(batch(list(images), 0.0), recipe(labelled=1.0), step).targets
        if found is not None
    ]
    assert abs(sum(got) / len(got) - 1.5) < 0.1


def test_off_by_default_and_empty_sources() -> None:
    source = batch([Targets.empty(32, 32)], 200.0)
    below = targets([(0, 0, 4, 4)], 8)
    for options in (recipe(), recipe(unlabelled=1.0)):
        mixed, found = paste_unlabelled(batch([None], 7.0), [below], source, options, 0)
        assert torch.equal(found[0].masks, below.masks)
        assert mixed.strong is not None
        assert (mixed.strong == 7.0).all()


def padded(found: Targets, value: float, width: int) -> Batch:
    made = batch([found], value)
    made.images[..., width:] = 0
    return replace(made, sizes=[(32, width)])


def paste_all(onto: Batch, below: Targets, source: Batch, **keys: str) -> tuple[Batch, Targets]:
    options = recipe(unlabelled=1.0)
    for name, value in keys.items():
        setattr(options.loss, name, value)
    for step in range(40):
        mixed, found = paste_unlabelled(onto, [below], source, options, step)
        if len(found[0]) > len(below):
            return mixed, found[0]
    raise AssertionError("nothing was pasted")


def test_padding_gets_no_objects() -> None:
    source = batch([targets([(8, 8, 24, 24)], 32)], 200.0)
    mixed, found = paste_all(padded(Targets.empty(8, 8), 7.0, 20), Targets.empty(8, 8), source)
    assert mixed.strong is not None
    assert not mixed.strong[..., 20:].any()
    assert not found.masks[..., 5:].any()
    torch.testing.assert_close(found.boxes_cxcywh, torch.tensor([[14 / 32, 0.5, 12 / 32, 0.5]]))


def test_ignored_pixels_come_along_with_the_object() -> None:
    above = targets([(8, 8, 24, 24)], 32)
    above.ignore = torch.zeros(32, 32, dtype=torch.bool)
    above.ignore[:, 20:] = True
    below = targets([(0, 0, 1, 1)], 8)
    _, found = paste_all(batch([None], 7.0), below, batch([above], 200.0))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 5] = True
    assert found.ignore is not None
    assert torch.equal(found.ignore, expected)


def test_a_whole_object_keeps_its_own_box() -> None:
    above = targets([(8, 8, 24, 24)], 32)
    above.boxes_cxcywh = torch.tensor([[0.51, 0.49, 0.52, 0.48]])  # its polygon's
    _, found = paste_all(batch([None], 7.0), Targets.empty(8, 8), batch([above], 200.0))
    torch.testing.assert_close(found.boxes_cxcywh, above.boxes_cxcywh)


def test_boxes_are_shares_of_what_the_recipe_says() -> None:
    """An image 20 of 32 pixels wide: the same object, in place and pasted, has the same box of the image."""
    above = targets([(8, 4, 24, 14)], 32)
    wanted = torch.tensor([[9 / 20, 0.5, 10 / 20, 0.5]])
    above.boxes_cxcywh = wanted.clone()  # as the loader makes it
    options = Recipe()
    options.loss.boxes_relative_to = "image"
    source, onto = padded(above, 200.0, 20), padded(above, 7.0, 20)
    _, found = paste_all(onto, Targets.empty(32, 32), source, boxes_relative_to="image")
    (trained,) = as_trained([found], onto, options)
    torch.testing.assert_close(trained.boxes_cxcywh, wanted)
    pseudo = targets([(8, 4, 24, 14)], 8 * 4)
    torch.testing.assert_close(as_trained([pseudo], onto, options)[0].boxes_cxcywh, wanted)
    assert torch.equal(as_trained([pseudo], onto, Recipe())[0].boxes_cxcywh, pseudo.boxes_cxcywh)
