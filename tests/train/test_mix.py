"""Mixing among unlabelled images: each pixel keeps the label it had, whatever is pasted or cut."""

import torch

from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.recipe import Recipe
from gdseg.structures import Batch, Targets
from gdseg.train.mix import mix_unlabelled

SIZE, STRIDE = 64, 4
THINGS = [True, True, False, False]


def made(task: str = "instance", **keys: float) -> Recipe:
    recipe = Recipe()
    recipe.task = task
    for name, value in keys.items():
        setattr(recipe.distill, name, value)
    return recipe


def scene(number: int) -> Targets:
    """A square of its own label and, elsewhere, an ignored column; on cells of four pixels."""
    masks = torch.zeros(2, SIZE // STRIDE, SIZE // STRIDE, dtype=torch.bool)
    masks[0, 2:8, 2 * number : 2 * number + 6] = True
    masks[1, 10:16, 8 - 2 * number : 14 - 2 * number] = True
    ignore = torch.zeros_like(masks[0])
    ignore[0:2, 2 * number : 2 * number + 2] = True
    labels = torch.tensor([number % 2, 1 - number % 2])
    boxes, sure = masks_to_boxes_cxcywh(masks), torch.tensor([0.9, 0.5]) - 0.1 * number
    return Targets(labels, masks, boxes, sure.clone(), ignore, sure.clone())


def painted(targets: list[Targets]) -> Batch:
    """Images whose pixels say what they show: 10 * image + 1 + instance, 10 * image + 9 ignored."""
    images = torch.zeros(len(targets), 1, SIZE, SIZE)
    for b, each in enumerate(targets):
        cells = torch.full((SIZE // STRIDE, SIZE // STRIDE), 10.0 * b)
        for i, mask in enumerate(each.masks):
            cells[mask] = 10 * b + 1 + i
        if each.ignore is not None:
            cells[each.ignore] = 10 * b + 9
        images[b, 0] = cells.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)
    sizes = [(SIZE, SIZE)] * len(targets)
    return Batch(list(range(len(targets))), images.clone(), sizes, sizes, [None] * len(targets), images)


def check(batch: Batch, found: list[Targets], originals: list[Targets]) -> tuple[int, int]:
    """Every mask is where its instance's paint is, and paint in no mask is ignored.

    Such paint is ignored paint, or less than a tenth of an instance. Returns how many images are mixed, and of
    how many instances so little remains.
    """
    assert batch.strong is not None
    mixed = remains = 0
    for b, targets in enumerate(found):
        cells = batch.strong[b, 0, ::STRIDE, ::STRIDE]
        mixed += len({int(value) // 10 for value in cells.unique()}) > 1
        for mask, label, weight, score, box in zip(
            targets.masks, targets.labels, targets.weights, targets.scores, targets.boxes_cxcywh, strict=True
        ):
            (paint,) = set(cells[mask].int().tolist())
            image, instance = divmod(paint, 10)
            assert torch.equal(mask, cells == paint)
            assert label == originals[image].labels[instance - 1]
            assert weight == score == originals[image].scores[instance - 1]
            torch.testing.assert_close(box, masks_to_boxes_cxcywh(mask[None])[0])
        assert targets.ignore is not None
        assert torch.equal(targets.ignore, (cells % 10 != 0) & ~targets.masks.any(0))
        for paint in set(cells[targets.ignore].int().tolist()):
            image, instance = divmod(paint, 10)
            if instance != 9:
                assert (cells == paint).sum() < 0.1 * originals[image].masks[instance - 1].sum()
                remains += 1
    return mixed, remains


def test_a_rectangle_brings_its_labels_along():
    scenes = [scene(i) for i in range(4)]
    batch = painted(scenes)
    total = 0
    for step in range(10):
        mixed, found = mix_unlabelled(batch, scenes, made(cutmix=0.5), THINGS, step)
        total += check(mixed, found, scenes)[0]
        assert torch.equal(mixed.images, batch.images)  # the teacher's view
    assert 10 < total < 30  # half of 40
    strong = mix_unlabelled(batch, scenes, made(cutmix=1.0), THINGS, 0)[0].strong
    assert strong is not None
    own = torch.tensor([float((strong[b] // 10 == b).float().mean()) for b in range(4)])
    assert (own - 0.5).abs().max() < 0.07  # half of the image, on a grid of 16 x 16 cells


def test_little_that_is_left_of_an_object_is_ignored():
    def pole(first: int) -> Targets:
        masks = torch.zeros(1, SIZE // STRIDE, SIZE // STRIDE, dtype=torch.bool)
        masks[:, 2:14, first : first + 5] = True
        sure = torch.tensor([0.5])
        return Targets(
            torch.tensor([0]), masks, masks_to_boxes_cxcywh(masks), sure, torch.zeros_like(masks[0]), sure
        )

    scenes = [pole(4), pole(5), pole(6)]
    batch = painted(scenes)
    found = [mix_unlabelled(batch, scenes, made(cutmix=1.0), THINGS, step) for step in range(20)]
    assert sum(check(*each, scenes)[1] for each in found) > 3


def test_pasted_pseudo_objects_come_in_front_of_others():
    scenes = [scene(i) for i in range(4)]
    batch = painted(scenes)
    total = 0
    for step in range(10):
        mixed, found = mix_unlabelled(batch, scenes, made(paste_pseudo=0.7), THINGS, step)
        total += check(mixed, found, scenes)[0]
    assert total > 5


def test_mixing_is_a_function_of_seed_and_step_and_leaves_its_input():
    scenes = [scene(i) for i in range(3)]
    batch, rule = painted(scenes), made(cutmix=0.6, paste_pseudo=0.6)
    before = batch.strong.clone()
    one, other = (mix_unlabelled(batch, scenes, rule, THINGS, 5) for _ in range(2))
    assert torch.equal(one[0].strong, other[0].strong)
    assert all(torch.equal(a.masks, b.masks) for a, b in zip(one[1], other[1], strict=True))
    assert torch.equal(batch.strong, before)
    assert all(torch.equal(a.masks, scene(i).masks) for i, a in enumerate(scenes))


def test_stuff_of_one_class_stays_one_mask():
    def halves(label: int) -> Targets:
        masks = torch.ones(1, 16, 16, dtype=torch.bool)
        sure = torch.tensor([0.5 + 0.1 * label])
        return Targets(torch.tensor([label]), masks, masks_to_boxes_cxcywh(masks), sure, ~masks[0], sure)

    same = [halves(2), halves(2)]
    for task, count in (("panoptic", 1), ("semantic", 1), ("instance", 2)):
        _, found = mix_unlabelled(painted(same), same, made(task, cutmix=1.0), THINGS, 0)
        assert [len(targets) for targets in found] == [count, count]
    assert found[0].masks.any(0).all()
    different = [halves(2), halves(3)]
    _, found = mix_unlabelled(painted(different), different, made("semantic", cutmix=1.0), THINGS, 0)
    for targets in found:
        assert sorted(targets.labels.tolist()) == [2, 3]
        assert (targets.masks.sum(0) == 1).all()


def test_one_image_alone_is_not_mixed():
    scenes = [scene(0)]
    batch = painted(scenes)
    mixed, found = mix_unlabelled(batch, scenes, made(cutmix=1.0, paste_pseudo=1.0), THINGS, 0)
    assert torch.equal(mixed.strong, batch.strong)
    assert len(found[0]) == 2


def test_padding_is_neither_given_nor_taken():
    """Images of unequal width: what is beyond an image's own size stays, and holds no mask."""
    scenes = [scene(0), scene(1)]
    for each, width in zip(scenes, (10, 14), strict=True):
        each.masks[..., width:] = False
        each.boxes_cxcywh = masks_to_boxes_cxcywh(each.masks)
    batch = painted(scenes)
    batch.sizes = [(SIZE, 40), (SIZE, 56)]
    for key in ("cutmix", "paste_pseudo"):
        total = 0
        for step in range(8):
            mixed, found = mix_unlabelled(batch, scenes, made(**{key: 1.0}), THINGS, step)
            total += check(mixed, found, scenes)[0]
            for i, (_, width) in enumerate(batch.sizes):
                assert not found[i].masks[..., width // STRIDE :].any()
                assert torch.equal(mixed.strong[i, :, :, width:], batch.images[i, :, :, width:])
            assert torch.equal(mixed.strong[1, :, :, 40:], batch.images[1, :, :, 40:])  # not from padding
        assert total
